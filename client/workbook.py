"""Turn a sheet of a workbook (.xlsx) into rows of text cells: what was stored, with nothing computed or fetched.

A workbook is a hostile file until it is read: the size that it unpacks to, its rows and its cells are bounded, and
document types, by which entities multiply, are refused (ECMA-376-2:2021, 8.4.2 forbids them).
"""

import datetime
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from client.table_text import Row
from shared.errors import DataError, MissingPartError, PolyclinicError, SiteError
from shared.plain_text import seen

MOST_BYTES = 512 << 20
"""What all parts of a workbook may unpack to: a million rows of ten cells."""

MOST_ROWS = 1 << 20
"""Rows of a sheet in Excel."""

MOST_CELLS = 50_000_000

_FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
_MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"<\x00", b"\x00<")
_CHUNK, _OVERLAP = 1 << 20, 64

DATE = "a date, which a spreadsheet shows in many ways, also where a number or a text was typed"
ERROR = "an error of the spreadsheet"
NOT_COMPUTED = "a formula without its result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What makes a column unusable: a cell that is no text, number or yes and no; the first of how many."""

    row: int
    kind: str
    cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """The rows that are not empty, the first of them the header, and what is wrong with a column, by its place."""

    rows: tuple[Row, ...] = field(repr=False)
    faults: dict[int, Fault]


def read_workbook(content: bytes, name: str, *, sheet: str | None) -> Sheet:
    """Read the sheet of this name, or the only one that is not empty.

    Whole numbers become their digits, other numbers the 15 digits that a spreadsheet keeps, truth values TRUE or FALSE.

    Raises:
        MissingPartError: openpyxl is not installed.
        SiteError: no sheet has the name, or several have cells and none was named.
        DataError: it is too large, empty or no readable workbook.
    """
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise MissingPartError(
            f"[data] labels: {name} is a workbook, which needs openpyxl, which is not installed. "
            "pip install 'polyclinic[xlsx]', or save it as 'CSV UTF-8'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's quote cells
            formulas = _examined(content, name)

            def sheets(*, results: bool) -> list[Any]:
                book = openpyxl.load_workbook(
                    io.BytesIO(content), read_only=True, data_only=results, keep_links=False, keep_vba=False
                )
                for one in book.worksheets:
                    one.reset_dimensions()  # what a file says of its size may be wrong
                return list(book.worksheets)

            found = sheets(results=True)
            place = _chosen(found, name, sheet)
            return _read(found[place], sheets(results=False)[place] if formulas else None, name)
    except PolyclinicError:
        raise
    except Exception as fault:  # openpyxl lets through whatever its parsers raise
        raise DataError(
            f"[data] labels: {name} is a workbook that cannot be read ({type(fault).__name__}). "
            "Save it as .xlsx again, or as 'CSV UTF-8'."
        ) from None


def _examined(content: bytes, name: str) -> bool:
    """Refuse what would grow beyond bounds when it is read; tell whether there are formulas."""
    formulas = False
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(part.file_size for part in archive.infolist()) > MOST_BYTES:
            raise DataError(
                f"[data] labels: {name} unpacks to more than {MOST_BYTES >> 20} MiB. "
                "Remove what is no label table from it, or save it as 'CSV UTF-8'."
            )
        for part in archive.infolist():
            before = b""
            with archive.open(part) as file:
                while chunk := file.read(_CHUNK):
                    text = before[-_OVERLAP:] + chunk
                    if b"<!DOCTYPE" in text or (not before and text.startswith(_MARKS_OF_UTF_16)):
                        raise DataError(
                            f"[data] labels: {name} has a document type or an encoding that no spreadsheet writes. "
                            "It is not read. Save it as 'CSV UTF-8'."
                        )
                    formulas = formulas or bool(_FORMULA.search(text))
                    before = chunk
    return formulas


def _chosen(sheets: Sequence[Any], name: str, sheet: str | None) -> int:
    """Give the place of the sheet to be read."""
    if sheet is not None:
        named = [place for place, one in enumerate(sheets) if one.title.strip().casefold() == sheet.strip().casefold()]
        if not named:
            raise SiteError(
                f"[data] sheet: {name} has no sheet '{sheet}' among its {len(sheets)}. Correct it in site.toml."
            )
        return named[0]
    filled = [place for place, one in enumerate(sheets) if any(_is_filled(cells) for cells in _bounded(one, name))]
    if not filled:
        raise DataError(f"[data] labels: {name} is empty. Export the table again.")
    if len(filled) > 1:
        raise SiteError(
            f"[data] labels: {name} has {len(filled)} sheets that are not empty, hidden ones included. "
            "Say in site.toml, as [data] sheet, which is the label table; or save that one alone."
        )
    return filled[0]


def _bounded(sheet: Any, name: str) -> Iterator[Sequence[Any]]:
    """Yield each row, the empty ones between others too, as long as they are not too many."""
    cells = 0
    for number, row in enumerate(sheet.iter_rows(), start=1):
        cells += len(row)
        if number > MOST_ROWS or cells > MOST_CELLS:
            raise DataError(
                f"[data] labels: {name}, row {number}: more cells than a label table has. "
                "Remove what stands beside and below the table, formats too, or save it as 'CSV UTF-8'."
            )
        yield row


def _is_filled(cells: Iterable[Any]) -> bool:
    return any(cell.value is not None and str(cell.value).strip() for cell in cells)


def _read(sheet: Any, with_formulas: Any | None, name: str) -> Sheet:
    """Read all rows; the second reading, where there is one, has formulas where the first has their results."""
    formulas = iter(()) if with_formulas is None else _bounded(with_formulas, name)
    rows: list[Row] = []
    faults: dict[int, Fault] = {}
    for number, cells in enumerate(_bounded(sheet, name), start=1):
        typed = next(formulas, ())
        kinds = {place: kind for place, cell in enumerate(cells) if (kind := _kind(cell, typed[place : place + 1]))}
        unusable = "?" if rows else ""  # no column is called after a date; elsewhere the cell is seen to be one
        texts = [unusable if place in kinds else _text(cell.value) for place, cell in enumerate(cells)]
        while texts and not texts[-1].strip():
            texts.pop()
        if not texts:
            continue
        if rows:
            texts += [""] * (len(rows[0][1]) - len(texts))
            for place, kind in kinds.items():
                first = faults.get(place, Fault(row=number, kind=kind, cells=0))
                faults[place] = replace(first, cells=first.cells + 1)
        rows.append((number, texts))
    if not rows:
        raise DataError(f"[data] labels: {name}: the sheet is empty. Export the table again.")
    return Sheet(rows=tuple(rows), faults=faults)


def _kind(cell: Any, typed: Sequence[Any]) -> str | None:
    """Say what a cell holds that is neither text nor number nor truth; None where it is one of them, or empty."""
    if cell.data_type == "e":
        return ERROR
    if isinstance(cell.value, datetime.date | datetime.time | datetime.timedelta):
        return DATE
    # A result that is an empty text has the type `str`; one that was never computed has none.
    if cell.value is None and cell.data_type == "n" and any(one.data_type == "f" for one in typed):
        return NOT_COMPUTED
    return None


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "TRUE" if value else "FALSE"
        case float():
            return f"{Decimal(f'{value:.15g}') or 0:f}"
        case _:
            return seen(str(value))
