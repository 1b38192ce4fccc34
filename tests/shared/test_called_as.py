"""A class's calls travel as they are, and a row that cannot be is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.called_as import CalledAs, calls_from_numbers, calls_to_numbers

counts = st.lists(st.none() | st.integers(0, 1000), min_size=2, max_size=9)


@given(counts=counts)
def test_a_row_is_read_as_it_was_written(counts: list[int | None]) -> None:
    """Withheld is not zero, and no row is none."""
    row = CalledAs(units=tuple(counts))
    assert calls_from_numbers(calls_to_numbers(row), units=sum(count or 0 for count in counts)) == row
    assert row.whole == all(count is not None for count in counts)
    assert calls_from_numbers(calls_to_numbers(None), units=5) is None


@pytest.mark.parametrize("wrong", [[3, 3], [-2, 1], [1.0, 2.0], [True, 1], 4, ["a"]])
def test_a_row_of_another_form_is_refused(wrong: Any) -> None:
    """More units than the class has, what is no count, what is no row."""
    with pytest.raises((TypeError, ValueError)):
        calls_from_numbers({"called_as": wrong}, units=5)
