"""How often each interval holds what is true: exact for one proportion, simulated for the rest.

python -m benchmarks.coverage [--draws 2000]
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import binom

from shared.average_precision import average_precision
from shared.feature_summary import MOST_DIMENSIONS, PATIENTS_A_DIMENSION, FeatureSummary
from shared.intervals import auc, binned_auc, clopper_pearson, newcombe, wilson
from shared.metrics import Count, Proportion, confusion, histogram
from shared.operating_point import need
from shared.paired import paired_auc, paired_rates
from shared.score_calibration import brier_score, calibration
from shared.scores import Floats, ScoredUnits, lower_edges
from shared.site_identifiability import identifiability
from shared.split import Split
from simulations.cross_fitting import discriminant

SIZES = (30, 100, 1000)
CONFIDENCE = 0.95
SEED = 20
PREVALENCE, APART = 0.4, 1.8
"""Of the simulated units: share of positives, and how far their scores lie above the negatives', in deviations."""

LESS_ABLE, ALIKE, CUT = 0.4, 0.6, 0.2
"""Of a second model on the same units: how much less it sets them apart, how alike its scores are; and both's cut."""

PAIRS = ((300, 116), (100, 100), (60, 45))
ACCURACIES, SPREADS = (0.7, 0.9, 0.97, 0.995), (0.5, 1.0, 2.0)
"""Of two sites: patients, how often the best rule tells them apart, and how much wider half of the second's features
are."""

ROUNDING = 1e-9
"""A share of patients is a fraction, and may lie on an interval's end."""

THRESHOLD = float(lower_edges(bins=64)[34])


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """Coverage of one proportion's interval at one n over a grid of p: mean, least, and at which p it is least."""

    mean: float
    least: float
    at: float


def exact(interval: Callable[..., Proportion | None], n: int) -> Exact:
    """Enumerate every k for 1,000 values of p from .005 to .995."""
    found = [interval(Count(k=k, n=n), confidence=CONFIDENCE) for k in range(n + 1)]
    low, high = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
    grid = np.linspace(0.005, 0.995, 1000)
    k = np.arange(n + 1)
    held = np.array([binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum() for p in grid])
    return Exact(mean=float(held.mean()), least=float(held.min()), at=float(grid[held.argmin()]))


def units(rng: np.random.Generator, n: int) -> ScoredUnits:
    """Draw units whose scores are true probabilities: logits are normal, positives more so (two normals' mixture).

    With equal variances the log-odds of being positive is linear in the score, so that a score can be its probability.
    """
    positive = rng.random(n) < PREVALENCE
    latent = rng.normal(APART * positive, 1)
    return ScoredUnits(scores_M=_probability(latent), positive_M=positive, patients_M=np.arange(n))


def _probability(latent: Floats) -> Floats:
    """Bayes' rule for two normals: the chance to be positive, given the latent score."""
    found: Floats = expit(logit(PREVALENCE) + APART * latent - APART**2 / 2)
    return found


@cache
def truth() -> Mapping[str, float]:
    """Compute what is true of such units: by formula, or by quadrature over a fine grid of the latent score."""
    grid = np.linspace(-9, 9 + APART, 400_001)
    step = grid[1] - grid[0]
    of_positives = np.exp(-((grid - APART) ** 2) / 2) / sqrt(2 * np.pi) * step
    of_negatives = np.exp(-(grid**2) / 2) / sqrt(2 * np.pi) * step
    at = _latent(THRESHOLD)
    found, alarms = float(ndtr(APART - at)), float(ndtr(-at))
    recall, fallout = ndtr(APART - grid), ndtr(-grid)
    precision = PREVALENCE * recall / (PREVALENCE * recall + (1 - PREVALENCE) * fallout)
    p = _probability(grid)
    return {
        "auc": float(ndtr(APART / sqrt(2))),
        "average precision": float((precision * of_positives).sum()),
        "brier": float((PREVALENCE * of_positives * (1 - p) ** 2 + (1 - PREVALENCE) * of_negatives * p**2).sum()),
        "sensitivity": found,
        "specificity": 1 - alarms,
        "ppv": PREVALENCE * found / (PREVALENCE * found + (1 - PREVALENCE) * alarms),
        "npv": (1 - PREVALENCE) * (1 - alarms) / ((1 - PREVALENCE) * (1 - alarms) + PREVALENCE * (1 - found)),
        "own threshold": float(_probability(np.array(APART - ndtri(0.95)))),
    }


