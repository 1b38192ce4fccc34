"""The one-page summary in words: four questions and their answers, and each hospital in a line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from server import wording
from server.explanation import Explanation, Pattern
from server.leading import Cause, Leading
from server.receipt import Receipt, Worth
from server.results import StudyResult
from server.summary import Stand, Standing, least_safe, stands, tied
from server.target import Target
from server.wording_explanation import reading
from server.wording_groups import group_in_short, groups_apart
from server.wording_shift import consistent_with, sites_apart
from server.wording_worth import SHORT

STANDINGS = {
    Standing.REACHED: ("✓", "reaches the target"),
    Standing.BELOW: ("▽", "below the target, perhaps by chance"),
    Standing.SHORT: ("▼", "falls short of the target"),
    Standing.TOO_FEW: ("?", "too few cases to say"),
    Standing.UNKNOWN: ("–", "not known"),
}
"""A mark and words for each standing: never told by colour alone."""


NAMED = 2
"""Findings whose leading pattern the summary names: with more it would be no summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A question that every reader has; the answer in a few words, and a sentence or two that bear it out."""

    question: str
    short: str
    text: str


def answers(result: StudyResult) -> list[Answer]:
    """Answer the four questions, in the order in which they are asked."""
    worst = least_safe(result)
    return [_least_safe(result, worst), _how_sure(result, worst), _why(result, worst), _worth(result)]


def _least_safe(result: StudyResult, worst: Stand | None) -> Answer:
    question = "Where is it least safe?"
    unknown = _unknown(result)
    if worst is None or worst.target is None or worst.test.sensitivity is None:
        text = "No hospital has enough test patients, or released enough, for a sensitivity that could be compared."
        return Answer(question=question, short="Not known", text=" ".join((text, *_lowest_of_few(result))))
    reached, unit = worst.test.sensitivity, result.study.unit
    missed = reached.n - reached.k
    named = Target(name=worst.finding, exclusive=result.study.exclusive).of_it
    facts = (
        f"It missed {missed:,} of {wording.units(reached.n, unit)} {named}: a sensitivity of "
        f"{wording.percent(reached.value, beside=worst.target)}, where {wording.level(worst.target)} was wished."
    )
    also = tied(result, worst)
    if also:
        facts += f" At {wording.names(also)} it is as low, and {worst.site}'s interval reaches farthest down."
    if worst.standing is not Standing.REACHED:
        where = wording.names((worst.site, *also))
        return Answer(question=question, short=f"At {where}", text=" ".join((facts, *unknown)))
    short = "None that could be judged is below the target" if unknown else "No hospital is below the target"
    return Answer(question=question, short=short, text=" ".join((f"Lowest at {worst.site}. {facts}", *unknown)))


def _unknown(result: StudyResult) -> Iterator[str]:
    """Name the hospitals of which nobody can say how they stand: on any finding, or on which."""
    left = {
        finding: {one.site for one in stands(result, finding) if one.lacking is None}
        for finding in result.study.findings
    }
    wholly = set.intersection(*left.values())
    if wholly:
        yield f"Of {wording.names(tuple(sorted(wholly)))} it cannot be said: too few cases, or none known."
    for finding, sites in left.items():
        if more := sites - wholly:
            names = wording.names(tuple(sorted(more)))
            yield f"For {finding} it cannot be said of {names}: too few cases, or none known."


def _lowest_of_few(result: StudyResult) -> Iterator[str]:
    """Say what was seen with too few cases, so that it is not passed over."""
    every = [one for finding in result.study.findings for one in stands(result, finding) if one.test.sensitivity]
    if every:
        least = min(every, key=lambda one: (one.test.sensitivity.value if one.test.sensitivity else 1.0, one.site))
        named = Target(name=least.finding, exclusive=result.study.exclusive).of_it
        found = least.test.sensitivity
        if found:
            yield (
                f"The lowest that was seen: {found.k:,} of {wording.units(found.n, result.study.unit)} {named} found "
                f"at {least.site}."
            )


def _how_sure(result: StudyResult, worst: Stand | None) -> Answer:
    question = "How sure are we?"
    if worst is None or worst.target is None or worst.test.sensitivity is None:
        return Answer(question=question, short="Not at all", text="With so few cases nothing can be concluded.")
    reached = worst.test.sensitivity
    ends = f"{wording.percent_range(reached.low, reached.high)}{wording.NO_BREAK}%"
    between = f"{wording.level(result.study.confidence)} interval at {worst.site}: {ends}"
    match worst.standing:
        case Standing.SHORT:
            p = wording.p_value(worst.p or 0.0)
            short, text = "Sure that it falls short", f"{between}, all of it below the target ({p}, adjusted)."
        case Standing.REACHED:
            short, text = "As sure as the interval is narrow", f"{between}."
        case _ if reached.high < worst.target:
            short, text = "Not sure that it falls short", f"{between}, {_by_itself(result, worst)}."
        case _:
            short, text = "Not sure that it falls short", f"{between}; the target lies within."
    return Answer(question=question, short=short, text=f"{text} {_difference(result, worst)}")


def _by_itself(result: StudyResult, worst: Stand) -> str:
    p = "" if worst.p is None else f" ({wording.p_value(worst.p)}, adjusted)"
    return (
        f"below the target if it were the only one; among {wording.units(result.tested, 'test')} of this study one "
        f"such interval is not beyond chance{p}"
    )


def _difference(result: StudyResult, worst: Stand) -> str:
    known = result.domain_shift.differences.get(worst.finding, {}).get("sensitivity", ())
    one = next((one for one in known if one.site == worst.site), None)
    if one is None:
        return "It could not be compared with other hospitals."
    p = f"{wording.p_value(one.adjusted_p)}, adjusted"
    if one.adjusted_p < result.study.significance:
        return f"It differs from all others together by more than chance explains ({p})."
    return f"That it differs from all others together in sensitivity was not shown ({p})."


def _why(result: StudyResult, worst: Stand | None) -> Answer:
    question = "Why?"
    told = result.explanations.get(worst.finding, {}).get(worst.site) if worst else None
    if worst is None or told is None or told.pattern is Pattern.NOT_COMPARED:
        text = "There is not enough evidence to compare hospitals."
        return Answer(question=question, short="Not known", text=" ".join((text, *_stands_out(result, worst))))
    standing_out = result.measures_standing_out(worst.site, worst.finding)
    read = [reading(told, standing_out=standing_out)]
    if told.pattern is Pattern.NONE_SHOWN and worst.standing is Standing.SHORT:
        read.append("That others do better was not shown: they may fall short as well.")
    text = " ".join((*read, *_stands_out(result, worst), "Patterns, not causes."))
    return Answer(question=question, short=_pattern(told), text=text)


def _stands_out(result: StudyResult, worst: Stand | None) -> Iterator[str]:
    """Say what leads, finding by finding, but for what was said of the least safe site just now."""
    leads = {finding: lead for finding, lead in result.domain_shift.leading.items() if finding in result.study.findings}
    untold = {finding: lead for finding, lead in leads.items() if lead.site and not _told(lead, finding, worst)}
    shown = sorted(untold, key=lambda finding: (untold[finding].p or 0.0, finding))
    several = len(result.study.findings) > 1
    if shown:
        named = [consistent_with(untold[finding], finding=finding if several else None) for finding in shown]
        yield f"Also consistent with the data: {_first(named)}."
    groups = [group_in_short(one, several=several) for one in groups_apart(result)]
    if groups:
        yield f"{'A group' if len(groups) == 1 else 'Groups'} of patients shown to differ: {_first(groups)}."
    images = sites_apart(result)
    if images:
        yield f"Images of {wording.names(images) if len(images) < len(result.site_names) else 'all'} lie apart."
    others = [one for one in _other_sites(result, worst) if one not in {lead.site for lead in untold.values()}]
    if others:
        yield f"More stands out at {wording.names(tuple(others))}."
    if not (shown or groups or images or others) and (leads or _groups_tested(result)):
        tested = any(lead.compared > 1 or lead.looked_at for lead in leads.values()) or _groups_tested(result)
        yield "Nothing else was shown to stand out." if tested else "Nothing else was tested."


def _other_sites(result: StudyResult, worst: Stand | None) -> list[str]:
    """Name the sites that stand out on some finding, but for the least safe one on its own, which was told of."""
    told, findings = (worst.finding, worst.site) if worst else None, result.study.findings
    every = [(one.finding, one.difference.site) for one in result.standing_out if one.finding in findings]
    return sorted({one[1] for one in every if one != told})


def _groups_tested(result: StudyResult) -> bool:
    return any(
        result.subgroups[finding].comparisons for finding in result.study.findings if finding in result.subgroups
    )


def _first(named: list[str]) -> str:
    more = f"; {len(named) - NAMED} more are told below" if len(named) > NAMED else ""
    return f"{'; '.join(named[:NAMED])}{more}"


def _told(lead: Leading, finding: str, worst: Stand | None) -> bool:
    """Tell whether a pattern is the least safe site's own, which the answer begins with."""
    same = worst is not None and (worst.finding, worst.site) == (finding, lead.site)
    return same and lead.cause not in (Cause.MARKER, Cause.MARK)


