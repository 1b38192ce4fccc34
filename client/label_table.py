"""Read a table of text cells at its door, or say which row stands in the way.

It is text (CSV) or a workbook. Nothing is guessed: every cell is text, a row that is too long or too short is seen, and
each row keeps its number.
"""

import difflib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.table_text import Row, decoded, rows
from client.workbook import Fault, read_workbook
from shared.errors import DataError, SiteError
from shared.plain_text import seen

_ZIP, _OLD_OR_ENCRYPTED = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Column names, and the rows that are not empty, each with its number in a spreadsheet, where 1 is the header."""

    name: str
    header: tuple[str, ...] = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)
    warning: str = ""
    faults: Mapping[int, Fault] = field(default_factory=dict)

    def place(self, column: str) -> int:
        """Find a column.

        Raises:
            SiteError: there is none of this name; a near one is told.
            DataError: there are several, or a cell of it in a workbook is none that can be used.
        """
        name = as_name(column)
        match self.header.count(name):
            case 0:
                found = f"{self.name} has no column '{column}' among its {len(self.header)}"
                raise SiteError(f"[data] labels: {found}. {self._hint(column)}")
            case 1:
                place = self.header.index(name)
                if fault := self.faults.get(place):
                    raise DataError(self._words(column, fault))
                return place
            case count:
                raise DataError(f"[data] labels: {self.name} has {count} columns '{column}'. Rename all but one.")

    def near(self, column: str) -> str | None:
        """Find a column of nearly this name, unless the first row looks like a patient's: then there is no header."""
        folded = {name.casefold(): name for name in self.header if name}
        names_only = all(any(map(str.isalpha, name)) for name in folded)
        near = difflib.get_close_matches(as_name(column).casefold(), folded, n=1, cutoff=0.7) if names_only else []
        return folded[near[0]] if near else None

    def _words(self, column: str, fault: Fault) -> str:
        others = f" (and in {fault.cells - 1:,} more rows)" if fault.cells > 1 else ""
        return (
            f"[data] labels: {self.name}, row {fault.row}, column '{column}'{others}: {fault.kind}. "
            "Correct the cells, or format the column as text and type them anew."
        )

    def _hint(self, column: str) -> str:
        if near := self.near(column):
            return f"Did you mean '{near}'? Correct site.toml."
        return "Correct site.toml; the table's first row has to hold the names of its columns."


def read_table(path: Path, *, sheet: str | None = None, private: bool = False) -> Table:
    """Read a workbook, or text: comma, semicolon, tab or bar between cells; UTF-8, or with a warning Windows-1252.

    For a `private` study each line of a text is a row, so that no row has a part in another.

    Raises:
        DataError: the table is missing, unreadable, empty, an old workbook or in another encoding, or its header
            is wrongly quoted.
        SiteError: a sheet is named and not there, or it has to be named.
        MissingPartError: it is a workbook, and what reads those is not installed.
    """
    content = _content(path)
    if content.startswith(_OLD_OR_ENCRYPTED):
        raise DataError(
            f"[data] labels: {path.name} is a workbook of an old form (.xls), or has a password. "
            "Save it as .xlsx without one, or as 'CSV UTF-8'."
        )
    if content.startswith(_ZIP):
        found = read_workbook(content, path.name, sheet=sheet)
        (_, names), *lines = found.rows
        return Table(name=path.name, header=tuple(map(as_name, names)), rows=tuple(lines), faults=found.faults)
    if sheet is not None:
        raise SiteError(f"[data] sheet: {path.name} is no workbook and has no sheets. Remove it from site.toml.")
    text, warning = decoded(content, path.name)
    if not text.strip(',;\t|\r\n "'):
        raise DataError(f"[data] labels: {path.name} is empty. Export the table again.")
    (_, header), *lines = rows(text, path.name, line_by_line=private)
    return Table(name=path.name, header=tuple(map(as_name, header)), rows=tuple(lines), warning=warning)


def as_name(column: str) -> str:
    """Write a column's name as it is compared: on one line, as it is seen, letters composed (Unicode NFC)."""
    return " ".join(unicodedata.normalize("NFC", seen(column)).split())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"[data] labels: there is no file {path.name}. Correct the path in site.toml.") from None
    except OSError as fault:
        raise DataError(
            f"[data] labels: {path.name} cannot be read ({fault.strerror}). Correct its path or its permissions."
        ) from None
