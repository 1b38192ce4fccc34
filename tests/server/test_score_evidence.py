"""Proportions by patient, predictive values, and quality over all sites."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

from client.evaluation import evidence_on
from server.score_evidence import pooled_quality, predictive_values, proportion, weighted_mean
from shared.estimates import Estimate
from shared.intervals import wilson
from shared.metrics import Count
from shared.protocol import Evaluation
from shared.scores import ScoredUnits


def units(seed: int, n: int = 240, *, each: int = 1) -> ScoredUnits:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, n)
    return ScoredUnits(
        scores_M=expit(logits),
        positive_M=rng.random(n) < expit(logits),
        patients_M=np.repeat(np.arange(n // each), each),
    )


def evidence(of: ScoredUnits) -> Any:
    return evidence_on(of, bins=64, confidence=0.95, threshold=0.3)


def test_a_claimed_lower_bound_is_exact_and_by_patient() -> None:
    """The interval is Clopper and Pearson's with as many units as there are patients, however unlike their units."""
    wish = Evaluation(claim="lower_bound")
    found = proportion(Count(k=54, n=60), 30, wish)
    assert found
    assert (found.low, found.high) == pytest.approx(proportion_confint(27, 30, method="beta"), abs=1e-12)
    assert (found.k, found.n) == (54, 60)
    assert proportion(Count(k=54, n=60), 30, Evaluation()) == wilson(Count(k=54, n=60), confidence=0.95)
    assert proportion(Count(k=0, n=0), 0, wish) is None


def test_predictive_values_are_those_of_the_called_and_of_the_cleared() -> None:
    """PPV counts the units called positive, NPV those called negative; repeated patients widen both."""
    one, wish = units(1), Evaluation()
    called = one.scores_M >= 0.3
    ppv, npv = predictive_values([evidence(one)], wish)
    assert ppv == wilson(Count(k=int((called & one.positive_M).sum()), n=int(called.sum())), confidence=0.95)
    assert npv == wilson(Count(k=int((~called & ~one.positive_M).sum()), n=int((~called).sum())), confidence=0.95)
    alike = ScoredUnits(
        scores_M=np.repeat(one.scores_M, 3),
        positive_M=np.repeat(one.positive_M, 3),
        patients_M=np.repeat(np.arange(240), 3),
    )
    tripled, _ = predictive_values([evidence(alike)], wish)
    assert tripled
    assert ppv
    assert (tripled.k, tripled.n) == (3 * ppv.k, 3 * ppv.n)
    assert tripled.high - tripled.low == pytest.approx(ppv.high - ppv.low, rel=0.05)


def test_quality_over_all_sites_is_that_of_all_their_units() -> None:
    """Pooled Brier is exact, and so is nearly its interval; slope and average precision come from bins."""
    parts = [units(seed, 400) for seed in (2, 3)]
    whole = ScoredUnits(
        scores_M=np.concatenate([one.scores_M for one in parts]),
        positive_M=np.concatenate([one.positive_M for one in parts]),
        patients_M=np.arange(800),
    )
    pooled, exact = pooled_quality([evidence(one) for one in parts], confidence=0.95), evidence(whole).quality
    assert pooled
    assert pooled.brier.value == pytest.approx(exact.brier.value, abs=1e-12)
    assert (pooled.brier.low, pooled.brier.high) == pytest.approx((exact.brier.low, exact.brier.high), abs=3e-3)
    assert pooled.calibration.slope.value == pytest.approx(exact.calibration.slope.value, abs=0.02)
    assert pooled.average_precision.value == pytest.approx(exact.average_precision.value, abs=0.02)  # ties in bins
    assert weighted_mean([]) is None
    alone = weighted_mean([(Estimate(value=0.1, low=0.05, high=0.2), 7)])
    assert alone
    assert (alone.low, alone.value, alone.high) == pytest.approx((0.05, 0.1, 0.2))