def _pattern(told: Explanation) -> str:
    """Name what was measured, which is all that a few words can say; the sentence says what it is consistent with."""
    gap = told.gaps.get(told.measure) if told.measure else None
    worse = gap is None or gap.value < 0
    return {
        Pattern.THRESHOLD: "The shared threshold does not suit it",
        Pattern.DISCRIMINATION: f"Cases are told apart {'less well' if worse else 'better'} there",
        Pattern.BOTH: "Two things at once",
        Pattern.UNCLEAR: "It cannot be told",
        Pattern.PREVALENCE: "Another share of positives",
        Pattern.NONE_SHOWN: "It was not shown to differ from the others",
        Pattern.NOT_COMPARED: "Too few cases to compare",
    }[told.pattern]


def _worth(result: StudyResult) -> Answer:
    question = "Was it worth joining?"
    verdicts: dict[Worth, dict[str, list[str]]] = {}
    for finding in result.study.findings:
        for site, one in result.receipts.get(finding, {}).items():
            verdicts.setdefault(one.worth, {}).setdefault(site, []).append(finding)
    if not verdicts:
        return Answer(question=question, short="Not measured", text=_no_receipt(result))
    times = {worth: sum(map(len, sites.values())) for worth, sites in verdicts.items()}
    place = "at {} of {} hospitals" if len(result.study.findings) == 1 else "in {} of {} comparisons"
    if times.keys() <= {Worth.NOT_SHOWN, Worth.TOO_FEW}:
        short = "Not shown at any hospital"
    else:
        short = "Yes " + place.format(times.get(Worth.BETTER, 0), sum(times.values()))
    if Worth.WORSE in times:
        short += f", no {place.split()[0]} {times[Worth.WORSE]}"
    named = {
        Worth.BETTER: "In AUC better than training alone at",
        Worth.WORSE: "In AUC worse than training alone at",
        Worth.NOT_SHOWN: "No difference in AUC from training alone was shown at",
        Worth.TOO_FEW: "Too few cases to say at",
    }
    text = " ".join(
        f"{words} {_places(verdicts[worth], result)}." for worth, words in named.items() if worth in verdicts
    )
    return Answer(question=question, short=short, text=text)


