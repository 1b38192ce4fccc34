"""Finds a combination of counts that is about few patients, or proves that there is none, within a bounded work."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

PRIME = 2_147_483_647
"""Arithmetic is exact modulo this prime: products of two fit into 64 bits, and no count comes near it. A combination in
fractions is a multiple of one of whole numbers without a common divisor: modulo the prime that is 0 wherever it was."""

WORK = 2_000_000_000
"""Multiplications after which a proof is given up: some twenty seconds. The first step, which is enough at large sites,
is always made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproved:
    """The work was too much: whether there is such a combination is not known."""


def of_few(
    rows_KA: Rows,
    own_K: npt.NDArray[np.bool_],
    patients_A: Sequence[AbstractSet[int]],
    *,
    least: int,
    most_work: int = WORK,
) -> Rows | Unproved | None:
    """Give factors (K,) of a combination of the rows that is not 0, but 0 for all save fewer than `least` patients.

    The rows are independent, and at least one in `own_K` has a part in it. `patients_A` says whose each column is.
    None is a proof: all combinations are searched, by columns that are 0 or are not (branch and bound). A combination
    that is not 0 is not 0 in any basis of columns, so that bases without a patient in common count a patient each:
    that cuts branches off (the bound of Brouwer and Zimmermann's search for a code's least weight: Grassl 2006).
    """
    search = _Search(patients_A=tuple(map(frozenset, patients_A)), own_K=own_K, least=least)
    count, columns = rows_KA.shape
    space = np.concatenate([rows_KA % PRIME, np.eye(count, dtype=np.int64)], axis=1)
    waiting, left = [_Branch(space=space, open_A=np.ones(columns, dtype=bool), chosen=frozenset())], most_work
    while waiting:
        if left < 0:
            return Unproved()
        branch = waiting.pop()
        left -= search.work(branch)
        found = search.step(branch)
        if isinstance(found, np.ndarray):
            return found
        waiting += found
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """Combinations, as a basis (rows) beside its factors, that are 0 in some columns and not in the chosen patients'.

    `open_A` are the columns of which nothing is decided.
    """

    space: Rows
    open_A: npt.NDArray[np.bool_]
    chosen: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """What is the same in all branches of a search."""

    patients_A: tuple[frozenset[int], ...]
    own_K: npt.NDArray[np.bool_]
    least: int

    def work(self, branch: _Branch) -> int:
        """Bound the multiplications of a step from above: a reduction for each basis that is looked for."""
        rows, columns = branch.space.shape
        return int(rows * rows * columns * min(self.least + 1, 2 + columns // max(1, rows)))

    def step(self, branch: _Branch) -> Rows | list[_Branch]:
        """Give a combination of few, if one is at hand; else the branches in which one may be."""
        branch = self._without_many(branch)
        if not self._own(branch.space).any():
            return []
        space, pivots = reduced(branch.space, self._by_patients(branch, np.flatnonzero(branch.open_A)))
        for row in space[self._own(space)]:
            if self._is_of_few(row):
                factors: Rows = row[len(self.patients_A) :]
                return factors
        if self._at_least(branch, space[: len(pivots)], pivots) >= self.least:
            return []
        columns = max(self._parallel(branch), key=lambda own: len(self._new(branch, own)))
        zero, open_A = _without(branch.space, columns[:1]), branch.open_A.copy()
        open_A[columns] = False
        with_them = branch.chosen | self._new(branch, columns)
        return [
            _Branch(space=zero, open_A=open_A, chosen=branch.chosen),
            _Branch(space=branch.space, open_A=open_A, chosen=with_them),
        ]

    def _without_many(self, branch: _Branch) -> _Branch:
        """Set what can only be 0 to 0, until nothing is left of it: columns of too many patients to be among few.

        Columns that are 0, or whose patients are chosen already, are closed: they decide nothing.
        """
        space, open_A = branch.space, branch.open_A.copy()
        while True:
            open_A &= space[:, : len(open_A)].any(axis=0)
            open_A &= np.array([not patients <= branch.chosen for patients in self.patients_A], dtype=bool)
            now = _Branch(space=space, open_A=open_A, chosen=branch.chosen)
            many = [own[0] for own in self._parallel(now) if len(self._new(now, own)) + len(now.chosen) >= self.least]
            if not many:
                return now
            space = _without(space, many)

    def _parallel(self, branch: _Branch) -> list[list[int]]:
        """Put open columns together that are multiples of one another: all of them are 0, or none is."""
        columns = np.flatnonzero(branch.open_A)
        if not columns.size:
            return []
        values = branch.space[:, columns]
        first = values[(values != 0).argmax(axis=0), np.arange(len(columns))]
        scaled = np.ascontiguousarray((values * _inverse(first) % PRIME).T)
        together: dict[bytes, list[int]] = {}
        for column, value in zip(columns.tolist(), scaled, strict=True):
            together.setdefault(value.tobytes(), []).append(column)
        return list(together.values())

    def _at_least(self, branch: _Branch, space: Rows, pivots: Sequence[int]) -> int:
        """Bound from below how many patients a combination is of: the chosen, and some of each of several bases."""
        total, open_A = len(branch.chosen), branch.open_A.copy()
        while pivots and len(pivots) == len(space) and total < self.least:
            total += min(len(self._new(branch, [column])) for column in pivots)
            taken = self._new(branch, pivots)
            open_A &= np.array([taken.isdisjoint(patients) for patients in self.patients_A], dtype=bool)
            pivots = reduced(space, self._by_patients(branch, np.flatnonzero(open_A)))[1]
        return total

    def _by_patients(self, branch: _Branch, columns: Iterable[int]) -> list[int]:
        """Order columns from the one of most patients on."""
        return sorted(columns, key=lambda column: -len(self._new(branch, [column])))

    def _new(self, branch: _Branch, columns: Iterable[int]) -> frozenset[int]:
        return frozenset().union(*(self.patients_A[column] for column in columns)) - branch.chosen

    def _own(self, space: Rows) -> npt.NDArray[np.bool_]:
        return np.asarray(space[:, len(self.patients_A) :][:, self.own_K].any(axis=1), dtype=bool)

    def _is_of_few(self, row: Rows) -> bool:
        patients: set[int] = set()
        for column in np.flatnonzero(row[: len(self.patients_A)]):
            patients |= self.patients_A[column]
            if len(patients) >= self.least:
                return False
        return True


def reduced(rows: Rows, order: Iterable[int]) -> tuple[Rows, list[int]]:
    """Bring rows into reduced echelon form over the columns in this order (Gauss and Jordan), modulo the prime.

    Gives them, and for each of the first the column in which it alone is not 0; the others are 0 in all these columns.
    """
    rows, pivots = rows % PRIME, list[int]()
    for column in order:
        rank = len(pivots)
        found = np.flatnonzero(rows[rank:, column])
        if not found.size:
            continue
        rows[[rank, rank + found[0]]] = rows[[rank + found[0], rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, PRIME) % PRIME
        others = np.flatnonzero(rows[:, column])
        others = others[others != rank]
        rows[others] = (rows[others] - rows[others, column][:, None] * rows[rank]) % PRIME
        pivots.append(int(column))
        if len(pivots) == len(rows):
            break
    return rows, pivots


def _without(rows: Rows, columns: Iterable[int]) -> Rows:
    """Give a basis of the combinations that are 0 in these columns."""
    all_rows, pivots = reduced(rows, columns)
    return all_rows[len(pivots) :]


def _inverse(values: Rows) -> Rows:
    """Invert each modulo the prime, by Fermat: the power of the prime minus 2."""
    result, power, left = np.ones_like(values), values % PRIME, PRIME - 2
    while left:
        result = result * power % PRIME if left & 1 else result
        power, left = power * power % PRIME, left >> 1
    return result
