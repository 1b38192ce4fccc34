"""Inclusion criteria: the first reason for which each file is left out of a study, if there is one."""

import math
from collections.abc import Container, Hashable, Sequence

from client.anatomy import Objects, not_of_anatomy
from client.dicom import MAX_FRAMES, Frames
from client.image_index import IndexedFile
from client.labels import Match
from client.patient_flow import Exclusion, FileReason
from client.people import People
from client.refusals import Reason

Reasons = list[FileReason | None]


def exclusions(
    index: Sequence[IndexedFile],
    matches: Sequence[Match],
    people: People,
    *,
    modality: str,
    objects: Objects,
    frames: Frames,
    one_exam_many_keys: bool,
    withdrawn: Container[str],
) -> Reasons:
    """Give each file's reason, None where it takes part.

    In this order: what its header says (and where the study reads all frames of a file, that it has more than can be
    read), modality, patient, whether withdrawn, copies of one object, whether it is of
    the exam's anatomy (where the study's `objects` are these), the label row, and, with `one_exam_many_keys` (an exam
    may have several AccessionNumbers), an exam whose rows contradict each other. Images of one exam that were labelled
    each for itself may differ: a finding may be on one of two views.

    Invariant: a file's reason depends on its own patient's files and on the table, and on no other patient's files:
    copies and exams are looked for under one ID, whatever UIDs the files of two have in common.
    """
    gone = people.withdrawn(withdrawn)
    reasons = [_of_file(file, modality, frames) for file in index]
    for place, (person, match) in enumerate(zip(people.person_N, matches, strict=True)):
        if person is None:  # a table that names patients names none for an image without a row: that comes first
            reasons[place] = reasons[place] or (match.reason if people.by_table else None) or Reason.NO_PATIENT
        elif person in gone:
            reasons[place] = reasons[place] or Exclusion.WITHDRAWN
    for copies in _groups([file.identity.sop_instance_uid for file in index], people, reasons):
        _keep_one(copies, matches, reasons)
    if objects == "anatomy":
        _keep_anatomy(index, people, reasons)
    for place, match in enumerate(matches):
        reasons[place] = reasons[place] or match.reason
    if one_exam_many_keys:
        for exam in _groups([file.exam for file in index], people, reasons):
            if _contradict([matches[place] for place in exam]):
                _set(reasons, exam, Exclusion.CONFLICTING_LABELS)
    return reasons


def _of_file(file: IndexedFile, modality: str, frames: Frames) -> FileReason | None:
    if isinstance(file.found, Reason):
        return file.found
    if frames == "all" and file.frames > MAX_FRAMES:  # before there is an object for each
        return Reason.TOO_LARGE
    return None if modality in ("any", file.found.modality) else Reason.WRONG_MODALITY


def _keep_anatomy(index: Sequence[IndexedFile], people: People, reasons: Reasons) -> None:
    for exam in _groups([file.exam for file in index], people, reasons):
        natures = [index[place].nature for place in exam]
        for place, reason in zip(exam, not_of_anatomy(natures), strict=True):
            reasons[place] = reason


def _groups(words_N: Sequence[str], people: People, reasons: Reasons) -> list[list[int]]:
    """Put the places of one ID's files that are still in together by what they share; "" is shared by nobody."""
    groups: dict[Hashable, list[int]] = {}
    for place, (name, word) in enumerate(zip(people.name_N, words_N, strict=True)):
        if reasons[place] is None and word and name is not None:
            groups.setdefault((name, word), []).append(place)
    return list(groups.values())


def _keep_one(copies: Sequence[int], matches: Sequence[Match], reasons: Reasons) -> None:
    """Keep the first copy that has labels; copies can differ in that only where files are joined by their path."""
    if _contradict([matches[place] for place in copies]):
        _set(reasons, copies, Exclusion.CONFLICTING_LABELS)
        return
    kept = min(copies, key=lambda place: (matches[place].reason is not None, place))
    _set(reasons, [place for place in copies if place != kept], Exclusion.DUPLICATE_IMAGE)


def _contradict(matches: Sequence[Match]) -> bool:
    """Tell whether a target is present by one row and absent by another."""
    labels = [match.labels for match in matches if match.reason is None]
    return any(len({value for value in values if not math.isnan(value)}) > 1 for values in zip(*labels, strict=True))


def _set(reasons: Reasons, places: Sequence[int], reason: FileReason) -> None:
    for place in places:
        reasons[place] = reason
