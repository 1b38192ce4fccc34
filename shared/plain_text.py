"""The one door for text from outside: printable characters and line breaks, so that it says no more than it shows.

A terminal obeys escape sequences (ECMA-48), and text that changes its direction shows other words than it holds
(Unicode Technical Report 36, "Bidirectional Text Spoofing"): neither passes, nor does any other invisible character, be
it a letter or a mark, nor a heap of marks that covers the lines around it.
"""

import json
import math
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Any

SPACES = " \n\u00a0\u202f"
"""What may stand between printable characters: a space, a line break, and the two spaces that do not break a line."""

INSTEAD = "\ufffd"
"""Shown where a character was left out (Unicode's own replacement character)."""

MOST_MARKS = 4
"""Nonspacing marks on one letter (Unicode Technical Standard 39, 5.4); ordinary languages have three at most."""

_IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
"""Default_Ignorable_Code_Point (Unicode 16, DerivedCoreProperties.txt): what shows nothing, be it letter or mark."""

_BLANK = (0x2800, 0x2D7F, 0xFFFC, 0x1107F, 0x16FE4, 0x1D159)
"""What shows nothing either: the braille pattern without dots, an object that is not there, a note without head, the
joiners of Tifinagh and Brahmi, the filler of Khitan."""

UNSEEN = frozenset(
    chr(code) for first, last in (*_IGNORABLE, *((one, one) for one in _BLANK)) for code in range(first, last + 1)
)

_ORDINARY = re.compile(r"[ -~\n]*")
"""What passes at a glance: a document has millions of characters, and nearly all are these."""

_NOTHING = dict.fromkeys(map(ord, UNSEEN))

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for something to compute where a cell begins so (OWASP, "CSV Injection")."""

QUOTED_CHARACTERS = 72
"""Of a line that is quoted: a terminal has eighty columns."""

MOST_DEPTH = 32
MOST_JSON_BYTES = 32 << 20
"""Of a results.json from outside; one of 40 sites and five findings has two megabytes, and is ten deep."""


def is_plain(text: str) -> bool:
    """Tell whether all of a text is printable characters and line breaks."""
    return _ORDINARY.fullmatch(text) is not None or all(passes for _, passes in _judged(text))


def shown(text: str) -> str:
    """Give a text as it may be shown: each character that does not print is replaced."""
    return "".join(one if passes else INSTEAD for one, passes in _judged(text))


def seen(text: str) -> str:
    """Give a text without what shows nothing: a byte-order mark, a filler, a joiner."""
    return text if text.isascii() else text.translate(_NOTHING)


def cell(text: str) -> str:
    """Give a text as a cell of a CSV that no spreadsheet computes."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _judged(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each character, and whether it may be shown where it stands."""
    marks = 0
    for one in text:
        marks = marks + 1 if not one.isascii() and unicodedata.category(one) in ("Mn", "Me") else 0
        yield one, (one.isprintable() or one in SPACES) and one not in UNSEEN and marks <= MOST_MARKS


def quoted(text: str) -> str:
    """Give a text of several lines so that none of them can pass for a line of the program's own.

    Each is short enough not to be broken by a terminal, and behind a bar.
    """
    lines = (piece for line in text.split("\n") for piece in textwrap.wrap(line, QUOTED_CHARACTERS) or [""])
    return "\n".join(f"  | {line}".rstrip() for line in lines)


def plain(text: str) -> str:
    """Give back a text that may be shown as it is.

    Raises:
        ValueError: it holds a character that does not print.
    """
    if not is_plain(text):
        raise ValueError(
            "holds a character that does not print (a control character, an invisible one, one that turns text round, "
            f"or more than {MOST_MARKS} marks on a letter)."
        )
    return text


def check_json(document: bytes) -> Any:
    """Check a JSON document from outside, and give what it holds, so that nobody reads it otherwise a second time.

    Its size, its form and how deep it is nested, each key once, numbers that can be reckoned with, and every character:
    those of the texts, and those between them.

    Raises:
        ValueError: it is too large or too deep, no JSON, ambiguous, or a character in it does not print.
    """
    if len(document) > MOST_JSON_BYTES:
        raise ValueError("is larger than is taken in.")
    text = document.decode("utf-8")
    try:
        data = json.loads(
            text, object_pairs_hook=_each_key_once, parse_int=_whole, parse_float=_real, parse_constant=_no_number
        )
    except RecursionError:
        raise ValueError("is nested too deep.") from None
    for line in text.replace("\t", " ").split("\n"):
        plain(line.removesuffix("\r"))
    for one in texts(data):
        plain(one)
    return data


def texts(data: Any, *, below: int = 0) -> Iterator[str]:
    """Yield every text in what JSON gave, keys too.

    Raises:
        ValueError: it is nested deeper than MOST_DEPTH.
    """
    if below > MOST_DEPTH:
        raise ValueError("is nested too deep.")
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        yield from data
        for item in data.values():
            yield from texts(item, below=below + 1)
    elif isinstance(data, list):
        for item in data:
            yield from texts(item, below=below + 1)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what one reader takes for the first of two values and another for the last (RFC 8259, 4)."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("gives one key two values.")
    return found


def _whole(word: str) -> int:
    _real(word)
    return int(word)


def _real(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError("holds a number that is too large to reckon with.")
    return number


def _no_number(word: str) -> float:
    raise ValueError(f"holds {word}, which is no number of JSON's.")
