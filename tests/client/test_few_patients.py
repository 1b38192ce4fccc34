"""Whether a combination of counts is about few patients is found out exactly, or said not to be known."""

import itertools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from client.few_patients import PRIME, Unproved, of_few, reduced

Rows = Any


def supported(rows: Rows, columns: Rows) -> int:
    """Give the dimension of the combinations that are 0 outside these columns, by ranks over the rationals."""
    outside = np.delete(rows, columns, axis=1)
    rank = np.linalg.matrix_rank
    return int(rank(rows) if len(rows) else 0) - int(rank(outside) if outside.size else 0)


def tells(rows: Rows, own: Rows, patients: list[set[int]], least: int) -> bool:
    """Try every set of fewer than `least` patients: an attacker of another kind than the search."""
    everybody = sorted(set().union(*patients))
    for few in itertools.combinations(everybody, min(least - 1, len(everybody))):
        columns = [place for place, own_patients in enumerate(patients) if own_patients <= set(few)]
        if supported(rows, columns) > supported(rows[~own], columns):
            return True
    return False


def independent(rows: Rows) -> list[int]:
    kept: list[int] = []
    for place in range(len(rows)):
        if np.linalg.matrix_rank(rows[[*kept, place]]) > len(kept):
            kept.append(place)
    return kept


@given(data=st.data(), least=st.integers(2, 5), columns=st.integers(3, 11), sets=st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_there_is_a_combination_of_few_exactly_where_one_is_found(
    data: Any, least: int, columns: int, sets: int
) -> None:
    """By ranks of rational matrices, whatever the sets; also where a patient is in several columns."""
    bits = data.draw(st.lists(st.integers(0, 2**columns - 1), min_size=sets, max_size=sets))
    rows = np.array([[bit >> column & 1 for column in range(columns)] for bit in bits], dtype=np.int64)
    rows = rows[independent(rows)]
    own = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    owners = data.draw(st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=3), min_size=columns, max_size=columns))
    alone = data.draw(st.booleans())
    patients = [{column} for column in range(columns)] if alone else owners
    found = of_few(rows, own, patients, least=least)
    assert (found is not None) == tells(rows, own, patients, least)
    if isinstance(found, np.ndarray):
        about = np.flatnonzero((found.astype(object) @ rows.astype(object)) % PRIME)
        assert 0 < len(set().union(*(patients[column] for column in about))) < least
        assert found[own].any()


def test_a_search_that_is_too_much_work_says_so() -> None:
    """It is no proof that nothing was found: nobody may take it for one."""
    rows = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1]], dtype=np.int64)
    own, patients = np.ones(2, dtype=bool), [{place} for place in range(6)]
    assert of_few(rows, own, patients, least=4) is None
    assert isinstance(of_few(rows, own, patients, least=4, most_work=1), Unproved)


def test_rows_in_reduced_form_have_columns_of_their_own() -> None:
    """Each row alone is 1 in its column; what is left over is 0 in all."""
    rows = np.array([[2, 4, 1], [1, 2, 5], [3, 6, 6]], dtype=np.int64)
    echelon, pivots = reduced(rows, [0, 1, 2])
    assert pivots == [0, 2]
    assert echelon[:, pivots].tolist() == [[1, 0], [0, 1], [0, 0]]
    assert not echelon[2].any()
