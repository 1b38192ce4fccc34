"""Each site's own threshold and calibration, where a study switches them on, and what they give on its test units.

Both are fitted on the validation histograms that sites release anyway, so that nothing more leaves; the shared
operating point stays, and they stand beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

from server.other_thresholds import Rates, rates
from server.remedies import Recalibrated, recalibrated_on_test
from server.validation import Evaluations, released
from shared.estimates import Calibration, Coefficient
from shared.evidence import Evidence
from shared.operating_point import OperatingPoint, choose_on
from shared.own_settings import Own, OwnSettings
from shared.protocol import Evaluation, StudyProtocol
from shared.score_calibration import calibration, keeps_scores_apart, recalibrated, recalibration


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnThreshold:
    """A site's own operating point, chosen on its validation units; on its test units, under the shared one and it."""

    point: OperatingPoint
    shared: Rates
    own: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCalibration:
    """A site's own recalibration, and slope and intercept of its test units before (exact scores) and after (bins)."""

    fitted: Recalibrated
    before: Calibration | None
    after: Calibration | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnResult:
    """What a site uses of its own for one target; None: not switched on, or too few validation units to choose by."""

    threshold: OwnThreshold | None
    calibration: OwnCalibration | None


OwnResults = Mapping[str, Mapping[str, OwnResult]]
"""`[finding][site]`; sites that withheld their evidence have no entry. Empty where the study switches nothing on."""


def own_results(
    protocol: StudyProtocol,
    validation: Evaluations,
    test: Evaluations,
    operating_point: Mapping[str, OperatingPoint | None],
) -> dict[str, dict[str, OwnResult]]:
    """Choose each site's own settings by its validation units, and look once at what they give on its test units.

    A site with fewer than `min_positives_to_rank` validation positives gets none: what few positives choose is chance.
    """
    wish = protocol.evaluation
    if not wish.own_settings:
        return {}
    found = {}
    for place, target in enumerate(protocol.task.targets):
        if point := operating_point.get(target):
            seen, tested = released(validation, place), released(test, place)
            found[target] = {
                site: _own(seen[site], tested[site], point.threshold, wish)
                for site in sorted(seen.keys() & tested.keys())
            }
    return found


def to_apply(found: OwnResults, site: str) -> Own:
    """Give what one site may use, by target."""
    results = {target: sites[site] for target, sites in found.items() if site in sites}
    return {
        target: OwnSettings(
            threshold=one.threshold.point.threshold if one.threshold else None,
            calibration=(one.calibration.fitted.intercept, one.calibration.fitted.slope) if one.calibration else None,
        )
        for target, one in results.items()
        if one.threshold or one.calibration
    }


def _own(validation: Evidence, test: Evidence, shared: float, wish: Evaluation) -> OwnResult:
    if validation.histogram.n_pos < wish.min_positives_to_rank:
        return OwnResult(threshold=None, calibration=None)
    return OwnResult(
        threshold=_threshold(validation, test, shared, wish) if "threshold" in wish.own_settings else None,
        calibration=_calibration(validation, test, wish.confidence) if "calibration" in wish.own_settings else None,
    )


def _threshold(validation: Evidence, test: Evidence, shared: float, wish: Evaluation) -> OwnThreshold | None:
    point = choose_on([validation], target=wish.target_sensitivity, claim=wish.claim, confidence=wish.confidence)
    if point is None:
        return None
    at_shared, at_own = (rates(test, at, confidence=wish.confidence) for at in (shared, point.threshold))
    return OwnThreshold(point=point, shared=at_shared, own=at_own)


def _calibration(validation: Evidence, test: Evidence, confidence: float) -> OwnCalibration | None:
    """Fit Platt's recalibration; none where it is not defined, or would not keep scores apart and in order."""
    fitted = recalibration(validation.histogram.units())
    if fitted is None or not keeps_scores_apart(intercept=fitted[0], slope=fitted[1]):
        return None
    intercept, slope = fitted
    on_test = recalibrated_on_test(test, intercept, slope, confidence=confidence)
    if on_test is None:
        return None
    units = test.histogram.units()
    moved = replace(units, scores_M=recalibrated(units.scores_M, intercept=intercept, slope=slope))
    after = calibration(moved, confidence=confidence)
    # Bins do not say whose units they are: as if a patient's were all alike.
    widening = sqrt(test.units / test.patients) if test.patients else 1.0
    return OwnCalibration(
        fitted=on_test,
        before=test.quality.calibration if test.quality else None,
        after=Calibration(slope=_widened(after.slope, widening), intercept=_widened(after.intercept, widening))
        if after
        else None,
    )


def _widened(one: Coefficient, by: float) -> Coefficient:
    low, high = (one.value + by * (end - one.value) for end in (one.low, one.high))
    return Coefficient(value=one.value, low=low, high=high)
