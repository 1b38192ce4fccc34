"""Read a table of text cells at its door, or say which row stands in the way.

Python's `csv` guesses nothing: every cell stays text, a row that is too long or too short is seen, and each row keeps
its number.
"""

import difflib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from client.table_text import Row, decoded, rows
from shared.errors import DataError, SiteError


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Column names, and the rows that are not empty, each with its number in a spreadsheet, where 1 is the header."""

    name: str
    header: tuple[str, ...] = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)
    warning: str = ""

    def place(self, column: str) -> int:
        """Find a column.

        Raises:
            SiteError: there is none of this name; a near one is told.
            DataError: there are several.
        """
        name = as_name(column)
        match self.header.count(name):
            case 0:
                found = f"{self.name} has no column '{column}' among its {len(self.header)}"
                raise SiteError(f"[data] labels: {found}. {self._hint(column)}")
            case 1:
                return self.header.index(name)
            case count:
                raise DataError(f"[data] labels: {self.name} has {count} columns '{column}'. Rename all but one.")

    def near(self, column: str) -> str | None:
        """Find a column of nearly this name, unless the first row looks like a patient's: then there is no header."""
        folded = {name.casefold(): name for name in self.header if name}
        names_only = all(any(map(str.isalpha, name)) for name in folded)
        near = difflib.get_close_matches(as_name(column).casefold(), folded, n=1, cutoff=0.7) if names_only else []
        return folded[near[0]] if near else None

    def _hint(self, column: str) -> str:
        if near := self.near(column):
            return f"Did you mean '{near}'? Correct site.toml."
        return "Correct site.toml; the table's first row has to hold the names of its columns."


def read_table(path: Path) -> Table:
    """Read a table: comma, semicolon or tab between cells; UTF-8, or with a warning Windows-1252.

    Raises:
        DataError: the table is missing, unreadable, empty, a workbook, in another encoding or wrongly quoted; with the
            row.
    """
    text, warning = _text(path)
    (_, header), *lines = rows(text, path.name)
    return Table(name=path.name, header=tuple(map(as_name, header)), rows=tuple(lines), warning=warning)


def as_name(column: str) -> str:
    """Write a column's name as it is compared: on one line, its letters composed (Unicode NFC)."""
    return " ".join(unicodedata.normalize("NFC", column).split())


def _text(path: Path) -> tuple[str, str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"[data] labels: there is no file {path.name}. Correct the path in site.toml.") from None
    except OSError as fault:
        raise DataError(
            f"[data] labels: {path.name} cannot be read ({fault.strerror}). Correct its path or its permissions."
        ) from None
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"[data] labels: {path.name} is a workbook. Save it as 'CSV UTF-8'.")
    text, warning = decoded(content, path.name)
    if not text.strip(",;\t\r\n "):
        raise DataError(f"[data] labels: {path.name} is empty. Export the table again.")
    return text, warning
