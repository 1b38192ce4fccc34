"""What could be tried at a site, with its price on its own test units: another threshold, other probabilities."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import sqrt

import numpy as np

from server.explanation import Explanation, Pattern
from server.other_thresholds import OtherThresholds, rates
from shared.evidence import Evidence
from shared.intervals import normal_quantile
from shared.protocol import Images
from shared.score_calibration import recalibrated, recalibration


class Scale(StrEnum):
    """How intensities can be harmonised: each image by its own percentiles, or by landmarks' median over sites."""

    PERCENTILE = "percentile"
    LANDMARKS = "landmarks"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPoint:
    """The site's own threshold instead of the shared one: units found and false alarms on test, before and after."""

    threshold: float
    found_before: int
    found_after: int
    positives: int
    alarms_before: int
    alarms_after: int
    negatives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibrated:
    """Platt's logistic recalibration, fitted on the site's validation units: logit p becomes intercept + slope logit p.

    `before` and `after` are Brier scores on test units, from score bins; the interval is that of after minus before,
    unit by unit. No order of scores changes, and so no AUC.
    """

    intercept: float
    slope: float
    before: float
    after: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """What one site's evidence on one finding gives a reason to try; None and False where it gives none.

    `own_layers`: its ROC curve lies lower, which no threshold and no recalibration can change. `scale` is the kind of
    harmonised intensities that could be tried: something is asked for, and the brightness of its images lies apart.
    """

    own_point: OwnPoint | None
    recalibrated: Recalibrated | None
    own_layers: bool
    scale: Scale | None = None

    @property
    def any(self) -> bool:
        """True where there is something to try."""
        return self.own_point is not None or self.recalibrated is not None or self.own_layers or self.scale is not None


def remedies(
    validation: Mapping[str, Evidence],
    test: Mapping[str, Evidence],
    *,
    threshold: float,
    others: OtherThresholds,
    explained: Mapping[str, Explanation],
    apart: Container[str],
    scale: Scale | None,
    min_positives: int,
    confidence: float,
) -> dict[str, Remedies]:
    """Look for each ranked site at what its validation units ask for, and at its price on its test units.

    Another threshold is asked for where the interval of the site's own does not hold the shared one; other
    probabilities where the slope's interval does not hold 1, or the intercept's not 0. `scale`, what the study could
    still switch on, is for sites whose images lie `apart` and that ask for one of these.
    """
    found = {
        site: Remedies(
            own_point=_own_point(item, site, threshold, others, confidence=confidence),
            recalibrated=_recalibrated(validation[site], item, confidence=confidence) if site in validation else None,
            own_layers=_lies_lower(explained.get(site)),
        )
        for site, item in sorted(test.items())
        if item.histogram.n_pos >= min_positives and item.histogram.n_neg
    }
    return {site: replace(one, scale=scale) if one.any and site in apart else one for site, one in found.items()}


def harmonising(images: Images) -> Scale | None:
    """Name what a study has not switched on yet: each image's own percentiles first, then landmarks over sites."""
    if images.window != "percentile":
        return Scale.PERCENTILE
    return Scale.LANDMARKS if images.harmonise == "none" else None


def _own_point(
    test: Evidence, site: str, threshold: float, others: OtherThresholds, *, confidence: float
) -> OwnPoint | None:
    own = others.own.get(site)
    if own is None or own.need.low <= threshold <= own.need.high:
        return None
    before, after = (rates(test, at, confidence=confidence) for at in (threshold, own.need.threshold))
    if not (before.sensitivity and before.specificity and after.sensitivity and after.specificity):
        return None
    return OwnPoint(
        threshold=own.need.threshold,
        found_before=before.sensitivity.k,
        found_after=after.sensitivity.k,
        positives=before.sensitivity.n,
        alarms_before=before.specificity.n - before.specificity.k,
        alarms_after=after.specificity.n - after.specificity.k,
        negatives=before.specificity.n,
    )


def _recalibrated(validation: Evidence, test: Evidence, *, confidence: float) -> Recalibrated | None:
    known = validation.quality.calibration if validation.quality else None
    if known is None or (known.slope.low <= 1 <= known.slope.high and known.intercept.low <= 0 <= known.intercept.high):
        return None
    fitted = recalibration(validation.histogram.units())
    if fitted is None:
        return None
    return recalibrated_on_test(test, *fitted, confidence=confidence)


def recalibrated_on_test(test: Evidence, intercept: float, slope: float, *, confidence: float) -> Recalibrated | None:
    """Apply it; a patient's units count as alike, since bins do not say whose they are. None without units.

    Of a single one nothing is known of how they vary, and its change may be anything that a Brier score's can be.
    """
    if not test.units:
        return None
    units = test.histogram.units()
    after = recalibrated(units.scores_M, intercept=intercept, slope=slope)
    squares = [(scores - units.positive_M) ** 2 for scores in (units.scores_M, after)]
    change = squares[1] - squares[0]
    reach = 2.0 if change.size < 2 else normal_quantile(confidence) * float(change.std(ddof=1)) / sqrt(test.patients)
    return Recalibrated(
        intercept=intercept,
        slope=slope,
        before=float(np.mean(squares[0])),
        after=float(np.mean(squares[1])),
        low=float(change.mean()) - reach,
        high=float(change.mean()) + reach,
    )


def _lies_lower(told: Explanation | None) -> bool:
    if told is None or told.measure is None or told.pattern not in (Pattern.DISCRIMINATION, Pattern.BOTH):
        return False
    return told.gaps[told.measure].value < 0
