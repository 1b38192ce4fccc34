"""What a reader must know before using a number: the warnings of page and card, and what their absence means."""

from collections.abc import Iterator
from dataclasses import dataclass

from server import wording
from server.finding_result import FindingResult, Why
from server.privacy_words import seeded
from server.results import StandingOut, StudyResult
from server.summary import Standing, stands
from server.wording_groups import groups_apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Warn:
    """What a reader must know before using a number: its headline, and a sentence or two; `grave` ones stand first."""

    headline: str
    text: str
    grave: bool


def warnings(result: StudyResult) -> list[Warn]:
    """List everything that limits what the numbers may be used for, the grave first."""
    found = [
        *_weights(result),
        *(Warn(headline=one.headline, text=one.text, grave=True) for one in seeded(result)),
        *(_standing_out(one, result) for one in result.standing_out),
        *_groups(result),
        *_nothing_compared(result),
        *_short_sites(result),
        *_missed_on_validation(result),
        *_withheld(result),
        *_refused(result),
        *(Warn(headline="Note", text=note, grave=False) for note in result.notes),
    ]
    return sorted(found, key=lambda one: not one.grave)


def _weights(result: StudyResult) -> Iterator[Warn]:
    if result.weights.fell_back:
        yield Warn(
            headline="Started from random weights, not pretrained ones", text=result.weights.sentence, grave=True
        )


def _standing_out(one: StandingOut, result: StudyResult) -> Warn:
    """Warn of a site that differs; one that is higher than the others may only be the shadow of one that is lower."""
    there = one.difference
    lower = there.difference < 0
    advice = (
        "Look into this site before the pooled numbers are used there."
        if lower
        else "A site that is far lower makes the others look higher: see Domain shift."
    )
    ends, p = wording.points_range(there.low, there.high), wording.p_value(there.adjusted_p)
    p += f", {wording.all_tests(result)}"
    return Warn(
        headline=f"{there.site} stands out: {one.measure} for {one.finding} is {'lower' if lower else 'higher'} "
        "than elsewhere",
        text=f"{wording.points(there.difference)} against all other sites together (interval {ends}; {p}). {advice}",
        grave=lower,
    )


def _groups(result: StudyResult) -> Iterator[Warn]:
    """Warn of each group of patients that was shown to differ, with what was counted."""
    for one in groups_apart(result):
        lower, there = one.difference.difference < 0, one.difference
        found = one.row.sensitivity if one.measure == "sensitivity" else one.row.specificity
        counted = f"{wording.rate(found)}. " if found else ""
        yield Warn(
            headline=f"A group stands out, {one.named}: {one.measure} for {one.finding} is "
            f"{'lower' if lower else 'higher'} than in the other groups",
            text=f"{counted}{wording.points(there.difference)} against the other groups there (interval "
            f"{wording.points_range(there.low, there.high)}; {wording.p_value(there.adjusted_p)}, "
            f"{wording.all_tests(result)}). Groups differ in more than their name.",
            grave=lower,
        )


def _nothing_compared(result: StudyResult) -> Iterator[Warn]:
    """Warn of findings of which no site could be compared: silence would read as good news."""
    if none := tuple(finding for finding in result.study.findings if not result.compared(finding)):
        yield Warn(
            headline=f"No site could be compared: {wording.names(none)}",
            text="No site has enough cases, or released enough, and others to compare it with. Nothing below says that "
            "a site is as good as another, or that one reaches the target.",
            grave=True,
        )


def _short_sites(result: StudyResult) -> Iterator[Warn]:
    for finding in result.study.findings:
        point = result.operating_point.get(finding)
        short = [one for one in stands(result, finding) if one.standing in (Standing.SHORT, Standing.BELOW)]
        if point and short:
            target = point.target
            reached = tuple(
                f"{one.site} reached only {_reached(one.test, target)}"
                + (", which may be chance" if one.standing is Standing.BELOW else "")
                for one in short
            )
            yield Warn(
                headline=f"A pooled operating point hides sites: {finding}",
                text=f"The threshold was chosen on all sites' validation patients together, for a sensitivity of "
                f"{wording.level(target)}. On test patients {wording.names(reached)}.",
                grave=True,
            )


def _reached(test: FindingResult, target: float) -> str:
    reached = test.sensitivity
    return (
        f"{wording.percent(reached.value, beside=target)} ({reached.k:,} of {reached.n:,})"
        if reached
        else wording.absence(None)
    )


def no_warning(result: StudyResult) -> str:
    """Say what it means that there is no warning, which is less than that nothing is wrong.

    Where a site could not be compared there is no claim about it.
    """
    compared, ranked, left = set[str](), set[str](), set[str]()
    for finding in result.study.findings:
        compared |= result.compared(finding)
        for one in stands(result, finding):
            (ranked if one.lacking is not None else left).add(one.site)
    said = ["No site was shown to differ from the others."] if compared else ["No site was compared with others."]
    said += [
        f"Each finding at {wording.names(tuple(sorted(ranked)))} that has enough cases reached the target."
    ] * bool(ranked)
    said += [f"Of {wording.names(tuple(sorted(left)))} too little is known to say so."] * bool(left)
    return " ".join((*said, "With few cases, real differences go unseen."))


def _missed_on_validation(result: StudyResult) -> Iterator[Warn]:
    for finding in result.study.findings:
        point = result.operating_point.get(finding)
        if point is None:
            text = "No site released validation counts for it, so that no threshold could be chosen."
            yield Warn(headline=f"No operating point: {finding}", text=text, grave=True)
        elif not point.met:
            most = wording.rate(point.reached)
            text = f"No threshold reaches {wording.level(point.target)} on validation; {most} is the most."
            yield Warn(headline=f"The target cannot be reached: {finding}", text=text, grave=True)


def _withheld(result: StudyResult) -> Iterator[Warn]:
    """Name the sites that the pooled numbers lack; findings that lack the same ones share a warning."""
    lacking: dict[tuple[tuple[str, ...], Why], list[str]] = {}
    for finding in result.study.findings:
        missing = {site: result.of_site(site, "test", finding).why for site in result.site_names}
        for why in (Why.SUPPRESSED, Why.NOT_ASSESSED, Why.NO_REPLY):
            if sites := tuple(site for site, reason in missing.items() if reason is why):
                lacking.setdefault((sites, why), []).append(finding)
    for (sites, why), findings in lacking.items():
        text = f"Those for {wording.names(tuple(findings))} are without {wording.names(sites)}: {wording.absence(why)}."
        yield Warn(headline="Not every site is in the pooled numbers", text=text, grave=False)


def _refused(result: StudyResult) -> Iterator[Warn]:
    lost = [one.round for one in result.rounds if one.lost]
    if lost:
        rounds = wording.units(len(result.rounds), "round")
        text = f"Too few sites could be used in {len(lost)} of {rounds}; the model stayed as it was."
        yield Warn(headline="Rounds were lost", text=text, grave=True)
