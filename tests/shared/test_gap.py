"""A gap is exactly its two parts, each part is what it is called, and the intervals cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm

from shared.gap import ENOUGH, Gap, Measure, Side, split_gap
from shared.metrics import ScoreHistogram
from shared.scores import lower_edges, score_bins

PLACE, BINS = 30, 64
EDGE = lower_edges(bins=BINS)[PLACE]
LOGIT = float(np.log(EDGE / (1 - EDGE)))


def side(rng: np.random.Generator, n: int, *, apart: float = 3.5, shift: float = 0.0) -> Side:
    """Draw 40 % positives; logits are normal with a deviation of 1.5."""
    positives, negatives = (
        np.bincount(score_bins(expit(rng.normal(mean + shift, 1.5, size)), bins=BINS), minlength=BINS)
        for mean, size in ((apart - 1.5, round(0.4 * n)), (-1.5, n - round(0.4 * n)))
    )
    histogram = ScoreHistogram(positives=tuple(positives.tolist()), negatives=tuple(negatives.tolist()))
    return Side(histogram=histogram, positives_design_effect=1.0, negatives_design_effect=1.0)


def split(here: Side, there: Side, measure: Measure, seed: int = 0) -> Gap:
    found = split_gap(here, there, measure=measure, place=PLACE, confidence=0.95, seed=seed)
    assert found
    return found


def truth(apart: float, shift: float, measure: Measure) -> tuple[float, float]:
    """Give both parts for normal scores, in closed form; the others have 3.5 and 0."""
    found = [norm.sf((LOGIT - (a - 1.5 + s)) / 1.5) for a, s in ((apart, shift), (3.5, 0))]
    alarms = [norm.sf((LOGIT + 1.5 - s) / 1.5) for s in (shift, 0)]
    if measure == "sensitivity":
        on_own = norm.sf(norm.isf(alarms[1]) - apart / 1.5)
        return found[0] - on_own, on_own - found[1]
    on_own = 1 - norm.sf(norm.isf(found[1]) + apart / 1.5)
    return (1 - alarms[0]) - on_own, on_own - (1 - alarms[1])


counts = st.lists(st.integers(0, 9), min_size=BINS, max_size=BINS).filter(any).map(tuple)
sides = st.builds(
    Side,
    histogram=st.builds(ScoreHistogram, positives=counts, negatives=counts),
    positives_design_effect=st.floats(1, 3),
    negatives_design_effect=st.floats(1, 3),
)


@settings(max_examples=25)
@given(sides, sides, st.sampled_from(["sensitivity", "specificity"]), st.integers(0, BINS - 1))
def test_the_parts_add_up_to_the_gap_exactly(here: Side, there: Side, measure: Measure, place: int) -> None:
    """Whatever the counts, threshold plus discrimination is the difference of the two sides' own rates."""
    found = split_gap(here, there, measure=measure, place=place, confidence=0.95, seed=1)
    assert found
    at = [one.histogram.at_bin(place) for one in (here, there)]
    rates = [getattr(one, measure).k / getattr(one, measure).n for one in at]
    assert found.value == pytest.approx(rates[0] - rates[1], abs=1e-12)
    assert found.threshold.value + found.discrimination.value == pytest.approx(found.value, abs=1e-12)


@pytest.mark.parametrize("measure", ["sensitivity", "specificity"])
@pytest.mark.parametrize(("apart", "shift"), [(3.5, -1.0), (3.5, 1.0), (2.0, 0.0), (2.5, -0.5)])
def test_the_parts_are_those_of_normal_scores(apart: float, shift: float, measure: Measure) -> None:
    """With very many units both parts are those in closed form: a shift of scores is all threshold."""
    rng = np.random.default_rng(1)
    found = split(side(rng, 200_000, apart=apart, shift=shift), side(rng, 200_000), measure)
    assert (found.threshold.value, found.discrimination.value) == pytest.approx(truth(apart, shift, measure), abs=0.01)


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize(("apart", "shift"), [(3.5, -1.0), (2.0, 0.0)])
def test_the_intervals_cover(n: int, apart: float, shift: float) -> None:
    """With 100 and 1000 units at the site, the interval of each part of sensitivity covers at least .88."""
    rng, expected = np.random.default_rng(n), truth(apart, shift, "sensitivity")
    held = []
    for seed in range(60):
        found = split(side(rng, n, apart=apart, shift=shift), side(rng, 3 * n), "sensitivity", seed)
        parts = zip((found.threshold, found.discrimination), expected, strict=True)
        held.append([one.low - 1e-9 <= value <= one.high + 1e-9 for one, value in parts])
    assert np.mean(held, axis=0).min() >= 0.88


def test_the_end_of_a_curve_has_no_interval() -> None:
    """Where fewer than five units lie beyond the reference there are values and no interval."""
    rng = np.random.default_rng(3)
    few, others = side(rng, 60), side(rng, 600)
    found = split(few, others, "specificity")
    assert few.beyond(found.reference, "specificity") < ENOUGH
    assert (found.threshold.low, found.discrimination.high) == (None, None)
    assert not found.threshold.shown(1)


def test_a_side_without_a_class_has_no_gap() -> None:
    """Without positives there is no curve, and nothing to split."""
    rng = np.random.default_rng(4)
    empty = Side(
        histogram=ScoreHistogram(positives=(0,) * BINS, negatives=(1,) * BINS),
        positives_design_effect=1.0,
        negatives_design_effect=1.0,
    )
    assert split_gap(empty, side(rng, 50), measure="sensitivity", place=PLACE, confidence=0.95, seed=0) is None
