"""Sums of features in fewer dimensions are the first entries; distances are those of independent implementations."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from shared.feature_summary import (
    HALVES,
    LEAST_DIMENSIONS,
    MOST_DIMENSIONS,
    FeatureSummary,
    dimensions,
    discriminant,
    frechet,
    project,
    summarise,
)
from shared.split import Split


def cloud(patients: int, seed: int, *, away: float = 0.0, wide: int = MOST_DIMENSIONS) -> np.ndarray:
    """Draw correlated features."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((wide, wide))
    return rng.standard_normal((patients, wide)) @ mixing + away


def summed(patients: int, seed: int, **changes: float) -> FeatureSummary:
    return summarise(cloud(patients, seed, **changes), split=Split.TRAIN, seed=3)  # type: ignore[arg-type]


def test_a_fifth_of_the_patients_at_most_and_never_below_eight() -> None:
    """39 patients bear nothing, 40 bear 8 dimensions, 160 and more bear 32."""
    assert [dimensions(patients) for patients in (39, 40, 159, 160, 5000)] == [7, 8, 31, 32, 32]
    assert summed(39, 0).dimensions == 0
    assert summed(40, 0).dimensions == LEAST_DIMENSIONS


@pytest.mark.parametrize("p", [8, 11, 20])
def test_fewer_dimensions_are_the_first_entries(p: int) -> None:
    """Mean and covariance of the first p columns are the leading part of what was sent in 20."""
    found, features = summed(100, 1), cloud(100, 1)
    mean, covariance = found.moments(p)
    assert found.dimensions == 20
    np.testing.assert_allclose(mean, features[:, :p].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features[:, :p].T), rtol=1e-10)


def test_the_projection_is_public_and_keeps_distances() -> None:
    """It follows from the seed alone, whatever the data, and is a linear map that keeps squared lengths on average."""
    features = np.random.default_rng(0).standard_normal((300, 64))
    projected = project(features, seed=5)
    np.testing.assert_allclose(projected[:7], project(features[:7], seed=5), rtol=1e-12)
    assert not np.allclose(projected, project(features, seed=6))
    ratio = (projected**2).sum() / ((features**2).sum() * MOST_DIMENSIONS / 64)
    assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_is_that_of_scipys_matrix_root(seed: int) -> None:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), the root by another algorithm; 0 from itself."""
    one, other = summed(80, seed), summed(120, seed + 50, away=0.4)
    (mean, covariance), (other_mean, other_covariance) = one.moments(12), other.moments(12)
    root = np.real(sqrtm(covariance @ other_covariance))
    expected = np.sum((mean - other_mean) ** 2) + np.trace(covariance + other_covariance - 2 * root)
    assert frechet(one.moments(12), other.moments(12)) == pytest.approx(expected, rel=1e-6)
    assert frechet(one.moments(12), one.moments(12)) == pytest.approx(0, abs=1e-8)


def test_two_samples_of_one_site_lie_within_its_split_null() -> None:
    """Another sample of the same patients nearly never exceeds the null of halves; a shifted one always does."""
    draws = [(summed(100, seed), summed(100, seed + 1000), summed(100, seed + 2000, away=4.0)) for seed in range(20)]
    beyond = [frechet(one.moments(20), other.moments(20)) > one.null(20) for one, other, _ in draws]
    assert sum(beyond) <= 1
    assert all(frechet(one.moments(20), far.moments(20)) > one.null(20) for one, _, far in draws)


def test_the_discriminant_is_that_of_the_raw_data() -> None:
    """From the sums alone, what numpy computes from all rows; None where the covariance has no inverse."""
    drawn = (cloud(60, 0), 2 * cloud(90, 1, away=0.5))
    sums = [summarise(data, split=Split.TRAIN, seed=0) for data in drawn]
    one, other = (data[:, :12] for data in drawn)
    pooled = (59 * np.cov(one.T) + 89 * np.cov(other.T)) / 148
    apart = one.mean(axis=0) - other.mean(axis=0)
    rule = np.linalg.inv(pooled) @ apart
    found = discriminant(sums[0], sums[1], dimensions=12)
    assert found is not None
    assert found.distance == pytest.approx(apart @ rule, rel=1e-8)
    spreads = [np.var(data @ rule, ddof=1) / (rule @ pooled @ rule) for data in (one, other)]
    assert found.spreads == pytest.approx(spreads, rel=1e-8)
    of_means = [np.trace(np.linalg.inv(pooled) @ np.cov(data.T)) / len(data) for data in (one, other)]
    assert found.chances == pytest.approx(of_means, rel=1e-8)
    flat = summarise(np.repeat(one[:, :1], 32, axis=1), split=Split.TRAIN, seed=0)
    assert discriminant(flat, flat, dimensions=8) is None


def test_the_split_null_is_that_of_plain_halves() -> None:
    """The same halves, each distance computed by itself, have the same quantile; flat features have a null of 0."""
    features, rng = cloud(60, 4)[:, :12], np.random.default_rng(3)
    distances = []
    for _ in range(HALVES):
        order = rng.permutation(60)
        halves = [features[order[:30]], features[order[30:]]]
        distances.append(frechet(*((half.mean(axis=0)[:9], np.cov(half[:, :9].T)) for half in halves)))
    assert summed(60, 4).null(9) == pytest.approx(np.quantile(distances, 0.95), rel=1e-5)
    assert summarise(np.ones((60, 32)), split=Split.TRAIN, seed=0).split_null == pytest.approx((0.0,) * 5, abs=1e-100)
