"""Confidence intervals for proportions and AUC.

All hold where patients repeat: units of one patient are one cluster. No interval leaves [0, 1] or shrinks to a point
at a value of 0 or 1; coverage at small n is simulated in tests/shared/test_intervals.py.
"""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, ndtr, ndtri

from shared.metrics import Count, Proportion, ScoreHistogram, full_repetition
from shared.scores import Floats, ScoredUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A proportion minus another one, and the interval of what that estimates."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Auc:
    """AUC on exact scores with its interval; `variance` is that of DeLong, None where a class has only one patient."""

    value: float
    low: float
    high: float
    variance: float | None


def wilson(count: Count, *, confidence: float) -> Proportion | None:
    """Compute the score interval of Wilson (JASA 1927;22:209); None where n is 0.

    n is divided by the design effect first (Rao and Scott, Biometrics 1992;48:577).
    """
    if not count.n:
        return None
    value, n, z = count.k / count.n, count.n / count.design_effect, normal_quantile(confidence)
    centre = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z * sqrt(value * (1 - value) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # The bounds lie on either side of the value, at 0 and 1 on it: only rounding makes them cross.
    low, high = min(value, max(0.0, centre - half_width)), max(value, min(1.0, centre + half_width))
    return Proportion(value=value, low=low, high=high, k=count.k, n=count.n)


def clopper_pearson(count: Count, *, confidence: float) -> Proportion | None:
    """Compute the exact interval of Clopper and Pearson (Biometrika 1934;26:404); None where n is 0.

    k and n are divided by the design effect first (Korn and Graubard, Survey Methodology 1998;24:193). It never covers
    less than it says, where exams of a patient are as alike as the design effect has them.
    """
    if not count.n:
        return None
    value, n = count.k / count.n, count.n / count.design_effect
    k, tail = count.k / count.design_effect, (1 - confidence) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if count.k else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if count.k < count.n else 1.0
    return Proportion(value=value, low=min(value, low), high=max(value, high), k=count.k, n=count.n)


def wilson_p(count: Count, *, at: float) -> float:
    """Test on both sides whether a proportion is `at`; n is not 0.

    It is below 1 - confidence exactly where Wilson's interval does not hold `at`.
    """
    value, n = count.k / count.n, count.n / count.design_effect
    if not 0 < at < 1:
        return float(value == at)
    return float(2 * ndtr(-abs(value - at) / sqrt(at * (1 - at) / n)))


def clopper_pearson_p(count: Count, *, at: float) -> float:
    """Test whether a proportion is `at`: twice the smaller tail, so that Clopper and Pearson's interval inverts it.

    n is not 0.
    """
    n, k = count.n / count.design_effect, count.k / count.design_effect
    as_many = float(betainc(k, n - k + 1, at)) if count.k else 1.0
    as_few = float(1 - betainc(k + 1, n - k, at)) if count.k < count.n else 1.0
    return min(1.0, 2 * min(as_many, as_few))


def newcombe(first: Count, second: Count, *, confidence: float) -> Difference | None:
    """Compute first minus second with the hybrid score interval of Newcombe (Stat Med 1998;17:873), method 10.

    None where either n is 0.
    """
    a, b = wilson(first, confidence=confidence), wilson(second, confidence=confidence)
    if a is None or b is None:
        return None
    value = a.value - b.value
    return Difference(
        value=value,
        low=value - sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2),
        high=value + sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2),
    )


def auc(units: ScoredUnits, *, confidence: float) -> Auc | None:
    """Compute the AUC, ties half, and its interval; None where a class has no unit.

    `variance` is that of DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837), for patients with several units
    in the form of Obuchowski (Biometrics 1997;53:567). AUC +- z standard errors covers about .70 instead of .95 at 15
    against 15 units and a true AUC of .97; the same on the logit scale falls to .70 at 30 against 300 and .99 where
    positives vary more than negatives; at an observed AUC of 1 both are a point. So the interval holds every true
    AUC t with |AUC - t| <= z sqrt(V(t)), where V is the variance of Newcombe (Stat Med 2006;25:559), method 5, which
    is above 0 for every t in (0, 1). V is multiplied by DeLong's variance / V(AUC) where that ratio is above 1: the
    interval is never narrower than either variance asks, and so somewhat too wide where positives vary little.
    """
    parts = components(units)
    if parts is None:
        return None
    value, variance = parts.value, clustered_variance(parts, units)
    patients = (units.patients_M[units.positive_M], units.patients_M[~units.positive_M])
    # Without a variance that could show how alike a patient's units are, they count as alike, as in `Count`.
    n_pos, n_neg = (len(own) / (1.0 if variance else full_repetition(own)) for own in patients)
    return _with_interval(value, variance, n_pos=n_pos, n_neg=n_neg, confidence=confidence)


def binned_auc(scores: ScoreHistogram, *, confidence: float) -> Auc | None:
    """Compute `auc` of merged score bins, ties half, every unit another patient; None where a class has no unit.

    The same sums as over single units, bin by bin: time and memory do not grow with the number of units.
    """
    positives, negatives = np.array(scores.positives), np.array(scores.negatives)
    n_pos, n_neg, bounds = scores.n_pos, scores.n_neg, scores.auc()
    if bounds is None:
        return None
    # Twice as many as were won, in whole numbers as in `_placements`: an AUC of 1 is 1, and its variance 0.
    won_by_positive = 2 * np.cumsum(negatives) - negatives
    won_by_negative = 2 * n_pos - (2 * np.cumsum(positives) - positives)
    value = bounds.value
    variance = None
    if n_pos > 1 and n_neg > 1:
        of_positives = positives @ (won_by_positive / (2 * n_neg) - value) ** 2 / (n_pos * (n_pos - 1))
        of_negatives = negatives @ (won_by_negative / (2 * n_pos) - value) ** 2 / (n_neg * (n_neg - 1))
        variance = float(of_positives + of_negatives)
    return _with_interval(value, variance, n_pos=n_pos, n_neg=n_neg, confidence=confidence)


