"""Disclosure control: which counts are too small to leave, and which would give a small one away."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from client.patient_flow import CountedFlow
from shared.description import CornerTest, Description, MarkTest
from shared.errors import EgressError
from shared.evidence import Evidence, Withheld
from shared.feature_summary import LEAST_DIMENSIONS, dimensions
from shared.landmarks import CountedLandmarks, Landmarks
from shared.released_flow import ClassCounts, Count, ReleasedFlow, SplitCounts
from shared.subgroups import GroupEvidence

_Test = TypeVar("_Test", CornerTest, MarkTest)


def too_few_to_train(patients: int, min_cell: int) -> bool:
    """Tell whether nothing may be learnt of so many training patients; under [privacy], of their public size."""
    return patients < min_cell


def suppress_evidence(
    evidence: Iterable[Evidence | Withheld], *, min_cell: int, exclusive: bool
) -> tuple[Evidence | Withheld, ...]:
    """Withhold a split's evidence on every target of which a class has fewer than `min_cell` patients.

    Numerators are never suppressed alone. Classes exclude one another, so that one follows from the rest: there the
    whole split is withheld if any is too small. A class of which the split has nobody is withheld alone: what follows
    from the rest is that nobody has it, which is nobody's secret.
    """
    items = tuple(evidence)
    small = [
        isinstance(item, Withheld) or min(item.positive_patients, item.negative_patients) < min_cell for item in items
    ]
    if exclusive and any(too_small and not _nobody(item) for item, too_small in zip(items, small, strict=True)):
        return tuple(Withheld() for _ in items)
    open_items = tuple(Withheld() if too_small else item for item, too_small in zip(items, small, strict=True))
    return suppress_subgroups(open_items, min_cell=min_cell, exclusive=exclusive)


def _nobody(item: Evidence | Withheld) -> bool:
    """Tell whether nobody is of this class, and enough are of others."""
    return isinstance(item, Evidence) and not item.positive_patients and not item.histogram.n_pos


def suppress_subgroups(
    items: tuple[Evidence | Withheld, ...], *, min_cell: int, exclusive: bool
) -> tuple[Evidence | Withheld, ...]:
    """Withhold the groups of which a class has fewer than `min_cell` patients, and what they would follow from.

    The groups of an axis add up to the whole: where any is withheld, so is the smallest that could be shown, so that
    what is missing holds `min_cell` patients of each class. Of classes, a group is shown for all or for none.
    """
    known = [item for item in items if isinstance(item, Evidence)]
    large = [_large_groups(item.subgroups, min_cell=min_cell) for item in known]
    if exclusive and large:
        large = [set.intersection(*large)] * len(large)
    shown = iter([_complemented(one, item.subgroups) for one, item in zip(large, known, strict=True)])
    if exclusive and large:
        shown = iter([set.intersection(*shown)] * len(large))
    return tuple(item if isinstance(item, Withheld) else _with_groups(item, next(shown)) for item in items)


Groups = set[tuple[str, str]]


def _with_groups(item: Evidence, names: Groups) -> Evidence:
    return replace(item, subgroups=tuple(one for one in item.subgroups if (one.axis, one.group) in names))


def _large_groups(groups: tuple[GroupEvidence, ...], *, min_cell: int) -> Groups:
    return {(one.axis, one.group) for one in groups if min(one.positive_patients, one.negative_patients) >= min_cell}


def _complemented(large: Groups, groups: tuple[GroupEvidence, ...]) -> Groups:
    """Take the smallest open group away from each axis on which another is withheld."""
    found = set(large)
    for axis in {one.axis for one in groups}:
        own = [one for one in groups if one.axis == axis]
        left = [one for one in own if (axis, one.group) in large]
        if left and len(left) < len(own):
            smallest = min(left, key=lambda one: (one.positive_patients + one.negative_patients, one.group))
            found.remove((axis, smallest.group))
    return found


def suppress_description(description: Description, *, patients: Count, min_cell: int, exclusive: bool) -> Description:
    """Withhold sums over fewer than `min_cell` patients, and features of too few to bear the least dimensions.

    `patients` is how many the described split has: where fewer than `min_cell` of these, and not none, are outside a
    sum, its number would tell how many, and the sum is withheld; so it is where nobody knows (None).
    Both corner tests are withheld like a finding's evidence: if a class has fewer than `min_cell` patients, and of
    classes all together.

    Raises:
        EgressError: features are in more dimensions than their patients bear.
    """
    features, intensity = description.features, description.intensity
    if not isinstance(features, Withheld):
        if features.dimensions > dimensions(features.patients):
            raise EgressError("the features are in more dimensions than a fifth of their patients.")
        if _tells(features.patients, of=patients, min_cell=min_cell) or features.dimensions < LEAST_DIMENSIONS:
            features = Withheld()
    if not isinstance(intensity, Withheld) and _tells(intensity.patients, of=patients, min_cell=min_cell):
        intensity = Withheld()
    return Description(
        features=features,
        intensity=intensity,
        corners=_tests(description.corners, min_cell=min_cell, exclusive=exclusive),
        marks=_tests(description.marks, min_cell=min_cell, exclusive=exclusive),
    )


def _tells(inside: int, *, of: Count, min_cell: int) -> bool:
    """Tell whether a sum is over too few patients, or leaves too few of the split out."""
    return inside < max(1, min_cell) or of is None or 0 < of - inside < min_cell


def _tests(tests: tuple[_Test | Withheld, ...], *, min_cell: int, exclusive: bool) -> tuple[_Test | Withheld, ...]:
    kept: tuple[_Test | Withheld, ...] = tuple(
        Withheld() if isinstance(one, Withheld) or min(one.positive_patients, one.negative_patients) < min_cell else one
        for one in tests
    )
    hidden = exclusive and any(isinstance(one, Withheld) for one in kept)
    return tuple(Withheld() for _ in kept) if hidden else kept


def suppress_landmarks(landmarks: Landmarks | Withheld, *, min_cell: int) -> Landmarks | Withheld:
    """Withhold the mean of fewer than `min_cell` patients, of nobody, and of nobody knows how many.

    The number itself stays here: beside the split's patients it would tell how many have the disease.
    """
    if not isinstance(landmarks, CountedLandmarks) or landmarks.patients < max(1, min_cell):
        return Withheld()
    return Landmarks(positions=landmarks.positions)


def suppress_flow(flow: ReleasedFlow, *, min_cell: int) -> ReleasedFlow:
    """Suppress the counts below `min_cell`, and those from which a suppressed one would follow.

    An exclusion that did not happen is shown as 0; one of fewer than `min_cell` patients is suppressed, however many
    files it is of. The files found would give a single suppressed exclusion away, or a single suppressed split where
    an exam is a file, so they are shown only where none is suppressed; a split's classes are shown together or not at
    all.
    """
    patients = flow.excluded_patients if isinstance(flow, CountedFlow) else flow.excluded
    excluded = {
        reason: _count(count, min_cell, zero_is_open=True) if not count or _enough(patients[reason], min_cell) else None
        for reason, count in flow.excluded.items()
    }
    splits = {name: _split(split, min_cell) for name, split in flow.splits.items()}
    hidden = None in excluded.values() or any(split.patients is None for split in splits.values())
    return ReleasedFlow(found=None if hidden else _count(flow.found, min_cell), excluded=excluded, splits=splits)


def round_flow(flow: ReleasedFlow, *, to: int) -> ReleasedFlow:
    """Round all counts of a flow up to multiples of `to`; 0 stays 0, and what is suppressed stays so.

    Up, so that no count that leaves elsewhere is above the flow's, by which the coordinator judges it.
    """

    def rounded(count: Count) -> Count:
        return None if count is None else -(-count // to) * to

    return ReleasedFlow(
        found=rounded(flow.found),
        excluded={reason: rounded(count) for reason, count in flow.excluded.items()},
        splits={
            name: SplitCounts(
                patients=rounded(split.patients),
                exams=rounded(split.exams),
                classes=tuple(
                    ClassCounts(
                        positive_patients=rounded(one.positive_patients),
                        negative_patients=rounded(one.negative_patients),
                        positive_exams=rounded(one.positive_exams),
                        negative_exams=rounded(one.negative_exams),
                    )
                    for one in split.classes
                ),
            )
            for name, split in flow.splits.items()
        },
    )


def _split(split: SplitCounts, min_cell: int) -> SplitCounts:
    open_zero = min_cell <= 1  # any count may leave: one finding that nobody has hides no other
    classes_are_open = all(
        _count(count, min_cell, zero_is_open=open_zero) is not None for item in split.classes for count in item.all
    )
    hidden = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)
    open_patients = _count(split.patients, min_cell)
    return SplitCounts(
        patients=open_patients,
        exams=None if open_patients is None else split.exams,
        classes=split.classes if classes_are_open else tuple(hidden for _ in split.classes),
    )


def _enough(count: Count, min_cell: int) -> bool:
    return count is not None and count >= min_cell


def _count(count: Count, min_cell: int, *, zero_is_open: bool = False) -> Count:
    if count is None or (count == 0 and zero_is_open):
        return count
    return count if count >= min_cell else None
