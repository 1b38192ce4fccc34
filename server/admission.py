"""Which replies enter the aggregate: form, dtype, finite, norm bound; each refusal has a reason."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
from flwr.app import Message

from server.site_bounds import EXAMS_A_PATIENT, MOST, MOST_FILES, Bounds, Most
from shared.description import Description, MarkTest
from shared.evidence import Evidence, Withheld
from shared.feature_summary import FeatureSummary
from shared.messages import (
    Answer,
    DeliverReply,
    DescribeReply,
    EvaluateReply,
    LandmarksReply,
    MalformedError,
    OtherVersionError,
    ReadyReply,
    RefusalReply,
    TrainReply,
    decode_answer,
)
from shared.packing import same_form
from shared.parameters import RUNNING_VARIANCE, NamedArrays, Wire, l2_norm
from shared.refusal_codes import FROM_THE_COURIER
from shared.released_flow import ANOTHER_REASON, KNOWN_REASONS, Count, ReleasedFlow, SplitCounts
from shared.signing import Purpose, signed_digest
from shared.split import Split
from shared.tasks import Thresholds

LARGEST_STEP = 1000.0
"""An update of more than so many times the norm of the model that it changes is a fault or an attack, and does not
enter even where the study sets no norm bound."""

VARIANCE_ROUNDING = 2**-9
"""By what share of a running variance an honest update may fall below -1 times it: model and update are rounded to fp16
on their way, each by at most 2**-11 of its size."""

LARGEST_FIGURE = 1e12
"""A loss, a rate or a number of seconds beyond this was not measured."""

Accepted = TypeVar("Accepted", ReadyReply, LandmarksReply, TrainReply, EvaluateReply, DescribeReply, DeliverReply)


class Reason(StrEnum):
    """Why the coordinator could not use a site's reply; a site's own refusal carries its own code."""

    NO_REPLY = "no_reply"
    MALFORMED = "malformed_reply"
    NOT_SIGNED = "not_signed_by_the_site"
    OTHER_VERSION = "other_version"
    OTHER_TASK = "answers_another_task"
    OTHER_REQUEST = "answers_another_request"
    WRONG_FORM = "arrays_of_wrong_form"
    NEGATIVE_VARIANCE = "negative_running_variance"
    NOT_FINITE = "update_not_finite"
    TOO_LARGE = "update_too_large"
    WRONG_COUNT = "counts_of_wrong_form"
    TOO_MANY = "more_than_its_patient_flow"
    NOT_AGREED = "more_patients_than_agreed"
    LATER_RUNS = "named_for_later_runs"
    WRONG_FIGURE = "figures_out_of_range"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A reply that does not enter, with its reason: the coordinator's or the site's own code."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An update that enters, with its L2 norm; how far it may move the model is decided when all are there."""

    reply: TrainReply
    norm: float


def open_reply(
    message: Message, *, task_id: str, kind: type[Accepted], key: str | None = None, request: str = ""
) -> Accepted | Refused:
    """Decode a site's reply and check that it answers this task with this kind of reply.

    `key` is the site's enrolled signing key (hexadecimal), and `request` the digest of all that was asked: what was
    changed on the way to the site has another. Without a key nothing but form and task are checked.
    """
    if not message.has_content():
        return Refused(reason=Reason.NO_REPLY)
    try:
        answer: Answer = decode_answer(message.content)
    except OtherVersionError:
        return Refused(reason=Reason.OTHER_VERSION)
    except MalformedError:
        return Refused(reason=Reason.MALFORMED)
    # A site that cannot read its task does not know its id.
    refusal = answer.reply if isinstance(answer.reply, RefusalReply) and answer.task_id in (task_id, "") else None
    unsigned = key is not None and signed_digest(message.content, key, Purpose.REPLY) is None
    if unsigned and not (refusal and refusal.code in FROM_THE_COURIER):
        return Refused(reason=Reason.NOT_SIGNED)
    if refusal:
        return Refused(reason=refusal.code)
    if answer.task_id != task_id:
        return Refused(reason=Reason.OTHER_TASK)
    if key is not None and answer.request != request:
        return Refused(reason=Reason.OTHER_REQUEST)
    return answer.reply if isinstance(answer.reply, kind) else Refused(reason=Reason.MALFORMED)


def admit_flow(reply: ReadyReply, *, targets: int, largest: int | None = None) -> ReleasedFlow | Refused:
    """Check that a patient flow has every split and target, and that no part of it is larger than its whole.

    Its codes for what was left out are printed in the report that all sites get: those that this version does not know,
    a newer site's or a sentence, are counted together under one word.
    `largest` is how many patients the coordinator was told that this site has; None where nobody said.
    """
    flow = reply.flow
    splits = flow.splits
    fits = (
        splits.keys() == set(Split)
        and all(len(split.classes) == targets and _holds_together(split, flow.found) for split in splits.values())
        and all(_at_most(count, flow.found) and _at_most(count, MOST_FILES) for count in flow.excluded.values())
        and _at_most(flow.found, MOST_FILES)
    )
    if not fits:
        return Refused(reason=Reason.WRONG_COUNT)
    told = sum(split.patients or 0 for split in splits.values())
    if largest is not None and told > largest:
        return Refused(reason=Reason.NOT_AGREED)
    return replace(flow, excluded=_by_known_reasons(flow.excluded))


