"""The interval and p of a corner's effect are Student's."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from shared.corner_test import shown


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
