"""A site's case mix is said as its intervals have it, and as no cause."""

from dataclasses import replace

import pytest

from server import wording_case_mix as mixed
from shared.case_mix import CaseMix, Comparison


def compared(value: float, low: float, high: float) -> Comparison:
    return Comparison(value=value, low=low, high=high)


MIX = CaseMix(
    mean=compared(-0.8, -1.1, -0.5),
    spread=compared(1.3, 1.1, 1.5),
    expected=compared(0.02, 0.01, 0.03),
    rest=compared(-0.0604, -0.09, -0.03),
)


def test_numbers_have_their_signs_and_intervals() -> None:
    """Differences are signed, a ratio is not, and both parts give the whole."""
    assert mixed.signed(MIX.mean, 2) == "−0.80"
    assert mixed.signed_range(MIX.rest, 3) == "−0.090 to −0.030"
    assert mixed.ratio_range(MIX.spread) == "1.10 to 1.50"
    assert mixed.difference(MIX) == "−0.040"


@pytest.mark.parametrize(
    ("spread", "said"),
    [
        (compared(1.3, 1.1, 1.5), "Patients who vary more than elsewhere"),
        (compared(0.8, 0.7, 0.9), "Patients who vary less than elsewhere"),
        (compared(1.1, 0.9, 1.3), "Patients who vary as elsewhere"),
    ],
)
def test_patients_vary_as_the_interval_of_the_spread_shows(spread: Comparison, said: str) -> None:
    """More or less is said only where the interval does not hold 1."""
    assert mixed.reading(replace(MIX, spread=spread)).startswith(f"{said};")


@pytest.mark.parametrize(
    ("rest", "said", "stands"),
    [
        (compared(-0.06, -0.09, -0.03), "less right here", True),
        (compared(0.06, 0.03, 0.09), "more right here", True),
        (compared(-0.06, -0.12, 0.01), "no difference in AUC was shown beyond", False),
    ],
)
def test_what_is_left_counts_only_if_its_interval_shows_it(rest: Comparison, said: str, stands: bool) -> None:
    """What chance can leave over says nothing against the model."""
    found = replace(MIX, rest=rest)
    assert said in mixed.reading(found)
    assert mixed.left_over(found) is stands
    assert "cause" not in mixed.reading(found)
