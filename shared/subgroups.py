"""The groups of patients and devices that a study may report: fixed words, so that no text of a header ever leaves."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.estimates import Estimate, Number
from shared.metrics import Confusion, most_repetition

UNKNOWN = "unknown"
"""What is known of no group: the header is empty, or a unit's images are of several."""

MANUFACTURERS: Final = {
    "agfa": "Agfa",
    "canon": "Canon",
    "carestream": "Carestream",
    "fuji": "Fujifilm",
    "ge ": "GE",
    "general electric": "GE",
    "hologic": "Hologic",
    "konica": "Konica Minolta",
    "philips": "Philips",
    "samsung": "Samsung",
    "shimadzu": "Shimadzu",
    "siemens": "Siemens",
    "toshiba": "Canon",
}
"""How a manufacturer's name (0008,0070) begins in lower case, a space after it; Toshiba's systems are Canon's now."""

AGE_BANDS: Final = {"0 to 17": 18, "18 to 39": 40, "40 to 59": 60, "60 to 79": 80, "80 and over": 999}
"""Each band ends below its number of years."""

VIEWS: Final = {"ap": "AP", "pa": "PA", "ll": "lateral", "rl": "lateral", "lateral": "lateral", "lat": "lateral"}

DEVICES = 9
"""Devices are numbered at each site from the one with the most images on; the rest are together."""

AXES: Final[Mapping[str, tuple[str, ...]]] = {
    "sex": ("female", "male", "other", UNKNOWN),
    "age": (*AGE_BANDS, UNKNOWN),
    "view": ("AP", "PA", "lateral", "other", UNKNOWN),
    "manufacturer": (*sorted(set(MANUFACTURERS.values())), "other", UNKNOWN),
    "device": (*(f"device {number}" for number in range(1, DEVICES + 1)), "other", UNKNOWN),
}
"""What a study can ask for, and every group that it can be answered with."""


SEX_WORDS: Final = {"f": "female", "female": "female", "m": "male", "male": "male", "o": "other", "other": "other"}
"""What is read of sex; no word of another language is guessed at: "Mujer" and "Mulher" begin like "male"."""

_AGE = re.compile(r"(\d{1,3})(?:[.,](\d+))?\s*(d|days?|w|weeks?|m|months?|y|years?)?")
_AGES_A_YEAR: Final = {"d": 365.25, "w": 52.18, "m": 12.0, "y": 1.0}


def sex_group(word: str) -> str:
    """Read a patient's sex (0010,0040), or a table's word for it."""
    return SEX_WORDS.get(word.strip().lower(), UNKNOWN)


def age_group(word: str) -> str:
    """Read an age string (0010,1010; PS3.5 6.2: 045Y, 011M), or a table's years: 45, 45.0, 45.5, "11 months"."""
    found = _AGE.fullmatch(word.strip().lower()) if word.isascii() else None
    if not found:
        return UNKNOWN
    years = float(f"{found[1]}.{found[2] or 0}") / _AGES_A_YEAR[(found[3] or "y")[0]]
    return next((band for band, end in AGE_BANDS.items() if years < end), UNKNOWN)


def view_group(word: str) -> str:
    """Read a view position (0018,5101), or a table's word for it."""
    text = word.strip().lower()
    return VIEWS.get(text, "other") if text else UNKNOWN


def manufacturer_group(word: str) -> str:
    """Read a manufacturer (0008,0070); one that is not known by name is "other", and its name stays at the site."""
    text = word.strip().lower()
    known = (name for start, name in MANUFACTURERS.items() if f"{text} ".startswith(start))
    return next(known, "other") if text else UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEvidence:
    """Counts at the shared threshold over the units of one group, and AUC on their exact scores."""

    axis: str
    group: str
    positive_patients: int
    negative_patients: int
    confusion: Confusion
    auc: Estimate | None

    def __post_init__(self) -> None:
        """Refuse a word that is none of the fixed ones.

        Raises:
            ValueError: axis or group is not in AXES.
        """
        if self.group not in AXES.get(self.axis, ()):
            raise ValueError("a group is none of the known ones")


PREFIX = "subgroup/"


def groups_to_numbers(groups: tuple[GroupEvidence, ...]) -> dict[str, Number]:
    """Write groups as numbers of a Flower MetricRecord, one list a group."""
    numbers: dict[str, Number] = {}
    for one in groups:
        at = one.confusion
        counts = (one.positive_patients, one.negative_patients, at.tp, at.fp, at.tn, at.fn)
        effects = (at.positives_design_effect, at.negatives_design_effect)
        auc = one.auc.to_list() if one.auc else []
        numbers[f"{PREFIX}{one.axis}/{one.group}"] = [*map(float, counts), *effects, *auc]
    return numbers


def groups_from_numbers(numbers: Mapping[str, Number]) -> tuple[GroupEvidence, ...]:
    """Read what `groups_to_numbers` wrote.

    Raises:
        TypeError, ValueError: a word or number is not of the known form.
    """
    return tuple(_group(name, values) for name, values in numbers.items() if name.startswith(PREFIX))


def _group(name: str, values: Number) -> GroupEvidence:
    axis, _, group = name.removeprefix(PREFIX).partition("/")
    if not isinstance(values, list) or len(values) not in (8, 11):
        raise ValueError("a group's numbers are eight or eleven")
    counts = [int(value) for value in values[:6]]
    if [float(count) for count in counts] != [float(value) for value in values[:6]] or min(counts) < 0:
        raise ValueError("a group's counts are whole numbers of at least 0")
    positive, negative, tp, fp, tn, fn = counts
    effects = [float(value) for value in values[6:8]]
    if not all(1 <= one <= most_repetition(units) for one, units in zip(effects, (tp + fn, tn + fp), strict=True)):
        raise ValueError("a design effect is at least 1, and no larger than its units allow")
    for patients, units in ((positive, tp + fn), (negative, tn + fp)):
        if patients > units or bool(patients) != bool(units):
            raise ValueError("there are more patients in a group than units, or none")
    if (len(values) == 11) != bool(positive and negative):
        raise ValueError("an AUC is missing, or is one of a single class")
    return GroupEvidence(
        axis=axis,
        group=group,
        positive_patients=positive,
        negative_patients=negative,
        confusion=Confusion(
            tp=tp, fp=fp, tn=tn, fn=fn, positives_design_effect=effects[0], negatives_design_effect=effects[1]
        ),
        auc=Estimate.from_list([float(value) for value in values[8:]]) if len(values) == 11 else None,
    )