def _by_known_reasons(excluded: Mapping[str, Count]) -> dict[str, Count]:
    known = {reason: count for reason, count in excluded.items() if reason in KNOWN_REASONS}
    others = [count for reason, count in excluded.items() if reason not in KNOWN_REASONS]
    if not others:
        return known
    told = [count for count in others if count is not None]
    return known | {ANOTHER_REASON: min(sum(told), MOST_FILES) if len(told) == len(others) else None}


def who_joined(
    sites: Iterable[str], flows: Mapping[str, ReleasedFlow | Refused]
) -> tuple[dict[str, ReleasedFlow], dict[str, Refused]]:
    """Part the sites whose patient flow was admitted from the others, who did not join; each by name.

    A site of which there is nothing was named in coordinator.toml after the run had begun.
    """
    joined, absent = {}, {}
    for site in sorted(sites):
        match flows.get(site, Refused(reason=Reason.LATER_RUNS)):
            case Refused() as why:
                absent[site] = why
            case flow:
                joined[site] = flow
    return joined, absent


def _holds_together(split: SplitCounts, found: Count) -> bool:
    """Compare a split's counts; sums are left out, because a hospital may round each count by itself."""
    pairs = [(split.patients, split.exams), (split.exams, found), (split.patients, MOST), (split.exams, MOST)]
    pairs += [] if split.patients is None else [(split.exams, split.patients * EXAMS_A_PATIENT)]
    for item in split.classes:
        for patients, exams in (
            (item.positive_patients, item.positive_exams),
            (item.negative_patients, item.negative_exams),
        ):
            pairs += [(patients, exams), (patients, split.patients), (exams, split.exams)]
            pairs += [(patients, MOST), (exams, MOST)]
    return all(_at_most(count, other) for count, other in pairs)


def _at_most(count: Count, other: Count) -> bool:
    """Compare two counts, of which either may be suppressed."""
    return count is None or other is None or count <= other


def admit_update(reply: TrainReply, *, model: NamedArrays, wire: Wire, epochs: int) -> Admitted | Refused:
    """Check an update against the model that was sent, and its figures; `epochs` is how many losses belong to it."""
    if same_form(reply.update, model, wire=wire):
        return Refused(reason=Reason.WRONG_FORM)
    norm = l2_norm(reply.update)
    if not math.isfinite(norm):
        return Refused(reason=Reason.NOT_FINITE)
    if norm > LARGEST_STEP and norm > LARGEST_STEP * l2_norm(model):
        return Refused(reason=Reason.TOO_LARGE)
    if any(
        bool((reply.update[name] < -(1 + VARIANCE_ROUNDING) * sent).any())
        for name, sent in model.items()
        if name.endswith(RUNNING_VARIANCE)
    ):
        return Refused(reason=Reason.NEGATIVE_VARIANCE)
    figures = (*reply.loss_by_epoch, reply.seconds, reply.images_per_second)
    if len(reply.loss_by_epoch) != epochs or not all(0 <= figure <= LARGEST_FIGURE for figure in figures):
        return Refused(reason=Reason.WRONG_FIGURE)
    return Admitted(reply=reply, norm=norm)


def admit_evidence(
    reply: EvaluateReply, *, targets: int, bins: int, thresholds: Thresholds, axes: Collection[str], most: Most
) -> EvaluateReply | Refused:
    """Check that evidence covers every target, in the study's bins, and counts at the thresholds where it should.

    Subgroups are those of the study's `axes`, where there are thresholds, and calls as one class or another are there
    of classes alone. `most` bounds all counts.
    """
    full = [item for item in reply.evidence if isinstance(item, Evidence)]
    expected = zip(reply.evidence, thresholds or (None,) * targets, strict=False)
    fits = len(reply.evidence) == targets and all(
        len(item.histogram.positives) == len(item.histogram.negatives) == bins
        and (item.confusion is None) == (threshold is None)
        and {one.axis for one in item.subgroups} <= set(() if threshold is None else axes)
        and (item.called_as is None or (thresholds and len(item.called_as.units) == targets))
        for item, threshold in expected
        if isinstance(item, Evidence)
    )
    if not fits:
        return Refused(reason=Reason.WRONG_COUNT)
    within = all(item.units <= most.units and item.patients <= most.patients for item in full)
    return reply if within else Refused(reason=Reason.TOO_MANY)


def admit_description(reply: DescribeReply, *, targets: int, most: Bounds) -> Description | Refused:
    """Check that a description has both corner tests for every target, that its covariance is one, and its counts."""
    description = reply.description
    features, intensity = description.features, description.intensity
    fits = len(description.corners) == len(description.marks) == targets
    if isinstance(features, FeatureSummary):
        _, covariance = features.moments(features.dimensions)
        least, *_, largest = np.linalg.eigvalsh(covariance)
        fits = fits and least >= -1e-6 * max(largest, 1e-12)
    if not fits:
        return Refused(reason=Reason.WRONG_COUNT)
    everybody = max(one.patients for one in most.values())
    counts = [] if isinstance(features, Withheld) else [(features.patients, most[features.split].patients)]
    counts += [] if isinstance(intensity, Withheld) else [(intensity.patients, everybody)]
    for test in (*description.corners, *description.marks):
        if not isinstance(test, Withheld):
            of = most[test.split] if isinstance(test, MarkTest) else most[Split.VALIDATION]
            counts += [(test.positive_patients, of.patients), (test.negative_patients, of.patients)]
    within = all(count <= bound for count, bound in counts)
    return description if within else Refused(reason=Reason.TOO_MANY)
