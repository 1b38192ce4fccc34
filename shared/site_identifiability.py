"""How surely the hospital of a patient can be told from features: bias-corrected, from what may leave of two sites."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, gamma, ncf, norm

from shared.feature_summary import LEAST_DIMENSIONS, Discriminant, FeatureSummary, discriminant
from shared.scores import Floats

ALMOST_SURE = 0.9
"""From this accuracy on, by the lower end of its interval, two sites are called nearly perfectly told apart."""

SKEWED = 0.5
"""Skewness towards the other site that the interval's lower end allows for: as much as films of children have along the
rule (docs/results.md), where without it all misses lay below the interval."""


LARGEST_STATISTIC = 1e8
"""Up to here the noncentral F is computed; beyond, a statistic is in proportion to its noncentrality."""

MOST_COUNTED = 100_000
"""Patients of a site whose counts are gone through one by one, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifiability:
    """How often a linear rule tells the site, of two, of patients whom it was not fitted on: .5 is guessing.

    `distance` is the squared distance between the sites in units of the spread within them, corrected for its bias; it
    may fall below 0, as what is unbiased about 0 does. `accuracy` is expected of a rule that is fitted on these
    patients; between `low` and `high` lies its share of as many further ones.
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
    """Estimate the accuracy of Fisher's linear rule, fitted in as many dimensions as both sites bear.

    Distance: D²(N - p - 3)/(N - 2) less what chance gives, unbiased under normality (Lachenbruch and Mickey,
    Technometrics 1968;10:1). Accuracy: the normal share beyond the cut (`_margins`), each site weighing the same.
    Interval: one of prediction (`_predicted`). The distance's own comes from Hotelling's T², whose distribution is a
    noncentral F, inverted; with unequal spreads an approximation, at the size and the degrees of freedom that they
    leave (`_freedom`). The lower end is that of normal features or of `SKEWED` ones, whichever is less: no sum that
    leaves says how they are skewed along the rule. benchmarks/coverage.py simulates how often the interval holds,
    benchmarks/site_probe.py tries it on films. None below 8 dimensions, or where the covariance cannot be inverted.
    """
    p = min(one.dimensions, other.dimensions)
    rule = discriminant(one, other, dimensions=p) if p >= LEAST_DIMENSIONS else None
    if rule is None:
        return None
    sizes, spreads = (one.patients, other.patients), rule.spreads
    total = sum(sizes)
    distance = rule.distance * (total - p - 3) / (total - 2) - sum(rule.chances)
    weight = 1 / sum(spread / size for spread, size in zip(spreads, sizes, strict=True))
    freedom = _freedom(distance, spreads, sizes)
    statistic = rule.distance * weight * (freedom - p + 1) / (freedom * p)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    ends = [_noncentrality(statistic, p, freedom - p + 1, 1 - tail) / weight for tail in tails]
    margins = [_margins(at, rule, kept=(total - p) / total) for at in (distance, *ends)]
    low, high = _predicted(_normal, margins, sizes, tails)
    skewed, _ = _predicted(_skewed, margins, sizes, tails)
    return Identifiability(
        distance=distance,
        accuracy=float(np.mean(_normal(margins[0]))),
        low=max(0.0, min(low, skewed)),
        high=min(1.0, high),
        dimensions=p,
    )


def _margins(distance: float, rule: Discriminant, *, kept: float) -> Floats:
    """Give how many of each site's own deviations its patients lie from the cut of a rule that was fitted, on average.

    A rule along S⁻¹d, which cuts midway between two known means, has less than the best one's: d is off by as much as
    chance adds to the distance, along which the sites spread as along the rule, and so is the cut, more so towards the
    site with fewer patients; S is off so that `kept` = (N - p)/N of the squared margin is left. With equal spreads that
    is the expansion of Raudys and of Deev (Raudys and Young, J Multivar Anal 2004;89:1); each site's own spread enters
    as in Anderson and Bahadur (Ann Math Stat 1962;33:420).
    """
    true, uneven = max(0.0, distance), rule.chances[1] - rule.chances[0]
    from_cut = np.array([true + uneven, true - uneven]) / 2
    margins: Floats = from_cut * np.sqrt(kept / (np.array(rule.spreads) * (true + sum(rule.chances))))
    return margins


def _normal(margins: Floats) -> Floats:
    """Give the share of patients on their own site's side of the cut."""
    found: Floats = norm.cdf(margins)
    return found


