"""Which patients each released count is of, and whether a sum or difference of counts tells of too few patients."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared.subgroups import GroupEvidence

Members = frozenset[tuple[int, int]]
"""The units of one group and class, each with its patient."""

Rows = npt.NDArray[np.int64]

PRIME = 2_147_483_647
"""Arithmetic is exact modulo this prime: products of two fit into 64 bits, and no count comes near it."""

MOST_ORDERS, LEAST_ORDERS = 160, 24
"""So many orders of columns are tried. One misses a combination of few patients at a chance of some ten per cent at the
smallest sites, and less at others."""

WORK = 4e8
"""Multiplications after which LEAST_ORDERS are enough: some seconds."""


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
    a part may be 0 for all but fewer than `least` patients, unless it is 0 for all; what sets without a group tell by
    themselves is not a group's doing. Of a combination, the smallest of its groups is named.
    """
    members_MA, patients_A = _atoms(counted)
    named_M = np.array([one.group is not None for one in counted], dtype=bool)
    if not named_M.any() or not patients_A:  # sets of nobody tell of nobody
        return None
    heavy_A = np.array([len(patients) >= least for patients in patients_A])
    light = np.flatnonzero(~heavy_A)
    rows, factors, relations, pivots = _reduced(members_MA, [*np.flatnonzero(heavy_A), *light])
    # What is 0 wherever many are is made of these rows alone: their first column that is not 0 is one of few patients.
    rows, factors = rows[~heavy_A[pivots]][:, light], factors[~heavy_A[pivots]]
    for order in _orders(*rows.shape):
        for row, mixed in zip(*_reduced(rows, order)[:2], strict=True):
            if len(set().union(*(patients_A[atom] for atom in light[np.flatnonzero(row)]))) >= least:
                continue
            # The same follows in another way too, if sets are related: by a sum of them that is 0 for everybody.
            for part in (_product(mixed, factors), *relations):
                own = np.where(named_M, part, 0)
                if _product(own, members_MA).any():
                    groups = [one for one, used in zip(counted, own, strict=True) if used]
                    return min(groups, key=lambda one: (len(one.elements), repr(one.group))).group
    return None


def _product(factors_M: Rows, rows_MA: Rows) -> Rows:
    """Add rows up, each times its factor, modulo the prime."""
    total: Rows = (factors_M[:, None] * rows_MA % PRIME).sum(axis=0) % PRIME
    return total


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


def _orders(rows: int, columns: int) -> Iterator[Rows]:
    """Give orders of the columns: the fewer, the more work each is."""
    if rows:
        enough = int(WORK / (rows * rows * (rows + columns)))
        for seed in range(min(MOST_ORDERS, max(LEAST_ORDERS, enough))):
            yield np.random.default_rng(seed).permutation(columns)


def _reduced(members_MA: Rows, order: Iterable[int]) -> tuple[Rows, Rows, Rows, Rows]:
    """Bring the rows into reduced echelon form over the columns in this order (Gauss and Jordan).

    Gives the rows that are left, what each is made of, what sums of rows are 0, and for each row that is left the
    column in which it alone is not 0. A combination that is not 0 on one of these columns only is a multiple of that
    row: with columns in many orders, those of few patients show up (information set decoding: Prange 1962).
    """
    rows, factors = members_MA % PRIME, np.eye(len(members_MA), dtype=np.int64)
    rank, pivots = 0, []
    for column in order:
        found = np.flatnonzero(rows[rank:, column])
        if not found.size:
            continue
        for both in (rows, factors):
            both[[rank, rank + found[0]]] = both[[rank + found[0], rank]]
        inverse = pow(int(rows[rank, column]), -1, PRIME)
        others = np.flatnonzero(rows[:, column])
        others = others[others != rank]
        times = rows[others, column][:, None]
        for both in (rows, factors):
            both[rank] = both[rank] * inverse % PRIME
        for both in (rows, factors):
            both[others] = (both[others] - times * both[rank]) % PRIME
        pivots.append(column)
        rank += 1
        if rank == len(rows):
            break
    return rows[:rank], factors[:rank], factors[rank:], np.array(pivots, dtype=np.int64)