def _no_receipt(result: StudyResult) -> str:
    """Say why there is no receipt: nothing was trained alone, or what was could not be compared."""
    if alone := tuple(sorted(result.baselines.local)):
        return (
            f"Models were trained at {wording.names(alone)} alone, and no hospital released what a comparison needs: "
            "the evidence of both models. What joining gave is not known."
        )
    return "There is no model of a hospital's patients alone. A simulation with local baselines measures it."


def _places(sites: Mapping[str, list[str]], result: StudyResult) -> str:
    """List sites; one of which this is not true of every finding that it was asked about names those."""
    asked = {site: sum(site in owed for owed in result.receipts.values()) for site in sites}
    return wording.names(
        tuple(
            site if len(found) == asked[site] else f"{site} ({wording.names(tuple(found))})"
            for site, found in sorted(sites.items())
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HospitalLine:
    """One hospital and finding in a line: standing, what it finds and clears, and whether joining was worth it."""

    site: str
    mark: str
    standing: str
    grade: str
    numbers: str
    joining: str


def hospital_lines(result: StudyResult, finding: str) -> list[HospitalLine]:
    """Give every hospital's line, the least safe first."""
    owed = result.receipts.get(finding, {})
    lines = []
    for one in stands(result, finding):
        mark, words = STANDINGS[one.standing]
        if one.standing is Standing.TOO_FEW:
            words = f"{words} ({wording.units(one.test.positives, 'positive')})"
        elif one.standing is Standing.REACHED and not one.sure:
            words = f"{words}, but not for sure"
        receipt = owed.get(one.site)
        lines.append(
            HospitalLine(
                site=one.site,
                mark=mark,
                standing=words,
                grade=one.standing.value,
                numbers=_numbers(one),
                joining=_joining(receipt) if receipt else "",
            )
        )
    return lines


def _joining(receipt: Receipt) -> str:
    """Say what joining gave against the hospital's own model, with the interval that says what could be seen."""
    words = f"joining: {SHORT[receipt.worth]}"
    if receipt.auc is None:
        return words
    ends = wording.signed_range(receipt.auc.low, receipt.auc.high, 3)
    return f"{words} (AUC {wording.signed(receipt.auc.difference, 3)}, {ends})"


def _numbers(one: Stand) -> str:
    found, cleared = one.test.sensitivity, one.test.specificity
    parts = []
    if found is not None:
        parts.append(f"finds {wording.percent(found.value)} ({wording.percent_range(found.low, found.high)})")
    if cleared is not None:
        parts.append(f"clears {wording.percent(cleared.value)} ({wording.percent_range(cleared.low, cleared.high)})")
    if found is None:
        parts.append(wording.absence(one.test.why))
    return ", ".join(parts)
