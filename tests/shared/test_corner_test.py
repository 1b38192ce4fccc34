"""The interval and p of a corner's effect are Student's, those of what stands out Newcombe's and Mann and Whitney's."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, ttest_1samp

from shared.corner_test import shown, shown_area
from shared.intervals import area


def test_it_is_scipys_t_test() -> None:
    """For a mean of independent values, interval and p are those of scipy's one-sample test."""
    values = np.random.default_rng(0).normal(0.4, 1, 12)
    test = ttest_1samp(values, 0)
    found = shown(float(values.mean()), float(values.std(ddof=1) / np.sqrt(12)), 11, confidence=0.9)
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.9)))


def test_without_spread_there_is_no_doubt() -> None:
    """A corner that changes no score has p = 1; one that changes all by the same has p = 0."""
    assert shown(0.0, 0.0, 5, confidence=0.95).p == 1
    assert shown(0.3, 0.0, 5, confidence=0.95).p == 0


@pytest.mark.parametrize("apart", [0.0, 0.8, -1.5])
def test_an_areas_p_is_scipys_rank_sum_test(apart: float) -> None:
    """By its normal approximation with the correction for continuity, on values without ties."""
    rng = np.random.default_rng(1)
    positives, negatives = rng.normal(apart, 1, 23), rng.normal(0, 1, 31)
    found = shown_area(area(positives, negatives), positives=23, negatives=31, confidence=0.95)
    assert found.p == pytest.approx(mannwhitneyu(positives, negatives, method="asymptotic").pvalue)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("positives", "negatives"), [(10, 10), (44, 43)])
def test_without_a_mark_its_p_is_honest(positives: int, negatives: int) -> None:
    """Over 2,000 draws of equal classes, ties among them, at most 6 % have p below .05 and 2 % below .01."""
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, 12, (2000, positives + negatives)).astype(float)
    p = np.array(
        [
            shown_area(
                area(one[:positives], one[positives:]), positives=positives, negatives=negatives, confidence=0.95
            ).p
            for one in drawn
        ]
    )
    assert (p < 0.05).mean() <= 0.06
    assert (p < 0.01).mean() <= 0.02
