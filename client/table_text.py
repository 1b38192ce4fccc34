"""Turn the bytes of a table into rows of text cells: encoding, separators, and the number of each row."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from shared.errors import DataError
from shared.plain_text import seen

SEPARATORS = ",;\t|"
LEGACY = (
    "is not UTF-8, and was read as Windows-1252, as was each line of the kind. Look whether accents and umlauts are "
    "right there, or save the table as 'CSV UTF-8'."
)

_SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?[,;\t ]*(?:\r\n|\r|\n)', re.IGNORECASE)
_ROWS_COMPARED = 50

Row = tuple[int, list[str]]
"""A row's number in a spreadsheet, where 1 is the header, and its cells."""


def decoded(content: bytes, name: str) -> tuple[str, str]:
    """Give a table's text, and a warning or "".

    UTF-16 with its byte-order mark (Excel's "Unicode text"), or line by line UTF-8, and what is not as Windows-1252, of
    which Latin-1 has all letters. Each line is judged alone: no patient's letter changes how another's row is read.
    What shows nothing is left out wherever it stands: files that were joined have a mark in the middle, and words that
    were copied from a page have joiners.

    Raises:
        DataError: it is none of these.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        with suppress(UnicodeDecodeError):
            if "\x00" not in (text := content.decode("utf-16")):
                return seen(text), ""
    if b"\x00" in content:
        raise DataError(
            f"[data] labels: {name} is UTF-16 without its mark, UTF-32, or not a table at all. Save it as 'CSV UTF-8'."
        )
    with suppress(UnicodeDecodeError):
        return seen(content.decode("utf-8")), ""
    lines, first = [], 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(_legacy(line, name, number))
            first = first or number
    return seen("".join(lines)), f"{name}, line {first}, {LEGACY}"


def _legacy(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode("cp1252")
    except UnicodeDecodeError:
        raise DataError(
            f"[data] labels: {name}, row {number}: a letter is neither UTF-8 nor Windows-1252. Save it as 'CSV UTF-8'."
        ) from None


def rows(text: str, name: str) -> Iterator[Row]:
    """Yield the rows that are not empty. A cell may hold separators and line breaks between quotation marks.

    Raises:
        DataError: a quotation mark is out of place, or the line `sep=` names what does not separate cells.
    """
    if stated := _SEPARATOR_LINE.match(text):  # Excel's own line, which it does not show and does not count
        separator, text = stated[1], text[stated.end() :]
        if separator not in SEPARATORS:
            raise DataError(
                f"[data] labels: {name} begins with a line sep= that names no comma, semicolon, tab or bar. Correct it."
            )
    else:
        separator = _separator(text)
    lines, number = _reader(text, separator), 0
    try:
        for number, cells in enumerate(lines, start=1):
            if any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error:
        raise DataError(
            f"[data] labels: {name}, after row {number}: a quotation mark is out of place. Correct the next row."
        ) from None


def _reader(text: str, separator: str) -> Iterator[list[str]]:
    return iter(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))


def _separator(text: str) -> str:
    """Find what separates cells: by which of them the first rows have as many cells as the header, and the most.

    A separator inside quotation marks is text, and one inside a column's name leaves the other rows too short.
    """
    return max(SEPARATORS, key=lambda separator: _fit(text, separator))


def _fit(text: str, separator: str) -> tuple[float, int]:
    first: list[Sequence[str]] = []
    try:
        for cells in _reader(text, separator):
            if any(cell.strip() for cell in cells):
                first.append(cells)
            if len(first) > _ROWS_COMPARED:
                break
    except csv.Error:
        pass  # the rows before it count; whoever reads the table says where it is
    width = len(first[0]) if first else 0
    if width < 2:
        return 0.0, 0
    return sum(len(cells) == width for cells in first) / len(first), width
