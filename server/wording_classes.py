"""The confusion matrix in words: which class is most often called another, and what a table of it shows."""

from server import wording
from server.class_matrix import Called, ClassMatrix, Mistake, mistakes
from server.results import StudyResult

HOTTEST = 60
"""Percent of the heat colour in the ground of a cell that holds its whole class (see wording_worth.py)."""


def heat(cell: Called) -> int:
    """Give how much heat a cell's ground has, in percent."""
    return round(HOTTEST * min(1.0, cell.share or 0.0))


def summary(result: StudyResult) -> str:
    """Name the class that is most often called another, over all sites and at one; empty where none was counted."""
    found = mistakes(result)
    over_all = next((one for one in found if one.site is None), None)
    at_one = next((one for one in found if one.site is not None and one != over_all), None)
    told = [_mistake(one, result.study.unit) for one in (over_all, at_one) if one is not None]
    return f"Called another class most often: {'; '.join(told)}." if told else ""


def caption(matrix: ClassMatrix, *, unit: str) -> str:
    """Say what a table shows, and of whom."""
    where = "over the sites that released a class's whole row" if matrix.site is None else f"at {matrix.site}"
    return f"Test {unit}s {where}: the class that each is of (row), and what it was called (column)"


def title(cell: Called, name: str, *, unit: str) -> str:
    """Say a cell in words, for who points at it or hears it."""
    if cell.units is None:
        return f"{unit}s of class {name} called {cell.name}: held back by the hospital"
    share = "" if cell.share is None else f" ({wording.percent(cell.share)})"
    return f"{wording.units(cell.units, unit)} of class {name} called {cell.name}{share}"


def _mistake(one: Mistake, unit: str) -> str:
    where = "over all sites" if one.site is None else f"at {one.site}"
    return (
        f"{where}, {one.units:,} of {wording.units(one.of, unit)} of class {one.name} were called {one.called} "
        f"({wording.percent(one.share)})"
    )
