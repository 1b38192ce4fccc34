"""The distance between sites is unbiased, its interval covers, and a cross-fitted rule reaches the accuracy."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.coverage import sites_told
from shared.feature_summary import FeatureSummary, discriminant, summarise
from shared.site_identifiability import Identifiability, identifiability
from shared.split import Split


def pair(sizes: tuple[int, int], away: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw two sites whose means are `away` apart, in units of the spread."""
    rng = np.random.default_rng(seed)
    one, other = (rng.standard_normal((size, 32)) for size in sizes)
    return one, other + away / np.sqrt(8) * (np.arange(32) < 8)


def sums(data: tuple[np.ndarray, np.ndarray]) -> list[FeatureSummary]:
    return [FeatureSummary(**_parts(one)) for one in data]


def _parts(data: np.ndarray) -> dict:
    """Sum up without the split null, which takes most of the time and is not read here."""
    p = min(32, len(data) // 5)
    return {
        "split": Split.TRAIN,
        "patients": len(data),
        "mean": tuple(data[:, :p].mean(axis=0)),
        "covariance": tuple(np.cov(data[:, :p].T)[np.tril_indices(p)]),
        "split_null": (0.0,) * (p - 7),
    }


def told(data: tuple[np.ndarray, np.ndarray]) -> Identifiability:
    found = identifiability(*sums(data), confidence=0.95)
    assert found is not None
    return found


@pytest.mark.parametrize("away", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("sizes", [(40, 60), (200, 100)])
def test_the_distance_is_unbiased_and_its_interval_covers(sizes: tuple[int, int], away: float) -> None:
    """Over 300 draws the mean distance is the true one, as the plain one is not; 92 to 98 % of intervals hold it."""
    draws = [pair(sizes, away, seed) for seed in range(300)]
    found = [told(data) for data in draws]
    distances = np.array([one.distance for one in found])
    assert abs(distances.mean() - away**2) < 3 * distances.std() / np.sqrt(300)
    p = min(sizes) // 5
    rules = [discriminant(*sums(data), dimensions=p) for data in draws]
    plain = np.mean([rule.distance for rule in rules if rule])
    assert plain - away**2 > 10 * distances.std() / np.sqrt(300)
    true = norm.cdf(away / 2)
    if away:
        covered = np.mean([one.low <= true <= one.high for one in found])
        assert 0.92 <= covered <= 0.98
    else:  # the true value is the least there can be: it is missed on one side alone
        assert np.mean([one.low <= true for one in found]) >= 0.95


@pytest.mark.parametrize(("accuracy", "wide"), [(0.97, 2.0), (0.995, 2.0), (0.97, 0.5)])
def test_the_interval_covers_where_one_site_spreads_more(accuracy: float, wide: float) -> None:
    """Of 300 and 116 patients, half of the features twice or half as wide at the second: 87 to 99 % of 300 hold it.

    By the pooled spread alone 69, 41 and 79 % do: the site that is told less surely is known from few patients. Of
    2,000 draws 95, 92 and 95 % hold (docs/results.md); the limit is three errors of 300 draws below the least.
    """
    assert 0.87 <= sites_told(wide=wide, accuracy=accuracy, sizes=(300, 116), draws=300) <= 0.99


def test_the_accuracy_is_what_a_cross_fitted_rule_reaches() -> None:
    """A linear rule fitted on half of many patients and tried on the other half tells the site as often as said."""
    fit, fresh = pair((4000, 4000), 2.0, 1), pair((4000, 4000), 2.0, 2)
    direction = np.linalg.solve(np.cov(fit[0].T) + np.cov(fit[1].T), fit[1].mean(axis=0) - fit[0].mean(axis=0))
    middle = direction @ (fit[0].mean(axis=0) + fit[1].mean(axis=0)) / 2
    reached = (np.mean(fresh[0] @ direction < middle) + np.mean(fresh[1] @ direction > middle)) / 2
    assert told(pair((300, 300), 2.0, 3)).low <= reached <= told(pair((300, 300), 2.0, 3)).high
    assert reached == pytest.approx(norm.cdf(1), abs=0.01)


def test_nothing_is_shown_below_eight_dimensions_or_without_an_inverse() -> None:
    """39 patients at one site are too few, and constant features tell nothing."""
    small = summarise(np.random.default_rng(0).standard_normal((39, 32)), split=Split.TRAIN, seed=0)
    large = sums(pair((60, 60), 0, 0))[0]
    assert identifiability(small, large, confidence=0.95) is None
    flat = FeatureSummary(split=Split.TRAIN, patients=50, mean=(0.0,) * 8, covariance=(0.0,) * 36, split_null=(0.0,))
    assert identifiability(flat, flat, confidence=0.95) is None


def test_almost_sure_is_said_by_the_lower_end() -> None:
    """Sites five spreads apart are; two spreads (84 %) are not, whatever chance adds."""
    assert told(pair((200, 200), 5.0, 0)).almost_sure
    assert not told(pair((200, 200), 2.0, 0)).almost_sure
