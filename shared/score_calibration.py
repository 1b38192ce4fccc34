"""How far scores are probabilities: Brier score, calibration slope and intercept, each with its interval."""

from math import sqrt

import numpy as np
from scipy.special import expit
from scipy.stats import t

from shared.estimates import Calibration, Coefficient, Estimate
from shared.scores import LOGIT_RANGE, Floats, Integers, ScoredUnits

Fit = tuple[Floats, Floats]
"""Coefficients and their covariance."""

_STEPS, _CLOSE, _SINGULAR = 60, 1e-9, 1e12

STEEPEST = 100.0
"""A fit whose intercept or slope grows beyond this on its way is taken for one that separates the classes and has no
maximum: at such a slope scores .1 logit apart would be as good as 0 and 1."""


def brier_score(units: ScoredUnits, *, confidence: float) -> Estimate | None:
    """Compute the mean squared difference of score and truth (Brier 1950) with its interval; None without units.

    The interval is that of a mean over patients with Student's t, on the scale of its logarithm: squares are skewed.
    """
    squares_M = (units.scores_M - units.positive_M) ** 2
    if not squares_M.size:
        return None
    value = float(squares_M.mean())
    by_patient = _sums_by_patient((squares_M - value)[:, None], units.patients_M)[:, 0] / squares_M.size
    patients = by_patient.size
    if patients < 2 or value == 0:
        return Estimate(value=value, low=0.0, high=1.0)
    error = sqrt(by_patient @ by_patient * patients / (patients - 1))
    factor = float(np.exp(t.ppf((1 + confidence) / 2, patients - 1) * error / value))
    return Estimate(value=value, low=value / factor, high=min(1.0, value * factor))


def calibration(units: ScoredUnits, *, confidence: float) -> Calibration | None:
    """Fit slope and intercept, with intervals that hold where patients repeat.

    None where they are not defined: a class has fewer than two patients, or the scores tell the classes apart without
    an error, so that the likelihood has no maximum (Albert and Anderson, Biometrika 1984;71:1). The variance is the
    sandwich over patients (Liang and Zeger, Biometrika 1986;73:13), with Student's t for the patients of the smaller
    class. Scores beyond the outer edges of the score bins count as on them.
    """
    fits = _fits(units)
    if fits is None:
        return None
    (slope, intercept), reach = fits, float(t.ppf((1 + confidence) / 2, _fewest_patients(units) - 1))
    return Calibration(slope=_wald(*slope, reach=reach), intercept=_wald(*intercept, reach=reach))


def recalibration(units: ScoredUnits) -> tuple[float, float] | None:
    """Fit intercept and slope together: what turns these units' logits into calibrated ones (Cox 1958; Platt 1999).

    None where `calibration` is not defined.
    """
    fits = _fits(units)
    if fits is None:
        return None
    coefficients, _ = fits[0]
    return float(coefficients[0]), float(coefficients[1])


def recalibrated(scores_M: Floats, *, intercept: float, slope: float) -> Floats:
    """Apply what `recalibration` fitted."""
    found: Floats = expit(intercept + slope * _logits(scores_M))
    return found


def keeps_scores_apart(*, intercept: float, slope: float) -> bool:
    """Tell a recalibration that may be used: it keeps the order of scores, and they stay apart.

    No fit gives more than STEEPEST for either. A slope of less than its inverse moves every score to within .1 logit of
    one probability, which says nothing of a patient any more. What is not finite is none.
    """
    return abs(intercept) <= STEEPEST and 1 / STEEPEST <= slope <= STEEPEST


def _fewest_patients(units: ScoredUnits) -> int:
    return min(np.unique(units.patients_M[chosen]).size for chosen in (units.positive_M, ~units.positive_M))


def _fits(units: ScoredUnits) -> tuple[Fit, Fit] | None:
    """Fit intercept and slope together, and the intercept with the slope held at 1; None where either is undefined."""
    if _fewest_patients(units) < 2:
        return None
    logits_M = _logits(units.scores_M)
    ones = np.ones((logits_M.size, 1))
    slope = _fit(np.column_stack((ones, logits_M)), units, offset_M=np.zeros(logits_M.size))
    intercept = _fit(ones, units, offset_M=logits_M)
    return None if slope is None or intercept is None else (slope, intercept)


def _logits(scores_M: Floats) -> Floats:
    edge = expit(LOGIT_RANGE)
    clipped = np.clip(scores_M, 1 - edge, edge)
    logits: Floats = np.log(clipped) - np.log1p(-clipped)
    return logits


def _fit(design: Floats, units: ScoredUnits, *, offset_M: Floats) -> Fit | None:
    """Fit a logistic regression by Newton's method: coefficients and their sandwich covariance; None if it diverges."""
    beta = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        fitted_M = expit(design @ beta + offset_M)
        information = (design.T * (fitted_M * (1 - fitted_M))) @ design
        if np.linalg.cond(information) > _SINGULAR or np.abs(beta).max() > STEEPEST:
            return None
        scores = design * (units.positive_M - fitted_M)[:, None]
        step = np.linalg.solve(information, scores.sum(axis=0))
        if np.abs(step).max() < _CLOSE:
            sums, bread = _sums_by_patient(scores, units.patients_M), np.linalg.inv(information)
            return beta, bread @ (sums.T @ sums) @ bread * len(sums) / (len(sums) - 1)
        beta = beta + step
    return None


def _wald(beta: Floats, covariance: Floats, *, reach: float) -> Coefficient:
    """Give the last coefficient with its interval."""
    value, error = float(beta[-1]), sqrt(max(0.0, covariance[-1, -1]))
    return Coefficient(value=value, low=value - reach * error, high=value + reach * error)


def _sums_by_patient(values: Floats, patients_M: Integers) -> Floats:
    _, cluster = np.unique(patients_M, return_inverse=True)
    return np.column_stack([np.bincount(cluster, weights=column) for column in values.T])
