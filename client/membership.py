"""Which patients each released count is of, and whether a sum or difference of counts tells of too few patients."""

from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from client.few_patients import Rows, Unproved, of_few, reduced
from shared.subgroups import GroupEvidence

Members = frozenset[tuple[int, int]]
"""The units of one group and class, each with its patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberGroup(GroupEvidence):
    """A group at the site itself, where it is known who is in it, by class; that does not leave."""

    positives: Members = field(repr=False)
    negatives: Members = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A set whose size leaves, or may: its elements, each with its patient, and the group that it stands or falls with.

    `group` is None for what leaves in any case: the whole of a class, and what has left before.
    """

    group: Hashable
    elements: AbstractSet[tuple[int, int]] = field(repr=False)


def too_telling(counted: Sequence[Counted], *, least: int) -> Hashable:
    """Name a group to withhold, because a linear combination of sizes is about fewer than `least` patients; else None.

    Whatever is computed from the sizes of sets, with factors of any kind, is a sum over patients, each with a number
    that membership gives. It tells of few if it is 0 for all but a few. So no combination in which groups have
    a part may be 0 for all but fewer than `least` patients, unless it is 0 for all, or what sets without a group tell
    by themselves. Of a combination, the smallest of its groups is named; where the search is too much work to be
    ended, the smallest of all: what is not known to be safe does not leave.
    """
    members_MA, patients_A = _atoms(counted)
    # What follows from others is left out: of the groups, the largest, so that the smallest are named.
    order = sorted(range(len(counted)), key=lambda place: (counted[place].group is not None, *_size(counted[place])))
    named = [place for place in order if counted[place].group is not None]
    if not named or not patients_A:  # sets of nobody tell of nobody
        return None
    made_of, kept = reduced(members_MA.T, order)
    # A group that other groups do not make up, but wholes and groups do: what wholes tell is then said of groups too.
    related = [place for place in reduced(members_MA.T, named)[1] if place not in kept]
    own_K = np.array([place in named or bool(related) for place in kept], dtype=bool)
    factors_K = of_few(members_MA[kept], own_K, patients_A, least=least)
    if factors_K is None:
        return None
    if isinstance(factors_K, Unproved):
        return counted[named[0]].group
    used = {place for place, factor in zip(kept, factors_K, strict=True) if factor}
    if used.isdisjoint(named):
        used = {place for place, factor in zip(kept, made_of[:, related[0]], strict=False) if factor} | {related[0]}
    return next(counted[place].group for place in named if place in used)


def _size(one: Counted) -> tuple[int, str]:
    return len(one.elements), repr(one.group)


def _atoms(counted: Sequence[Counted]) -> tuple[Rows, list[set[int]]]:
    """Put elements together that are in the same sets: who is in which sets, a column each, and whose they are."""
    elements = sorted(set().union(*(one.elements for one in counted)))
    places = {element: place for place, element in enumerate(elements)}
    members = np.zeros((len(counted), len(elements)), dtype=np.int64)
    for row, one in enumerate(counted):
        members[row, [places[element] for element in one.elements]] = 1
    columns, atom_of = np.unique(members, axis=1, return_inverse=True)
    patients: list[set[int]] = [set() for _ in range(columns.shape[1])]
    for (_, patient), atom in zip(elements, np.ravel(atom_of).tolist(), strict=True):
        patients[atom].add(patient)
    return columns, patients
