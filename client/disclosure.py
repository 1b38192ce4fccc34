"""Disclosure control: which counts are too small to leave, and which would give a small one away."""

from collections.abc import Iterable
from dataclasses import replace

from shared.description import Description
from shared.errors import EgressError
from shared.evidence import Evidence, Withheld
from shared.feature_summary import LEAST_DIMENSIONS, dimensions
from shared.released_flow import ClassCounts, Count, ReleasedFlow, SplitCounts


def suppress_evidence(
    evidence: Iterable[Evidence | Withheld], *, min_cell: int, exclusive: bool
) -> tuple[Evidence | Withheld, ...]:
    """Withhold a split's evidence on every target of which a class has fewer than `min_cell` patients.

    Numerators are never suppressed alone. Classes exclude one another, so that one follows from the rest: there the
    whole split is withheld if any is too small.
    """
    items = tuple(evidence)
    small = [
        isinstance(item, Withheld) or min(item.positive_patients, item.negative_patients) < min_cell for item in items
    ]
    if exclusive and any(small):
        return tuple(Withheld() for _ in items)
    return tuple(Withheld() if too_small else item for item, too_small in zip(items, small, strict=True))


def suppress_description(description: Description, *, min_cell: int, exclusive: bool) -> Description:
    """Withhold sums over fewer than `min_cell` patients, and features of too few to bear the least dimensions.

    A corner test is withheld like a finding's evidence: if a class has fewer than `min_cell` patients, and of classes
    all together.

    Raises:
        EgressError: features are in more dimensions than their patients bear.
    """
    features, intensity = description.features, description.intensity
    if not isinstance(features, Withheld):
        if features.dimensions > dimensions(features.patients):
            raise EgressError("the features are in more dimensions than a fifth of their patients.")
        if features.patients < min_cell or features.dimensions < LEAST_DIMENSIONS:
            features = Withheld()
    if not isinstance(intensity, Withheld) and intensity.patients < max(1, min_cell):
        intensity = Withheld()
    corners = tuple(
        Withheld() if isinstance(one, Withheld) or min(one.positive_patients, one.negative_patients) < min_cell else one
        for one in description.corners
    )
    if exclusive and any(isinstance(one, Withheld) for one in corners):
        corners = tuple(Withheld() for _ in corners)
    return Description(features=features, intensity=intensity, corners=corners)


def suppress_flow(flow: ReleasedFlow, *, min_cell: int) -> ReleasedFlow:
    """Suppress the counts below `min_cell`, and those from which a suppressed one would follow.

    An exclusion that did not happen is shown as 0. The files found would give a single suppressed exclusion away, or a
    single suppressed split where an exam is a file, so they are shown only where none is suppressed; a split's classes
    are shown together or not at all.
    """
    excluded = {reason: _count(count, min_cell, zero_is_open=True) for reason, count in flow.excluded.items()}
    splits = {name: _split(split, min_cell) for name, split in flow.splits.items()}
    hidden = None in excluded.values() or any(split.patients is None for split in splits.values())
    return replace(flow, found=None if hidden else _count(flow.found, min_cell), excluded=excluded, splits=splits)


def _split(split: SplitCounts, min_cell: int) -> SplitCounts:
    classes_are_open = all(_count(count, min_cell) is not None for item in split.classes for count in item.all)
    hidden = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)
    open_patients = _count(split.patients, min_cell)
    return SplitCounts(
        patients=open_patients,
        exams=None if open_patients is None else split.exams,
        classes=split.classes if classes_are_open else tuple(hidden for _ in split.classes),
    )


def _count(count: Count, min_cell: int, *, zero_is_open: bool = False) -> Count:
    if count is None or (count == 0 and zero_is_open):
        return count
    return count if count >= min_cell else None
