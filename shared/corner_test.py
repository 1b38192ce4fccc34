"""What blanking a corner of the images does to the scores: a mark burned in there may stand in for the disease."""

from dataclasses import dataclass

from scipy.stats import t


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One corner's share in telling positives from negatives, in logits, with its interval and p against none."""

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