def _latent(score: float) -> float:
    return float((logit(score) - logit(PREVALENCE) + APART**2 / 2) / APART)


Ends = tuple[float, float] | None


def intervals(rng: np.random.Generator, n: int) -> Iterator[tuple[str, float, Ends]]:
    """Draw one sample of n units, and give each interval's name, what is true, and its ends; None where undefined."""
    drawn, true = units(rng, n), truth()
    yield "AUC, exact scores", true["auc"], _ends(auc(drawn, confidence=CONFIDENCE))
    bins = histogram(drawn, bins=64)
    yield "AUC, score bins", true["auc"], _ends(binned_auc(bins, confidence=CONFIDENCE))
    yield (
        "average precision",
        true["average precision"],
        _ends(average_precision(drawn, confidence=CONFIDENCE)),
    )
    yield "Brier score", true["brier"], _ends(brier_score(drawn, confidence=CONFIDENCE))
    fit = calibration(drawn, confidence=CONFIDENCE)
    yield "calibration slope", 1.0, _ends(fit.slope if fit else None)
    yield "calibration intercept", 0.0, _ends(fit.intercept if fit else None)
    at = confusion(drawn, threshold=THRESHOLD)
    for name, count in (
        ("sensitivity", at.sensitivity),
        ("specificity", at.specificity),
        ("ppv", at.ppv),
        ("npv", at.npv),
    ):
        yield f"{name}, Wilson", true[name], _ends(wilson(count, confidence=CONFIDENCE))
    other = confusion(units(rng, n), threshold=THRESHOLD)
    yield "difference of sites", 0.0, _ends(newcombe(at.sensitivity, other.sensitivity, confidence=CONFIDENCE))
    yield from _paired(rng, n)
    own = need(bins, target=0.95, claim="point", confidence=CONFIDENCE, design_effect=1.0)
    yield "own threshold", true["own threshold"], (own.low, _next_edge(own.high))


def _paired(rng: np.random.Generator, n: int) -> Iterator[tuple[str, float, Ends]]:
    """Draw two models' scores of the same units, correlated, the second less able."""
    positive = rng.random(n) < PREVALENCE
    noise = np.linalg.cholesky([[1, ALIKE], [ALIKE, 1]]) @ rng.normal(size=(2, n))
    apart = (APART, APART - LESS_ABLE)
    first, second = (
        ScoredUnits(scores_M=expit(shift * positive + own), positive_M=positive, patients_M=np.arange(n))
        for shift, own in zip(apart, noise, strict=True)
    )
    true = float(ndtr(apart[0] / sqrt(2)) - ndtr(apart[1] / sqrt(2)))
    yield "receipt: AUC", true, _ends(paired_auc(first, second, confidence=CONFIDENCE))
    true = float(ndtr(apart[0] - CUT) - ndtr(apart[1] - CUT))
    thresholds = (float(expit(CUT)), float(expit(CUT)))
    found = paired_rates(first, second, thresholds=thresholds, of_positives=True, confidence=CONFIDENCE)
    yield "receipt: sensitivity", true, _ends(found)


def _next_edge(edge: float) -> float:
    """Give the end of the bin that begins there: a threshold is known to a bin, and no better."""
    edges = lower_edges(bins=64)
    above = edges[edges > edge]
    return float(above[0]) if above.size else 1.0


def _ends(found: object) -> Ends:
    return None if found is None else (float(getattr(found, "low")), float(getattr(found, "high")))  # noqa: B009


def simulated(n: int, *, draws: int) -> dict[str, float]:
    """Give the share of draws in which each interval held what is true, of those in which it was defined."""
    rng = np.random.default_rng([SEED, n])
    held: dict[str, list[bool]] = {}
    for _ in range(draws):
        for name, true, ends in intervals(rng, n):
            if ends is not None:
                held.setdefault(name, []).append(ends[0] <= true <= ends[1])
    return {name: float(np.mean(ones)) for name, ones in held.items()}


