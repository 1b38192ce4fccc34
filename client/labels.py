"""Join the label table to the image index and account for every unmatched row.

A label is 1 (present), 0 (absent) or NaN (not assessed).
"""

import math
import unicodedata
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.assessed import not_assessed
from client.changed_keys import ChangedKeys
from client.identifiers import spelled
from client.label_table import read_table
from client.patient_flow import Exclusion, FileReason, RowFate, RowReason
from shared.errors import SiteError
from shared.plain_text import seen

Labels = tuple[float, ...]
"""One value a target, in the study's order: 0, 1 or NaN."""

POSITIVE = frozenset({"1", "1.0", "true", "yes", "y", "positive"})
NEGATIVE = frozenset({"0", "0.0", "false", "no", "n", "negative"})
NOT_ASSESSED = frozenset({"", "nan", "na", "n/a", "null"})
UNCERTAIN = frozenset({"-1", "-1.0", "uncertain"})
KNOWN_WORDS = POSITIVE | NEGATIVE | NOT_ASSESSED | UNCERTAIN


class _Unusable(Exception):  # noqa: N818  it is caught below, in the row that it ends
    def __init__(self, reason: RowReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One row of the table: its number in a spreadsheet (1 is the header), and why it is not used, if it is not."""

    number: int
    key: str = field(repr=False)
    labels: Labels
    patient: str = field(default="", repr=False)
    uncertain: bool = False
    reason: RowReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What the table says of one image: labels, whose it is and the place of their row, or why there are none."""

    labels: Labels
    row: int | None
    reason: FileReason | None
    patient: str = field(default="", repr=False)


def read_labels(
    path: Path,
    *,
    key: str,
    columns: Mapping[str, str],
    targets: Sequence[str],
    exclusive: bool,
    patient: str | None = None,
    sheet: str | None = None,
    private: bool = False,
) -> list[LabelRow]:
    """Read the label table. With `exclusive`, all classes may share one column that holds the class's name.

    Args:
        path: the table.
        key: name of the column to join on.
        columns: target -> column; a target without one was not assessed.
        targets: the study's targets, which give `labels` their order.
        exclusive: exactly one target holds (classes), instead of any number (findings).
        patient: name of the column that says whose the images are; None where the table doesn't.
        sheet: the one to read of a workbook with several.
        private: True under [privacy]: no row has a part in another.

    Raises:
        SiteError: no target has a column, or the table has no such column; the nearest one is named.
        DataError: as `read_table`.
    """
    table = read_table(path, sheet=sheet, private=private)
    places = [table.place(columns[target]) if target in columns else None for target in targets]
    if not any(place is not None for place in places):
        raise SiteError(
            f"[data.findings] has none of the study's {', '.join(targets)}. Say in which column of the table they are."
            + "".join(f"\n{line}" for line in not_assessed(targets, columns))
        )
    key_place, width = table.place(key), len(table.header)
    read = _reader(places, targets, exclusive=exclusive)
    rows = [_row(number, cells, width, key_place, read, len(targets)) for number, cells in table.rows]
    if patient is None:
        return rows
    place = table.place(patient)
    return [
        replace(row, patient=cells[place].strip() if len(cells) == width else "")
        for row, (_, cells) in zip(rows, table.rows, strict=True)
    ]


def join(
    rows: Sequence[LabelRow],
    keys: Sequence[str | None],
    *,
    by_path: bool,
    ids: Sequence[Container[str]] | None = None,
) -> tuple[list[Match], list[RowFate]]:
    """Give each image its labels, and each row its fate; rows of one key and patient that agree are read as one.

    Two rows agree if no target is present in one and absent in the other. `keys` has one entry an image: its value of
    what is joined on, None or "" where it has none. `ids` has under what an image's patient may stand in the table:
    where the rows of its key name several patients, those of its own are its rows. The fate of a row that has labelled
    an image is None.

    Invariant: an image's labels depend on its own key and ID and the table, and on no other image; and on the rows of
    another patient only where its ID does not tell whose it is.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for place, row in enumerate(rows):
        of_key = groups.setdefault(path_key(row.key) if by_path else row.key, {})
        of_key.setdefault(spelled(row.patient), []).append(place)
    asked = [_written(key, groups) if by_path and key else key for key in keys]
    found: dict[tuple[str, str | None], Match] = {}
    fates: dict[int, RowReason | None] = {}
    matches = []
    for key, own in zip(asked, ids or [()] * len(asked), strict=True):
        if not key or key not in groups:
            matches.append(Match(labels=(), row=None, reason=Exclusion.NO_LABEL_ROW))
            continue
        patient = _whose_rows(groups[key], own)
        if (key, patient) not in found:
            found[key, patient], told = _agreement(rows, groups[key], patient)
            fates = told | fates if patient is None else fates | told
        matches.append(found[key, patient])
    changed = ChangedKeys(keys)
    return matches, [
        RowFate(
            number=row.number,
            reason=fates[place] if place in fates else row.reason or changed.reason(row.key) or RowReason.NO_IMAGE,
            uncertain=row.uncertain,
        )
        for place, row in enumerate(rows)
    ]


def path_key(path: str) -> str:
    """Write a path that is relative to the DICOM folder in one way, whatever system it comes from.

    macOS writes names decomposed (NFD), tables have them composed: both become composed (Unicode UAX #15), and lose
    what shows nothing, as all of a table does.
    """
    return unicodedata.normalize("NFC", seen(path).strip().replace("\\", "/").removeprefix("./"))


Reader = Callable[[Sequence[str]], tuple[Labels, bool]]
"""A row's cells -> its labels, and whether one of them is uncertain; raises _Unusable."""


def _reader(places: Sequence[int | None], targets: Sequence[str], *, exclusive: bool) -> Reader:
    """Choose how a row is read: class names in one column, one-of-many marks, or independent findings."""
    shared = [place for place in places if place is not None]
    if exclusive and len(shared) > 1 and len(set(shared)) == 1:
        return lambda cells: _named_class(cells[shared[0]], targets)
    if exclusive:
        return lambda cells: _marked_class(*_findings(cells, places))
    return lambda cells: _findings(cells, places)


def _row(number: int, cells: Sequence[str], width: int, key_place: int, read: Reader, targets: int) -> LabelRow:
    unread = LabelRow(number=number, key="", labels=(math.nan,) * targets)
    if len(cells) != width:
        return replace(unread, reason=RowReason.RAGGED_ROW)
    key = cells[key_place].strip()
    if not key:
        return replace(unread, reason=RowReason.NO_KEY)
    try:
        labels, uncertain = read(cells)
    except _Unusable as fault:
        return replace(unread, key=key, reason=fault.reason)
    return LabelRow(number=number, key=key, labels=labels, uncertain=uncertain)


def _findings(cells: Sequence[str], places: Sequence[int | None]) -> tuple[Labels, bool]:
    words = ["" if place is None else cells[place].strip().lower() for place in places]
    return tuple(_value(word) for word in words), any(word in UNCERTAIN for word in words)


def _value(word: str) -> float:
    if word in POSITIVE:
        return 1.0
    if word in NEGATIVE:
        return 0.0
    if word in NOT_ASSESSED or word in UNCERTAIN:
        return math.nan
    raise _Unusable(RowReason.UNREADABLE_LABEL)


def _marked_class(labels: Labels, uncertain: bool) -> tuple[Labels, bool]:
    """Read one mark a class: one 1 settles all; none of all is an error, none of some is not assessed."""
    marked = labels.count(1.0)
    if marked > 1 or not (marked or any(map(math.isnan, labels))):
        raise _Unusable(RowReason.NOT_ONE_CLASS)
    if marked:
        return tuple(float(label == 1) for label in labels), uncertain
    return (math.nan,) * len(labels), uncertain


def _named_class(cell: str, targets: Sequence[str]) -> tuple[Labels, bool]:
    name = cell.strip()
    same = [target for target in targets if target == name] or [
        target for target in targets if target.casefold() == name.casefold()
    ]
    if len(same) == 1:
        return tuple(float(target == same[0]) for target in targets), False
    if name.lower() in NOT_ASSESSED | UNCERTAIN:
        return (math.nan,) * len(targets), name.lower() in UNCERTAIN
    raise _Unusable(RowReason.UNREADABLE_LABEL)


def _written(path: str, rows: Container[str]) -> str:
    """Find an image's path among the rows', with or without the suffix .dcm; the exact one comes first."""
    stem = path[:-4] if path.lower().endswith(".dcm") else path
    return next((form for form in (path, stem, stem + ".dcm", stem + ".DCM") if form in rows), path)


def _whose_rows(of_key: Mapping[str, Sequence[int]], ids: Container[str]) -> str | None:
    """Say which patient's rows of a key are an image's; None where several are named and its ID is not one of them."""
    if len(of_key) == 1:
        return next(iter(of_key))
    own = [patient for patient in of_key if patient and patient in ids]
    return own[0] if len(own) == 1 else None


def _agreement(
    rows: Sequence[LabelRow], of_key: Mapping[str, Sequence[int]], patient: str | None
) -> tuple[Match, dict[int, RowReason | None]]:
    """Make one answer of a patient's rows of a key, all of which contradict each other if it is not known whose.

    Also the fates of those rows that could be read.
    """
    places = [place for own in of_key.values() for place in own] if patient is None else of_key[patient]
    readable = [place for place in places if rows[place].reason is None]
    if not readable:
        return Match(labels=(), row=None, reason=_same_code(rows[places[0]].reason)), {}
    values_of_targets = zip(*(rows[place].labels for place in readable), strict=True)
    said = [{value for value in values if not math.isnan(value)} for values in values_of_targets]
    if patient is None or any(len(values) > 1 for values in said) or not any(said):
        reason = RowReason.CONFLICTING_LABELS if any(said) else RowReason.NOT_LABELLED
        return Match(labels=(), row=None, reason=_same_code(reason)), dict.fromkeys(readable, reason)
    labels = tuple(next(iter(values), math.nan) for values in said)
    fates: dict[int, RowReason | None] = dict.fromkeys(readable, RowReason.DUPLICATE_ROW)
    return Match(labels=labels, row=readable[0], reason=None, patient=rows[readable[0]].patient), fates | {
        readable[0]: None
    }


def _same_code(reason: RowReason | None) -> Exclusion:
    """Give the reason for an image that its row has: these codes are in both."""
    return Exclusion(str(reason))
