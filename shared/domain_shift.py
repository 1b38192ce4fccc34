"""Heterogeneity of a proportion over the sites, and how far each site is from all others.

Both tests condition on the total k over the sites: with the sites' n fixed, equal sites give k_1, ..., k_S the
multivariate hypergeometric distribution, whatever the common proportion, so that their level holds at small n, where
that of Cochran's Q does not. Where patients repeat, k and n are divided by the design effect first and rounded
(Rao and Scott, Biometrics 1992;48:577).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from shared.intervals import newcombe
from shared.metrics import Count
from shared.scores import Floats, Integers

MAX_TABLES = 200_000
"""Up to so many tables with the same margins are all gone through; beyond, tables are drawn."""

MOST_UNITS = 100_000_000
"""Units that a test looks at in all: numpy draws tables of fewer than ten times as many."""

DRAWS = 99_999
"""Tables that are drawn: p is at least 1e-5, with a standard error of .0007 at p = .05."""

_SAME = 1 - 1e-9
"""Statistics are sums of fractions: two that are equal may differ in their last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heterogeneity:
    """Whether one proportion can hold at all sites.

    `p` is that of the permutation test with Pearson's chi-square as its statistic, over `permutations` tables: all
    there are if `exact`, else so many random ones, and the observed. `q` (Cochran, Biometrics 1954;10:101, on the logit
    scale, 1/2 added to each cell) and `i2` (Higgins and Thompson, Stat Med 2002;21:1539) describe and test nothing.
    `sites` have units; the `left_out` have none. `adjusted_p` is p until the study's one family of hypotheses is known
    (server/family.py).
    """

    p: float
    adjusted_p: float
    q: float
    i2: float
    sites: int
    left_out: int
    permutations: int
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDifference:
    """One site's proportion minus that of all other sites together, with its interval.

    `p` is that of the permutation test of the site against the others; `adjusted_p` is p until the study's one family
    of hypotheses is known (server/family.py). The interval is not adjusted.
    """

    site: str
    difference: float
    low: float
    high: float
    p: float
    adjusted_p: float


def heterogeneity(counts: Mapping[str, Count], *, seed: int) -> Heterogeneity | None:
    """Test whether the sites share one proportion; None with fewer than two sites that have units (TOO_FEW_SITES).

    The result does not depend on the order of the sites.
    """
    sites = _with_units(counts)
    if len(sites) < 2:
        return None
    k, n = _effective([counts[site] for site in sites])
    p, permutations, exact = _permutation_test(k, n, seed=seed)
    q = _cochran_q(k, n)
    i2 = max(0.0, 1 - (len(sites) - 1) / q) if q else 0.0
    return Heterogeneity(
        p=p,
        adjusted_p=p,
        q=q,
        i2=i2,
        sites=len(sites),
        left_out=len(counts) - len(sites),
        permutations=permutations,
        exact=exact,
    )


def site_differences(counts: Mapping[str, Count], *, confidence: float, seed: int) -> tuple[SiteDifference, ...]:
    """Compare each site that has units with all others, by name; empty with fewer than two such sites."""
    sites = _with_units(counts)
    others = {site: _total([counts[other] for other in sites if other != site]) for site in sites}
    differences = {
        site: difference
        for site in sites
        if (difference := newcombe(counts[site], others[site], confidence=confidence))
    }
    p = {site: _permutation_test(*_effective([counts[site], others[site]]), seed=seed)[0] for site in differences}
    return tuple(
        SiteDifference(
            site=site,
            difference=difference.value,
            low=difference.low,
            high=difference.high,
            p=p[site],
            adjusted_p=p[site],
        )
        for site, difference in differences.items()
    )


def holm(p: Sequence[float], *, weights: Sequence[float] | None = None) -> list[float]:
    """Adjust p values for their number, step by step (Holm, Scand J Stat 1979;6:65), each with its own weight or 1.

    With weights (section 4 there) the steps go by p / weight, and each is multiplied by the weight that is left.
    """
    own = np.ones(len(p)) if weights is None else np.array(weights, dtype=np.float64)
    steps = np.array(p, dtype=np.float64) / own
    order = np.argsort(steps, kind="stable")
    left = np.cumsum(own[order][::-1])[::-1]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps[order] * left)) if len(p) else ()
    return adjusted.tolist()


def _with_units(counts: Mapping[str, Count]) -> list[str]:
    return sorted(site for site, count in counts.items() if count.n)


def _total(counts: Sequence[Count]) -> Count:
    return sum(counts, start=Count(k=0, n=0))


def _effective(counts: Sequence[Count]) -> tuple[Integers, Integers]:
    """Divide by the design effects; a site keeps at least one unit, and its proportion as nearly as can be.

    More than MOST_UNITS in all are scaled down to so many: such a test is sure enough, and no tables of more are drawn.
    """
    worth = [count.n / count.design_effect for count in counts]
    shrunk = min(1.0, MOST_UNITS / sum(worth))
    sizes = [max(1, round(one * shrunk)) for one in worth]
    found = [round(count.k / count.n * size) for count, size in zip(counts, sizes, strict=True)]
    return np.array(found, dtype=np.int64), np.array(sizes, dtype=np.int64)


def _permutation_test(k_S: Integers, n_S: Integers, *, seed: int) -> tuple[float, int, bool]:
    """Compute p, the tables that it rests on, and whether these are all."""
    observed = _statistic(k_S, n_S)
    if (all_tables := _all_tables(int(k_S.sum()), n_S)) is not None:
        statistics, log_weights = all_tables
        weights = np.exp(log_weights - log_weights.max())
        p = float(weights[statistics >= observed * _SAME].sum() / weights.sum())
        return p, statistics.size, True
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(n_S, int(k_S.sum()), size=DRAWS)
    as_far = int(np.count_nonzero(_statistic(drawn, n_S) >= observed * _SAME))
    return (as_far + 1) / (DRAWS + 1), DRAWS, False


def _statistic(k_S: Integers, n_S: Integers) -> Floats:
    """Compute what Pearson's chi-square rises with while the margins stand: the sum of k^2 / n."""
    statistic: Floats = (k_S**2 / n_S).sum(axis=-1)
    return statistic


def _all_tables(total: int, n_S: Integers) -> tuple[Floats, Floats] | None:
    """List every table with these margins, as statistics and log weights; None if they are more than MAX_TABLES.

    Tables grow site by site. Every unfinished one can be finished, so that their number never falls.
    """
    missing, statistics, log_weights = np.array([total]), np.zeros(1), np.zeros(1)
    for n, rest in zip(n_S, n_S.sum() - np.cumsum(n_S), strict=True):
        lowest = np.maximum(0, missing - rest)
        choices = np.minimum(n, missing) - lowest + 1
        if choices.sum() > MAX_TABLES:
            return None
        parent = np.repeat(np.arange(missing.size), choices)
        k = lowest[parent] + np.arange(parent.size) - (np.cumsum(choices) - choices)[parent]
        missing, statistics = missing[parent] - k, statistics[parent] + k**2 / n
        log_weights = log_weights[parent] - gammaln(k + 1) - gammaln(n - k + 1)
    return statistics, log_weights


def _cochran_q(k_S: Integers, n_S: Integers) -> float:
    effects = np.log((k_S + 0.5) / (n_S - k_S + 0.5))
    weights = 1 / (1 / (k_S + 0.5) + 1 / (n_S - k_S + 0.5))
    return float(weights @ (effects - np.average(effects, weights=weights)) ** 2)
