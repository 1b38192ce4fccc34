"""From released evidence to proportions and score quality: one site's, and all sites' together."""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

from shared.average_precision import average_precision
from shared.estimates import Estimate, ScoreQuality
from shared.evidence import Evidence
from shared.intervals import clopper_pearson, clopper_pearson_p, wilson, wilson_p
from shared.metrics import Count, Proportion
from shared.protocol import Evaluation
from shared.score_calibration import calibration


def proportion(count: Count, patients: int, wish: Evaluation) -> Proportion | None:
    """Give a proportion with Wilson's interval; where the study claims a lower bound, with the exact one by patient.

    By patient: units of the same patient count as if they were alike, whatever their likeness in this sample.
    """
    if wish.claim == "point":
        return wilson(count, confidence=wish.confidence)
    return clopper_pearson(_by_patient(count, patients), confidence=wish.confidence)


def target_p(count: Count, patients: int, wish: Evaluation) -> float:
    """Test whether a sensitivity is the study's target, by the test that its interval inverts; n is not 0."""
    if wish.claim == "point":
        return wilson_p(count, at=wish.target_sensitivity)
    return clopper_pearson_p(_by_patient(count, patients), at=wish.target_sensitivity)


def _by_patient(count: Count, patients: int) -> Count:
    repetition = count.n / patients if patients else 1.0
    return replace(count, design_effect=max(count.design_effect, repetition))


def predictive_values(items: Sequence[Evidence], wish: Evaluation) -> tuple[Proportion | None, Proportion | None]:
    """Give the positive and negative predictive values at the shared threshold, at these units' own prevalence."""
    called, cleared = Count(k=0, n=0), Count(k=0, n=0)
    for item in items:
        if item.confusion:
            effects = (
                (item.quality.called_design_effect, item.quality.cleared_design_effect) if item.quality else (1, 1)
            )
            called += replace(item.confusion.ppv, design_effect=effects[0])
            cleared += replace(item.confusion.npv, design_effect=effects[1])
    return wilson(called, confidence=wish.confidence), wilson(cleared, confidence=wish.confidence)


def pooled_quality(items: Sequence[Evidence], *, confidence: float) -> ScoreQuality | None:
    """Merge the sites' score quality; None where no site sent any.

    Average precision and calibration come from merged score bins, units taken as independent. The Brier score is the
    mean of the sites' exact ones, with the interval that theirs give (Zou and Donner, Stat Med 2008;27:1693).
    """
    known = [(item.quality, item.units) for item in items if item.quality]
    if not known:
        return None
    merged = sum((item.histogram for item in items[1:]), start=items[0].histogram).units()
    return ScoreQuality(
        average_precision=average_precision(merged, confidence=confidence),
        brier=weighted_mean([(one.brier, units) for one, units in known if one.brier]),
        calibration=calibration(merged, confidence=confidence),
        called_design_effect=1.0,
        cleared_design_effect=1.0,
    )


def weighted_mean(estimates: Sequence[tuple[Estimate, int]]) -> Estimate | None:
    """Average independent estimates, and recover the interval of the mean from theirs (MOVER)."""
    total = sum(weight for _, weight in estimates)
    if not total:
        return None
    value = sum(one.value * weight for one, weight in estimates) / total
    below = sqrt(sum(((one.value - one.low) * weight / total) ** 2 for one, weight in estimates))
    above = sqrt(sum(((one.high - one.value) * weight / total) ** 2 for one, weight in estimates))
    return Estimate(value=value, low=max(0.0, value - below), high=min(1.0, value + above))
