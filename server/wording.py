"""Numbers, absences and warnings as words: the one place where a fact of the study becomes text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from server.finding_result import AreaUnderCurve, FindingResult, Why
from server.privacy_words import seeded
from server.results import StandingOut, StudyResult
from shared.domain_shift import Heterogeneity
from shared.metrics import Proportion

_ABSENCES = {
    Why.SUPPRESSED: "suppressed (fewer than the hospital's minimum)",
    Why.NO_POSITIVES: "not defined: no positives",
    Why.NO_NEGATIVES: "not defined: no negatives",
    Why.NO_EXAMS: "not defined: nothing was scored",
    Why.NO_OPERATING_POINT: "not defined: no operating point",
    Why.NOT_ASSESSED: "not assessed at this site",
    Why.NO_REPLY: "no reply from the site",
}

NO_BREAK = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def absence(why: Why | None) -> str:
    """Say why a number is not there; suppressed, undefined and zero are three different things."""
    return _ABSENCES[why] if why else "not reported"


def count(number: int | None) -> str:
    """Write a count; None is suppressed, and zero is 0."""
    return "suppressed" if number is None else f"{number:,}"


def percent(value: float) -> str:
    """Write a proportion as percent, with one decimal: 94.1 %."""
    return f"{value * 100:.1f}{NO_BREAK}%"


def level(confidence: float) -> str:
    """Write an interval's confidence: 95 %."""
    return f"{confidence * 100:g}{NO_BREAK}%"


def percent_range(low: float | None, high: float | None) -> str:
    """Write an interval of a proportion: 91.8 to 95.8."""
    return "no interval" if low is None or high is None else f"{low * 100:.1f} to {high * 100:.1f}"


def area(value: float) -> str:
    """Write an AUC with three decimals."""
    return f"{value:.3f}"


def area_range(low: float | None, high: float | None) -> str:
    """Write an interval of an AUC."""
    return "no interval" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def points(difference: float) -> str:
    """Write a difference of two proportions in percentage points, always with its sign."""
    return f"{signed(difference * 100, 1)}{NO_BREAK}points"


def signed(number: float, decimals: int) -> str:
    """Write a number with its sign; what rounds to nothing has none."""
    text = f"{number:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def signed_range(low: float, high: float, decimals: int) -> str:
    """Write an interval of a difference, each end with its sign."""
    return f"{signed(low, decimals)} to {signed(high, decimals)}"


def points_range(low: float, high: float) -> str:
    """Write an interval of a difference of two proportions: -13.5 to -1.4 points, each with its sign."""
    return f"{signed(low * 100, 1)} to {points(high)}"


def p_number(p: float) -> str:
    """Write a p value: what is below 0.001 only as that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_value(p: float) -> str:
    """Write a p value as it stands in a sentence: p = 0.012."""
    return f"p {p_number(p)}" if p < 0.001 else f"p = {p_number(p)}"


def measure(name: str) -> str:
    """Write a measure's name: auc is AUC."""
    return "AUC" if name == "auc" else name


def code(text: str) -> str:
    """Write a fixed code in words: update_not_finite is 'update not finite'."""
    return text.replace("_", " ")


