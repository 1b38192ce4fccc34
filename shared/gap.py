"""A site's gap to all others at the shared threshold, split exactly into movement along its ROC curve and the rest."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from shared.metrics import ScoreHistogram
from shared.scores import Floats, Integers

DRAWS = 1000

ENOUGH = 5
"""Units of the site beyond the reference: with fewer, the end of a curve rests on single units, and so would a draw."""

Measure = Literal["sensitivity", "specificity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a gap, in proportions, with its interval; no interval where too few units lie beyond the reference."""

    value: float
    low: float | None
    high: float | None

    def shown(self, sign: int) -> bool:
        """Tell whether the interval lies on this side of 0."""
        return self.low is not None and self.high is not None and min(sign * self.low, sign * self.high) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A site's sensitivity or specificity minus that of all others: exactly `threshold` plus `discrimination`.

    `discrimination` is the difference between the two ROC curves at `reference`: the others' share of false alarms
    where sensitivities are compared, their sensitivity where specificities are. `threshold` is what is left: how far
    the shared threshold has slid along the site's own curve from there. What another threshold could undo is the
    second; it could never undo the first.
    """

    measure: str
    value: float
    threshold: Part
    discrimination: Part
    reference: float


Rates = tuple[Floats, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the comparison: its histogram, and the design effects of its positives and negatives."""

    histogram: ScoreHistogram
    positives_design_effect: float
    negatives_design_effect: float

    def rates(self) -> Rates:
        """Give sensitivity and false-alarm rate at every bin's lower edge, and 0 above the last: from 1 down to 0."""
        return _from_above(np.array(self.histogram.positives)), _from_above(np.array(self.histogram.negatives))

    def drawn(self, rng: np.random.Generator) -> Rates:
        """Draw both DRAWS times, for as many units of each class as these are worth."""
        return (
            _drawn(rng, np.array(self.histogram.positives), self.positives_design_effect),
            _drawn(rng, np.array(self.histogram.negatives), self.negatives_design_effect),
        )

    def beyond(self, reference: float, measure: Measure) -> float:
        """Count the units on the rarer side of the reference, of the class whose share it is."""
        if measure == "sensitivity":
            worth = self.histogram.n_neg / self.negatives_design_effect
        else:
            worth = self.histogram.n_pos / self.positives_design_effect
        return worth * min(reference, 1 - reference)


def split_gap(site: Side, others: Side, *, measure: Measure, place: int, confidence: float, seed: int) -> Gap | None:
    """Split the gap at the lower edge of bin `place`; None where a side lacks a class.

    Curves go straight from bin edge to bin edge. Intervals are percentiles of 1,000 draws of both sides from their
    own bins (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
    """
    histograms = (site.histogram, others.histogram)
    if not all(one.n_pos and one.n_neg for one in histograms):
        return None
    threshold, discrimination, reference = _parts(site.rates(), others.rates(), measure, place)
    ends = _Ends(None, None), _Ends(None, None)
    if min(site.beyond(reference, measure), others.beyond(reference, measure)) >= ENOUGH:
        ends = _intervals(site, others, measure, place, confidence=confidence, seed=seed)
    return Gap(
        measure=measure,
        value=threshold + discrimination,
        threshold=ends[0].around(threshold),
        discrimination=ends[1].around(discrimination),
        reference=reference,
    )


class _Ends(NamedTuple):
    low: float | None
    high: float | None

    def around(self, value: float) -> Part:
        low = None if self.low is None else min(value, self.low)
        return Part(value=value, low=low, high=None if self.high is None else max(value, self.high))


def _intervals(
    site: Side, others: Side, measure: Measure, place: int, *, confidence: float, seed: int
) -> tuple[_Ends, _Ends]:
    rng = np.random.default_rng(seed)
    here, there = site.drawn(rng), others.drawn(rng)
    drawn = np.array(
        [
            _parts((here[0][draw], here[1][draw]), (there[0][draw], there[1][draw]), measure, place)[:2]
            for draw in range(DRAWS)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return _Ends(float(low[0]), float(high[0])), _Ends(float(low[1]), float(high[1]))


def _drawn(rng: np.random.Generator, counts: Integers, effect: float) -> Floats:
    total = counts.sum()
    return _from_above(rng.multinomial(max(1, round(total / effect)), counts / total, size=DRAWS))


def _from_above(counts: Integers) -> Floats:
    """Cumulate along the last axis from above, as shares."""
    from_above: Floats = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1] / counts.sum(axis=-1, keepdims=True)
    return np.concatenate((from_above, np.zeros_like(from_above[..., :1])), axis=-1)


def _parts(site: Rates, others: Rates, measure: Measure, place: int) -> tuple[float, float, float]:
    """Give movement, difference between the curves, and the reference, for sensitivities or for specificities."""
    found, alarms = (rates[::-1] for rates in site)
    if measure == "sensitivity":
        reference = float(others[1][place])
        on_own_curve, here, there = np.interp(reference, alarms, found), site[0][place], others[0][place]
    else:
        reference = float(others[0][place])
        on_own_curve = 1 - np.interp(reference, found, alarms)
        here, there = 1 - site[1][place], 1 - others[1][place]
    return float(here - on_own_curve), float(on_own_curve - there), reference
