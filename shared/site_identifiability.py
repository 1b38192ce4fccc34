"""How surely the hospital of a patient can be told from features: bias-corrected, from what may leave of two sites."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import ncf, norm

from shared.feature_summary import LEAST_DIMENSIONS, FeatureSummary, discriminant
from shared.scores import Floats

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
    """Estimate the accuracy of Fisher's linear rule in as many dimensions as both sites bear.

    Distance: D²(N - p - 3)/(N - 2) less what chance gives, unbiased under normality (Lachenbruch and Mickey,
    Technometrics 1968;10:1). Accuracy: of the rule that cuts midway between the means, by each site's own spread along
    it (Anderson and Bahadur, Ann Math Stat 1962;33:420), each site weighing the same. Interval: Hotelling's T², whose
    distribution is a noncentral F, inverted; with unequal spreads an approximation, at the size and the degrees of
    freedom that they leave (`_freedom`), whose coverage benchmarks/coverage.py simulates. None below 8 dimensions, or
    where the covariance cannot be inverted.
    """
    p = min(one.dimensions, other.dimensions)
    rule = discriminant(one, other, dimensions=p) if p >= LEAST_DIMENSIONS else None
    if rule is None:
        return None
    sizes, spreads = (one.patients, other.patients), rule.spreads
    total = sum(sizes)
    distance = rule.distance * (total - p - 3) / (total - 2) - rule.chance
    weight = 1 / sum(spread / size for spread, size in zip(spreads, sizes, strict=True))
    freedom = _freedom(distance, spreads, sizes)
    statistic = rule.distance * weight * (freedom - p + 1) / (freedom * p)
    tail = (1 - confidence) / 2
    low, high = (_noncentrality(statistic, p, freedom - p + 1, at) / weight for at in (1 - tail, tail))
    accuracy, least, most = (_accuracy(at, spreads) for at in (distance, low, high))
    return Identifiability(distance=distance, accuracy=accuracy, low=least, high=most, dimensions=p)


def _accuracy(distance: float, spreads: tuple[float, float]) -> float:
    return float(np.mean(norm.cdf(_margins(distance, spreads))))


def _margins(distance: float, spreads: tuple[float, float]) -> Floats:
    """Give how many of each site's own deviations its mean lies from the cut."""
    margins: Floats = np.sqrt(max(0.0, distance) / np.array(spreads)) / 2
    return margins


def _freedom(distance: float, spreads: tuple[float, float], sizes: tuple[int, int]) -> float:
    """Give the degrees of freedom of a spread that is known from both sites: N - 2 where they matter by their size.

    As Satterthwaite (Biometrics Bulletin 1946;2:110) does for a sum of mean squares, one χ² is matched to the variance
    of the whole; what each site's own adds is not its part of a sum but, by the delta method, what moves the accuracy:
    with the logarithm of a site's deviation that moves by φ(m) m, m being its margin, and a logarithm of n patients'
    deviation has a variance of about 1/(2(n - 1)). The site that is told less surely matters more, and one of few
    patients is then all that is known.
    """
    margins = _margins(max(distance, np.finfo(float).tiny), spreads)
    matters = norm.pdf(margins) * margins
    shares = matters / matters.sum() if matters.sum() > 0 else np.full(2, 0.5)
    return float(1 / np.sum(shares**2 / (np.array(sizes) - 1)))


def _noncentrality(statistic: float, p: int, freedom: float, below: float) -> float:
    """Find the noncentrality under which so large a share of all F lies below the statistic; 0 where none is."""

    def excess(noncentrality: float) -> float:
        return float(ncf.cdf(statistic, p, freedom, noncentrality)) - below

    if excess(0.0) <= 0:
        return 0.0
    end = p * statistic + 1
    while excess(end) > 0:
        end *= 2
    return float(brentq(excess, 0.0, end))
