"""Intervals for the difference of two models' rates on the same few units: exact coverage of four that are known.

python -m benchmarks.paired_rates

Every table of n pairs is enumerated. "Receipt" is the population of benchmarks/coverage.py: two models, right in
.945 and .885 of the units, with correlated scores. "Grid": 300 populations drawn once, in which about half of the units
are right under both.
"""

from collections.abc import Callable
from functools import cache
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import multinomial, multivariate_normal, norm

from benchmarks.coverage import ALIKE, APART, CONFIDENCE, CUT, LESS_ABLE
from shared.intervals import normal_quantile, wilson
from shared.metrics import Count
from shared.paired import paired_rates
from shared.scores import Floats, ScoredUnits

SIZES = (12, 30)
SEED, POPULATIONS = 0, 300
Z = normal_quantile(CONFIDENCE)

Table = tuple[int, int, int, int]
"""Pairs that both models have right, the first alone, the second alone, and neither."""

Ends = tuple[float, float]


@cache
def as_it_is(table: Table) -> Ends:
    """Give the interval of shared/paired.py: Newcombe's method 10, with his continuity correction."""
    both, one, other, neither = table
    right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, one, other, neither], axis=0)
    units = [
        ScoredUnits(
            scores_M=column.astype(float), positive_M=np.ones(len(right), bool), patients_M=np.arange(len(right))
        )
        for column in right.T
    ]
    found = paired_rates(units[0], units[1], thresholds=(0.5, 0.5), of_positives=True, confidence=CONFIDENCE)
    return (found.low, found.high) if found else (-1.0, 1.0)


def uncorrected(table: Table) -> Ends:
    """Give Newcombe's method 10 without the correction (Fagerland, Lydersen and Laake, Stat Med 2014;33:2850)."""
    both, one, other, neither = table
    n = sum(table)
    margins = (both + one) * (other + neither) * (both + other) * (one + neither)
    r = (both * neither - one * other) / sqrt(margins) if margins else 0.0
    p, q = (wilson(Count(k=right, n=n), confidence=CONFIDENCE) for right in (both + one, both + other))
    if p is None or q is None:
        return -1.0, 1.0
    p_below, p_above, q_below, q_above = p.value - p.low, p.high - p.value, q.value - q.low, q.high - q.value
    below = p_below**2 - 2 * r * p_below * q_above + q_above**2
    above = p_above**2 - 2 * r * p_above * q_below + q_below**2
    return p.value - q.value - sqrt(max(0.0, below)), p.value - q.value + sqrt(max(0.0, above))


def tango(table: Table) -> Ends:
    """Give the score interval of Tango (Stat Med 1998;17:891), over a grid of differences a thousandth apart."""
    _, one, other, _ = table
    n, at = sum(table), np.linspace(-0.999, 0.999, 1999)
    b, c = (2 * n - one + other) * at - one - other, -other * at * (1 - at)
    other_rate = (np.sqrt(np.maximum(b**2 - 8 * n * c, 0)) - b) / (4 * n)
    variance = np.maximum(n * (2 * other_rate + at * (1 - at)), 1e-30)
    inside = at[np.abs(one - other - n * at) <= Z * np.sqrt(variance)]
    return float(inside.min()) - 0.001, float(inside.max()) + 0.001


def bonett_price(table: Table) -> Ends:
    """Give the adjusted Wald interval of Bonett and Price (J Educ Behav Stat 2012;37:479)."""
    _, one, other, _ = table
    n = sum(table) + 2
    p, q = (one + 1) / n, (other + 1) / n
    half = Z * sqrt((p + q - (p - q) ** 2) / n)
    return p - q - half, p - q + half


METHODS: dict[str, Callable[[Table], Ends]] = {
    "Newcombe's method 10, as it is": as_it_is,
    "the same, uncorrected": uncorrected,
    "Tango": tango,
    "Bonett and Price": bonett_price,
}


def tables(n: int) -> npt.NDArray[np.int64]:
    """List every table of n pairs, (T, 4)."""
    found = [(a, b, c, n - a - b - c) for a in range(n + 1) for b in range(n + 1 - a) for c in range(n + 1 - a - b)]
    return np.array(found)


def receipt() -> Floats:
    """Give the shares of the four kinds of pairs in the population of benchmarks/coverage.py."""
    away = np.array([APART - CUT, APART - LESS_ABLE - CUT])
    correlated = [[1, ALIKE], [ALIKE, 1]]
    both = float(multivariate_normal(mean=[0, 0], cov=correlated).cdf(away))
    p, q = norm.cdf(away)
    return np.array([both, p - both, q - both, 1 - p - q + both])


def coverage(all_T4: npt.NDArray[np.int64], ends_T2: Floats, shares: Floats) -> tuple[float, float]:
    """Give how often the interval holds the true difference, and how wide it is on average."""
    chances = multinomial.pmf(all_T4, all_T4[0].sum(), shares)
    true = shares[1] - shares[2]
    held = (ends_T2[:, 0] - 1e-9 <= true) & (true <= ends_T2[:, 1] + 1e-9)
    return float(chances[held].sum()), float(chances @ (ends_T2[:, 1] - ends_T2[:, 0]))


def grid() -> Floats:
    """Draw the populations."""
    found: Floats = np.random.default_rng(SEED).dirichlet([2.0, 0.7, 0.7, 0.7], POPULATIONS)
    return found


def main() -> None:
    """Print the table as Markdown."""
    print("| interval | n | receipt | its width | grid, mean | grid, least |\n|---|---|---|---|---|---|")
    for name, interval in METHODS.items():
        for n in SIZES:
            all_of = tables(n)
            ends = np.array([interval((int(a), int(b), int(c), int(d))) for a, b, c, d in all_of])
            held, width = coverage(all_of, ends, receipt())
            others = [coverage(all_of, ends, shares)[0] for shares in grid()]
            print(f"| {name} | {n} | {held:.3f} | {width:.2f} | {np.mean(others):.3f} | {min(others):.3f} |")


if __name__ == "__main__":
    main()
