"""Two tests of a corner: what blanking it does to the scores, and whether what stands out there goes with a finding."""

from dataclasses import dataclass
from math import sqrt

from scipy.special import ndtr
from scipy.stats import t

from shared.intervals import area_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An estimate of one corner with its interval, and its two-sided p against a corner that does nothing."""

    value: float
    low: float
    high: float
    p: float


def shown(value: float, error: float, freedom: int, *, confidence: float) -> Shown:
    """Give the interval and the two-sided p of an estimate by Student's t; without an error there is no doubt."""
    if error == 0:
        return Shown(value=value, low=value, high=value, p=0.0 if value else 1.0)
    reach = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return Shown(value=value, low=value - reach, high=value + reach, p=float(2 * t.sf(abs(value) / error, freedom)))


def shown_area(area: float, *, positives: int, negatives: int, confidence: float) -> Shown:
    """Give an AUC's interval, and its two-sided p against .5 by its normal approximation, corrected for continuity.

    The variance is that without ties, which is the largest (Mann and Whitney, Ann Math Stat 1947;18:50).
    """
    pairs = positives * negatives
    off = max(0.0, abs(area - 0.5) * pairs - 0.5)
    low, high = area_interval(area, n_pos=positives, n_neg=negatives, confidence=confidence)
    p = 2 * ndtr(-off / sqrt(pairs * (positives + negatives + 1) / 12))
    return Shown(value=area, low=low, high=high, p=min(1.0, float(p)))
