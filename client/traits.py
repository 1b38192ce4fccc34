"""To which group each image belongs, by its header or the hospital's own table: fixed words, numbers for devices."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from client.label_table import read_table
from shared.protocol import Axis
from shared.subgroups import (
    AXES,
    DEVICES,
    SEX_WORDS,
    UNKNOWN,
    age_group,
    manufacturer_group,
    sex_group,
    view_group,
)

READ: Mapping[str, Callable[[str], str]] = {
    "sex": sex_group,
    "age": age_group,
    "view": view_group,
    "manufacturer": manufacturer_group,
    "device": str.strip,
}
"""What makes a group of a header's or a table's word; a device's own name is only counted, and then numbered."""


def table_words(
    path: Path, columns: Mapping[Axis, str], *, private: bool, sheet: str | None = None
) -> list[dict[str, str]]:
    """Read the label table's columns on groups, a row each, in the order of its rows.

    M is male, or mujer, and other rows tell which. In a `private` study no row may tell of another: M then says
    nothing, and the image's header is read.

    Raises:
        SiteError: the table has no such column; a near one is named.
        DataError: the table cannot be read.
    """
    table = read_table(path, sheet=sheet, private=private)
    places = {axis: table.place(column) for axis, column in columns.items()}
    width = len(table.header)
    words: list[dict[str, str]] = [
        {axis: cells[place] for axis, place in places.items()} if len(cells) == width else {} for _, cells in table.rows
    ]
    if "sex" not in columns:
        return words
    if private:
        return [
            {axis: word for axis, word in row.items() if (axis, word.strip().lower()) != ("sex", "m")} for row in words
        ]
    return [row | {"sex": ""} for row in words] if _speaks_otherwise(words) else words


_NOT_SAID = frozenset("unx-?")


def _speaks_otherwise(words: Sequence[Mapping[str, str]]) -> bool:
    """Tell whether M may be a woman: a column of H and M, without F, is hombre and mujer."""
    letters = {word for row in words if len(word := row.get("sex", "").strip().lower()) == 1}
    return "h" in letters or ("f" not in letters and bool(letters - _NOT_SAID - set(SEX_WORDS)))


def group_codes(words: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """Turn each image's words by axis into the places of its groups in AXES."""
    return {axis: _codes(axis, [READ[axis](word.get(axis, "")) for word in words]) for axis in AXES}


def _codes(axis: str, words: list[str]) -> list[int]:
    if axis == "device":
        found = Counter(word for word in words if word)
        ordered = sorted(found, key=lambda name: (-found[name], name))
        names = {name: f"device {place}" for place, name in enumerate(ordered[:DEVICES], start=1)}
        words = [names.get(word, "other") if word else UNKNOWN for word in words]
    places = {group: place for place, group in enumerate(AXES[axis])}
    return [places[word] for word in words]
