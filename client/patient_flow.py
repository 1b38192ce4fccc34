"""The patient-flow table: every file and every label row of one site, used or left out for one countable reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from client.refusals import Reason
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.split import Split


class Exclusion(StrEnum):
    """Why a readable image is left out of a study; codes that, like those of `Reason`, are counted and may leave."""

    DUPLICATE_IMAGE = "duplicate_image"
    NO_LABEL_ROW = "no_label_row"
    UNREADABLE_LABEL = "unreadable_label"
    NOT_ONE_CLASS = "not_one_class"
    CONFLICTING_LABELS = "conflicting_labels"
    NOT_LABELLED = "not_labelled"
    WITHDRAWN = "withdrawn"
    CAME_LATER = "came_later"
    LOCALIZER = "localizer"
    SCREENSHOT = "screenshot"
    REFORMAT = "reformat"

    @property
    def sentence(self) -> str:
        """What was found and what to do about it, without a word from the file."""
        return _EXCLUSIONS[self]


class RowReason(StrEnum):
    """Why a row of the label table is not used."""

    RAGGED_ROW = "ragged_row"
    NO_KEY = "no_key"
    UNREADABLE_LABEL = "unreadable_label"
    NOT_ONE_CLASS = "not_one_class"
    NO_IMAGE = "no_image"
    CONFLICTING_LABELS = "conflicting_labels"
    NOT_LABELLED = "not_labelled"
    DUPLICATE_ROW = "duplicate_row"
    IMAGE_EXCLUDED = "image_excluded"
    KEY_IN_SCIENTIFIC_NOTATION = "key_in_scientific_notation"
    KEY_WITHOUT_ZEROS = "key_without_zeros"
    KEY_WITH_DECIMALS = "key_with_decimals"
    KEY_AS_FORMULA = "key_as_formula"
    KEY_ROUNDED = "key_rounded"

    @property
    def sentence(self) -> str:
        """What was found and what to do about it, without a word from the table."""
        return _ROWS[self]


FileReason = Reason | Exclusion
"""Why a file is left out; no code is in both."""

FILE_REASONS: tuple[FileReason, ...] = (*Reason, *Exclusion)

_UNREADABLE_LABEL = "A value is neither 0/1, true/false, yes/no, y/n, positive/negative nor a class. Correct it."
_NOT_ONE_CLASS = "Not exactly one of the study's classes is marked. Mark the one that holds."

_EXCLUSIONS = {
    Exclusion.DUPLICATE_IMAGE: "An image is in the folder more than once (same SOPInstanceUID); one copy is kept.",
    Exclusion.NO_LABEL_ROW: "No row of the label table belongs to this image. Add one, or nothing to do.",
    Exclusion.UNREADABLE_LABEL: _UNREADABLE_LABEL,
    Exclusion.NOT_ONE_CLASS: _NOT_ONE_CLASS,
    Exclusion.CONFLICTING_LABELS: "Label rows for one exam contradict each other. Correct them.",
    Exclusion.NOT_LABELLED: "None of the study's findings was assessed. Nothing to do.",
    Exclusion.WITHDRAWN: "The patient was withdrawn from all studies. Nothing to do.",
    Exclusion.CAME_LATER: (
        "The patient was not there when this study's patients were first counted for its coordinator. Nothing to do."
    ),
    Exclusion.LOCALIZER: "An image is the scanner's localizer. Nothing to do; a study reads it by objects = 'all'.",
    Exclusion.SCREENSHOT: (
        "An image was captured, as screenshots and dose sheets are. Nothing to do; a study reads it by objects = 'all'."
    ),
    Exclusion.REFORMAT: (
        "An image was made of the exam's own images (a reformat, a projection, a protocol). "
        "Nothing to do; a study reads it by objects = 'all'."
    ),
}

_ROWS = {
    RowReason.RAGGED_ROW: (
        "A row has more or fewer cells than the table has columns, a quotation mark out of place or, in a private "
        "study, a line break in a cell. Correct it, or give the table as a workbook (.xlsx)."
    ),
    RowReason.NO_KEY: "A row does not say to which image it belongs. Fill in the key column.",
    RowReason.UNREADABLE_LABEL: _UNREADABLE_LABEL,
    RowReason.NOT_ONE_CLASS: _NOT_ONE_CLASS,
    RowReason.NO_IMAGE: "No image in the folder belongs to this row. Check the key, or export the exam.",
    RowReason.CONFLICTING_LABELS: "Rows for one exam contradict each other. Correct them.",
    RowReason.NOT_LABELLED: "None of the study's findings was assessed. Nothing to do.",
    RowReason.DUPLICATE_ROW: "Another row says the same of the same image or exam. Nothing to do.",
    RowReason.KEY_IN_SCIENTIFIC_NOTATION: (
        "A spreadsheet wrote the key in scientific notation (as 1.2E+15), and digits are lost. "
        "Export the table again with the key as text."
    ),
    RowReason.KEY_WITHOUT_ZEROS: (
        "The key differs from an image's by leading zeros alone, which spreadsheets take away. "
        "Export the table again with the key as text."
    ),
    RowReason.KEY_WITH_DECIMALS: (
        "The key is an image's with decimals (as .0) or grouped digits, as programs write numbers. "
        "Export the table again with the key as text."
    ),
    RowReason.KEY_AS_FORMULA: (
        "The key is an image's inside a spreadsheet's formula or behind its apostrophe (as =\"1\"). "
        "Write the key alone."
    ),
    RowReason.KEY_ROUNDED: (
        "The key has zeros behind its first 15 digits, where a spreadsheet lost an image's own. "
        "Export the table again with the key as text."
    ),
    RowReason.IMAGE_EXCLUDED: "All images of this row are left out for reasons of their own: see the files.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFate:
    """What became of one file: kept if `reason` is None. `patient` is None where the file does not say whose it is.

    `row` is the place in the table's fates of the label row that gave the file its labels.
    """

    relative: str = field(repr=False)
    patient: int | None = field(repr=False)
    row: int | None
    reason: FileReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFate:
    """What became of one row of the label table; `number` is its row in a spreadsheet, where 1 is the header."""

    number: int
    reason: RowReason | None
    uncertain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStep:
    """Files that were left out for one reason, and of how many patients they are as far as the files say.

    `nameless` are those of the files that do not say whose they are.
    """

    reason: FileReason
    files: int
    patients: int
    nameless: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStep:
    """Label rows that were not used for one reason; `where` are their rows in a spreadsheet."""

    reason: RowReason
    rows: int
    where: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedFlow(ReleasedFlow):
    """The same at the site itself, where it is known of how many patients an exclusion is; that does not leave.

    A file that does not say whose it is counts as a patient of its own.
    """

    excluded_patients: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientFlow:
    """The whole account, exact and without an identifier; the steps are those that occurred.

    Invariants: `files` = `files_kept` + the files of all `steps`; `rows` = `rows_used` + the rows of all `row_steps`.
    `uncertain_rows` are rows with a value -1 or "uncertain", which counts as not assessed. `images` is by split.
    """

    files: int
    files_kept: int
    steps: tuple[FlowStep, ...]
    rows: int
    rows_used: int
    row_steps: tuple[RowStep, ...]
    uncertain_rows: int
    images: Mapping[Split, int]
    splits: Mapping[Split, SplitCounts]

    def counts(self) -> CountedFlow:
        """Give what may leave once the guard has suppressed what is small; still exact here."""
        excluded = {step.reason: step.files for step in self.steps}
        return CountedFlow(
            found=self.files,
            excluded={reason.value: excluded.get(reason, 0) for reason in FILE_REASONS},
            splits={split.value: counts for split, counts in self.splits.items()},
            excluded_patients={step.reason.value: step.patients + step.nameless for step in self.steps},
        )

    def in_words(self) -> str:
        """List what was left out, a line a reason, for an error message; no name and no value."""
        lines = [f"{step.files} of {self.files} files: {step.reason.sentence}" for step in self.steps]
        lines += [f"{step.rows} of {self.rows} label rows: {step.reason.sentence}" for step in self.row_steps]
        return "\n".join(lines)


def account(
    *,
    files: Sequence[FileFate],
    rows: Sequence[RowFate],
    split_N: npt.NDArray[np.str_],
    patients_N: npt.NDArray[np.int64],
    exams_N: npt.NDArray[np.int64],
    labels_NK: npt.NDArray[np.float32],
) -> PatientFlow:
    """Draw up the account of all files and rows, and of the N images that are kept."""
    by_reason = _rows_by_reason(files, rows)
    of_split = {split: split_N == split.value for split in Split}
    return PatientFlow(
        files=len(files),
        files_kept=sum(file.reason is None for file in files),
        steps=_file_steps(files),
        rows=len(rows),
        rows_used=len(by_reason.get(None, ())),
        row_steps=tuple(
            RowStep(reason=reason, rows=len(by_reason[reason]), where=tuple(by_reason[reason]))
            for reason in RowReason
            if reason in by_reason
        ),
        uncertain_rows=sum(row.uncertain for row in rows),
        images={split: int(mask.sum()) for split, mask in of_split.items()},
        splits={
            split: _split_counts(patients_N[mask], exams_N[mask], labels_NK[mask]) for split, mask in of_split.items()
        },
    )


def _file_steps(files: Sequence[FileFate]) -> tuple[FlowStep, ...]:
    counts = Counter(file.reason for file in files)
    nameless = Counter(file.reason for file in files if file.patient is None)
    patients = Counter(
        reason for reason, _ in {(file.reason, file.patient) for file in files if file.patient is not None}
    )
    return tuple(
        FlowStep(reason=reason, files=counts[reason], patients=patients[reason], nameless=nameless[reason])
        for reason in FILE_REASONS
        if counts[reason]
    )


def _rows_by_reason(files: Sequence[FileFate], rows: Sequence[RowFate]) -> dict[RowReason | None, list[int]]:
    """Sort the rows' numbers by reason; a row without one of its own is used if an image that it labels is kept."""
    used = {file.row for file in files if file.reason is None}
    numbers: dict[RowReason | None, list[int]] = {}
    for place, row in enumerate(rows):
        reason = row.reason or (None if place in used else RowReason.IMAGE_EXCLUDED)
        numbers.setdefault(reason, []).append(row.number)
    return numbers


