"""How one site's images look: what its guard lets out of features, brightness and corners, as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.estimates import Number
from shared.evidence import Withheld
from shared.feature_summary import LEAST_DIMENSIONS, FeatureSummary, dimensions
from shared.intensity import BINS, IntensitySummary
from shared.split import Split

LARGEST = 1e12
"""No feature, logit, distance or covariance is beyond this: sums and products of such numbers stay finite."""

CORNERS = ("upper left", "upper right", "lower left", "lower right")


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerEffect:
    """How far blanking one corner brings the classes together, over validation images of one finding.

    `value` is the mean fall of the logit of positives minus that of negatives: above 0, what lies in that corner speaks
    for the disease. `error` is its standard error with patients as clusters, `freedom` its degrees of freedom. `auc` is
    the area on the images as they are, `auc_without` that on the blanked ones.
    """

    value: float
    error: float
    freedom: int
    auc: float
    auc_without: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerTest:
    """Every corner's effect on one finding, in the order of CORNERS, over the validation patients of each class.

    `effects` is empty where a class has fewer than two patients.
    """

    positive_patients: int
    negative_patients: int
    effects: tuple[CornerEffect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkTest:
    """Whether one finding goes with what stands out in each corner of the images, whatever the model does with it.

    `areas` holds in the order of CORNERS, one image a patient, the share of pairs of a patient with and one without the
    finding in which the brightest of the corner stands out more in the one with it: an AUC. It is empty where a class
    has fewer than two patients. `split` says whose patients they are.
    """

    split: Split
    positive_patients: int
    negative_patients: int
    areas: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One site's images without the disease, and both corner tests of every finding in the study's order."""

    features: FeatureSummary | Withheld
    intensity: IntensitySummary | Withheld
    corners: tuple[CornerTest | Withheld, ...]
    marks: tuple[MarkTest | Withheld, ...]


def description_to_numbers(item: Description) -> dict[str, dict[str, Number]]:
    """Write it as the numbers of Flower MetricRecords by name; what is withheld is the single number `withheld`."""
    return {
        "features": _features_to_numbers(item.features),
        "intensity": {"withheld": 1}
        if isinstance(item.intensity, Withheld)
        else {
            "patients": item.intensity.patients,
            "shares": list(item.intensity.shares),
            "split_null": item.intensity.split_null,
        },
        **{f"corners{place}": _corners_to_numbers(one) for place, one in enumerate(item.corners)},
        **{f"marks{place}": _marks_to_numbers(one) for place, one in enumerate(item.marks)},
    }


def _features_to_numbers(features: FeatureSummary | Withheld) -> dict[str, Number]:
    if isinstance(features, Withheld):
        return {"withheld": 1}
    return {
        "split": _split_to_number(features.split),
        "patients": features.patients,
        "mean": list(features.mean),
        "covariance": list(features.covariance),
        "split_null": list(features.split_null),
    }


def _corners_to_numbers(one: CornerTest | Withheld) -> dict[str, Number]:
    if isinstance(one, Withheld):
        return {"withheld": 1}
    numbers: dict[str, Number] = {"patients": [one.positive_patients, one.negative_patients]}
    for name, effect in zip(CORNERS, one.effects, strict=False):
        numbers[name] = [effect.value, effect.error, float(effect.freedom), effect.auc, effect.auc_without]
    return numbers


def _marks_to_numbers(one: MarkTest | Withheld) -> dict[str, Number]:
    if isinstance(one, Withheld):
        return {"withheld": 1}
    return {
        "split": _split_to_number(one.split),
        "patients": [one.positive_patients, one.negative_patients],
        "areas": list(one.areas),
    }


def _split_to_number(split: Split) -> int:
    return list(Split).index(split)


