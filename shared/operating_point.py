"""The threshold that reaches the target sensitivity on validation evidence: the one owner of how it is chosen.

Where patients repeat, a patient's units count as if they were alike, whoever asks: the design effect is the number of
positive units a positive patient.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import DataError
from shared.evidence import Evidence
from shared.intervals import clopper_pearson, wilson
from shared.metrics import Count, Proportion, ScoreHistogram
from shared.scores import lower_edges

Claim = Literal["point", "lower_bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A threshold (positive is a score >= threshold), the wish it serves and what it reached on validation units.

    The threshold is a float64 that travels as it is: rounding it could move units that lie on it. `claim` says of what
    the target is asked: of the sensitivity itself ("point"), or of the lower end of its interval ("lower_bound").
    """

    threshold: float
    target: float
    claim: str
    reached: Proportion

    @property
    def met(self) -> bool:
        """Whether the target was reached on the validation units, in the sense of the claim."""
        shown = self.reached.low if self.claim == "lower_bound" else self.reached.value
        return shown >= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The highest threshold at which one site's own units reach a target, and the thresholds that they allow.

    From `low` to `high`, the interval of the sensitivity holds the target (Woodruff, JASA 1952;47:635): a site with few
    positives allows many. `reached` is the sensitivity at `threshold` on the units that it was read off.
    """

    threshold: float
    low: float
    high: float
    reached: Proportion


def choose_on(items: Collection[Evidence], *, target: float, claim: Claim, confidence: float) -> OperatingPoint | None:
    """Choose for several sites' released evidence together; None where it holds no positive.

    None is the one word for "no threshold": of a target in a mapping, in results.json (null) and in a task's list of
    thresholds, where it travels as NaN (shared/tasks.py).
    """
    merged = _merged(items)
    if merged is None:
        return None
    histogram, repetition = merged
    return choose(histogram, target=target, claim=claim, confidence=confidence, design_effect=repetition)


def need_on(item: Evidence, *, target: float, claim: Claim, confidence: float) -> Need | None:
    """Read off what threshold one site would need for itself; None where its evidence holds no positive."""
    merged = _merged([item])
    if merged is None:
        return None
    histogram, repetition = merged
    return need(histogram, target=target, claim=claim, confidence=confidence, design_effect=repetition)


def _merged(items: Collection[Evidence]) -> tuple[ScoreHistogram, float] | None:
    """Add up histograms, and say how many positive units a positive patient has."""
    full = [item for item in items if item.units]
    if not any(item.histogram.n_pos for item in full):
        return None
    histogram = sum((item.histogram for item in full[1:]), start=full[0].histogram)
    return histogram, histogram.n_pos / sum(item.positive_patients for item in full)


def choose(
    histogram: ScoreHistogram, *, target: float, claim: Claim, confidence: float, design_effect: float = 1.0
) -> OperatingPoint:
    """Choose the highest bin edge whose sensitivity reaches the target, so that specificity suffers least.

    Where none does, the threshold is 0: everything is called positive, and `reached` shows how far that goes.
    `design_effect` widens the interval where patients repeat among the positives, as in `Count`. For a claim on the
    lower bound the interval is that of Clopper and Pearson, which never covers less than it says.

    Raises:
        DataError: the histogram has no positives.
    """
    found = np.cumsum(histogram.positives[::-1])[::-1].tolist()
    interval = clopper_pearson if claim == "lower_bound" else wilson
    points = [
        OperatingPoint(threshold=edge, target=target, claim=claim, reached=reached)
        for edge, k in zip(lower_edges(bins=len(found)).tolist(), found, strict=True)
        if (reached := interval(Count(k=k, n=histogram.n_pos, design_effect=design_effect), confidence=confidence))
    ]
    if not points:
        raise DataError(
            "No validation unit is positive, so that no threshold can be chosen. Add sites, or validation patients."
        )
    return next((point for point in reversed(points) if point.met), points[0])


def need(
    histogram: ScoreHistogram, *, target: float, claim: Claim, confidence: float, design_effect: float = 1.0
) -> Need:
    """Read off what threshold one site would need for itself, by the same choice as everywhere.

    Raises:
        DataError: the histogram has no positives.
    """
    point = choose(histogram, target=target, claim=claim, confidence=confidence, design_effect=design_effect)
    edges = lower_edges(bins=len(histogram.positives))
    found = np.cumsum(histogram.positives[::-1])[::-1].tolist()
    at = [wilson(Count(k=k, n=histogram.n_pos, design_effect=design_effect), confidence=confidence) for k in found]
    sure = [edge for edge, one in zip(edges.tolist(), at, strict=True) if one and one.low >= target]
    possible = [edge for edge, one in zip(edges.tolist(), at, strict=True) if one and one.high >= target]
    return Need(
        threshold=point.threshold,
        low=min(point.threshold, max(sure, default=0.0)),
        high=max(point.threshold, max(possible, default=0.0)),
        reached=point.reached,
    )
