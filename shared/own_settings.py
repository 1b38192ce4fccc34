"""What one hospital uses of its own beside a study's shared threshold, where the study allows it, as numbers."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from shared.score_calibration import keeps_scores_apart

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

    @property
    def kinds(self) -> tuple[str, ...]:
        """Name what there is, in the words of [evaluation] own_settings."""
        found = {"threshold": self.threshold, "calibration": self.calibration}
        return tuple(kind for kind, one in found.items() if one is not None)

    def to_list(self) -> list[float]:
        """Write [threshold, intercept, slope], NaN where there is none."""
        return [math.nan if self.threshold is None else self.threshold, *(self.calibration or (math.nan, math.nan))]

    @classmethod
    def from_list(cls, numbers: object) -> Self:
        """Read [threshold, intercept, slope].

        Raises:
            ValueError, TypeError: these are not three numbers, the threshold is no score, or the calibration is none
                that could have been fitted (shared/score_calibration.py).
        """
        threshold, intercept, slope = map(_number, _listed(numbers))
        if not (math.isnan(threshold) or 0 <= threshold <= 1):
            raise ValueError("a threshold is a score")
        if math.isnan(intercept) and math.isnan(slope):
            calibration = None
        elif keeps_scores_apart(intercept=intercept, slope=slope):
            calibration = (intercept, slope)
        else:
            raise ValueError("a calibration keeps the order of scores, and leaves them apart")
        return cls(threshold=None if math.isnan(threshold) else threshold, calibration=calibration)


def own_to_list(own: Own, targets: Sequence[str]) -> list[float]:
    """Write one site's settings as one list of numbers, three a target in the study's order; nothing: an empty one."""
    none = OwnSettings(threshold=None, calibration=None)
    return [number for target in targets for number in own.get(target, none).to_list()] if own else []


def own_from_list(numbers: Sequence[float | None], targets: Sequence[str], *, switched_on: Collection[str]) -> Own:
    """Read what `own_to_list` wrote, of a study that lets sites have what `switched_on` names; None counts as NaN.

    Raises:
        ValueError, TypeError: they are not three a target, not such numbers, or of a kind that is not switched on.
    """
    if len(numbers) not in (0, 3 * len(targets)):
        raise ValueError("own settings are three numbers a target")
    found = {
        target: OwnSettings.from_list(list(numbers[3 * place : 3 * place + 3]))
        for place, target in enumerate(targets if numbers else ())
    }
    if any(kind not in switched_on for one in found.values() for kind in one.kinds):
        raise ValueError("the study does not let a site have such settings of its own")
    return {target: one for target, one in found.items() if one.kinds}


def _listed(numbers: object) -> list[object]:
    if not isinstance(numbers, list):
        raise TypeError("a list of numbers is not one")
    return numbers


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("this is no number")
    return float(value)