def _with_interval(value: float, variance: float | None, *, n_pos: float, n_neg: float, confidence: float) -> Auc:
    score = _NewcombeVariance.of(n_pos=n_pos, n_neg=n_neg, value=value, variance=variance)
    low, high = score.interval(value, z=normal_quantile(confidence))
    return Auc(value=value, low=low, high=high, variance=variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewcombeVariance:
    """The variance of an AUC as a function of the true AUC (Newcombe 2006, method 5), times `scale`."""

    n_pos: float
    n_neg: float
    scale: float

    @classmethod
    def of(cls, *, n_pos: float, n_neg: float, value: float, variance: float | None) -> "_NewcombeVariance":
        """Fit the function to a sample's value and DeLong's variance, if there is one."""
        plain = cls(n_pos=n_pos, n_neg=n_neg, scale=1.0)
        return replace(plain, scale=max(1.0, variance / plain(value))) if variance else plain

    def __call__(self, true_auc: float) -> float:
        others = (self.n_pos + self.n_neg) / 2 - 1
        spread = 1 + others * ((1 - true_auc) / (2 - true_auc) + true_auc / (1 + true_auc))
        return self.scale * true_auc * (1 - true_auc) * spread / (self.n_pos * self.n_neg)

    def interval(self, value: float, *, z: float) -> tuple[float, float]:
        """Give the two true AUCs that lie z standard deviations from the value; 0 and 1 where it is 0 or 1 itself."""

        def distance(true_auc: float) -> float:
            return abs(value - true_auc) - z * sqrt(self(true_auc))

        # At 0 and 1 the variance is 0 and so is the distance of a value there: that root is not the bound.
        low = brentq(distance, 0.0, min(value, 1 - 1e-12)) if value > 0 else 0.0
        high = brentq(distance, max(value, 1e-12), 1.0) if value < 1 else 1.0
        return low, high


def area_interval(value: float, *, n_pos: int, n_neg: int, confidence: float) -> tuple[float, float]:
    """Give the interval of an AUC of which no more is known than the units of each class: Newcombe's alone."""
    found = _with_interval(value, None, n_pos=n_pos, n_neg=n_neg, confidence=confidence)
    return found.low, found.high


def area(positives: Floats, negatives: Floats) -> float:
    """Give Mann and Whitney's share of pairs of a positive and a negative in the right order, ties by half."""
    return _won(_placements(positives, negatives), negatives)


def _won(by_positive: Floats, negatives: Floats) -> float:
    return float(by_positive.sum() / (2 * by_positive.size * negatives.size))


def _placements(scores: Floats, others: Floats) -> Floats:
    """Count for each score twice the others below it, and once those equal to it; O(n log n) (Sun and Xu 2014)."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (below + up_to).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """An AUC, and what each positive and each negative adds to it minus the AUC (Sen's structural components)."""

    value: float
    of_positives: Floats
    of_negatives: Floats

    def __sub__(self, other: "Components") -> "Components":
        """Give those of the difference of two AUCs on the same units."""
        return Components(
            value=self.value - other.value,
            of_positives=self.of_positives - other.of_positives,
            of_negatives=self.of_negatives - other.of_negatives,
        )


def components(units: ScoredUnits) -> Components | None:
    """Compute the AUC, ties half, and its structural components; None where a class has no unit."""
    positives, negatives = units.scores_M[units.positive_M], units.scores_M[~units.positive_M]
    if not positives.size or not negatives.size:
        return None
    won_by_positive, won_by_negative = _placements(positives, negatives), _placements(-negatives, -positives)
    value = _won(won_by_positive, negatives)
    return Components(
        value=value,
        of_positives=won_by_positive / (2 * negatives.size) - value,
        of_negatives=won_by_negative / (2 * positives.size) - value,
    )


def clustered_variance(parts: Components, units: ScoredUnits) -> float | None:
    """Compute Obuchowski's variance, DeLong's where no patient repeats; None where a class has only one patient."""
    positives, negatives = parts.of_positives, parts.of_negatives
    owners = (units.patients_M[units.positive_M], units.patients_M[~units.positive_M])
    patients, cluster = np.unique(np.concatenate(owners), return_inverse=True)
    of_positives, of_negatives = np.split(cluster, [positives.size])
    with_positives, with_negatives = np.unique(of_positives).size, np.unique(of_negatives).size
    if with_positives < 2 or with_negatives < 2:
        return None
    a = np.bincount(of_positives, weights=positives, minlength=patients.size) / positives.size
    b = np.bincount(of_negatives, weights=negatives, minlength=patients.size) / negatives.size
    variance = (
        with_positives / (with_positives - 1) * (a @ a)
        + with_negatives / (with_negatives - 1) * (b @ b)
        + 2 * patients.size / (patients.size - 1) * (a @ b)
    )
    return max(0.0, float(variance))


def normal_quantile(confidence: float) -> float:
    """Give z of a two-sided interval."""
    return float(ndtri((1 + confidence) / 2))