def site_told(rng: np.random.Generator, *, accuracy: float, wide: float, sizes: tuple[int, int]) -> tuple[float, Ends]:
    """Draw two sites, tell as many further patients by the rule fitted on them, and give the share and the ends for it.

    The best rule would tell `accuracy` of all. Half of the dimensions are `wide` times as wide at the second site; the
    means differ alike in each.
    """
    p = min(MOST_DIMENSIONS, min(sizes) // PATIENTS_A_DIMENSION)
    wide_p = np.where(np.arange(p) < p // 2, wide, 1.0)
    best = 1 / np.average([np.ones(p), wide_p**2], axis=0, weights=np.array(sizes) - 1)
    spreads = np.sqrt([best @ best, best @ (best * wide_p**2)])
    away = brentq(lambda away: np.mean(ndtr(away * best.sum() / 2 / spreads)) - accuracy, 0.0, 20.0)
    drawn, further = (
        (rng.standard_normal((sizes[0], p)), away + rng.standard_normal((sizes[1], p)) * wide_p) for _ in range(2)
    )
    rule = discriminant(drawn, ridge=0.0)
    share = float(np.mean([np.mean(rule(own) == place) for place, own in enumerate(further)]))
    return share, _ends(identifiability(*(_summed(own) for own in drawn), confidence=CONFIDENCE))


def _summed(own_ND: Floats) -> FeatureSummary:
    """Sum up features without the split null, which no interval needs."""
    lower = np.tril_indices(own_ND.shape[1])
    return FeatureSummary(
        split=Split.TRAIN,
        patients=len(own_ND),
        mean=tuple(own_ND.mean(axis=0).tolist()),
        covariance=tuple(np.cov(own_ND.T)[lower].tolist()),
        split_null=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SitesTold:
    """Shares of draws in which the interval held: the share told of further patients, and the best rule's accuracy."""

    further: float
    best: float


def sites_told(*, wide: float, accuracy: float, sizes: tuple[int, int], draws: int) -> SitesTold:
    """Give how often the interval of how surely a site is told holds."""
    rng, held = np.random.default_rng([SEED, *sizes]), []
    for _ in range(draws):
        share, ends = site_told(rng, accuracy=accuracy, wide=wide, sizes=sizes)
        low, high = ends or (1.0, 0.0)
        held.append([low - ROUNDING <= true <= high + ROUNDING for true in (share, accuracy)])
    further, best = np.mean(held, axis=0)
    return SitesTold(further=float(further), best=float(best))


def main() -> None:
    """Print all tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print("| one proportion, exact | n | mean | least | at p |\n|---|---|---|---|---|")
    for name, interval in (("Wilson", wilson), ("Clopper and Pearson", clopper_pearson)):
        for n in SIZES:
            one = exact(interval, n)
            print(f"| {name} | {n} | {one.mean:.3f} | {one.least:.3f} | {one.at:.3f} |")
    columns = {n: simulated(n, draws=draws) for n in SIZES}
    print("\n| interval | " + " | ".join(f"n = {n}" for n in SIZES) + " |\n|---" + "|---" * len(SIZES) + "|")
    for name in columns[SIZES[-1]]:
        print(f"| {name} | " + " | ".join(f"{columns[n].get(name, float('nan')):.3f}" for n in SIZES) + " |")
    print(
        "\n| site told: further patients, best rule | "
        + " | ".join(f"{one} and {other}" for one, other in PAIRS)
        + " |"
    )
    print("|---|---|---|---|")
    for accuracy, wide in product(ACCURACIES, SPREADS):
        cells = [sites_told(wide=wide, accuracy=accuracy, sizes=sizes, draws=draws) for sizes in PAIRS]
        told = " | ".join(f"{cell.further:.3f}, {cell.best:.3f}" for cell in cells)
        print(f"| {accuracy:g}, spread {wide:g} | {told} |")


if __name__ == "__main__":
    main()
