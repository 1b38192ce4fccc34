"""Average precision is scikit-learn's, and its interval covers."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score

from shared.average_precision import average_precision
from shared.estimates import Estimate
from shared.scores import ScoredUnits


def units_of(scores: np.ndarray, positive: np.ndarray, patients: np.ndarray | None = None) -> ScoredUnits:
    owners = np.arange(len(scores)) if patients is None else patients
    return ScoredUnits(scores_M=np.asarray(scores, float), positive_M=np.asarray(positive, bool), patients_M=owners)


def drawn(rng: np.random.Generator, patients: int, *, each: int = 1, prevalence: float = 0.3) -> ScoredUnits:
    """Draw units whose logit is that of the truth; the units of a patient are alike."""
    mean = np.log(prevalence / (1 - prevalence))
    logits = np.repeat(rng.normal(mean, 2.0, patients), each) + rng.normal(0, 0.5 * (each > 1), patients * each)
    owners = np.repeat(np.arange(patients), each)
    return units_of(expit(logits), rng.random(patients * each) < expit(logits), owners)


def found(units: ScoredUnits) -> Estimate:
    one = average_precision(units, confidence=0.95)
    assert one
    return one


@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("seed", range(4))
def test_the_value_is_scikit_learns(seed: int, decimals: int) -> None:
    """With and without ties the value is that of scikit-learn."""
    units = drawn(np.random.default_rng(seed), 60)
    tied = units_of(units.scores_M.round(decimals), units.positive_M)
    assert found(tied).value == pytest.approx(average_precision_score(tied.positive_M, tied.scores_M), abs=1e-12)


def test_the_interval_is_that_of_brute_force_bootstrap() -> None:
    """With 400 patients of two exams, the half-width is that of 800 resamples of whole patients, within a tenth."""
    rng = np.random.default_rng(7)
    units = drawn(rng, 400, each=2)
    values = []
    for _ in range(800):
        chosen = rng.integers(0, 400, 400)
        rows = np.concatenate((2 * chosen, 2 * chosen + 1))
        values.append(average_precision_score(units.positive_M[rows], units.scores_M[rows]))
    one = found(units)
    assert (one.high - one.low) / 2 == pytest.approx(1.96 * np.std(values), rel=0.1)


@pytest.mark.parametrize(("patients", "each", "draws"), [(30, 1, 400), (33, 3, 300), (100, 1, 300), (1000, 1, 150)])
def test_the_interval_covers(patients: int, each: int, draws: int) -> None:
    """At 30, 100 and 1000 patients, and where exams repeat, the interval covers at least .92."""
    rng = np.random.default_rng(patients + each)
    big = drawn(rng, 400_000 // each, each=each)
    truth = average_precision_score(big.positive_M, big.scores_M)
    ones = [found(drawn(rng, patients, each=each)) for _ in range(draws)]
    assert np.mean([one.low <= truth <= one.high for one in ones]) >= 0.92


def test_at_the_ends_there_is_an_interval() -> None:
    """Without positives nothing is defined; a perfect order of 5 positives has the lower end of 5 of 5."""
    assert average_precision(units_of(np.arange(4) / 4, np.zeros(4)), confidence=0.95) is None
    perfect = found(units_of(np.arange(10) / 10, np.arange(10) >= 5))
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.025 ** (1 / 5))
    lonely = found(units_of(np.array([0.1, 0.5, 0.9]), np.array([0, 1, 0])))
    assert (lonely.low, lonely.value, lonely.high) == (0.0, 0.5, 1.0)
