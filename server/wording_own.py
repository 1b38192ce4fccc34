"""Each site's own threshold and calibration in words: beside the shared operating point, never in its place."""

from server import wording
from server.other_thresholds import Rates
from server.own_settings import OwnCalibration, OwnResult, OwnThreshold
from server.wording_remedies import verdict
from shared.estimates import Calibration
from shared.metrics import Proportion


def price(one: OwnThreshold, unit: str) -> str:
    """Say what a site's own threshold finds and costs on its test units, beside the shared one."""
    before, after = one.shared, one.own
    if not (before.sensitivity and before.specificity and after.sensitivity and after.specificity):
        return "Its price is not known: its test units have one class alone."
    more = after.sensitivity.k - before.sensitivity.k
    alarms = before.specificity.k - after.specificity.k
    cases = wording.units(after.sensitivity.n, unit)
    return (
        f"Against the shared one it finds {_more(more)} of {cases} with the finding, "
        f"and raises {_more(alarms)} false alarms among {after.specificity.n:,} without."
    )


def met(one: OwnThreshold) -> str:
    """Say whether the site's own validation units reached the target."""
    return "" if one.point.met else "No threshold reached the target on its validation units; everything is called."


def rate(one: Proportion | None) -> str:
    """Write a proportion with its counts and interval."""
    if one is None:
        return "not defined"
    return f"{one.k:,} of {one.n:,}, {wording.percent(one.value)} ({wording.percent_range(one.low, one.high)})"


def both(rates: Rates) -> tuple[str, str]:
    """Write sensitivity and specificity."""
    return rate(rates.sensitivity), rate(rates.specificity)


def line(one: Calibration | None) -> tuple[str, str]:
    """Write slope and intercept, each with its interval."""
    if one is None:
        return "not defined", "not defined"
    return tuple(  # type: ignore[return-value]  # two of them
        f"{wording.coefficient(part.value)} ({wording.coefficient(part.low)} to {wording.coefficient(part.high)})"
        for part in (one.slope, one.intercept)
    )


def brier(one: OwnCalibration) -> str:
    """Say how the Brier score of test units changes, with its paired interval."""
    fitted = one.fitted
    change = wording.signed(fitted.after - fitted.before, 3)
    return (
        f"Brier score {wording.area(fitted.before)} to {wording.area(fitted.after)}, difference {change} "
        f"({wording.signed_range(fitted.low, fitted.high, 3)}): {verdict(fitted)}."
    )


def absent(one: OwnResult | None, at_least: int) -> str:
    """Say why a site has nothing of its own."""
    if one is None:
        return "held back: too few patients"
    return f"fewer than {at_least} validation positives, or not defined on them: the shared settings stay"


def _more(count: int) -> str:
    return f"{abs(count):,} {'more' if count >= 0 else 'fewer'}"
