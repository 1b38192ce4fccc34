"""What is not at a bound is never printed as if it were, and what is, is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import wording
from shared.bounded import apart, exactly


@pytest.mark.parametrize(
    ("number", "words"),
    [(1.0, "100.0"), (0.9997, "99.97"), (0.99999999, "99.999999"), (0.0, "0.0"), (0.0004, "0.04"), (0.5, "50.0")],
)
def test_a_hundred_per_cent_is_exact(number: float, words: str) -> None:
    """100 % is all of them, and 0 % none."""
    assert wording.hundred(number) == words


@pytest.mark.parametrize(("number", "words"), [(0.8996, "89.96"), (0.9, "90.0"), (0.9004, "90.04"), (0.85, "85.0")])
def test_what_misses_a_target_does_not_read_as_the_target(number: float, words: str) -> None:
    """Beside 90 % that were wished, 89.96 % is not 90.0 %."""
    assert wording.hundred(number, beside=0.9) == words


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4))
def test_text_is_the_bound_only_where_the_number_is(number: float, bound: float, decimals: int) -> None:
    """For any number and bound: equal text means equal to within rounding of sums."""
    text = apart(number, decimals, bounds=(0.0, 1.0, bound))
    for one in (0.0, 1.0, bound):
        same = text == f"{one:.{len(text.partition('.')[2])}f}"
        assert same == (abs(number - one) <= 1e-9) or (not same and abs(number - one) <= 1e-9)


def test_declared_numbers_keep_their_decimals() -> None:
    """A target of .995 is 99.5 %, one of .95 is 95 %, and a confidence of .9999999 is not 100 %."""
    assert [exactly(number * 100) for number in (0.995, 0.95, 0.9999999)] == ["99.5", "95", "99.99999"]
    assert wording.level(0.995) == "99.5\N{NO-BREAK SPACE}%"


def test_other_numbers_near_their_bounds() -> None:
    """AUC, threshold, p and the ends of intervals, of differences too."""
    assert (wording.area(0.99971), wording.area(1.0), wording.area(0.0002)) == ("0.9997", "1.000", "0.0002")
    assert wording.threshold(0.9999999) == "0.9999999"
    assert (wording.p_number(0.0496), wording.p_number(0.05), wording.p_number(0.04996)) == (
        "0.0496",
        "0.050",
        "0.04996",
    )
    assert (wording.p_number(0.998), wording.p_number(1.0)) == ("0.998", "1.00")
    assert wording.percent_range(0.9, 0.99996) == "90.0 to 99.996"
    assert wording.signed_range(0.0003, 0.01, 3) == "+0.0003 to +0.010"
