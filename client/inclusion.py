"""Inclusion criteria: the first reason for which each file is left out of a study, if there is one."""

import math
from collections.abc import Callable, Container, Hashable, Sequence

from client.image_index import IndexedFile
from client.labels import Match
from client.patient_flow import Exclusion, FileReason
from client.refusals import Reason

Reasons = list[FileReason | None]


def exclusions(
    index: Sequence[IndexedFile],
    matches: Sequence[Match],
    *,
    modality: str,
    one_exam_many_keys: bool,
    withdrawn: Container[str],
) -> Reasons:
    """Give each file's reason, None where it takes part.

    In this order: what its header says, modality, patient, whether withdrawn, copies of one object, the label row,
    and, with `one_exam_many_keys` (an exam may have several AccessionNumbers), an exam whose rows contradict each
    other. Images of one exam that were labelled each for itself may differ: a finding may be on one of two views.

    Invariant: a file's reason depends on its own patient's files and on the table, and on no other patient's files:
    copies and exams are looked for within a patient, whatever UIDs the files of two have in common.
    """
    reasons = [_of_file(file, modality, withdrawn) for file in index]
    for copies in _groups(index, reasons, by=_object):
        _keep_one(copies, matches, reasons)
    for place, match in enumerate(matches):
        reasons[place] = reasons[place] or match.reason
    if one_exam_many_keys:
        for exam in _groups(index, reasons, by=lambda file: file.exam):
            if _contradict([matches[place] for place in exam]):
                _set(reasons, exam, Exclusion.CONFLICTING_LABELS)
    return reasons


def _of_file(file: IndexedFile, modality: str, withdrawn: Container[str]) -> FileReason | None:
    if isinstance(file.found, Reason):
        return file.found
    if modality not in ("any", file.found.modality):
        return Reason.WRONG_MODALITY
    if not file.identity.patient_id:
        return Reason.NO_PATIENT
    return Exclusion.WITHDRAWN if file.identity.patient_id in withdrawn else None


def _object(file: IndexedFile) -> Hashable:
    """Name the object that a file is a copy of, within its patient; None where the file does not say."""
    own = file.identity
    return (own.patient_id, own.sop_instance_uid) if own.sop_instance_uid else None


def _groups(
    index: Sequence[IndexedFile], reasons: Reasons, *, by: Callable[[IndexedFile], Hashable]
) -> list[list[int]]:
    """Put the places of files that are still in together by what they share; None is shared by nobody."""
    groups: dict[Hashable, list[int]] = {}
    for place, file in enumerate(index):
        if reasons[place] is None and by(file):
            groups.setdefault(by(file), []).append(place)
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
