"""The rows of the report's tables: sites in the order of the page, comparisons with the baselines, refusals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from server.finding_result import FindingResult, Why
from server.results import BaselineModel, StudyResult
from shared.domain_shift import SiteDifference
from shared.released_flow import ReleasedFlow


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """One site's test result for one finding."""

    site: str
    test: FindingResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One site's test patients under three models; the others are None where they were not run."""

    site: str
    federated: FindingResult
    local: FindingResult | None
    pooled: FindingResult | None

    @property
    def minus_local(self) -> float | None:
        """AUC of the federated model minus that of the model trained at this site alone."""
        return _difference(self.federated, self.local)

    @property
    def minus_pooled(self) -> float | None:
        """AUC of the federated model minus that of the model trained on all images in one place."""
        return _difference(self.federated, self.pooled)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinRow:
    """One site's test patients under the private model, and under the same study without noise if it was run."""

    site: str
    private: FindingResult
    twin: FindingResult | None

    @property
    def cost(self) -> float | None:
        """AUC of the private model minus that of its twin."""
        return _difference(self.private, self.twin)


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceRow:
    """One site minus all others together; None where it could not be compared."""

    site: str
    sensitivity: SiteDifference | None
    specificity: SiteDifference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedUpdate:
    """A site's update that did not enter a round, with its fixed code."""

    round: int
    site: str
    code: str


def site_rows(result: StudyResult, finding: str) -> list[SiteRow]:
    """Order the sites as the page shows them: ranked ones from the lowest sensitivity on, then the others by name."""
    rows = [SiteRow(site=site, test=result.of_site(site, "test", finding)) for site in result.site_names]
    return sorted(rows, key=_place)


def _place(row: SiteRow) -> tuple[bool, bool, float, str]:
    """Sort unranked sites after ranked ones, and those without any number last."""
    value = row.test.sensitivity.value if row.test.sensitivity and row.test.ranked else 0.0
    return (not row.test.ranked, row.test.units is None, value, row.site)


def comparisons(result: StudyResult, finding: str) -> list[Comparison]:
    """Put each site's test patients under the federated model, its own local model and the pooled one."""
    local, pooled = result.baselines.local, result.baselines.pooled
    return [
        Comparison(
            site=site,
            federated=result.of_site(site, "test", finding),
            local=_tested(local.get(site), site, finding),
            pooled=_tested(pooled, site, finding),
        )
        for site in result.site_names
    ]


def difference_rows(result: StudyResult, finding: str) -> list[DifferenceRow]:
    """List each site's differences from the others; empty where no site could be compared."""
    measures = result.domain_shift.differences.get(finding, {})
    found = {measure: {one.site: one for one in ones} for measure, ones in measures.items() if ones}
    sensitivity, specificity = found.get("sensitivity", {}), found.get("specificity", {})
    return [
        DifferenceRow(site=site, sensitivity=sensitivity.get(site), specificity=specificity.get(site))
        for site in result.site_names
        if found
    ]


def twin_rows(result: StudyResult, finding: str) -> list[TwinRow]:
    """Put each site's test patients under the private model and under its twin without noise."""
    return [
        TwinRow(
            site=site,
            private=result.of_site(site, "test", finding),
            twin=_tested(result.baselines.twin, site, finding),
        )
        for site in result.site_names
    ]


def mean(values: Sequence[float | None]) -> float | None:
    """Average what there is, each site with equal weight; None where there is nothing."""
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else None


def _tested(model: BaselineModel | None, site: str, finding: str) -> FindingResult | None:
    return model.sites.get(site, {}).get(finding) if model else None


def _difference(one: FindingResult, other: FindingResult | None) -> float | None:
    return one.auc.value - other.auc.value if one.auc and other and other.auc else None


def refused_updates(result: StudyResult) -> list[RefusedUpdate]:
    """List every update that did not enter, by round and site."""
    return [
        RefusedUpdate(round=one.round, site=site, code=part.refusal)
        for one in result.rounds
        for site, part in sorted(one.sites.items())
        if part.refusal is not None
    ]


def exclusion_reasons(result: StudyResult) -> list[str]:
    """Name every reason for which some site left something out, the most frequent first."""
    total: Counter[str] = Counter()
    for flow in result.patient_flow.values():
        total.update({reason: number or 0 for reason, number in flow.excluded.items()})
    return sorted(total, key=lambda reason: (-total[reason], reason))


def unassessed(result: StudyResult, site: str, place: int) -> bool:
    """Tell whether a site does not assess the finding at a place, so that there are no counts of it to suppress."""
    names = result.study.findings[place : place + 1]
    splits = result.sites.get(site, {}).values()
    return any(found[name].why is Why.NOT_ASSESSED for found in splits for name in names if name in found)


def took_part(flow: ReleasedFlow, counted: Literal["patients", "exams"]) -> int | None:
    """Add up a site's splits; suppressed where one is, since the rest would pass for all."""
    counts = [split.patients if counted == "patients" else split.exams for split in flow.splits.values()]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def stage_changes(result: StudyResult) -> dict[int, str]:
    """Name the rounds in which more of the model began to train, and the stage from which it then did."""
    pairs = zip(result.rounds, result.rounds[1:], strict=False)
    return {after.round: after.trained_from for before, after in pairs if after.trained_from != before.trained_from}
