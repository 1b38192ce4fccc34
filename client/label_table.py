"""Read a table of text cells at its door, or say which row stands in the way.

Python's `csv` guesses nothing: every cell stays text, a row that is too long or too short is seen, and each row keeps
its number.
"""

import csv
import difflib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import DataError, SiteError


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Column names, and the rows that are not empty, each with its number in a spreadsheet, where 1 is the header."""

    name: str
    header: tuple[str, ...] = field(repr=False)
    rows: tuple[tuple[int, list[str]], ...] = field(repr=False)

    def place(self, column: str) -> int:
        """Find a column.

        Raises:
            SiteError: there is none of this name; a near one is told.
            DataError: there are several.
        """
        match self.header.count(column):
            case 0:
                found = f"{self.name} has no column '{column}' among its {len(self.header)}"
                raise SiteError(f"[data] labels: {found}. {self._hint(column)}")
            case 1:
                return self.header.index(column)
            case count:
                raise DataError(f"[data] labels: {self.name} has {count} columns '{column}'. Rename all but one.")

    def _hint(self, column: str) -> str:
        """Name a near column, unless the first row looks like a patient's: that of a table without a header."""
        folded = {name.casefold(): name for name in self.header if name}
        names_only = all(any(map(str.isalpha, name)) for name in folded)
        near = difflib.get_close_matches(column.casefold(), folded, n=1, cutoff=0.7) if names_only else []
        if near:
            return f"Did you mean '{folded[near[0]]}'? Correct site.toml."
        return "Correct site.toml; the table's first row has to hold the names of its columns."


def read_table(path: Path) -> Table:
    """Read a table: comma, semicolon or tab between cells, UTF-8 with or without a byte-order mark.

    Raises:
        DataError: the table is missing, unreadable, empty, a workbook, not UTF-8 or wrongly quoted; with the row.
    """
    (_, header), *rows = _cells(_text(path), path.name)
    return Table(name=path.name, header=tuple(name.strip() for name in header), rows=tuple(rows))


def _text(path: Path) -> str:
    try:
        text = _decoded(path.read_bytes(), path.name)
    except FileNotFoundError:
        raise DataError(f"[data] labels: there is no file {path.name}. Correct the path in site.toml.") from None
    except OSError as fault:
        raise DataError(
            f"[data] labels: {path.name} cannot be read ({fault.strerror}). Correct its path or its permissions."
        ) from None
    if not text.strip(",;\t\r\n "):
        raise DataError(f"[data] labels: {path.name} is empty. Export the table again.")
    return text


def _decoded(content: bytes, name: str) -> str:
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"[data] labels: {name} is a workbook. Save it as 'CSV UTF-8'.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in content:
        raise DataError(f"[data] labels: {name} is UTF-16, or not a table at all. Save it as 'CSV UTF-8'.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        row = content.count(b"\n", 0, fault.start) + 1
        raise DataError(
            f"[data] labels: {name}, row {row}: a letter is not UTF-8; mostly the table is in Windows-1252 or Latin-1. "
            "Save it as 'CSV UTF-8'."
        ) from None


def _cells(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, with their numbers."""
    header = text.lstrip().partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    number = 0
    try:
        for number, cells in enumerate(lines, start=1):
            if any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error:
        raise DataError(
            f"[data] labels: {name}, after row {number}: a quotation mark is out of place. Correct the next row."
        ) from None
