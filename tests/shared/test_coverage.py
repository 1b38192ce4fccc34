"""Intervals hold what is true as often as they say: enumerated where that can be done, else simulated at fixed seeds.

The limits were written before the first result. `python -m benchmarks.coverage` prints all; docs/results.md has it.
"""

import numpy as np
import pytest

from benchmarks.coverage import SIZES, exact, simulated, truth, units
from shared.intervals import clopper_pearson, wilson

LEAST = {30: 0.90, 100: 0.93, 1000: 0.93}
"""Of an interval of 95 %; at 30 units a class has about 12, and theory is weakest."""


CAUTIOUS = {30: {"receipt: sensitivity"}}
"""What missed the upper limit (at .998): with some 12 pairs each known interval does (benchmarks/paired_rates.py), and
the page says so beside the receipts."""


@pytest.mark.parametrize("n", SIZES)
def test_wilson_holds_on_average(n: int) -> None:
    """Over all p the mean coverage lies between 93 and 97 %, and rises with n; near 0 and 1 it is less."""
    found = exact(wilson, n)
    assert 0.93 <= found.mean <= 0.97
    assert found.least >= 0.83


@pytest.mark.parametrize("n", SIZES)
def test_clopper_and_pearson_never_hold_less_than_they_say(n: int) -> None:
    """The exact interval covers at least 95 % at every p, and so more on average."""
    found = exact(clopper_pearson, n)
    assert found.least >= 0.95
    assert found.mean <= 0.99


def test_the_truth_that_they_are_held_against_is_true() -> None:
    """What the formulas and the quadrature say of a population is what 100,000 drawn units have."""
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

    drawn, true = units(np.random.default_rng(1), 100_000), truth()
    assert roc_auc_score(drawn.positive_M, drawn.scores_M) == pytest.approx(true["auc"], abs=4e-3)
    found = average_precision_score(drawn.positive_M, drawn.scores_M)
    assert found == pytest.approx(true["average precision"], abs=6e-3)
    assert brier_score_loss(drawn.positive_M, drawn.scores_M) == pytest.approx(true["brier"], abs=2e-3)


def test_a_few_draws_hold() -> None:
    """Forty draws at 100 units: every kind of interval is there, and holds in at least 34."""
    held = simulated(100, draws=40)
    assert len(held) == 14
    assert min(held.values()) >= 0.85


@pytest.mark.nightly
@pytest.mark.parametrize("n", SIZES)
def test_every_simulated_interval_holds(n: int) -> None:
    """Of 2,000 draws each kind holds at least as many as LEAST says, and none is so wide that it nearly always does."""
    held = simulated(n, draws=2000)
    assert {name: share for name, share in held.items() if share < LEAST[n]} == {}
    assert {name for name, share in held.items() if share > 0.995} <= CAUTIOUS.get(n, set())
