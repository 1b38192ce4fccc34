"""Lays out one virtual hospital on disk: a folder of DICOM files, a label table and a site.toml."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.storage import atomic_file

DICOM_FOLDER = "dicom"
LABEL_TABLE = "labels.csv"
SITE_FILE = "site.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFile:
    """What a virtual hospital's site.toml says; `findings` maps the study's names to the label table's columns."""

    name: str
    comment: str
    join: str
    key: str
    findings: Mapping[str, str]
    policy: Mapping[str, int]
    public: str = ""
    """Why the images are public and no count of them is too small to show; a comment above the policy."""


def write_labels(folder: Path, *, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the label table as UTF-8 CSV.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with atomic_file(folder / LABEL_TABLE) as part, part.open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_site_file(folder: Path, site: SiteFile) -> Path:
    """Write site.toml, the last file of a hospital: where it is, all is there. Return its path.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with atomic_file(folder / SITE_FILE) as part:
        part.write_text("\n".join(_lines(site)) + "\n", encoding="utf-8")
    return folder / SITE_FILE


def _lines(site: SiteFile) -> list[str]:
    # A JSON string is a TOML basic string, and its numbers are TOML's.
    return [
        f"# {site.comment}",
        "[site]",
        f"name = {_text(site.name)}",
        "",
        "[data]",
        f"dicom = {json.dumps(DICOM_FOLDER)}",
        f"labels = {json.dumps(LABEL_TABLE)}",
        f"join = {_text(site.join)}",
        f"key = {_text(site.key)}",
        "",
        "[data.findings]",
        *(f"{_text(finding)} = {_text(column)}" for finding, column in site.findings.items()),
        *(["", "[policy]"] if site.policy else []),
        *([f"# Public images, so that no count is too small to show: {site.public}"] if site.public else []),
        *(f"{key} = {json.dumps(value)}" for key, value in site.policy.items()),
    ]


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
