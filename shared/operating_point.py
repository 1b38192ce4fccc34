"""The threshold that reaches the target sensitivity on merged validation histograms."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import DataError
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


def need(histogram: ScoreHistogram, *, target: float, confidence: float, design_effect: float = 1.0) -> Need:
    """Read off what threshold one site would need for itself.

    Raises:
        DataError: the histogram has no positives.
    """
    point = choose(histogram, target=target, claim="point", confidence=confidence, design_effect=design_effect)
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
