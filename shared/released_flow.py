"""Patients and exams of one site by split and class, and what was excluded: the counts that may leave it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

SUPPRESSED = -1
"""How a suppressed count is written on the wire. In memory it is None: suppressed is never zero."""

REASON = re.compile("[a-z][a-z0-9_]{0,39}")
"""The form of a code for why a file was left out."""

KNOWN_REASONS = frozenset(
    (
        *("no_access", "empty", "not_dicom", "malformed", "truncated", "no_pixels", "unsupported_object"),
        *("undecodable", "too_large", "not_finite", "no_spacing", "no_patient", "wrong_modality"),
        *("duplicate_image", "no_label_row", "unreadable_label", "not_one_class", "conflicting_labels"),
        *("not_labelled", "withdrawn", "came_later", "localizer", "screenshot", "reformat"),
    )
)
"""The codes that sites of this version count by (client/patient_flow.py, FILE_REASONS)."""

ANOTHER_REASON = "another_reason"
"""Stands in a report for all codes that this version does not know: no site can write a sentence there."""

MOST_REASONS = 100

Count = int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """Patients and exams with and without one target, in one split; all suppressed together or not at all."""

    positive_patients: Count
    negative_patients: Count
    positive_exams: Count
    negative_exams: Count

    @property
    def all(self) -> tuple[Count, ...]:
        """The four counts."""
        return (self.positive_patients, self.negative_patients, self.positive_exams, self.negative_exams)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCounts:
    """Patients and exams of one split, and by target in the study's order."""

    patients: Count
    exams: Count
    classes: tuple[ClassCounts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedFlow:
    """What a site says of its patients: files found, exclusions by reason, and the splits by name."""

    found: Count
    excluded: Mapping[str, Count]
    splits: Mapping[str, SplitCounts]

    def to_numbers(self) -> dict[str, Any]:
        """Write the flow as the numbers of a Flower MetricRecord; a suppressed count is SUPPRESSED."""
        numbers: dict[str, Any] = {"found": _written([self.found])[0]}
        numbers |= {f"excluded/{reason}": _written([count])[0] for reason, count in self.excluded.items()}
        for name, split in self.splits.items():
            numbers[f"split/{name}"] = _written([split.patients, split.exams])
            for place, counts in enumerate(split.classes):
                numbers[f"split/{name}/{place}"] = _written(counts.all)
        return numbers

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Self:
        """Read what `to_numbers` wrote.

        Raises:
            KeyError, TypeError, ValueError: a number is missing or is no count.
        """
        excluded = [key.removeprefix("excluded/") for key in numbers if key.startswith("excluded/")]
        if len(excluded) > MOST_REASONS or not all(map(REASON.fullmatch, excluded)):
            raise ValueError("an exclusion has a reason that is no code")
        names = [key.split("/")[1] for key in numbers if key.startswith("split/") and key.count("/") == 1]
        return cls(
            found=_read([numbers["found"]])[0],
            excluded={reason: _read([numbers[f"excluded/{reason}"]])[0] for reason in excluded},
            splits={name: _split(numbers, name) for name in names},
        )


def _split(numbers: Mapping[str, Any], name: str) -> SplitCounts:
    patients, exams = _read(numbers[f"split/{name}"])
    places = sum(key.startswith(f"split/{name}/") for key in numbers)
    classes = (_read(numbers[f"split/{name}/{place}"]) for place in range(places))
    return SplitCounts(
        patients=patients,
        exams=exams,
        classes=tuple(
            ClassCounts(positive_patients=pp, negative_patients=np, positive_exams=pe, negative_exams=ne)
            for pp, np, pe, ne in classes
        ),
    )


def _written(counts: Iterable[Count]) -> list[int]:
    return [SUPPRESSED if count is None else count for count in counts]


def _read(values: Iterable[Any]) -> list[Count]:
    values = list(values)
    if not all(isinstance(value, int) and value >= SUPPRESSED for value in values):
        raise ValueError("a count is a whole number of at least 0, or suppressed")
    return [None if value == SUPPRESSED else value for value in values]
