"""What one hospital uses of its own beside a study's shared threshold, where the study allows it, as numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

Own = Mapping[str, "OwnSettings"]
"""One site's settings, by target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSettings:
    """For one target: the site's own threshold, and its own calibration; None where the shared one or none is used.

    A score p becomes expit(intercept + slope * logit p), a probability for this site's patients. The threshold is for
    the score as the model gives it.
    """

    threshold: float | None
    calibration: tuple[float, float] | None

    def to_list(self) -> list[float]:
        """Write [threshold, intercept, slope], NaN where there is none."""
        return [math.nan if self.threshold is None else self.threshold, *(self.calibration or (math.nan, math.nan))]

    @classmethod
    def from_list(cls, numbers: object) -> Self:
        """Read [threshold, intercept, slope].

        Raises:
            ValueError, TypeError: these are not three numbers, or the threshold is no score, or the slope not positive.
        """
        threshold, intercept, slope = (float(one) for one in _listed(numbers))
        if not (math.isnan(threshold) or 0 <= threshold <= 1):
            raise ValueError("a threshold is a score")
        if math.isnan(intercept) and math.isnan(slope):
            calibration = None
        elif math.isfinite(intercept) and math.isfinite(slope) and slope > 0:
            calibration = (intercept, slope)
        else:
            raise ValueError("a calibration is finite, and keeps the order of scores")
        return cls(threshold=None if math.isnan(threshold) else threshold, calibration=calibration)


def own_to_list(own: Own, targets: Sequence[str]) -> list[float]:
    """Write one site's settings as one list of numbers, three a target in the study's order; nothing: an empty one."""
    none = OwnSettings(threshold=None, calibration=None)
    return [number for target in targets for number in own.get(target, none).to_list()] if own else []


def own_from_list(numbers: Sequence[float], targets: Sequence[str]) -> Own:
    """Read what `own_to_list` wrote.

    Raises:
        ValueError, TypeError: they are not three a target, or not such numbers.
    """
    if len(numbers) not in (0, 3 * len(targets)):
        raise ValueError("own settings are three numbers a target")
    found = {
        target: OwnSettings.from_list(list(numbers[3 * place : 3 * place + 3]))
        for place, target in enumerate(targets if numbers else ())
    }
    return {target: one for target, one in found.items() if one.threshold is not None or one.calibration is not None}


def _listed(numbers: object) -> list[float]:
    if not isinstance(numbers, list):
        raise TypeError("a list of numbers is not one")
    return numbers
