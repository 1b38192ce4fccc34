"""How much of a difference in AUC a site's case mix would lead one to expect, from score bins.

A linear predictor is a score's logit. Where it is spread more widely, patients are more varied, and a model that is as
right as elsewhere tells them apart better (Debray et al., J Clin Epidemiol 2015;68:279, steps 1 and 2). How much better
is the model-based concordance (van Klaveren et al., Stat Med 2016;35:4136): the AUC among these very scores if each
were, once calibrated, the probability of the finding. A bin counts at its middle; the outer ones hold all beyond.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.gap import DRAWS, ENOUGH, Side
from shared.score_calibration import recalibrated, recalibration
from shared.scores import Floats, bin_middles


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A site's figure beside that of all others together, as a difference or a ratio, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMix:
    """A site beside all others together.

    `mean` is its mean linear predictor minus theirs, in logits; `spread` its standard deviation divided by theirs. Its
    AUC minus theirs is exactly `expected` (by the case mix alone, scores calibrated at the others) plus `rest`. The
    share of positives is part of the case mix: it moves the mean, and the spread as well.
    """

    mean: Comparison
    spread: Comparison
    expected: Comparison
    rest: Comparison


class _Figures(NamedTuple):
    mean: Floats
    deviation: Floats
    expected: Floats
    seen: Floats


class _Drawn(NamedTuple):
    """Shares of the bins among positives and among negatives, (draws, bins), and the share of positives, (draws, 1)."""

    positives: Floats
    negatives: Floats
    prevalence: Floats


def case_mix(site: Side, others: Side, *, confidence: float, seed: int) -> CaseMix | None:
    """Compare; None with fewer than ENOUGH units' worth of a class, or where the others' scores have no calibration.

    Intervals are percentiles of 1,000 draws of both sides from their own bins (Efron and Tibshirani, An Introduction to
    the Bootstrap, 1993, ch. 13), with the others' calibration as it is.
    """
    fit = recalibration(others.histogram.units())
    if fit is None or min(_worth(site), _worth(others)) < ENOUGH:
        return None
    middles_B = bin_middles(bins=len(site.histogram.positives))
    probabilities_B = recalibrated(1 / (1 + np.exp(-middles_B)), intercept=fit[0], slope=fit[1])
    rng = np.random.default_rng(seed)

    def compared(here: _Drawn, there: _Drawn) -> Floats:
        one, other = (_figures(side, middles_B, probabilities_B) for side in (here, there))
        with np.errstate(divide="ignore", invalid="ignore"):  # a side whose draws all fell into one bin
            spread = one.deviation / other.deviation
        expected = one.expected - other.expected
        return np.stack((one.mean - other.mean, spread, expected, one.seen - other.seen - expected))

    values = compared(_as_found(site), _as_found(others))[:, 0]
    drawn = compared(_drawn(site, rng), _drawn(others, rng))
    if not np.isfinite(values).all() or not np.isfinite(drawn).all():
        return None
    tail = (1 - confidence) / 2
    ends = np.quantile(drawn, [tail, 1 - tail], axis=1)
    mean, spread, expected, rest = (
        Comparison(value=float(value), low=min(float(value), float(low)), high=max(float(value), float(high)))
        for value, low, high in zip(values, *ends, strict=True)
    )
    return CaseMix(mean=mean, spread=spread, expected=expected, rest=rest)


def _worth(side: Side) -> float:
    return min(side.histogram.n_pos / side.positives_design_effect, side.histogram.n_neg / side.negatives_design_effect)


def _as_found(side: Side) -> _Drawn:
    positives, negatives = (
        np.array([counts], float) for counts in (side.histogram.positives, side.histogram.negatives)
    )
    share = side.histogram.n_pos / (side.histogram.n_pos + side.histogram.n_neg)
    return _Drawn(positives / positives.sum(), negatives / negatives.sum(), np.array([[share]]))


def _drawn(side: Side, rng: np.random.Generator) -> _Drawn:
    """Draw both classes, and how many there are of each, for as many units as these are worth."""
    found = _as_found(side)

    def shares(shares_B: Floats, worth: float) -> Floats:
        units = max(1, round(worth))
        return rng.multinomial(units, shares_B[0], size=DRAWS) / units

    effects = side.positives_design_effect, side.negatives_design_effect
    units = max(1, round((side.histogram.n_pos + side.histogram.n_neg) / max(effects)))
    return _Drawn(
        shares(found.positives, side.histogram.n_pos / effects[0]),
        shares(found.negatives, side.histogram.n_neg / effects[1]),
        rng.binomial(units, found.prevalence[0, 0], size=(DRAWS, 1)) / units,
    )


def _figures(side: _Drawn, middles_B: Floats, probabilities_B: Floats) -> _Figures:
    """Give the linear predictor's mean and deviation, the model-based concordance and the AUC, each (draws,)."""
    all_DB = side.prevalence * side.positives + (1 - side.prevalence) * side.negatives
    mean = all_DB @ middles_B
    variance = all_DB @ middles_B**2 - mean**2
    return _Figures(
        mean=mean,
        deviation=np.sqrt(variance.clip(0)),
        expected=_concordance(all_DB * probabilities_B, all_DB * (1 - probabilities_B)),
        seen=_concordance(side.positives, side.negatives),
    )


def _concordance(positives_DB: Floats, negatives_DB: Floats) -> Floats:
    """Give the chance that a positive's bin is higher than a negative's, ties counting half; weights of any sum."""
    below_DB = np.cumsum(negatives_DB, axis=1) - negatives_DB / 2
    pairs = positives_DB.sum(axis=1) * negatives_DB.sum(axis=1)
    won: Floats = (positives_DB * below_DB).sum(axis=1) / pairs
    return won
