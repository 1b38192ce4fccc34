"""Brightness histograms sum to one, and their distance is scipy's."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from shared.intensity import BINS, image_shares, summarise, wasserstein


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_shares_span_the_whole_range(depth: type) -> None:
    """Black is the first bin and white the last; every image's shares sum to one, whatever its depth."""
    top = np.iinfo(depth).max
    images = np.zeros((2, 3, 4, 4), depth)
    images[1, :, :2] = top
    shares = image_shares(images)
    assert shares.shape == (2, BINS)
    assert (shares[0, 0], shares[1, 0], shares[1, -1]) == (1.0, 0.5, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_scipys(seed: int) -> None:
    """Area between the cumulated histograms, as a fraction of the range."""
    one, other = np.random.default_rng(seed).dirichlet(np.ones(BINS), 2)
    places = np.arange(BINS) / BINS
    assert wasserstein(one, other) == pytest.approx(wasserstein_distance(places, places, one, other), rel=1e-9)


def test_halves_of_one_site_lie_nearer_than_another_curve() -> None:
    """The split null lies above 0 and below the distance to the same patients through another contrast curve."""
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (60, 1, 16, 16)) * rng.uniform(0.6, 1, (60, 1, 1, 1))
    one = summarise(image_shares(films.astype(np.uint8)), seed=0)
    curved = summarise(image_shares((255 * (films / 255) ** 1.6).astype(np.uint8)), seed=0)
    assert 0 < one.split_null < wasserstein(one.shares, curved.shares)
    assert one.patients == 60
    assert sum(one.shares) == pytest.approx(1)


def test_nobody_has_no_histogram() -> None:
    """Without a patient there is nothing, and no number stands in for it."""
    assert summarise(np.empty((0, 0)), seed=0).shares == ()
