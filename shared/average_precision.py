"""Average precision of scores, with an interval that holds where patients repeat."""

from math import sqrt

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t

from shared.estimates import Estimate
from shared.scores import Floats, ScoredUnits


def average_precision(units: ScoredUnits, *, confidence: float) -> Estimate | None:
    """Compute the mean precision at each positive's score (ties together), and its interval; None without positives.

    The variance is the infinitesimal jackknife over patients (Efron, The Jackknife, the Bootstrap and Other Resampling
    Plans, 1982, ch. 6): how the value moves with each patient's weight. The interval is symmetric on the logit scale
    (Boyd, Eng and Page, ECML PKDD 2013, sec. 3), with Student's t for the patients of the smaller class. Where
    precision is 1 throughout nothing varies: the lower end is then that of Clopper and Pearson for so many positive
    patients.
    """
    positive_M = units.positive_M
    if not positive_M.any():
        return None
    value, influence_M = _influence(units)
    _, cluster = np.unique(units.patients_M, return_inverse=True)
    by_patient = np.bincount(cluster, weights=influence_M)
    positives, negatives = (np.unique(units.patients_M[chosen]).size for chosen in (positive_M, ~positive_M))
    if value >= 1:
        return Estimate(value=1.0, low=((1 - confidence) / 2) ** (1 / positives), high=1.0)
    variance = float(by_patient @ by_patient) * by_patient.size / max(1, by_patient.size - 1)
    smaller = min(positives, negatives)
    if smaller < 2 or variance == 0:
        return Estimate(value=value, low=0.0, high=1.0)
    reach = float(t.ppf((1 + confidence) / 2, smaller - 1)) * sqrt(variance) / (value * (1 - value))
    return Estimate(value=value, low=float(expit(logit(value) - reach)), high=float(expit(logit(value) + reach)))


def _influence(units: ScoredUnits) -> tuple[float, Floats]:
    """Give the value and its derivative by each unit's weight, in O(n log n)."""
    levels, level = np.unique(units.scores_M, return_inverse=True)
    positives = np.bincount(level[units.positive_M], minlength=levels.size)
    negatives = np.bincount(level[~units.positive_M], minlength=levels.size)
    found, false = np.cumsum(positives[::-1])[::-1], np.cumsum(negatives[::-1])[::-1]
    precision = found / (found + false)
    value = float(positives @ precision / positives.sum())
    # A unit also changes the precision at every positive that scores no higher than itself.
    if_positive = precision - value + np.cumsum(positives * false / (found + false) ** 2)
    if_negative = -np.cumsum(positives * found / (found + false) ** 2)
    return value, np.where(units.positive_M, if_positive[level], if_negative[level]) / positives.sum()