def _skewed(margins: Floats) -> Floats:
    """Give the same where features are skewed towards the other site: Pearson's type III, a gamma distribution."""
    shape = 4 / SKEWED**2
    found: Floats = gamma.cdf(shape + margins * np.sqrt(shape), shape)
    return found


def _predicted(
    told_at: Callable[[Floats], Floats], margins: Sequence[Floats], sizes: tuple[int, int], tails: tuple[float, float]
) -> tuple[float, float]:
    """Give the ends for the share told of further patients, from the margins at the distance and at its two ends.

    What the distance's error and what the further patients' count does to it is joined by the recovery of variance
    estimates (Zou and Donner, Stat Med 2008;27:1693).
    """
    told, *of_ends = (told_at(one) for one in margins)
    middle, shares = float(np.mean(told)), _shares(told, sizes, tails)
    below, above = (
        float(np.hypot(np.mean(end) - middle, share - middle)) for end, share in zip(of_ends, shares, strict=True)
    )
    return middle - below, middle + above


def _shares(told: Floats, sizes: tuple[int, int], tails: tuple[float, float]) -> Floats:
    """Give the quantiles of the mean of two sites' shares of patients told, each a binomial count.

    Exact but for one count in a million: near 1, where a count is mostly that of all patients, no expansion holds. More
    than MOST_COUNTED patients count as so many, whose share is as good as known.
    """
    sizes = (min(sizes[0], MOST_COUNTED), min(sizes[1], MOST_COUNTED))
    least, most = (np.asarray(binom.ppf(tail, sizes, told), dtype=int) for tail in (1e-6, 1 - 1e-6))
    one, other = (np.arange(low, high + 1) for low, high in zip(least, most, strict=True))
    shares = np.add.outer(one / sizes[0], other / sizes[1]).ravel() / 2
    chances = np.outer(binom.pmf(one, sizes[0], told[0]), binom.pmf(other, sizes[1], told[1])).ravel()
    order = np.argsort(shares)
    up_to = np.cumsum(chances[order]) / chances.sum()
    found: Floats = shares[order][np.searchsorted(up_to, tails)]
    return found


def _freedom(distance: float, spreads: tuple[float, float], sizes: tuple[int, int]) -> float:
    """Give the degrees of freedom of a spread that is known from both sites: N - 2 where they matter by their size.

    As Satterthwaite (Biometrics Bulletin 1946;2:110) does for a sum of mean squares, one χ² is matched to the variance
    of the whole; what each site's own adds is not its part of a sum but, by the delta method, what moves the accuracy:
    with the logarithm of a site's deviation that moves by φ(m) m, m being its margin, and a logarithm of n patients'
    deviation has a variance of about 1/(2(n - 1)). The site that is told less surely matters more, and one of few
    patients is then all that is known.
    """
    margins = np.sqrt(max(distance, np.finfo(float).tiny) / np.array(spreads)) / 2
    matters = norm.pdf(margins) * margins
    shares = matters / matters.sum() if matters.sum() > 0 else np.full(2, 0.5)
    return float(1 / np.sum(shares**2 / (np.array(sizes) - 1)))


def _noncentrality(statistic: float, p: int, freedom: float, below: float) -> float:
    """Find the noncentrality under which so large a share of all F lies below the statistic; 0 where none is.

    Of sites that have nothing in common the statistic is beyond what the distribution is computed for; it is then in
    proportion to its noncentrality.
    """
    if statistic > LARGEST_STATISTIC:
        return statistic / LARGEST_STATISTIC * _noncentrality(LARGEST_STATISTIC, p, freedom, below)

    def excess(noncentrality: float) -> float:
        return float(ncf.cdf(statistic, p, freedom, noncentrality)) - below

    if excess(0.0) <= 0:
        return 0.0
    end = p * statistic + 1
    while excess(end) > 0:
        end *= 2
    return float(brentq(excess, 0.0, end))
