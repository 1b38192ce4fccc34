"""A difference in AUC is exactly what the case mix lets one expect and the rest, and each is what it is called."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from shared.case_mix import CaseMix, case_mix
from shared.gap import Side
from shared.metrics import ScoreHistogram
from shared.score_calibration import recalibrated, recalibration
from shared.scores import score_bins

BINS = 64


def side(logits: np.ndarray, positive: np.ndarray, *, effect: float = 1.0) -> Side:
    positives, negatives = (
        tuple(np.bincount(score_bins(expit(logits[chosen]), bins=BINS), minlength=BINS).tolist())
        for chosen in (positive, ~positive)
    )
    histogram = ScoreHistogram(positives=positives, negatives=negatives)
    return Side(histogram=histogram, positives_design_effect=effect, negatives_design_effect=effect)


def drawn(rng: np.random.Generator, n: int, *, spread: float = 1.5, slope: float = 1.0) -> Side:
    """Draw patients whose linear predictor is spread so widely, and whose finding follows it with this slope."""
    logits = rng.normal(0, spread, n)
    return side(logits, rng.random(n) < expit(slope * logits))


def compared(here: Side, there: Side, seed: int = 0) -> CaseMix:
    found = case_mix(here, there, confidence=0.95, seed=seed)
    assert found
    return found


counts = st.lists(st.integers(0, 9), min_size=BINS, max_size=BINS).filter(lambda found: sum(found) > 20).map(tuple)
sides = st.builds(
    Side,
    histogram=st.builds(ScoreHistogram, positives=counts, negatives=counts),
    positives_design_effect=st.floats(1, 3),
    negatives_design_effect=st.floats(1, 3),
)


@settings(max_examples=25, deadline=None)
@given(sides, sides)
def test_the_parts_add_up_and_lie_in_their_intervals(here: Side, there: Side) -> None:
    """Whatever the counts, expected plus rest is the difference of the two AUCs."""
    found = compared(here, there)
    (one, other) = here.histogram.auc(), there.histogram.auc()
    assert one
    assert other
    assert found.expected.value + found.rest.value == pytest.approx(one.value - other.value, abs=1e-12)
    for part in (found.mean, found.spread, found.expected, found.rest):
        assert part.low <= part.value <= part.high


def test_every_figure_is_that_of_the_units_themselves() -> None:
    """Mean, deviation and both AUCs are numpy's and scikit-learn's, with the concordance over all pairs of patients."""
    rng = np.random.default_rng(0)
    here, there = drawn(rng, 150, spread=2.0, slope=0.8), drawn(rng, 250)
    found = compared(here, there)
    fit = recalibration(there.histogram.units())
    assert fit
    means, deviations, expected, seen = [], [], [], []
    for one in (here, there):
        units = one.histogram.units()
        predictors = logit(units.scores_M)
        means.append(predictors.mean())
        deviations.append(predictors.std())
        p = recalibrated(units.scores_M, intercept=fit[0], slope=fit[1])
        weight = np.outer(p, 1 - p)
        won = (p[:, None] > p) + (p[:, None] == p) / 2
        expected.append((weight * won).sum() / weight.sum())
        seen.append(roc_auc_score(units.positive_M, units.scores_M))
    assert found.mean.value == pytest.approx(means[0] - means[1])
    assert found.spread.value == pytest.approx(deviations[0] / deviations[1])
    assert found.expected.value == pytest.approx(expected[0] - expected[1])
    assert found.rest.value == pytest.approx(seen[0] - seen[1] - (expected[0] - expected[1]))


def test_patients_who_vary_more_raise_the_auc_by_their_case_mix_alone() -> None:
    """The model is as right at both sites: what it gains is expected, and nothing is left."""
    rng = np.random.default_rng(1)
    found = compared(drawn(rng, 3000, spread=2.5), drawn(rng, 3000, spread=1.0))
    assert found.spread.low > 1
    assert found.spread.value == pytest.approx(2.5, abs=0.15)
    assert found.expected.value > 0.1
    assert found.rest.low < 0 < found.rest.high


def test_a_model_that_is_less_right_here_loses_what_no_case_mix_explains() -> None:
    """The patients are alike, and the finding follows the score half as steeply: all of the loss is left over."""
    rng = np.random.default_rng(2)
    found = compared(drawn(rng, 3000, slope=0.5), drawn(rng, 3000))
    assert found.rest.high < 0
    assert abs(found.expected.value) < 0.01


def test_intervals_hold_what_is_true() -> None:
    """With 150 patients at the site and 450 elsewhere, 95 % intervals hold in 90 % of 200 draws at the least."""
    rng = np.random.default_rng(3)
    large = compared(drawn(rng, 200_000, spread=2.0, slope=0.7), drawn(rng, 200_000))
    truth = (large.mean.value, large.spread.value, large.expected.value, large.rest.value)
    held = np.zeros(4)
    for draw in range(200):
        found = compared(drawn(rng, 150, spread=2.0, slope=0.7), drawn(rng, 450), seed=draw)
        parts = (found.mean, found.spread, found.expected, found.rest)
        held += [part.low <= true <= part.high for part, true in zip(parts, truth, strict=True)]
    assert (held / 200 >= 0.9).all()


def test_repeated_patients_widen_the_intervals() -> None:
    """Units that count for half as many are drawn half as often."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 1.5, 400)
    positive = rng.random(400) < expit(logits)
    there = drawn(rng, 400)
    once, twice = (compared(side(logits, positive, effect=effect), there).rest for effect in (1.0, 4.0))
    assert twice.high - twice.low > 1.3 * (once.high - once.low)


@pytest.mark.parametrize("few", ["here", "there", "apart"])
def test_too_few_of_a_class_or_no_calibration_is_no_comparison(few: str) -> None:
    """Four positives are too few on either side, and scores that separate the classes have no calibration."""
    rng = np.random.default_rng(5)
    logits = np.concatenate((np.full(4, 2.0), rng.normal(-1, 1, 60)))
    scarce, many = side(logits, np.arange(64) < 4), drawn(rng, 100)
    apart = side(np.repeat([-4.0, 4.0], 30), np.arange(60) >= 30)
    here, there = {"here": (scarce, many), "there": (many, scarce), "apart": (many, apart)}[few]
    assert case_mix(here, there, confidence=0.95, seed=0) is None
