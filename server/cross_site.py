"""The cross-site matrix: every model of a study tested at every site."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.finding_result import AreaUnderCurve, FindingResult, Why
from server.report_tables import mean
from server.results import StudyResult

GUESSING = 0.5
"""AUC of a model that knows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model at one site: its AUC there, or `why` there is none; `home` where it was trained at this site alone."""

    site: str
    auc: AreaUnderCurve | None
    home: bool
    why: Why | None

    @property
    def guesses(self) -> bool:
        """True where the model was not shown to be better than guessing."""
        return self.auc is not None and (self.auc.low is None or self.auc.low <= GUESSING)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """One model's cells in canonical order of the sites; `home` is the site that trained it alone, else None."""

    name: str
    home: str | None
    cells: tuple[Cell, ...]

    @property
    def away(self) -> tuple[Cell, ...]:
        """The cells of sites that did not train it, where there is an AUC."""
        return tuple(cell for cell in self.cells if not cell.home and cell.auc)

    @property
    def mean(self) -> float | None:
        """The mean AUC over the sites that have one, each with equal weight."""
        return mean([cell.auc.value if cell.auc else None for cell in self.cells])


def matrix(result: StudyResult, finding: str) -> list[MatrixRow]:
    """Test every model at every site: the federated one, those of all sites, then each site's own."""
    baselines, sites = result.baselines, result.site_names
    together = {"without noise": baselines.twin, "pooled": baselines.pooled}
    federated = {site: result.of_site(site, "test", finding) for site in sites}
    rows = [_row("federated", None, federated, sites)]
    for name, model in together.items():
        if model:
            rows.append(_row(name, None, _tests(model.sites, finding), sites))
    for home, model in sorted(baselines.local.items()):
        rows.append(_row(f"{home} alone", home, _tests(model.sites, finding), sites))
    return rows


def _tests(sites: Mapping[str, Mapping[str, FindingResult]], finding: str) -> dict[str, FindingResult]:
    return {site: findings[finding] for site, findings in sites.items() if finding in findings}


def _row(name: str, home: str | None, tests: Mapping[str, FindingResult], sites: tuple[str, ...]) -> MatrixRow:
    found = ((site, tests.get(site)) for site in sites)
    cells = (
        Cell(
            site=site,
            auc=test.auc if test else None,
            home=site == home,
            why=test.why if test else Why.NO_REPLY,
        )
        for site, test in found
    )
    return MatrixRow(name=name, home=home, cells=tuple(cells))
