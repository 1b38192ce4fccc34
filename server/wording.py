"""Numbers, absences and warnings as words: the one place where a fact of the study becomes text."""

from collections.abc import Iterable

from server.finding_result import AreaUnderCurve, FindingResult, Why
from server.results import StudyResult
from shared import amounts
from shared.bounded import apart, exactly
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

LEVEL = 0.05
"""What most readers hold a p value against: none is rounded to it from either side."""

_MINUS = "\N{MINUS SIGN}"


def absence(why: Why | None) -> str:
    """Say why a number is not there; suppressed, undefined and zero are three different things."""
    return _ABSENCES[why] if why else "not reported"


def count(number: int | None) -> str:
    """Write a count; None is suppressed, and zero is 0."""
    return "suppressed" if number is None else f"{number:,}"


def percent(value: float, *, beside: float | None = None) -> str:
    """Write a proportion as percent, with one decimal: 94.1 %; with more where it would read as 0, 100 or `beside`."""
    return f"{hundred(value, beside=beside)}{NO_BREAK}%"


def hundred(value: float, *, beside: float | None = None) -> str:
    """Write a proportion as percent without its sign."""
    others = () if beside is None else (beside * 100,)
    return apart(value * 100, 1, bounds=(0.0, 100.0, *others))


def level(confidence: float) -> str:
    """Write an interval's confidence, or a target, with as many decimals as it was declared with: 95 %, 99.5 %."""
    return f"{exactly(confidence * 100)}{NO_BREAK}%"


def percent_range(low: float | None, high: float | None) -> str:
    """Write an interval of a proportion: 91.8 to 95.8."""
    return "no interval" if low is None or high is None else f"{hundred(low)} to {hundred(high)}"


def area(value: float) -> str:
    """Write an AUC, or a Brier score, with three decimals, and with more where it would read as 0 or 1."""
    return apart(value, 3)


def area_range(low: float | None, high: float | None) -> str:
    """Write an interval of an AUC."""
    return "no interval" if low is None or high is None else f"{area(low)} to {area(high)}"


def points(difference: float) -> str:
    """Write a difference of two proportions in percentage points, always with its sign."""
    return f"{signed(difference * 100, 1)}{NO_BREAK}points"


def signed(number: float, decimals: int) -> str:
    """Write a number with its sign; what rounds to nothing has none."""
    text = f"{number:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def signed_range(low: float, high: float, decimals: int) -> str:
    """Write an interval of a difference, each end with its sign; an end that is near 0 and not 0 keeps its side."""
    return f"{_end(low, decimals)} to {_end(high, decimals)}"


def _end(number: float, decimals: int) -> str:
    text = apart(number, decimals, bounds=(0.0,))
    return signed(number, len(text.partition(".")[2]))


def points_range(low: float, high: float) -> str:
    """Write an interval of a difference of two proportions: -13.5 to -1.4 points, each with its sign."""
    return f"{signed_range(low * 100, high * 100, 1)}{NO_BREAK}points"


def p_number(p: float) -> str:
    """Write a p value: what is below 0.001 only as that."""
    return "< 0.001" if p < 0.001 else apart(p, 3, bounds=(LEVEL,)) if p < 0.1 else apart(p, 2, bounds=(1.0,))


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


def all_tests(result: StudyResult) -> str:
    """Say what a p value is adjusted for: the study's one family (server/family.py)."""
    if result.tested == 1:
        return "the only test of the study"
    return f"adjusted over all {result.tested:,} tests of the study"


def rate(proportion: Proportion) -> str:
    """Write a proportion with its interval and counts."""
    interval = percent_range(proportion.low, proportion.high)
    return f"{percent(proportion.value)} ({interval}; {proportion.k:,} of {proportion.n:,})"


def headline(result: StudyResult, finding: str) -> str:
    """Say in one sentence how well a finding, or a class, is told on all sites' test patients together."""
    test, unit = result.of_pool("test", finding), result.study.unit
    if test.sensitivity is None or test.specificity is None:
        return f"{finding}: how well it is told on test patients is {absence(test.why)}."
    found, cleared = percent(test.sensitivity.value), percent(test.specificity.value)
    if result.study.exclusive:
        return (
            f"Of {units(test.positives, unit)} of class {finding}, {found} were called {finding}; "
            f"of {test.negatives:,} of other classes, {cleared} were not."
        )
    return (
        f"Of {units(test.positives, unit)} with {finding}, the model found {found}; "
        f"of {test.negatives:,} without, it cleared {cleared}."
    )


def units(number: int | None, unit: str) -> str:
    """Write a count of the study's units: 1 exam, 2 exams."""
    return f"{count(number)} {unit}{'' if number == 1 else 's'}"


def fewer_than(least: int, thing: str) -> str:
    """Write a bound on a count: fewer than 5 positives, no positives."""
    return amounts.fewer_than(least, thing)


def heterogeneity(one: Heterogeneity, *, measure: str, significance: float) -> str:
    """Say what a test of equal sites shows, and what it does not."""
    if one.adjusted_p < significance:
        return (
            f"The sites' {measure} differs by more than chance explains ({p_value(one.adjusted_p)}, adjusted). "
            "The test says that they differ, not which site, nor why."
        )
    return (
        f"No difference in {measure} between sites was shown ({p_value(one.adjusted_p)}, adjusted). "
        "That is not proof that they are alike: with few cases, real differences go unseen."
    )


def why_not_ranked(one: FindingResult, *, min_positives_to_rank: int) -> str:
    """Say why a site is shown but not compared."""
    if one.why is not None:
        return absence(one.why)
    return f"not ranked: {units(one.positives, 'positive')}, fewer than {min_positives_to_rank}"


def permutations(one: Heterogeneity) -> str:
    """Say on how many permutations a test rests."""
    if one.permutations == 1:
        return "only one: this test can show nothing"
    return f"all {one.permutations:,}" if one.exact else f"{one.permutations:,} drawn"


def ties(auc: AreaUnderCurve) -> str:
    """Give the bounds of an AUC from score bins: every tie lost, every tie won."""
    return "" if auc.ties is None else f"between {area(auc.ties[0])} and {area(auc.ties[1])}, however ties fall"


def coefficient(number: float) -> str:
    """Write a number on the logit scale with two decimals; what rounds to nothing has no sign."""
    text = f"{number:.2f}"
    return f"{0:.2f}" if float(text) == 0 else text.replace("-", _MINUS)


def threshold(value: float) -> str:
    """Write a threshold so that it can be told from its neighbours, however near to 0 or 1."""
    return "0" if value == 0 else apart(value, 3 if 0.01 <= value <= 0.99 else 5)


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