def description_from_numbers(records: Mapping[str, Mapping[str, Number]]) -> Description:
    """Read what `description_to_numbers` wrote.

    Raises:
        KeyError, TypeError, ValueError: a number is missing, of the wrong kind, or contradicts another.
    """
    corners, marks = (sum(name.startswith(kind) for name in records) for kind in ("corners", "marks"))
    return Description(
        features=_features(records["features"]),
        intensity=_intensity(records["intensity"]),
        corners=tuple(_corners(records[f"corners{place}"]) for place in range(corners)),
        marks=tuple(_marks(records[f"marks{place}"]) for place in range(marks)),
    )


def _features(numbers: Mapping[str, Number]) -> FeatureSummary | Withheld:
    if "withheld" in numbers:
        return Withheld()
    mean, covariance, null = (_finite(numbers[name]) for name in ("mean", "covariance", "split_null"))
    patients, p = _count(numbers["patients"]), len(mean)
    if not LEAST_DIMENSIONS <= p <= dimensions(patients):
        raise ValueError("the features are in more dimensions than their patients bear, or in too few")
    if len(covariance) != p * (p + 1) // 2 or len(null) != p - LEAST_DIMENSIONS + 1 or min(null) < 0:
        raise ValueError("the features' covariance or null is not of their dimensions")
    return FeatureSummary(
        split=_split(numbers["split"]),
        patients=patients,
        mean=mean,
        covariance=covariance,
        split_null=null,
    )


def _intensity(numbers: Mapping[str, Number]) -> IntensitySummary | Withheld:
    if "withheld" in numbers:
        return Withheld()
    shares, (null,) = _finite(numbers["shares"]), _finite([numbers["split_null"]])
    if len(shares) != BINS or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or null < 0:
        raise ValueError("the intensities are no histogram")
    return IntensitySummary(patients=_count(numbers["patients"]), shares=shares, split_null=null)


def _corners(numbers: Mapping[str, Number]) -> CornerTest | Withheld:
    if "withheld" in numbers:
        return Withheld()
    positive, negative = numbers["patients"]  # type: ignore[misc]  # a number raises, as the caller says
    known = [name for name in CORNERS if name in numbers]
    if known and tuple(known) != CORNERS:
        raise ValueError("a corner is missing")
    patients = _count(positive), _count(negative)
    effects = tuple(_effect(_finite(numbers[name])) for name in known)
    if effects and (min(patients) < 2 or any(one.freedom >= sum(patients) for one in effects)):
        raise ValueError("there are effects of too few patients")
    return CornerTest(positive_patients=patients[0], negative_patients=patients[1], effects=effects)


def _effect(numbers: tuple[float, ...]) -> CornerEffect:
    value, error, freedom, auc, without = numbers
    if error < 0 or freedom < 1 or not (0 <= auc <= 1 and 0 <= without <= 1):
        raise ValueError("a corner's effect is out of range")
    return CornerEffect(value=value, error=error, freedom=int(freedom), auc=auc, auc_without=without)


def _marks(numbers: Mapping[str, Number]) -> MarkTest | Withheld:
    if "withheld" in numbers:
        return Withheld()
    positive, negative = numbers["patients"]  # type: ignore[misc]  # a number raises, as the caller says
    areas = _finite(numbers["areas"])
    if len(areas) not in (0, len(CORNERS)) or not all(0 <= one <= 1 for one in areas):
        raise ValueError("the areas are not those of four corners")
    if areas and min(_count(positive), _count(negative)) < 2:
        raise ValueError("there are areas of too few patients")
    return MarkTest(
        split=_split(numbers["split"]),
        positive_patients=_count(positive),
        negative_patients=_count(negative),
        areas=areas,
    )


def _split(value: object) -> Split:
    return Split(dict(enumerate(Split))[_count(value)])


def _finite(values: object) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise TypeError("a list of numbers is not one")
    numbers = tuple(float(value) for value in values)
    if not all(abs(number) <= LARGEST for number in numbers):
        raise ValueError("a figure is not finite, or beyond what there is")
    return numbers


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("counts are whole numbers of at least 0")
    return value
