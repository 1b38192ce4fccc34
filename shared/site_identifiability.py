"""How surely the hospital of a patient can be told from features: bias-corrected, from what may leave of two sites."""

from dataclasses import dataclass
from math import sqrt

from scipy.optimize import brentq
from scipy.stats import ncf, norm

from shared.feature_summary import LEAST_DIMENSIONS, FeatureSummary, mahalanobis

ALMOST_SURE = 0.9
"""From this accuracy on, by the lower end of its interval, two sites are called nearly perfectly told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifiability:
    """How often a linear rule tells a patient's site, of two: .5 is guessing, 1 is certain.

    `distance` is the squared distance between the sites in units of the spread within them, corrected for its bias; it
    may fall below 0, as what is unbiased about 0 does.
    """

    distance: float
    accuracy: float
    low: float
    high: float
    dimensions: int

    @property
    def almost_sure(self) -> bool:
        """True where even the interval's lower end is nearly perfect."""
        return self.low >= ALMOST_SURE


def identifiability(one: FeatureSummary, other: FeatureSummary, *, confidence: float) -> Identifiability | None:
    """Estimate the accuracy of the best linear rule in as many dimensions as both sites bear.

    Distance: D²(N - p - 3)/(N - 2) - pN/(n1 n2), unbiased under normality (Lachenbruch and Mickey, Technometrics
    1968;10:1). Accuracy: Φ(δ/2), for equal priors and covariances. Interval: Hotelling's T², whose distribution is a
    noncentral F, inverted. None below 8 dimensions, or where the covariance cannot be inverted.
    """
    p = min(one.dimensions, other.dimensions)
    raw = mahalanobis(one, other, dimensions=p) if p >= LEAST_DIMENSIONS else None
    if raw is None:
        return None
    total = one.patients + other.patients
    weight = one.patients * other.patients / total
    distance = raw * (total - p - 3) / (total - 2) - p / weight
    statistic = raw * weight * (total - p - 1) / ((total - 2) * p)
    tail = (1 - confidence) / 2
    low, high = (_noncentrality(statistic, p, total - p - 1, at) / weight for at in (1 - tail, tail))
    return Identifiability(
        distance=distance, accuracy=_accuracy(distance), low=_accuracy(low), high=_accuracy(high), dimensions=p
    )


def _accuracy(distance: float) -> float:
    return float(norm.cdf(sqrt(max(0.0, distance)) / 2))


def _noncentrality(statistic: float, p: int, freedom: int, below: float) -> float:
    """Find the noncentrality under which so large a share of all F lies below the statistic; 0 where none is."""

    def excess(noncentrality: float) -> float:
        return float(ncf.cdf(statistic, p, freedom, noncentrality)) - below

    if excess(0.0) <= 0:
        return 0.0
    end = p * statistic + 1
    while excess(end) > 0:
        end *= 2
    return float(brentq(excess, 0.0, end))
