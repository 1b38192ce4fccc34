"""How large a site's numbers may be: no larger than the patient flow with which it joined."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.protocol import Privacy, StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.split import Split

MOST: Final = 10_000_000
"""Patients, or exams, of one split at one site: more than a hospital has, and few enough for every sum of a report."""

MOST_FILES: Final = 1_000_000_000

EXAMS_A_PATIENT: Final = 100
"""Exams of one patient, on average over a split: more than archives have. Up to here a site's own word is believed."""

UNITS_A_PATIENT: Final = 1000
"""Images of one patient, likewise."""

FRAMES_A_FILE: Final = 10_000
"""Images of one file, and of one patient, in a study of frames = 'all'."""

_SPARE, _SPARE_SHARE = 20, 10
"""What an archive may have grown by since the flow was told, and a hospital may have rounded its flow down by: so many,
or one in so many."""

_DEVIATIONS = 8
"""Standard deviations by which a split's size may miss what the study's fractions lead one to expect, or noise may add
to a count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Most:
    """The largest numbers of units (images, exams or patients, as the study says) and of patients of one split."""

    units: int
    patients: int


Bounds = Mapping[Split, Most]

NOT_TOLD: Final[Bounds] = dict.fromkeys(Split, Most(units=MOST, patients=MOST))
"""Of a site on a roster that was made without patient flows."""

_FEWER_THAN_A_CELL: Final = 100
"""More than the patients of a split that a site hides without saying anything of another: they are fewer than its
min_cell, 10 where the hospital does not set it higher, and evidence on so few it withholds."""


def bounds(flow: ReleasedFlow, protocol: StudyProtocol, *, largest: int | None = None) -> Bounds:
    """Bound each split by the flow's own count of it, and by what follows from the others by the study's fractions.

    A patient's split is a keyed hash, so that no site has nearly all of its patients in one. Under [privacy] the flow
    has the public size alone, and all else follows from that. `largest` is how many patients the coordinator was told
    that this site has; None where nobody said.
    """
    noise = _noise(protocol)
    found = {}
    for split in Split:
        patients = min(_patients(flow, split, protocol), MOST if largest is None else largest, MOST)
        units = min(_units(flow, split, patients, protocol), MOST)
        found[split] = Most(units=_with_spare(units) + noise, patients=_with_spare(patients) + noise)
    return found


def _patients(flow: ReleasedFlow, split: Split, protocol: StudyProtocol) -> int:
    """Say how many patients a split can have, by its own count and by the study's fractions and the others."""
    told = flow.splits[split].patients
    fractions: dict[Split, float] = {one: getattr(protocol.split, one.value) for one in Split}
    known = [one for one in Split if flow.splits[one].patients is not None and fractions[one]]
    if protocol.privacy is None:
        known = [one for one in known if one is not split]
    share = sum(fractions[one] for one in known)
    if not share:
        return _FEWER_THAN_A_CELL if told is None else told
    patients = sum(flow.splits[one].patients or 0 for one in known) + _rounding(protocol.privacy)
    most = patients + _DEVIATIONS * math.sqrt(patients + 1)
    expected = most / share * fractions[split]
    derived = math.ceil(expected + _DEVIATIONS * math.sqrt(expected + 1))
    return derived if told is None or protocol.privacy else min(told, derived)


def _units(flow: ReleasedFlow, split: Split, patients: int, protocol: StudyProtocol) -> int:
    if protocol.task.unit == "patient":
        return patients
    exams = flow.splits[split].exams
    if protocol.task.unit == "exam":
        most = patients * EXAMS_A_PATIENT
        return most if exams is None else min(exams, most)
    every = protocol.images.frames == "all"
    most = patients * (FRAMES_A_FILE if every else UNITS_A_PATIENT)
    return most if flow.found is None else min(flow.found * (FRAMES_A_FILE if every else 1), most)


def _rounding(privacy: Privacy | None) -> int:
    return privacy.size_rounding if privacy else 0


def _noise(protocol: StudyProtocol) -> int:
    """Say what a count can gain where each of its score bins is noised (client/count_noise.py).

    Their noised total is kept, so that it gains what all draws add up to: of one, discrete Laplace, the variance is
    below twice its scale's square.
    """
    if protocol.privacy is None or not protocol.privacy.count_noise_epsilon:
        return 0
    scale = len(protocol.task.targets) / protocol.privacy.count_noise_epsilon
    draws = 2 * protocol.evaluation.score_bins
    return math.ceil(_DEVIATIONS * scale * math.sqrt(2 * draws))


def _with_spare(count: int) -> int:
    return count + max(_SPARE, count // _SPARE_SHARE)