def _split_counts(
    patients_N: npt.NDArray[np.int64], exams_N: npt.NDArray[np.int64], labels_NK: npt.NDArray[np.float32]
) -> SplitCounts:
    return SplitCounts(
        patients=len(np.unique(patients_N)),
        exams=len(np.unique(exams_N)),
        classes=tuple(_class_counts(patients_N, exams_N, labels_N) for labels_N in labels_NK.T),
    )


def _class_counts(
    patients_N: npt.NDArray[np.int64], exams_N: npt.NDArray[np.int64], labels_N: npt.NDArray[np.float32]
) -> ClassCounts:
    positive_exams, negative_exams = _class_exams(exams_N, labels_N)
    positive_patients, negative_patients = class_patients(patients_N, exams_N, labels_N)
    return ClassCounts(
        positive_patients=len(positive_patients),
        negative_patients=len(negative_patients),
        positive_exams=len(positive_exams),
        negative_exams=len(negative_exams),
    )


def class_patients(
    patients_N: npt.NDArray[np.int64], exams_N: npt.NDArray[np.int64], labels_N: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Say whom the flow counts as having a target and as not having it: a patient for each class of its exams."""
    positive, negative = (np.isin(exams_N, exams) for exams in _class_exams(exams_N, labels_N))
    return np.unique(patients_N[positive]), np.unique(patients_N[negative])


def _class_exams(
    exams_N: npt.NDArray[np.int64], labels_N: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give the exams of which an image is positive, and those of which one is negative and none positive."""
    positive = np.unique(exams_N[labels_N == 1])
    return positive, np.setdiff1d(exams_N[labels_N == 0], positive)
