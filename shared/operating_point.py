"""The threshold that reaches the target sensitivity on merged validation histograms."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.errors import DataError
from shared.intervals import wilson
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


def choose(
    histogram: ScoreHistogram, *, target: float, claim: Claim, confidence: float, design_effect: float = 1.0
) -> OperatingPoint:
    """Choose the highest bin edge whose sensitivity reaches the target, so that specificity suffers least.

    Where none does, the threshold is 0: everything is called positive, and `reached` shows how far that goes.
    `design_effect` widens the interval where patients repeat among the positives, as in `Count`.

    Raises:
        DataError: the histogram has no positives.
    """
    found = np.cumsum(histogram.positives[::-1])[::-1].tolist()
    points = [
        OperatingPoint(threshold=edge, target=target, claim=claim, reached=reached)
        for edge, k in zip(lower_edges(bins=len(found)).tolist(), found, strict=True)
        if (reached := wilson(Count(k=k, n=histogram.n_pos, design_effect=design_effect), confidence=confidence))
    ]
    if not points:
        raise DataError(
            "No validation unit is positive, so that no threshold can be chosen. Add sites, or validation patients."
        )
    return next((point for point in reversed(points) if point.met), points[0])
