"""Which items of GMLP, EU MDR, EU AI Act and TRIPOD+AI the evidence pack speaks to, and what it does not cover."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("guidance.csv")

SOURCES = {
    "GMLP 2021": (
        "FDA, Health Canada and MHRA: Good Machine Learning Practice for Medical Device Development: Guiding "
        "Principles, October 2021"
    ),
    "EU MDR 2017/745": "Regulation (EU) 2017/745 on medical devices",
    "EU AI Act 2024/1689": "Regulation (EU) 2024/1689 laying down harmonised rules on artificial intelligence",
    "TRIPOD+AI 2024": "Collins GS et al.: TRIPOD+AI statement. BMJ 2024;385:e078378, doi 10.1136/bmj-2023-078378",
}
"""What each framework's name in the table stands for."""

STANDINGS = ("shown", "in part", "not covered")
"""The most that the table claims is "shown": that the pack holds what the item asks to be reported."""

NO_CLAIM = (
    "The table says where this pack holds something that an item asks for. It is no claim of conformity: nobody was "
    "asked to assess it, and a model of a study is not a medical device."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item, shortened: where the pack speaks to it, and what is missing all the same."""

    framework: str
    item: str
    title: str
    standing: str
    where: str
    missing: str


def items() -> Iterator[Item]:
    """Read the table, in its own order."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Item(**row)
