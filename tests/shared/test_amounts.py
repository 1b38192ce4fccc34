"""Amounts as words, where they are smallest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.amounts import at_most, counted, fewer_than


def test_one_is_no_plural() -> None:
    """And thousands have their comma."""
    assert [counted(number, "round") for number in (0, 1, 2, 1000)] == [
        "0 rounds",
        "1 round",
        "2 rounds",
        "1,000 rounds",
    ]


@given(st.floats(min_value=1e-9, max_value=1e18))
def test_a_size_is_never_nothing_and_never_too_little(size: float) -> None:
    """What is said is at least what there is, and at most a tenth of its unit more (a byte, below a kilobyte)."""
    number, unit = at_most(size).split()
    power = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    said = float(number) * power
    assert float(number) > 0
    assert size * (1 - 1e-12) <= said <= size * (1 + 1e-12) + (1 if power == 1 else 0.1 * power)


@pytest.mark.parametrize(("size", "words"), [(640, "640 bytes"), (10_300, "10.3 kB"), (2e6, "2.0 MB"), (0, "0 bytes")])
def test_the_unit_is_the_one_that_one_would_choose(size: float, words: str) -> None:
    """A head of 65 numbers is no 0.0 MB."""
    assert at_most(size) == words


def test_fewer_than_one_is_none() -> None:
    """A hospital that withholds nothing has min_cell 1."""
    assert [fewer_than(least, "patient") for least in (1, 2, 10)] == [
        "no patients",
        "fewer than 2 patients",
        "fewer than 10 patients",
    ]
