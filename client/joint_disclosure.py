"""Withholds groups until nothing that is released, now or earlier in the study, tells of too few patients together."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from client.membership import Counted, MemberGroup, Members, too_telling
from shared.errors import EgressError
from shared.evidence import Evidence, Withheld
from shared.subgroups import GroupEvidence

MOST_SETS = 160
"""So many sets are looked at together: the work grows with their cube. Of more, the smallest groups are withheld."""

WHOLE = ""
"""Stands for axis and group where a set is a finding's whole class."""

Items = tuple[Evidence | Withheld, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedSet:
    """Whose size left: a finding's positives or negatives in one group, as tokens of patients, and how many units."""

    finding: int
    axis: str
    group: str
    positive: bool
    units: int
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
    left in this study before: its findings count with those of `kept`, also where a task asks for one alone. So do the
    classes of findings of which no group leaves. By units and by patients: a patient with several may be in several
    groups of an axis. A group of the same patients as before and another number of units does not leave again.
    What is remembered of units is their number alone. So it is decided first as if nothing had left: while a site's
    data are the same, each task's answer is part of one, whichever findings it asks for.
    What leaves are plain groups: who is in them stays here.

    Raises:
        EgressError: a group does not say who is in it.
    """

    def patients(members: Members) -> Members:
        return _pairs(token(patient) for _, patient in members)

    open_places = [place for place, item in enumerate(kept) if isinstance(item, Evidence)]
    places = [place for place in open_places if _members(kept[place])]
    together = sorted({*open_places, *(one.finding for one in earlier)}) if places else []
    for place in places:
        for group in _members(kept[place]):
            if any(_recounted(now, earlier) for now in _sets(place, group, token)):
                name = _name(place, group, exclusive=exclusive)
                kept = tuple(_without(item, at, name, exclusive=exclusive) for at, item in enumerate(kept))
    blocks = [together] if exclusive or len(together) <= 1 else [*([place] for place in places), together]
    memories: tuple[Sequence[ReleasedSet], ...] = ((), earlier) if earlier else ((),)
    for remembered in memories:
        reads: tuple[tuple[Read, Sequence[ReleasedSet]], ...] = ((_units, ()), (patients, remembered))
        for block, (read, before) in product(blocks, reads):
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
                    yield _set(members, token, finding=place, axis=WHOLE, group=WHOLE, positive=positive)


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
        if len(fixed) + len(groups) > MOST_SETS and groups:  # what is not looked at does not leave
            name = min(groups, key=lambda one: (len(one.elements), repr(one.group))).group
        else:
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
        yield _set(members, token, finding=place, axis=group.axis, group=group.group, positive=positive)


def _set(members: Members, token: Token, *, finding: int, axis: str, group: str, positive: bool) -> ReleasedSet:
    patients = frozenset(token(patient) for _, patient in members)
    return ReleasedSet(
        finding=finding, axis=axis, group=group, positive=positive, units=len(members), patients=patients
    )


def _recounted(now: ReleasedSet, earlier: Sequence[ReleasedSet]) -> bool:
    """Tell whether the same patients left before with another number of units: the difference is a few exams."""
    return any(now != before and now == replace(before, units=now.units) for before in earlier)


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
