"""The lowest figures of a study's page, whosever they are: ranked or not, of a group, or of a model made to compare."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from server.finding_result import FindingResult
from server.receipt import Receipts
from server.results import FindingResults, StudyResult

MEASURES = ("sensitivity", "specificity", "auc")


class Whose(IntEnum):
    """Whose figure it is: the study's model, one that never saw the hospital, or one that was made for comparison."""

    STUDY = 1
    UNSEEN = 2
    COMPARISON = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measure of one finding; `site` None is all sites, `model` is in words, None the study's own.

    `few` is True of a site that is not ranked, whose figure rests on too few cases to conclude from.
    """

    whose: Whose
    measure: str
    value: float
    finding: str
    site: str | None
    model: str | None = None
    group: str | None = None
    few: bool = False


def lowest(result: StudyResult) -> list[Figure]:
    """Give each measure's lowest figure of each kind of model, in the order of MEASURES and of Whose.

    Of models for comparison it is left out where another kind has one as low. Figures at thresholds that nobody uses
    ("Other thresholds") are not meant, nor those of rounds on the way.
    """
    found = []
    for measure in MEASURES:
        own = [one for one in figures(result) if one.measure == measure]
        least = {whose: min(ones, key=_value) for whose in Whose if (ones := [x for x in own if x.whose is whose])}
        compared = least.get(Whose.COMPARISON)
        if compared and any(one.value <= compared.value for one in least.values() if one is not compared):
            del least[Whose.COMPARISON]
        found += [least[whose] for whose in Whose if whose in least]
    return found


def figures(result: StudyResult) -> Iterator[Figure]:
    """List every sensitivity, specificity and AUC of tested models that the page shows."""
    for finding in result.study.findings:
        yield from _of_study(result, finding)
        for site, model in result.unseen.items():
            yield from _tested(model.sites.get(site, {}), finding, Whose.UNSEEN, site, "not trained there")
        yield from _of_comparison(result, finding)


def _of_study(result: StudyResult, finding: str) -> Iterator[Figure]:
    for site in result.site_names:
        yield from _of(result.of_site(site, "test", finding), finding, Whose.STUDY, site)
    yield from _of(result.of_pool("test", finding), finding, Whose.STUDY, None)
    groups = result.subgroups.get(finding)
    for row in groups.rows if groups else ():
        for measure, one in (("sensitivity", row.sensitivity), ("specificity", row.specificity), ("auc", row.auc)):
            if one is not None:
                group = f"{row.axis}: {row.group}"
                yield Figure(
                    whose=Whose.STUDY, measure=measure, value=one.value, finding=finding, site=row.site, group=group
                )


def _of_comparison(result: StudyResult, finding: str) -> Iterator[Figure]:
    models = {f"trained at {home} alone": model for home, model in result.baselines.local.items()}
    together = {
        "all patients in one place": result.baselines.pooled,
        "without noise": result.baselines.twin,
    }
    for name, model in (*models.items(), *together.items()):
        for site, tests in model.sites.items() if model else ():
            yield from _tested(tests, finding, Whose.COMPARISON, site, name)
    yield from _receipts(result.personal, finding, "with its own layers")
    yield from _receipts(result.blended, finding, "half its own head")


def _receipts(owed: Receipts, finding: str, name: str) -> Iterator[Figure]:
    for site, one in owed.get(finding, {}).items():
        if one.auc:
            yield Figure(
                whose=Whose.COMPARISON,
                measure="auc",
                value=one.auc.first,
                finding=finding,
                site=site,
                model=name,
                few=not one.ranked,
            )


def _tested(tests: FindingResults, finding: str, whose: Whose, site: str, model: str) -> Iterator[Figure]:
    if finding in tests:
        yield from _of(tests[finding], finding, whose, site, model)


def _of(
    test: FindingResult, finding: str, whose: Whose, site: str | None, model: str | None = None
) -> Iterator[Figure]:
    few = site is not None and not test.ranked
    for measure, one in (("sensitivity", test.sensitivity), ("specificity", test.specificity), ("auc", test.auc)):
        if one is not None:
            yield Figure(
                whose=whose, measure=measure, value=one.value, finding=finding, site=site, model=model, few=few
            )


def _value(one: Figure) -> tuple[float, str, str]:
    """Order by value, then by names, so that a draw is always told alike."""
    return one.value, one.site or "", one.finding
