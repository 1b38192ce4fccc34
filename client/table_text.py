"""Turn the bytes of a table into rows of text cells: encoding, separators, and the number of each row."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice, takewhile

from shared.errors import DataError
from shared.plain_text import seen

SEPARATORS = ",;\t|"
LEGACY = (
    "is not UTF-8, and was read as Windows-1252, as was each line of the kind. Look whether accents and umlauts are "
    "right there, or save the table as 'CSV UTF-8'."
)

_SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?[,;\t ]*(?:\r\n|\r|\n)', re.IGNORECASE)
_ROWS_COMPARED = 50

_reader = partial(csv.reader, strict=True)

Row = tuple[int, list[str]]
"""A row's number in a spreadsheet, where 1 is the header, and its cells; none where they cannot be told apart."""


def decoded(content: bytes, name: str) -> tuple[str, str]:
    """Give a table's text, and a warning or "".

    UTF-16 with its byte-order mark (Excel's "Unicode text"), or line by line UTF-8, and what is not as Windows-1252, of
    which Latin-1 has all letters. Each line is judged alone: no patient's letter changes how another's row is read. A
    byte that is no letter at all stands there as its number, so that two such words are never taken for one.
    What shows nothing is left out wherever it stands: files that were joined have a mark in the middle, and words that
    were copied from a page have joiners.

    Raises:
        DataError: it is none of these, as its first line shows.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text, warning = content.decode("utf-16", errors="backslashreplace"), ""
    else:
        text, warning = _by_lines(content, name)
    first = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    if "\x00" in first or ("\x00" in text and not set(first) & set(SEPARATORS)):
        raise DataError(
            f"[data] labels: {name} is UTF-16 without its mark, UTF-32, or not a table at all. Save it as 'CSV UTF-8'."
        )
    return seen(text.replace("\x00", "\\x00")), warning


def _by_lines(content: bytes, name: str) -> tuple[str, str]:
    with suppress(UnicodeDecodeError):
        return content.decode("utf-8"), ""
    lines, first = [], 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(line.decode("cp1252", errors="backslashreplace"))
            first = first or number
    return "".join(lines), f"{name}, line {first}, {LEGACY}"


def rows(text: str, name: str, *, line_by_line: bool) -> Iterator[Row]:
    """Yield the rows that are not empty; one of which nobody can tell where its cells end has none.

    A cell may hold separators and line breaks between quotation marks (RFC 4180), but no line that is a row by itself:
    a mark that is out of place ends its own row and takes no other into it. `line_by_line`, each line is read
    for itself, and the header alone says what separates cells: then nothing in a row changes how another is read.

    Raises:
        DataError: the header has a quotation mark out of place, or the line `sep=` names what does not separate cells.
    """
    stated = _SEPARATOR_LINE.match(text)  # Excel's own line, which it does not show and does not count
    if stated and stated[1] not in SEPARATORS:
        raise DataError(
            f"[data] labels: {name} begins with a line sep= that names no comma, semicolon, tab or bar. Correct it."
        )
    lines = io.StringIO(text[stated.end() :] if stated else text, newline="").readlines()
    separator = stated[1] if stated else _separator(lines, line_by_line=line_by_line)
    try:
        yield from _parsed(lines, separator, line_by_line=line_by_line)
    except csv.Error:
        raise DataError(
            f"[data] labels: {name}: a quotation mark in the header is out of place. Correct the header."
        ) from None


def _parsed(lines: Sequence[str], separator: str, *, line_by_line: bool) -> Iterator[Row]:
    """Yield the header, which may have any number of lines, and the rows; csv.Error if the header cannot be read."""
    number, header = 0, _reader(lines, delimiter=separator)
    for number, names in enumerate(header, start=1):
        if _is_filled(names):
            yield number, names
            break
    else:
        return
    place, open_until, is_row = header.line_num, 0, _row_by_itself(names, separator)
    while place < len(lines):
        number += 1
        following = range(place + 1, place + 1 if line_by_line or place < open_until else len(lines))
        own = takewhile(lambda line: not is_row(line), (lines[other] for other in following))
        row = _reader(chain([lines[place]], own), delimiter=separator)
        try:
            cells, place = next(row), place + row.line_num
        except csv.Error:  # a cell that no line closes; one that is opened before that place is closed by none either
            open_until = max(open_until, place + row.line_num - 1)
            place += 1
            yield number, []
        else:
            if _is_filled(cells):
                yield number, cells


def _row_by_itself(header: Sequence[str], separator: str) -> Callable[[str], bool]:
    """Tell which lines are rows of the header's width.

    Prose is none, which has blanks behind its commas, nor is the end of a first cell that has several lines.
    """
    spaced = _spaced(header) > 0

    def is_row(line: str) -> bool:
        try:
            cells: list[str] = next(_reader([line], delimiter=separator), [])
        except csv.Error:
            return False
        if len(cells) != len(header) or not _is_filled(cells):
            return False
        return '"' not in cells[0] and (spaced or not _spaced(cells))

    return is_row


def _is_filled(cells: Sequence[str]) -> bool:
    return any(cell.strip() for cell in cells)


def _spaced(cells: Sequence[str]) -> int:
    return sum(cell.startswith(" ") for cell in cells[1:])


def _separator(lines: Sequence[str], *, line_by_line: bool) -> str:
    """Find what separates cells: by which of them the first rows have as many cells as the header, and the most.

    A separator inside quotation marks is text, and one inside a column's name leaves the other rows too short, or has
    a blank behind it.
    """
    compared = 0 if line_by_line else _ROWS_COMPARED
    return max(SEPARATORS, key=lambda separator: _fit(lines, separator, compared))


def _fit(lines: Sequence[str], separator: str, compared: int) -> tuple[float, int, int]:
    try:
        first = [cells for _, cells in islice(_parsed(lines, separator, line_by_line=not compared), 1 + compared)]
    except csv.Error:  # whoever reads the table says where it is
        first = []
    if not first or (width := len(first[0])) < 2:
        return 0.0, 0, 0
    return sum(len(cells) == width for cells in first) / len(first), -_spaced(first[0]), width
