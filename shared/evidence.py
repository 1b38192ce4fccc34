"""What one site's split shows about one target, as counts that can be merged; or that it is withheld."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.called_as import CalledAs, calls_from_numbers, calls_to_numbers
from shared.estimates import Estimate, Number, ScoreQuality, quality_from_numbers, quality_to_numbers
from shared.metrics import Confusion, ScoreHistogram, most_repetition
from shared.subgroups import GroupEvidence, groups_from_numbers, groups_to_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Counts over the units (images, exams or patients, as the study says) of one split that have this target assessed.

    Patients are counted by class: one with units of both classes counts in both.
    `confusion` and `quality` are None until a threshold is shared, and `subgroups` are empty; `auc` is None where a
    class has no unit. `called_as` is there of classes, and once thresholds are shared.
    """

    units: int
    patients: int
    positive_patients: int
    negative_patients: int
    histogram: ScoreHistogram
    confusion: Confusion | None
    auc: Estimate | None
    brier: float | None
    quality: ScoreQuality | None = None
    subgroups: tuple[GroupEvidence, ...] = ()
    called_as: CalledAs | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """The site's guard held this back because a class has fewer patients than the hospital's minimum. Not zero.

    `assessed` is False where the hospital's settings name no column for the finding: nobody's data are behind it.
    """

    assessed: bool = True


def evidence_to_numbers(item: Evidence | Withheld) -> dict[str, Number]:
    """Write evidence as numbers of a Flower MetricRecord; withheld evidence is `withheld`, perhaps `not_assessed`."""
    if isinstance(item, Withheld):
        return {"withheld": 1} if item.assessed else {"withheld": 1, "not_assessed": 1}
    numbers: dict[str, Number] = {
        "units": item.units,
        "patients": [item.patients, item.positive_patients, item.negative_patients],
        "positives": list(item.histogram.positives),
        "negatives": list(item.histogram.negatives),
    }
    if item.confusion is not None:
        at = item.confusion
        numbers["confusion"] = [at.tp, at.fp, at.tn, at.fn]
        numbers["design_effects"] = [at.positives_design_effect, at.negatives_design_effect]
    if item.auc is not None:
        numbers["auc"] = [item.auc.value, item.auc.low, item.auc.high]
    if item.brier is not None:
        numbers["brier"] = item.brier
    if item.quality is not None:
        numbers |= quality_to_numbers(item.quality)
    return numbers | calls_to_numbers(item.called_as) | groups_to_numbers(item.subgroups)


def evidence_from_numbers(numbers: Mapping[str, Number]) -> Evidence | Withheld:
    """Read what `evidence_to_numbers` wrote.

    Raises:
        KeyError, TypeError, ValueError: a number is missing, of the wrong kind, or contradicts another.
    """
    if "withheld" in numbers:
        return Withheld(assessed="not_assessed" not in numbers)
    patients, positive, negative = _counts(numbers["patients"])
    histogram = ScoreHistogram(
        positives=tuple(_counts(numbers["positives"])), negatives=tuple(_counts(numbers["negatives"]))
    )
    (units,) = _counts([numbers["units"]])
    if units != histogram.n_pos + histogram.n_neg:
        raise ValueError("the histogram does not hold as many units as it says")
    confusion = _confusion(numbers) if "confusion" in numbers else None
    if confusion and (confusion.sensitivity.n, confusion.specificity.n) != (histogram.n_pos, histogram.n_neg):
        raise ValueError("the counts at the threshold contradict the histogram")
    auc, brier = numbers.get("auc"), numbers.get("brier")
    if (auc is None) == bool(histogram.n_pos and histogram.n_neg) or (brier is None) == bool(units):
        raise ValueError("a figure is missing, or is one of units that are not there")
    quality = quality_from_numbers(numbers)
    if quality and max(quality.called_design_effect, quality.cleared_design_effect) > most_repetition(units):
        raise ValueError("a design effect is larger than its units allow")
    evidence = Evidence(
        units=units,
        patients=patients,
        positive_patients=positive,
        negative_patients=negative,
        histogram=histogram,
        confusion=confusion,
        auc=None if auc is None else Estimate.from_list(auc),
        brier=None if brier is None else _fraction(brier),
        quality=quality,
        subgroups=groups_from_numbers(numbers),
        called_as=calls_from_numbers(numbers, units=histogram.n_pos),
    )
    _check_patients(evidence)
    _check_groups(evidence)
    return evidence


def _check_patients(item: Evidence) -> None:
    """Refuse patients without units, units without patients, and classes without patients."""
    of_class = ((item.positive_patients, item.histogram.n_pos), (item.negative_patients, item.histogram.n_neg))
    for patients, units in (*of_class, (item.patients, item.units)):
        if not patients <= units or bool(patients) != bool(units):
            raise ValueError("there are more patients than units, or none")
    positive, negative = item.positive_patients, item.negative_patients
    if not max(positive, negative) <= item.patients <= positive + negative:
        raise ValueError("the classes' patients do not make up all")


def _check_groups(item: Evidence) -> None:
    """Refuse groups of one axis that hold more units together than there are: each unit is in one of them."""
    for axis in {one.axis for one in item.subgroups}:
        own = [one.confusion for one in item.subgroups if one.axis == axis]
        for units, of in (
            (sum(one.sensitivity.n for one in own), item.histogram.n_pos),
            (sum(one.specificity.n for one in own), item.histogram.n_neg),
        ):
            if units > of:
                raise ValueError("the groups of an axis hold more units than there are")


def _confusion(numbers: Mapping[str, Number]) -> Confusion:
    tp, fp, tn, fn = _counts(numbers["confusion"])
    of_positives, of_negatives = (float(effect) for effect in numbers["design_effects"])  # type: ignore[union-attr]
    if not (1 <= of_positives <= most_repetition(tp + fn) and 1 <= of_negatives <= most_repetition(tn + fp)):
        raise ValueError("a design effect is at least 1, and no larger than its units allow")
    return Confusion(
        tp=tp, fp=fp, tn=tn, fn=fn, positives_design_effect=of_positives, negatives_design_effect=of_negatives
    )


def _fraction(value: Number) -> float:
    fraction = float(value)  # type: ignore[arg-type]  # a list raises, as the caller says
    if not 0 <= fraction <= 1:
        raise ValueError("a Brier score lies within [0, 1]")
    return fraction


def _counts(values: object) -> list[int]:
    if not isinstance(values, list) or not all(isinstance(value, int) and value >= 0 for value in values):
        raise ValueError("counts are whole numbers of at least 0")
    return values
