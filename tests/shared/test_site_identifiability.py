"""The distance between sites is unbiased, and what a fitted rule tells of further patients is what is said of it."""

import numpy as np
import pytest

from benchmarks.coverage import sites_told
from shared.feature_summary import FeatureSummary, discriminant, summarise
from shared.site_identifiability import Identifiability, identifiability
from shared.split import Split
from simulations.cross_fitting import Rule
from simulations.cross_fitting import discriminant as fitted


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
def test_the_distance_is_unbiased(sizes: tuple[int, int], away: float) -> None:
    """Over 300 draws the mean distance is the true one, as the plain one is not."""
    draws = [pair(sizes, away, seed) for seed in range(300)]
    distances = np.array([told(data).distance for data in draws])
    assert abs(distances.mean() - away**2) < 3 * distances.std() / np.sqrt(300)
    p = min(sizes) // 5
    rules = [discriminant(*sums(data), dimensions=p) for data in draws]
    plain = np.mean([rule.distance for rule in rules if rule])
    assert plain - away**2 > 10 * distances.std() / np.sqrt(300)


@pytest.mark.parametrize("wide", [1.0, 2.0])
@pytest.mark.parametrize("away", [1.0, 2.5])
@pytest.mark.parametrize("sizes", [(40, 60), (200, 100)])
def test_the_accuracy_is_that_of_a_rule_that_was_fitted(sizes: tuple[int, int], away: float, wide: float) -> None:
    """Over 100 draws its mean is, within .015, the share that rules fitted on these draws tell of very many others.

    The best rule tells .01 to .1 more, which is what would be said without the cost of fitting. `wide` is the spread
    of half of the second site's features.
    """
    stretch = np.where(np.arange(32) % 2, wide, 1.0)
    draws = [(one, other * stretch) for one, other in (pair(sizes, away, seed) for seed in range(100))]
    p = min(sizes) // 5
    one, other = (data[:, :p] for data in pair((5_000, 5_000), away, 999))
    others = (one, other * stretch[:p])
    shares = [share(fitted([data[:, :p] for data in draw], ridge=0.0), others) for draw in draws]
    assert np.mean([told(draw).accuracy for draw in draws]) == pytest.approx(np.mean(shares), abs=0.015)
    assert share(fitted(others, ridge=0.0), others) - np.mean(shares) > 0.01


def share(rule: Rule, sites: tuple[np.ndarray, ...]) -> float:
    return float(np.mean([np.mean(rule(data) == place) for place, data in enumerate(sites)]))


@pytest.mark.parametrize(
    ("accuracy", "wide", "sizes"),
    [(0.7, 1.0, (60, 45)), (0.97, 2.0, (300, 116)), (0.995, 2.0, (300, 116)), (0.97, 0.5, (60, 45))],
)
def test_the_interval_holds_what_further_patients_show(accuracy: float, wide: float, sizes: tuple[int, int]) -> None:
    """Of 300 draws 91 to 99 % hold the share told of as many further patients, and as many the best rule's accuracy.

    Where nearly all are told the share is a handful of patients, and more may hold. An interval for the best rule's
    accuracy alone, as there was before, holds 67 to 78 % of such shares.
    """
    found = sites_told(wide=wide, accuracy=accuracy, sizes=sizes, draws=300)
    assert 0.91 <= found.further <= (0.99 if accuracy < 0.99 else 1.0)
    assert found.best >= 0.91


def test_the_lower_end_allows_for_features_skewed_towards_the_other_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sites skewed by .5 along the rule: 95 % of 200 intervals reach down to what further patients show.

    Without the allowance fewer than nine of ten do.
    """
    rng = np.random.default_rng(5)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        one, other = (rng.standard_normal((size, 32)) for size in (300, 116))
        one[:, 0], other[:, 0] = ((rng.gamma(16, size=size) - 16) / 4 for size in (300, 116))
        other[:, 0] = 5 - other[:, 0]
        return one, other

    def found_in_further(data: tuple[np.ndarray, np.ndarray]) -> float:
        rule = fitted([own[:, :23] for own in data], ridge=0.0)
        return share(rule, tuple(own[:, :23] for own in draw()))

    draws = [(data, found_in_further(data)) for data in (draw() for _ in range(200))]
    reached = [told(data).low <= found + 1e-9 for data, found in draws]
    assert np.mean(reached) >= 0.95
    monkeypatch.setattr("shared.site_identifiability.SKEWED", 1e-3)
    assert np.mean([told(data).low <= found + 1e-9 for data, found in draws]) < 0.9


def test_alike_sites_are_guessed() -> None:
    """Two sites of one distribution are told at about one half, and the interval reaches below it."""
    found = [told(pair((100, 60), 0.0, seed)) for seed in range(40)]
    assert np.mean([one.accuracy for one in found]) == pytest.approx(0.5, abs=0.03)
    assert sum(one.low < 0.5 < one.high for one in found) >= 36


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