def names(items: tuple[str, ...]) -> str:
    """List names: 'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


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
        *(_standing_out(one) for one in result.standing_out),
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


def _standing_out(one: StandingOut) -> Warn:
    """Warn of a site that differs; one that is higher than the others may only be the shadow of one that is lower."""
    there = one.difference
    lower = there.difference < 0
    advice = (
        "Look into this site before the pooled numbers are used there."
        if lower
        else "A site that is far lower makes the others look higher: see Domain shift."
    )
    return Warn(
        headline=f"{there.site} stands out: {one.measure} for {one.finding} is {'lower' if lower else 'higher'} "
        "than elsewhere",
        text=f"{points(there.difference)} against all other sites together (interval "
        f"{points_range(there.low, there.high)}; {p_value(there.adjusted_p)}, adjusted for the number of sites). "
        + advice,
        grave=lower,
    )


def _short_sites(result: StudyResult) -> Iterator[Warn]:
    for finding in result.study.findings:
        if short := result.short_of_target(finding):
            reached = tuple(f"{site} reached only {_reached(result, site, finding)}" for site in short)
            yield Warn(
                headline=f"A pooled operating point hides sites: {finding}",
                text=f"The threshold was chosen on all sites' validation patients together, for a sensitivity of "
                f"{percent(result.operating_point[finding].target)}. On test patients {names(reached)}.",
                grave=True,
            )


def _reached(result: StudyResult, site: str, finding: str) -> str:
    reached = result.of_site(site, "test", finding).sensitivity
    return f"{percent(reached.value)} ({reached.k:,} of {reached.n:,})" if reached else absence(None)


def _missed_on_validation(result: StudyResult) -> Iterator[Warn]:
    for finding in result.study.findings:
        point = result.operating_point.get(finding)
        if point is None:
            text = "No site released validation counts for it, so that no threshold could be chosen."
            yield Warn(headline=f"No operating point: {finding}", text=text, grave=True)
        elif not point.met:
            text = f"No threshold reaches {percent(point.target)} on validation; {rate(point.reached)} is the most."
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
        text = f"Those for {names(tuple(findings))} are without {names(sites)}: {absence(why)}."
        yield Warn(headline="Not every site is in the pooled numbers", text=text, grave=False)


def _refused(result: StudyResult) -> Iterator[Warn]:
    lost = [one.round for one in result.rounds if one.lost]
    if lost:
        text = f"Too few sites could be used in {len(lost)} of {len(result.rounds)} rounds; the model stayed as it was."
        yield Warn(headline="Rounds were lost", text=text, grave=True)


def rate(proportion: Proportion) -> str:
    """Write a proportion with its interval and counts."""
    interval = percent_range(proportion.low, proportion.high)
    return f"{percent(proportion.value)} ({interval}; {proportion.k:,} of {proportion.n:,})"


def headline(result: StudyResult, finding: str) -> str:
    """Say in one sentence how well a finding is told on all sites' test patients together."""
    test = result.of_pool("test", finding)
    unit = result.study.unit
    if test.sensitivity is None or test.specificity is None:
        return f"{finding}: how well it is told on test patients is {absence(test.why)}."
    return (
        f"Of {test.positives:,} {unit}s with {finding}, the model found {percent(test.sensitivity.value)}; "
        f"of {test.negatives:,} without, it cleared {percent(test.specificity.value)}."
    )


def heterogeneity(one: Heterogeneity, *, measure: str, significance: float) -> str:
    """Say what a test of equal sites shows, and what it does not."""
    if one.p < significance:
        return (
            f"The sites' {measure} differs by more than chance explains ({p_value(one.p)}). "
            "The test says that they differ, not which site, nor why."
        )
    return (
        f"No difference in {measure} between sites was shown ({p_value(one.p)}). "
        "That is not proof that they are alike: with few cases, real differences go unseen."
    )


def why_not_ranked(one: FindingResult, *, min_positives_to_rank: int) -> str:
    """Say why a site is shown but not compared."""
    if one.why is not None:
        return absence(one.why)
    return f"not ranked: {one.positives} positives, fewer than {min_positives_to_rank}"


def permutations(one: Heterogeneity) -> str:
    """Say on how many permutations a test rests."""
    return f"all {one.permutations:,}" if one.exact else f"{one.permutations:,} drawn"


def ties(auc: AreaUnderCurve) -> str:
    """Give the bounds of an AUC from score bins: every tie lost, every tie won."""
    return "" if auc.ties is None else f"between {area(auc.ties[0])} and {area(auc.ties[1])}, however ties fall"


def coefficient(number: float) -> str:
    """Write a number on the logit scale with two decimals."""
    return f"{number:.2f}".replace("-", _MINUS)


def threshold(value: float) -> str:
    """Write a threshold so that it can be told from its neighbours, however near to 0 or 1."""
    return "0" if value == 0 else f"{value:.3f}" if 0.01 <= value <= 0.99 else f"{value:.5f}"


def per_hundred(value: float) -> str:
    """Write net benefit as true positives a hundred units, with its sign."""
    return signed(100 * value, 1)


AUC_CAUTION_CLASS, AUC_CAUTION_VALUE = 30, 0.95


def auc_cautions(rows: Iterable[tuple[str, FindingResult]]) -> str:
    """Name the sites whose AUC intervals rest on theory that is only just good enough, and why; empty if none."""
    found = []
    for site, test in rows:
        few = min(test.positives or 0, test.negatives or 0) < AUC_CAUTION_CLASS
        if test.auc and (few or test.auc.value > AUC_CAUTION_VALUE):
            reasons = ["fewer than 30 in a class"] * few + ["above .95"] * (test.auc.value > AUC_CAUTION_VALUE)
            found.append(f"{site} ({', '.join(reasons)})")
    return names(tuple(found))


def methods(tests: Iterable[FindingResult]) -> str:
    """Name the methods of the sites' own AUC intervals."""
    return ", ".join(sorted({test.auc.method for test in tests if test.auc}))
