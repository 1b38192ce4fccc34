"""What a site computed on its exact scores: values with their confidence intervals, as the numbers that travel."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

FARTHEST = 1e12
"""No fitted coefficient, and no end of its interval, lies beyond this (shared/score_calibration.py gives up at 100)."""

Number = int | float | list[int] | list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value in [0, 1] that the site computed on its exact scores, with its confidence interval."""

    value: float
    low: float
    high: float

    @classmethod
    def from_list(cls, numbers: object) -> Self:
        """Read [value, low, high].

        Raises:
            ValueError, TypeError: they are not three numbers in [0, 1], or the interval does not hold the value.
        """
        value, low, high = _floats(numbers)
        if not 0 <= low <= value <= high <= 1:
            raise ValueError("an estimate lies within its interval, and that within [0, 1]")
        return cls(value=value, low=low, high=high)

    def to_list(self) -> list[float]:
        """Write [value, low, high]."""
        return [self.value, self.low, self.high]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """A number on the logit scale, of either sign, with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def from_list(cls, numbers: object) -> Self:
        """Read [value, low, high].

        Raises:
            ValueError, TypeError: they are not three finite numbers, or the interval does not hold the value.
        """
        value, low, high = _floats(numbers)
        if not -FARTHEST <= low <= value <= high <= FARTHEST:
            raise ValueError("a coefficient is finite and lies within its interval")
        return cls(value=value, low=low, high=high)

    def to_list(self) -> list[float]:
        """Write [value, low, high]."""
        return [self.value, self.low, self.high]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Cox's recalibration (Biometrika 1958;45:562) of logit scores: perfect at a slope of 1 and an intercept of 0.

    `slope` below 1: the scores are too extreme. `intercept` is calibration-in-the-large, with the slope held at 1:
    above 0, the finding is more frequent than the scores say (Van Calster et al., BMC Med 2019;17:230).
    """

    slope: Coefficient
    intercept: Coefficient


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreQuality:
    """What exact scores show beside their order; a part that is not defined is None.

    The design effects are those of `Count`, among the units called positive and among those called negative at the
    shared threshold: what the patients' repetition does to the predictive values' intervals.
    """

    average_precision: Estimate | None
    brier: Estimate | None
    calibration: Calibration | None
    called_design_effect: float
    cleared_design_effect: float


def quality_to_numbers(quality: ScoreQuality) -> dict[str, Number]:
    """Write it as numbers of a Flower MetricRecord."""
    numbers: dict[str, Number] = {
        "predictive_design_effects": [quality.called_design_effect, quality.cleared_design_effect]
    }
    if quality.average_precision is not None:
        numbers["average_precision"] = quality.average_precision.to_list()
    if quality.brier is not None:
        numbers["brier_interval"] = quality.brier.to_list()
    if quality.calibration is not None:
        numbers["calibration_slope"] = quality.calibration.slope.to_list()
        numbers["calibration_intercept"] = quality.calibration.intercept.to_list()
    return numbers


def quality_from_numbers(numbers: Mapping[str, Number]) -> ScoreQuality | None:
    """Read what `quality_to_numbers` wrote; None where nothing of it is there.

    Raises:
        KeyError, TypeError, ValueError: a number is missing, of the wrong kind, or contradicts another.
    """
    if "predictive_design_effects" not in numbers:
        return None
    called, cleared = _floats(numbers["predictive_design_effects"])
    if not (1 <= called < math.inf and 1 <= cleared < math.inf):
        raise ValueError("a design effect is finite and at least 1")
    precision, brier = numbers.get("average_precision"), numbers.get("brier_interval")
    return ScoreQuality(
        average_precision=None if precision is None else Estimate.from_list(precision),
        brier=None if brier is None else Estimate.from_list(brier),
        calibration=_calibration(numbers) if "calibration_slope" in numbers else None,
        called_design_effect=called,
        cleared_design_effect=cleared,
    )


def _calibration(numbers: Mapping[str, Number]) -> Calibration:
    return Calibration(
        slope=Coefficient.from_list(numbers["calibration_slope"]),
        intercept=Coefficient.from_list(numbers["calibration_intercept"]),
    )


def _floats(numbers: object) -> list[float]:
    if not isinstance(numbers, list):
        raise TypeError("a list of numbers is not one")
    return [float(number) for number in numbers]
