"""Brier score, calibration slope and intercept agree with statsmodels and cover."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from scipy.stats import t
from sklearn.metrics import brier_score_loss

from shared.estimates import Calibration
from shared.score_calibration import brier_score, calibration
from shared.scores import ScoredUnits


def drawn(
    rng: np.random.Generator, patients: int, *, each: int = 1, slope: float = 1.5, shift: float = 0.5
) -> ScoredUnits:
    """Draw units whose true logit is (score's logit) / slope - shift."""
    score = np.repeat(rng.normal(-0.5, 2.0, patients), each) + rng.normal(0, 0.4 * (each > 1), patients * each)
    positive = rng.random(score.size) < expit(score / slope - shift)
    return ScoredUnits(scores_M=expit(score), positive_M=positive, patients_M=np.repeat(np.arange(patients), each))


def fitted(units: ScoredUnits) -> Calibration:
    found = calibration(units, confidence=0.95)
    assert found
    return found


@pytest.mark.parametrize("each", [1, 3])
def test_slope_and_intercept_are_those_of_statsmodels(each: int) -> None:
    """Coefficients and cluster-robust standard errors are those of statsmodels' logistic regression."""
    units = drawn(np.random.default_rng(each), 150, each=each)
    truth, logits = units.positive_M.astype(float), logit(units.scores_M)
    clusters = {"cov_type": "cluster", "cov_kwds": {"groups": units.patients_M, "use_correction": False}}
    line = sm.GLM(truth, sm.add_constant(logits), family=sm.families.Binomial()).fit(**clusters)
    level = sm.GLM(truth, np.ones(len(truth)), family=sm.families.Binomial(), offset=logits).fit(**clusters)
    found, factor = fitted(units), np.sqrt(150 / 149)
    smaller = min(np.unique(units.patients_M[chosen]).size for chosen in (units.positive_M, ~units.positive_M))

    reach = t.ppf(0.975, smaller - 1) * factor
    assert found.slope.value == pytest.approx(line.params[1], abs=1e-6)
    assert found.slope.high - found.slope.value == pytest.approx(reach * line.bse[1], rel=1e-4)
    assert found.intercept.value == pytest.approx(level.params[0], abs=1e-6)
    assert found.intercept.value - found.intercept.low == pytest.approx(reach * level.bse[0], rel=1e-4)


def test_what_is_not_defined_is_none() -> None:
    """A perfect order has no slope, and neither has a class of one patient; without units nothing is known."""
    scores = np.linspace(0.1, 0.9, 10)
    split = ScoredUnits(scores_M=scores, positive_M=scores > 0.5, patients_M=np.arange(10))
    lonely = ScoredUnits(scores_M=scores, positive_M=np.arange(10) == 4, patients_M=np.arange(10))
    nobody = ScoredUnits(scores_M=scores[:0], positive_M=np.zeros(0, bool), patients_M=np.arange(0))
    assert [calibration(one, confidence=0.95) for one in (split, lonely, nobody)] == [None] * 3
    assert brier_score(nobody, confidence=0.95) is None


def test_the_brier_score_is_scikit_learns() -> None:
    """The value is scikit-learn's; the interval is about a mean's, and one patient shows nothing."""
    units = drawn(np.random.default_rng(3), 500)
    found = brier_score(units, confidence=0.95)
    assert found
    assert found.value == pytest.approx(brier_score_loss(units.positive_M, units.scores_M))
    squares = (units.scores_M - units.positive_M) ** 2
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * squares.std() / np.sqrt(500), rel=0.02)
    one = brier_score(
        ScoredUnits(scores_M=np.full(3, 0.5), positive_M=np.ones(3, bool), patients_M=np.zeros(3, int)), confidence=0.95
    )
    assert one
    assert (one.low, one.value, one.high) == (0.0, 0.25, 1.0)


@pytest.mark.parametrize(("patients", "each", "draws"), [(30, 1, 400), (33, 3, 300), (100, 1, 300), (1000, 1, 150)])
def test_the_intervals_cover(patients: int, each: int, draws: int) -> None:
    """At 30, 100 and 1000 patients, and where exams repeat, each covers at least .91 of what is defined."""
    rng = np.random.default_rng(10 * patients + each)
    big = drawn(rng, 300_000 // each, each=each)
    line, level = fitted(big).slope.value, fitted(big).intercept.value
    square = float(((big.scores_M - big.positive_M) ** 2).mean())
    held: dict[str, list[bool]] = {"slope": [], "intercept": [], "brier": []}
    for _ in range(draws):
        units = drawn(rng, patients, each=each)
        if found := calibration(units, confidence=0.95):
            held["slope"].append(found.slope.low <= line <= found.slope.high)
            held["intercept"].append(found.intercept.low <= level <= found.intercept.high)
        if brier := brier_score(units, confidence=0.95):
            held["brier"].append(brier.low <= square <= brier.high)
    for ones in held.values():
        assert len(ones) > 0.9 * draws
        assert np.mean(ones) >= 0.91
