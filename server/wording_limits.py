"""Where a study's model should not be used, in words, the gravest first."""

from collections.abc import Iterator

from server import wording
from server.lowest import Whose, figures
from server.results import StudyResult
from server.summary import Standing, stands
from server.target import Target
from server.wording_groups import groups_apart
from server.wording_new_hospital import between


def not_for(result: StudyResult) -> list[str]:
    """List where the model should not be used, the gravest first."""
    return list(_not_for(result))


def _not_for(result: StudyResult) -> Iterator[str]:
    if result.weights.fell_back:
        yield "Anywhere: it started from random weights, and shows the machinery only."
    every = [one for finding in result.study.findings for one in stands(result, finding)]
    for one in every:
        if one.standing is Standing.SHORT and one.test.sensitivity:
            found = one.test.sensitivity
            missed = f"it missed {found.n - found.k:,} of {found.n:,} {_target(result, one.finding).of_it}"
            yield f"At {one.site} for {one.finding}, with this threshold: {missed}."
    for finding in result.study.findings:
        yield from _alarms(result, finding)
        lead = result.domain_shift.leading.get(finding)
        if lead is not None and lead.site and lead.corner:
            yield (
                f"At {lead.site} for {finding}, before its images are looked at: its figures may rest on a mark in the "
                f"{lead.corner} corner."
            )
    yield from _groups(result)
    for standing, words in (
        (Standing.BELOW, "below the target, which may be chance"),
        (Standing.TOO_FEW, "too few cases to say"),
        (Standing.UNKNOWN, "no sensitivity is known"),
    ):
        for finding in result.study.findings:
            sites = tuple(one.site for one in every if one.standing is standing and one.finding == finding)
            if sites:
                yield f"At {wording.names(sites)} for {finding} before a look at its own cases: {words}."
    for finding in result.study.findings:
        yield _elsewhere(result, finding)
    yield "For anything but the intended use above."


def _groups(result: StudyResult) -> Iterator[str]:
    """Name the groups of patients of whom a measure was shown to be lower than of the others."""
    for group in groups_apart(result):
        if group.difference.difference < 0:
            yield (
                f"For {group.finding} in the group {group.named}, before a look at its own cases: its {group.measure} "
                "is lower than the other groups', beyond chance."
            )


def _elsewhere(result: StudyResult, finding: str) -> str:
    """Say what is known of hospitals that took no part: a prediction, what was seen at those left out, or nothing."""
    told = result.new_hospital.get(finding)
    predicted = told.predictions.get("sensitivity") if told else None
    before = f"At any other hospital for {finding} before a look at its own cases"
    left_out = [one for one in figures(result) if one.whose is Whose.UNSEEN and one.finding == finding]
    seen = ""
    for measure in ("auc", "sensitivity"):
        if own := [one for one in left_out if one.measure == measure]:
            worst = min(own, key=lambda one: (one.value, one.site or ""))
            value = wording.area(worst.value) if measure == "auc" else wording.percent(worst.value)
            few = ", with too few cases to conclude from" if worst.few else ""
            seen = (
                f"a model had {_article(measure)} of {value} at a hospital that it never saw ({worst.site}, lowest of "
                f"{len(own)}{few})."
            )
            break
    if predicted:
        return f"{before}: expect a sensitivity between {between(predicted)}{f'; {seen}' if seen else '.'}"
    return f"At any other hospital for {finding}: {seen or 'nothing was measured there.'}"


def _article(measure: str) -> str:
    return "an AUC" if measure == "auc" else f"a {measure}"


def _target(result: StudyResult, finding: str) -> Target:
    return Target(name=finding, exclusive=result.study.exclusive)


def _alarms(result: StudyResult, finding: str) -> Iterator[str]:
    """Name the sites whose specificity is lower than that of all others, beyond chance."""
    for one in result.domain_shift.differences.get(finding, {}).get("specificity", ()):
        cleared = result.of_site(one.site, "test", finding).specificity
        if cleared is not None and one.difference < 0 and one.adjusted_p < result.study.significance:
            named = _target(result, finding)
            alarms = f"{cleared.n - cleared.k:,} of {cleared.n:,} {named.lacking} were {named.called}"
            yield f"At {one.site} for {finding}, where false alarms harm: {alarms}."
