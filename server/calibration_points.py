"""Points of a calibration curve from a score histogram: units of like score, and the share of positives among them."""

import numpy as np

from server import wording
from server.figures_calibration import CalibrationPoint
from shared.intervals import wilson
from shared.metrics import Count, ScoreHistogram

GROUPS, SMALLEST = 8, 10
"""At most so many points, each of at least so many units."""


def calibration_points(histogram: ScoreHistogram, *, name: str, confidence: float) -> list[CalibrationPoint]:
    """Join neighbouring bins into groups of about equal size; each bin's units count at its middle score."""
    units = histogram.units()
    total, steps = units.scores_M.size, len(histogram.positives)
    if not total:
        return []
    counts = np.array(histogram.positives) + np.array(histogram.negatives)
    wanted = max(SMALLEST, total / GROUPS)
    group_of_bin = np.minimum(((np.cumsum(counts) - counts / 2) / wanted).astype(int), max(0, int(total / wanted) - 1))
    middles = ScoreHistogram(positives=(1,) * steps, negatives=(0,) * steps).units().scores_M
    return [
        point
        for group in np.unique(group_of_bin)
        if (point := _point(histogram, np.flatnonzero(group_of_bin == group), middles, name, confidence))
    ]


def _point(
    histogram: ScoreHistogram, bins: np.ndarray, middles: np.ndarray, name: str, confidence: float
) -> CalibrationPoint | None:
    k = sum(histogram.positives[one] for one in bins)
    counts = np.array([histogram.positives[one] + histogram.negatives[one] for one in bins])
    share = wilson(Count(k=k, n=int(counts.sum())), confidence=confidence)
    if share is None:
        return None
    score = float(counts @ middles[bins] / counts.sum())
    of = f"{share.k} of {share.n} ({wording.percent(share.value)})"
    tip = f"{name}: scores around {wording.percent(score)}, {of} have it"
    return CalibrationPoint(score=score, share=share.value, low=share.low, high=share.high, tip=tip)
