"""Receipts and the cross-site matrix in words: what joining gave a hospital, as its director would ask."""

from collections.abc import Mapping, Sequence

from server import wording
from server.cross_site import GUESSING, Cell, MatrixRow
from server.finding_result import Why
from server.receipt import Receipt, Worth
from server.results import StudyResult
from server.target import Target
from shared.paired import Paired

SHORT = {
    Worth.BETTER: "worth it",
    Worth.WORSE: "better alone",
    Worth.NOT_SHOWN: "no difference shown",
    Worth.TOO_FEW: "too few cases to say",
}
"""A receipt in a word or two, for tables."""

FEW_PAIRS = 30
"""Below so many units of a class the intervals of sensitivity and specificity are more cautious than they say."""


def receipt(one: Receipt, *, target: Target, unit: str) -> str:
    """Say in one sentence whether joining was worth it at a site.

    An AUC is told as what it is: the share of pairs of a positive and a negative that are put in the right order.
    """
    auc = one.auc
    if auc is None:
        known = f"{one.positives:,} of {wording.units(one.units, unit)} {target.are}"
        return f"Whether joining was worth it cannot be said: {known}."
    pairs = (
        f"of 100 pairs of {_article(unit)} {unit} {target.of_it} and {target.one_of_others}, the federated model puts "
        f"{_hundred(auc.first)} in the right order, the model trained here alone {_hundred(auc.second)}"
    )
    match one.worth:
        case Worth.BETTER:
            return f"Joining was worth it here: {pairs} ({_difference(auc)})."
        case Worth.WORSE:
            return f"Joining was not worth it here: {pairs} ({_difference(auc)})."
        case Worth.NOT_SHOWN:
            return (
                f"Neither gain nor loss in AUC was shown: {pairs} ({_difference(auc)}). Joining may have cost it "
                f"{_as_many(-auc.low)}, or gained it {_as_many(auc.high)}."
            )
        case Worth.TOO_FEW:
            return f"Too few {unit}s {target.of_it} ({one.positives:,}) to say whether joining was worth it: {pairs}."


def personal(one: Receipt, *, target: Target, unit: str) -> str:
    """Say in one sentence whether the site's own normalisation layers (FedBN) would have helped it."""
    words = {
        Worth.BETTER: "would have helped here",
        Worth.WORSE: "would have harmed here",
        Worth.NOT_SHOWN: "neither help nor harm was shown",
    }
    return _variant(one, words, second="without", target=target, unit=unit)


def blended(one: Receipt, *, target: Target, unit: str) -> str:
    """Say in one sentence whether a site's own head and the federated one, half and half, beat its own alone."""
    words = {
        Worth.BETTER: "better than its own alone",
        Worth.WORSE: "worse than its own alone",
        Worth.NOT_SHOWN: "neither better nor worse than its own alone, as far as is shown",
    }
    return _variant(one, words, second="alone", target=target, unit=unit)


def _variant(one: Receipt, words: Mapping[Worth, str], *, second: str, target: Target, unit: str) -> str:
    """Say what a variant of the model is worth, in `words`, beside what it is compared with, which `second` names."""
    auc = one.auc
    if auc is None:
        return f"cannot be said: {one.positives:,} of {wording.units(one.units, unit)} {target.are}."
    said = words.get(one.worth, f"too few {unit}s {target.of_it} ({one.positives:,}) to say")
    pairs = f"{_hundred(auc.first)} of 100 pairs in the right order, {_hundred(auc.second)} {second}"
    return f"{said}: {pairs} ({_difference(auc)})."


def paired(one: Paired | None) -> str:
    """Write the difference of two rates in percentage points, with its interval."""
    return "–" if one is None else f"{wording.points(one.difference)} ({wording.points_range(one.low, one.high)})"


def rate_cautions(owed: Mapping[str, Receipt]) -> str:
    """Name the sites whose receipt has so few units of a class that intervals of rates are wide; empty if none.

    With about 12 pairs each of four known methods holds more than 99 of 100 times (benchmarks/paired_rates.py).
    """
    few = {site: min(one.positives, one.units - one.positives) for site, one in owed.items()}
    return wording.names(tuple(f"{site} ({least})" for site, least in few.items() if 0 < least < FEW_PAIRS))


def models_away(rows: Sequence[MatrixRow]) -> list[tuple[str, str]]:
    """Say of each model that a site trained alone how it does elsewhere: its site, and a sentence."""
    return [(row.home, _away(row)) for row in rows if row.home is not None and row.away]


def no_receipt(site: str, result: StudyResult) -> str:
    """Say why a site has no receipt: it has no model of its own, or what it released of one was held back."""
    own = result.baselines.local.get(site)
    return "its own model was trained, and its evidence held back" if own else "no model of its own to compare with"


def missing(why: Why | None) -> str:
    """Say in a word or two why a cell of the matrix has no AUC: suppressed is not undefined."""
    return {Why.SUPPRESSED: "suppressed", Why.NO_REPLY: "no reply", Why.NOT_ASSESSED: "not assessed"}.get(
        why or Why.NO_EXAMS, "not defined"
    )


HOTTEST = 55
"""Percent of the heat colour in the ground of an AUC of 1: text in ink stands at least 4.5:1 on it."""


def heat(auc: float) -> int:
    """Give how much heat a cell's ground has, in percent: none at guessing or worse."""
    return round(HOTTEST * max(0.0, auc - GUESSING) / (1 - GUESSING))


def _away(row: MatrixRow) -> str:
    at_home = next((cell.auc.value for cell in row.cells if cell.home and cell.auc), None)
    start = "" if at_home is None else f"{wording.area(at_home)} at home; "
    worst = min(row.away, key=_value)
    best = max(row.away, key=_value)
    elsewhere = (
        f"{wording.area(_value(worst))} at {worst.site}"
        if worst is best
        else f"from {wording.area(_value(worst))} ({worst.site}) to {wording.area(_value(best))} ({best.site})"
    )
    guesses = tuple(cell.site for cell in row.away if cell.guesses)
    end = f" Not shown to be better than guessing at {wording.names(guesses)}." if guesses else ""
    return f"AUC {start}elsewhere {elsewhere}.{end}"


def _value(cell: Cell) -> float:
    return cell.auc.value if cell.auc else 0.0


def _hundred(share: float) -> str:
    return wording.hundred(share) if 0 <= share <= 1 else f"{share * 100:.1f}"


def _as_many(share: float) -> str:
    """Bound pairs of 100; what a decimal cannot show is no more than that."""
    return "fewer than 0.1" if share * 100 < 0.1 else f"as many as {_hundred(share)}"


def _difference(auc: Paired) -> str:
    """Write how many pairs of 100 more or fewer, with the interval; one that holds 0 keeps its signs."""
    low, high = auc.low, auc.high
    if auc.shown == 1:
        return f"{_hundred(auc.difference)} more, interval {_hundred(low)} to {_hundred(high)}"
    if auc.shown == -1:
        return f"{_hundred(-auc.difference)} fewer, interval {_hundred(-high)} to {_hundred(-low)}"
    return (
        f"difference {wording.signed(auc.difference * 100, 1)}, interval "
        f"{wording.signed_range(low * 100, high * 100, 1)}"
    )


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
