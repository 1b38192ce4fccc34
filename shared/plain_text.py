"""The one door for text from outside: printable characters and line breaks, so that it says no more than it shows.

A terminal obeys escape sequences (ECMA-48), and text that changes its direction shows other words than it holds
(Unicode Technical Report 36, "Bidirectional Text Spoofing"): neither passes, nor does any other invisible character.
"""

import json
from collections.abc import Iterator
from typing import Any

SPACES = " \n\u00a0\u202f"
"""What may stand between printable characters: a space, a line break, and the two spaces that do not break a line."""

INSTEAD = "\ufffd"
"""Shown where a character was left out (Unicode's own replacement character)."""

MOST_DEPTH = 32
MOST_JSON_BYTES = 32 << 20
"""Of a results.json from outside; one of 40 sites and five findings has two megabytes, and is ten deep."""


def is_plain(text: str) -> bool:
    """Tell whether all of a text is printable characters and line breaks."""
    return all(character.isprintable() or character in SPACES for character in text)


def shown(text: str) -> str:
    """Give a text as it may be shown: each character that does not print is replaced."""
    return "".join(one if one.isprintable() or one in SPACES else INSTEAD for one in text)


def plain(text: str) -> str:
    """Give back a text that may be shown as it is.

    Raises:
        ValueError: it holds a character that does not print.
    """
    if not is_plain(text):
        raise ValueError("holds a character that does not print (a control character, or one that turns text round).")
    return text


def check_json(document: bytes) -> None:
    """Check a JSON document from outside: its size, its form, how deep it is nested, and every text in it.

    Raises:
        ValueError: it is too large or too deep, no JSON, or a text in it does not print.
    """
    if len(document) > MOST_JSON_BYTES:
        raise ValueError("is larger than is taken in.")
    try:
        data = json.loads(document.decode("utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise ValueError("is nested too deep.") from None
    for text in texts(data):
        plain(text)


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


def _no_number(word: str) -> float:
    raise ValueError(f"holds {word}, which is no number of JSON's.")
