"""Withholds groups until nothing that is released, now or earlier in the study, tells of too few patients together."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from client.membership import Counted, MemberGroup, Members, too_telling
from shared.errors import EgressError
from shared.evidence import Evidence, Withheld
from shared.subgroups import GroupEvidence

SETS_TOGETHER = 160
"""Findings are looked at one by one, and all together up to so many sets: the work grows with their cube."""

WHOLE = ""
"""Stands for axis and group where a set is a finding's whole class."""

Items = tuple[Evidence | Withheld, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedSet:
    """Whose size left: a finding's positives or negatives in one group, as tokens of patients."""

    finding: int
    axis: str
    group: str
    positive: bool
    patients: frozenset[int] = field(repr=False)


Token = Callable[[int], int]
"""What stands for a patient in what a site remembers."""


def suppress_jointly(
    kept: Items,
    counted: Items,
    *,
    min_cell: int,
    exclusive: bool,
    earlier: Sequence[ReleasedSet] = (),
    token: Token = int,
) -> Items:
    """Withhold of `kept` the groups whose sizes, combined in any way, tell of fewer than `min_cell` patients.

    `counted` are the same items before anything was withheld, so that whole classes are known; `earlier` is what has
    left in this study before: its findings count with those of `kept`, also where a task asks for one alone. By units
    and by patients: a patient with several may be in several groups of an axis.
    What leaves are plain groups: who is in them stays here.

    Raises:
        EgressError: a group does not say who is in it.
    """

    def patients(members: Members) -> Members:
        return _pairs(token(patient) for _, patient in members)

    places = [place for place, item in enumerate(kept) if isinstance(item, Evidence) and item.subgroups]
    together = sorted({*places, *(one.finding for one in earlier)}) if places else []
    for block in [together] if exclusive or len(together) <= 1 else [*([place] for place in places), together]:
        for read, before in ((_units, ()), (patients, earlier)):
            kept = _without_telling(
                kept, counted, block, min_cell=min_cell, exclusive=exclusive, before=before, token=token, read=read
            )
    return tuple(item if isinstance(item, Withheld) else replace(item, subgroups=_plain(item)) for item in kept)


def released_sets(kept: Items, counted: Items, *, token: Token) -> Iterator[ReleasedSet]:
    """Give the sets of the groups that leave, and their findings' whole classes, to be remembered."""
    for place, (item, whole) in enumerate(zip(kept, counted, strict=True)):
        if isinstance(item, Evidence) and isinstance(whole, Evidence):
            left = {(one.axis, one.group) for one in item.subgroups}
            for group in _members(whole):
                if (group.axis, group.group) in left:
                    yield from _sets(place, group, token)
            if left:
                for positive, members in zip((True, False), _classes(whole), strict=True):
                    patients = frozenset(token(patient) for _, patient in members)
                    yield ReleasedSet(finding=place, axis=WHOLE, group=WHOLE, positive=positive, patients=patients)


Read = Callable[[Members], Members]
"""Gives a group's members as what is counted: its units, or its patients."""


def _without_telling(
    kept: Items,
    counted: Items,
    block: Sequence[int],
    *,
    min_cell: int,
    exclusive: bool,
    before: Sequence[ReleasedSet],
    token: Token,
    read: Read,
) -> Items:
    fixed = [one for place in block for one in _wholes(counted[place], read)]
    fixed += [Counted(group=None, elements=_pairs(one.patients)) for one in before if one.finding in block]
    while True:
        groups = [
            Counted(group=_name(place, group, exclusive=exclusive), elements=read(members))
            for place in block
            for group in _members(kept[place])
            if not set(_sets(place, group, token)) <= set(before)  # what has left cannot be called back: it is fixed
            for members in (group.positives, group.negatives)
        ]
        if len(block) > 1 and len(fixed) + len(groups) > SETS_TOGETHER and not exclusive:
            return kept
        name = too_telling([*fixed, *groups], least=min_cell)
        if name is None:
            return kept
        kept = tuple(_without(item, place, name, exclusive=exclusive) for place, item in enumerate(kept))


def _wholes(item: Evidence | Withheld, read: Read) -> Iterator[Counted]:
    """Give both classes as wholes, as far as it is known who is in them."""
    return (Counted(group=None, elements=read(members)) for members in _classes(item))


def _classes(item: Evidence | Withheld) -> tuple[Members, ...]:
    """Give who is positive and who negative: the groups of any one axis make them up. Nothing where there is none."""
    groups = _members(item)
    own = [group for group in groups if group.axis == groups[0].axis]
    if not own:
        return ()
    return frozenset().union(*(one.positives for one in own)), frozenset().union(*(one.negatives for one in own))


def _name(place: int, group: GroupEvidence, *, exclusive: bool) -> tuple[str, ...]:
    """Name what is withheld together: of classes, a group is shown for all or for none."""
    return (group.axis, group.group) if exclusive else (str(place), group.axis, group.group)


def _without(item: Evidence | Withheld, place: int, name: Hashable, *, exclusive: bool) -> Evidence | Withheld:
    if isinstance(item, Withheld):
        return item
    return replace(
        item, subgroups=tuple(one for one in item.subgroups if _name(place, one, exclusive=exclusive) != name)
    )


def _members(item: Evidence | Withheld) -> tuple[MemberGroup, ...]:
    groups = () if isinstance(item, Withheld) else item.subgroups
    if not all(isinstance(group, MemberGroup) for group in groups):
        raise EgressError("a group does not say who is in it. Report this: it is a fault of Polyclinic.")
    return tuple(group for group in groups if isinstance(group, MemberGroup))


def _sets(place: int, group: MemberGroup, token: Token) -> Iterator[ReleasedSet]:
    for positive, members in ((True, group.positives), (False, group.negatives)):
        patients = frozenset(token(patient) for _, patient in members)
        yield ReleasedSet(finding=place, axis=group.axis, group=group.group, positive=positive, patients=patients)


def _units(members: Members) -> Members:
    return members


def _pairs(patients: Iterable[int]) -> Members:
    return frozenset((patient, patient) for patient in patients)


def _plain(item: Evidence) -> tuple[GroupEvidence, ...]:
    return tuple(
        GroupEvidence(
            axis=one.axis,
            group=one.group,
            positive_patients=one.positive_patients,
            negative_patients=one.negative_patients,
            confusion=one.confusion,
            auc=one.auc,
        )
        for one in item.subgroups
    )
