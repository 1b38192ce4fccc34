"""The threshold is the highest bin edge that reaches the target."""

import numpy as np
import pytest
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from shared.errors import DataError
from shared.intervals import wilson
from shared.metrics import Count, ScoreHistogram
from shared.operating_point import OperatingPoint, choose, need
from shared.scores import lower_edges, score_bins

HISTOGRAM = ScoreHistogram(positives=(0, 1, 0, 3, 6, 0, 10, 0), negatives=(9, 9, 9, 5, 3, 1, 0, 0))


def chosen(target: float, claim: str = "point", design_effect: float = 1.0) -> OperatingPoint:
    return choose(
        HISTOGRAM,
        target=target,
        claim="point" if claim == "point" else "lower_bound",
        confidence=0.95,
        design_effect=design_effect,
    )


@pytest.mark.parametrize(
    ("target", "place", "k"), [(0.95, 3, 19), (0.951, 1, 20), (1.0, 1, 20), (0.8, 4, 16), (0.5, 6, 10)]
)
def test_the_highest_edge_that_reaches_the_target(target: float, place: int, k: int) -> None:
    """19 of 20 is a sensitivity of .95 and enough for .95; empty bins do not lower the threshold."""
    point = chosen(target)
    assert point.threshold == lower_edges(bins=8)[place]
    assert (point.reached.k, point.reached.n, point.met) == (k, 20, True)
    assert (point.target, point.claim) == (target, "point")


def test_a_claim_on_the_lower_bound_needs_a_lower_threshold() -> None:
    """With `lower_bound`, the lower end of the interval must reach the target, not the value."""
    point = chosen(0.6, "lower_bound")
    assert point.reached.k == 19
    assert point.reached.low >= 0.6 > wilson_low(16)
    assert chosen(0.6).reached.k == 16


def wilson_low(k: int) -> float:
    interval = wilson(Count(k=k, n=20), confidence=0.95)
    assert interval
    return interval.low


def test_an_unreachable_target_calls_everything_positive() -> None:
    """20 of 20 cannot show a sensitivity of .95 at 95 %: the threshold is 0, and what it reached is there to print."""
    point = chosen(0.95, "lower_bound")
    assert (point.threshold, point.reached.k, point.met) == (0.0, 20, False)
    assert point.reached.value == 1.0
    assert point.reached.low == pytest.approx(0.8316, abs=1e-4)  # 0.025 ** (1 / 20), Clopper and Pearson


def test_repeated_patients_make_the_claim_harder() -> None:
    """A design effect widens the interval on which the claim rests."""
    assert chosen(0.6, "lower_bound", design_effect=4.0).threshold < chosen(0.6, "lower_bound").threshold


def test_without_positives_there_is_no_threshold() -> None:
    """A histogram without positives is refused with what to do."""
    with pytest.raises(DataError, match="No validation unit is positive"):
        choose(ScoreHistogram(positives=(0, 0), negatives=(1, 2)), target=0.9, claim="point", confidence=0.95)


def test_a_sites_own_need_is_wide_where_positives_are_few() -> None:
    """The interval of what a site needs is all edges at which its sensitivity may be the target (Woodruff)."""
    histogram = ScoreHistogram(positives=(0, 1, 1, 4, 14), negatives=(9, 9, 2, 0, 0))
    found = need(histogram, target=0.9, claim="point", confidence=0.95)
    edges = lower_edges(bins=5).tolist()
    held = [
        edge
        for edge, k in zip(edges, (20, 20, 19, 18, 14), strict=True)
        if (low_high := proportion_confint(k, 20, method="wilson"))[0] <= 0.9 <= low_high[1]
    ]
    assert (found.threshold, found.reached.k) == (edges[3], 18)
    assert found.high == max(held)
    assert found.low == 0.0  # 20 of 20 still allow a sensitivity below .9
    many = ScoreHistogram(positives=tuple(100 * k for k in histogram.positives), negatives=histogram.negatives)
    assert need(many, target=0.9, claim="point", confidence=0.95).low > 0


def test_what_a_site_needs_covers() -> None:
    """The interval holds the true threshold of a target in at least 93 % of samples of 60 positives."""
    rng, edges = np.random.default_rng(1952), lower_edges(bins=64)
    truth = 1 / (1 + np.exp(-(norm.ppf(0.1) * 1.5 + 1.0)))
    held = []
    for _ in range(500):
        binned = score_bins(1 / (1 + np.exp(-rng.normal(1.0, 1.5, 60))), bins=64)
        found = need(
            ScoreHistogram(positives=tuple(np.bincount(binned, minlength=64).tolist()), negatives=(0,) * 64),
            target=0.9,
            claim="point",
            confidence=0.95,
        )
        step = edges[min(63, int(np.searchsorted(edges, found.high)) + 1)]  # the truth lies between two edges
        held.append(found.low <= truth <= step)
    assert np.mean(held) >= 0.93
