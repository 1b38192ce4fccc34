"""The confusion matrix of a study of classes: what the units of each class were called, at each site and over all."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.finding_result import FindingResult, Why
from server.results import StudyResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """Units of one class that scored highest for one class, as share of the class's units; None where withheld."""

    name: str
    right: bool
    units: int | None
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class: its units, and what they were called, in the study's order; `why` says why there are no calls."""

    name: str
    units: int | None
    called: tuple[Called, ...]
    why: Why | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMatrix:
    """One site's rows, or those of all sites together (`site` None), each over the sites that released it whole."""

    site: str | None
    rows: tuple[ClassRow, ...]

    @property
    def known(self) -> bool:
        """True where there is a row with calls."""
        return any(row.called for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """So many of a class's units were called another class."""

    site: str | None
    name: str
    called: str
    units: int
    of: int

    @property
    def share(self) -> float:
        """What part of the class's units it is."""
        return self.units / self.of


def class_matrices(result: StudyResult) -> tuple[ClassMatrix, ...]:
    """Give each site's matrix on its test units and then that of all; nothing for findings, or where none was released.

    Rows add up to their class, but for counts that a site withheld or rounded.
    """
    if not result.study.exclusive:
        return ()
    sites = tuple(_of_site(result, site) for site in result.site_names)
    return (*sites, _together(result, sites)) if any(one.known for one in sites) else ()


def mistakes(result: StudyResult) -> list[Mistake]:
    """List what was called another class than its own, at each site and over all, the largest share first."""
    found = [
        Mistake(site=matrix.site, name=row.name, called=cell.name, units=cell.units, of=row.units)
        for matrix in class_matrices(result)
        for row in matrix.rows
        for cell in row.called
        if not cell.right and cell.units and row.units
    ]
    return sorted(found, key=lambda one: (-one.share, one.site or "", one.name, one.called))


def _of_site(result: StudyResult, site: str) -> ClassMatrix:
    tests = {name: result.of_site(site, "test", name) for name in result.study.findings}
    return ClassMatrix(site=site, rows=tuple(_row(name, tests) for name in tests))


def _row(name: str, tests: Mapping[str, FindingResult]) -> ClassRow:
    test = tests[name]
    cells = zip(tests, test.called_as, strict=bool(test.called_as))
    return ClassRow(
        name=name,
        units=test.positives,
        called=tuple(_cell(other, name, units, test.positives) for other, units in cells),
        why=test.why,
    )


def _cell(other: str, name: str, units: int | None, of: int | None) -> Called:
    share = units / of if units is not None and of else None
    return Called(name=other, right=other == name, units=units, share=share)


def _together(result: StudyResult, sites: tuple[ClassMatrix, ...]) -> ClassMatrix:
    return ClassMatrix(
        site=None, rows=tuple(_sum(name, sites, place) for place, name in enumerate(result.study.findings))
    )


def _sum(name: str, sites: tuple[ClassMatrix, ...], place: int) -> ClassRow:
    """Add up the rows that are whole: with one that is not, no share would be of the same units."""
    whole = [
        row
        for row in (site.rows[place] for site in sites)
        if row.called and all(cell.units is not None for cell in row.called)
    ]
    if not whole:
        return ClassRow(name=name, units=None, called=(), why=Why.SUPPRESSED)
    of = sum(row.units or 0 for row in whole)
    cells = (
        _cell(cells[0].name, name, sum(cell.units or 0 for cell in cells), of)
        for cells in zip(*(row.called for row in whole), strict=True)
    )
    return ClassRow(name=name, units=of, called=tuple(cells), why=None)
