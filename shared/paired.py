"""Two models on the same test units: differences of AUC, sensitivity and specificity, with paired intervals.

All intervals are those of Zou and Donner's recovery of variance estimates (Stat Med 2008;27:1693): each model's own
interval, and the correlation of the two estimates. For AUCs that is Zou and Yue (Stat Med 2013;32:5077), for
proportions Newcombe (Stat Med 1998;17:2635), method 10. They hold at small n, and where both models are perfect they
do not shrink to a point, as the paired test of DeLong does.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from shared.intervals import Auc, auc, clustered_variance, components, wilson
from shared.metrics import Proportion, correct_of
from shared.scores import ScoredUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What two models have on the same units, and the first minus the second with its interval."""

    first: float
    second: float
    difference: float
    low: float
    high: float

    @property
    def shown(self) -> int:
        """1 where the first is shown to be larger, -1 where it is shown to be smaller, 0 where neither is."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def paired_auc(first: ScoredUnits, second: ScoredUnits, *, confidence: float) -> Paired | None:
    """Compare two models' AUC on the same units, in the same order; None where a class has no unit.

    The correlation is that of DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837), clustered by patient as
    Obuchowski's variance (Biometrics 1997;53:567) is. Where one model has no variance it is taken as 0.
    """
    a, b = (auc(units, confidence=confidence) for units in (first, second))
    of_a, of_b = components(first), components(second)
    if a is None or b is None or of_a is None or of_b is None:
        return None
    of_difference = clustered_variance(of_a - of_b, first)
    if not a.variance or not b.variance or of_difference is None:
        return _recovered(a, b, correlation=0.0)
    covariance = (a.variance + b.variance - of_difference) / 2
    return _recovered(a, b, correlation=covariance / sqrt(a.variance * b.variance))


def paired_rates(
    first: ScoredUnits, second: ScoredUnits, *, thresholds: tuple[float, float], of_positives: bool, confidence: float
) -> Paired | None:
    """Compare sensitivities (`of_positives`) or specificities, each model at its own threshold; None without a unit.

    Each model's interval is Wilson's, with the design effect of repeated patients.
    """
    chosen = first.positive_M == of_positives
    calls = [
        (units.scores_M >= threshold)[chosen] == of_positives
        for units, threshold in zip((first, second), thresholds, strict=True)
    ]
    a, b = (wilson(correct_of(right, first.patients_M[chosen]), confidence=confidence) for right in calls)
    return None if a is None or b is None else _recovered(a, b, correlation=_phi(*calls))


def _phi(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Correlate two models' right calls; positive ones with Newcombe's continuity correction of n / 2."""
    n = first.size
    both, neither = int(np.count_nonzero(first & second)), int(np.count_nonzero(~first & ~second))
    one, other = int(np.count_nonzero(first & ~second)), int(np.count_nonzero(~first & second))
    margins = (both + one) * (other + neither) * (both + other) * (one + neither)
    product = both * neither - one * other
    if not margins:
        return 0.0
    return (max(product - n / 2, 0.0) if product > 0 else product) / sqrt(margins)


def _recovered(a: Auc | Proportion, b: Auc | Proportion, *, correlation: float) -> Paired:
    r = min(1.0, max(-1.0, correlation))
    value = a.value - b.value
    down_a, up_a, down_b, up_b = a.value - a.low, a.high - a.value, b.value - b.low, b.high - b.value
    below = sqrt(max(0.0, down_a**2 - 2 * r * down_a * up_b + up_b**2))
    above = sqrt(max(0.0, up_a**2 - 2 * r * up_a * down_b + down_b**2))
    return Paired(
        first=a.value,
        second=b.value,
        difference=value,
        low=max(-1.0, value - below),
        high=min(1.0, value + above),
    )
