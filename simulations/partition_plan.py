"""Decides, for each row of a table, which virtual hospital and patient its image belongs to, or why it is left out."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.label_table import Table, read_table
from shared.errors import DataError, SiteError
from simulations.image_source import Skip

LABEL_KEY = "SOPInstanceUID"
"""The column that a virtual hospital's label table is joined on, beside the carried ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which column of the table says what; `findings` maps the study's names to columns, `keep` is carried along."""

    image: str
    patient: str
    site: str
    findings: Mapping[str, str]
    keep: Sequence[str]

    @property
    def carried(self) -> tuple[str, ...]:
        """The columns that go into each hospital's label table, each once."""
        return tuple(dict.fromkeys([*self.findings.values(), *self.keep]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImage:
    """One usable row: its number in a spreadsheet (1 is the header), its hospital's folder, its carried cells."""

    row: int
    image: str = field(repr=False)
    patient: str = field(repr=False)
    site: str
    cells: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to write, in the table's order, and the numbers of all other rows by reason."""

    images: tuple[PlannedImage, ...]
    skipped: Mapping[Skip, tuple[int, ...]]
    patients_at_several_sites: int


def plan_partition(path: Path, columns: Columns) -> Plan:
    """Read the table and account for every row of it; rows of one image that disagree are all left out.

    Raises:
        DataError: the table cannot be read or lacks a column, or a site's name makes no folder of its own.
    """
    if not path.is_file():
        is_what = "this is a folder, and a table is needed" if path.is_dir() else "there is no such table"
        raise DataError(f"{path}: {is_what}. Correct the path.")
    with _before_a_site():
        table = read_table(path)
        _refuse_unknown(table, columns)
    groups: dict[str, list[PlannedImage]] = defaultdict(list)
    skipped: dict[Skip, list[int]] = defaultdict(list)
    for number, cells in table.rows:
        row = _read_row(table.header, number, cells, columns)
        if isinstance(row, Skip):
            skipped[row].append(number)
        else:
            groups[row.image].append(row)
    images = _one_of_each(list(groups.values()), skipped)
    folders = _folders(images)
    return Plan(
        images=tuple(replace(image, site=folders[image.site]) for image in images),
        skipped={reason: tuple(sorted(numbers)) for reason, numbers in sorted(skipped.items())},
        patients_at_several_sites=_shared_patients(images),
    )


@contextmanager
def _before_a_site() -> Iterator[None]:
    """Let a fault of the table speak of no site.toml: there is none yet."""
    try:
        yield
    except (DataError, SiteError) as fault:
        words = re.sub(r"^\[data\] \w+: ", "", str(fault))
        raise DataError(re.sub(r"Say in site\.toml.*; or save", "Save", words)) from None


def _refuse_unknown(table: Table, columns: Columns) -> None:
    if not columns.findings:
        raise DataError("No finding is named, so there is nothing to learn. Give one, e.g. --finding pneumonia=label.")
    if LABEL_KEY in columns.carried:
        raise DataError(f"--finding, --keep: '{LABEL_KEY}' is the key of the label tables to be written. Rename it.")
    wanted = {
        "--image-column": (columns.image,),
        "--patient-column": (columns.patient,),
        "--site-column": (columns.site,),
        "--finding": tuple(columns.findings.values()),
        "--keep": tuple(columns.keep),
    }
    for option, name in ((option, name) for option, names in wanted.items() for name in names):
        if (count := table.header.count(name)) != 1:
            found = f"{count} columns" if count else "no column"
            near = None if count else table.near(name)
            remedy = f"Did you mean '{near}'?" if near else "Name one of its first row, that stands there once."
            raise DataError(f"{option}: {table.name} has {found} '{name}' among its {len(table.header)}. {remedy}")
        table.place(name)


def _read_row(header: tuple[str, ...], number: int, cells: list[str], columns: Columns) -> PlannedImage | Skip:
    if len(cells) != len(header):
        return Skip.RAGGED_ROW
    value = dict(zip(header, map(str.strip, cells), strict=True))
    needed = {columns.image: Skip.NO_IMAGE_NAME, columns.patient: Skip.NO_PATIENT, columns.site: Skip.NO_SITE}
    for column, reason in needed.items():
        if not value[column]:
            return reason
    return PlannedImage(
        row=number,
        image=value[columns.image],
        patient=value[columns.patient],
        site=value[columns.site],
        cells=tuple(value[column] for column in columns.carried),
    )


def _one_of_each(groups: Sequence[list[PlannedImage]], skipped: dict[Skip, list[int]]) -> list[PlannedImage]:
    """Keep one row of each image whose rows agree; note the others as skipped."""
    kept = []
    for rows in groups:
        if len({(row.patient, row.site, row.cells) for row in rows}) > 1:
            skipped[Skip.CONFLICTING_ROWS] += [row.row for row in rows]
            continue
        kept.append(rows[0])
        if rows[1:]:
            skipped[Skip.DUPLICATE_ROW] += [row.row for row in rows[1:]]
    return kept


def _folders(images: Sequence[PlannedImage]) -> dict[str, str]:
    """Give each site a folder name of its own. The messages name rows: a wrong column may hold patients' names."""
    first_row: dict[str, int] = {}
    folders: dict[str, str] = {}
    for image in images:
        if image.site in folders:
            continue
        folder = folder_name(image.site)
        if not folder:
            raise DataError(f"--site-column: the site in row {image.row} has no letter a-z and no digit. Rename it.")
        if folder in first_row:
            raise DataError(
                f"--site-column: rows {first_row[folder]} and {image.row} name two sites that become the same folder "
                f"'{folder}'. Rename one, or write both alike."
            )
        folders[image.site], first_row[folder] = folder, image.row
    return folders


def folder_name(name: str) -> str:
    """Reduce a name to a-z, 0-9, _ and -, at most 64 of them, accents taken off; "" if nothing is left."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:64]


def _shared_patients(images: Sequence[PlannedImage]) -> int:
    pairs = {(image.patient, image.site) for image in images}
    return sum(count > 1 for count in Counter(patient for patient, _ in pairs).values())
