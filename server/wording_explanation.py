"""Why a site differs, in words: what its numbers are consistent with, and never what caused them."""

from collections.abc import Sequence

from server import wording
from server.explanation import Explanation, Pattern
from shared.gap import Gap, Part


def statement(one: Explanation, *, standing_out: Sequence[str] = ()) -> str:
    """Say in two or three sentences what a site's gap to all others is consistent with.

    `standing_out` are its measures that stand out: one that the pattern is not read off is named too.
    """
    text, more = _statement(one), [measure for measure in standing_out if measure != one.measure]
    return f"{text} Its {' and '.join(more)} {'stand' if len(more) > 1 else 'stands'} out as well." if more else text


def _statement(one: Explanation) -> str:
    gap = one.gaps.get(one.measure) if one.measure else None
    match one.pattern:
        case Pattern.NOT_COMPARED:
            return "Too few cases to compare it with the others: its numbers are shown, and nothing is read from them."
        case Pattern.NONE_SHOWN:
            return NONE_SHOWN
        case Pattern.PREVALENCE:
            return _shares(one)
    if one.p is None:
        return wording.absence(None)
    p = f"{wording.p_value(one.p)}, adjusted"
    if gap is None:
        return f"Its {one.measure} differs from that of all other sites together ({p}); how cannot be told."
    size, direction = wording.points(abs(gap.value)).removeprefix("+"), "lower" if gap.value < 0 else "higher"
    return f"{gap.measure.capitalize()} is {size} {direction} than at all other sites together ({p}). " + reading(one)


NONE_SHOWN = "No difference from all other sites together was shown. With few cases, a real one can go unseen."


def reading(one: Explanation, *, standing_out: Sequence[str] = ()) -> str:
    """Say what a site's pattern is consistent with, without the size of its gap."""
    gap = one.gaps.get(one.measure) if one.measure else None
    return statement(one, standing_out=standing_out) if gap is None else _reading(one.pattern, gap)


def _reading(pattern: Pattern, gap: Gap) -> str:
    worse = gap.value < 0
    match pattern:
        case Pattern.THRESHOLD:
            scores = "lower" if (gap.measure == "sensitivity") == worse else "higher"
            return (
                f"This is consistent with scores that lie {scores} here. That cases are told apart differently well "
                "here (another ROC curve) was not shown. Another threshold could undo it."
            )
        case Pattern.DISCRIMINATION:
            how = "less well" if worse else "better"
            return (
                f"This is consistent with a model that tells cases apart {how} here: the ROC curve itself lies "
                f"{'lower' if worse else 'higher'}. Another threshold alone is not expected to undo it."
            )
        case Pattern.BOTH:
            return (
                "This is consistent with two things at once: the ROC curve itself lies "
                f"{'lower' if worse else 'higher'}, and the shared threshold has slid along it. "
                "Another threshold would undo only a part."
            )
        case _:
            return "There are too few cases to say whether another threshold could undo it."


def _shares(one: Explanation) -> str:
    shares = one.shares
    if shares is None:
        return wording.absence(None)
    text = (
        "Sensitivity and specificity were not shown to differ. The share of positives does: "
        f"{wording.percent(shares.here)} here, {wording.percent(shares.elsewhere)} elsewhere. "
    )
    if shares.ppv_here is not None and shares.ppv_elsewhere is not None:
        text += (
            f"That a positive call is right in {wording.percent(shares.ppv_here)} here and in "
            f"{wording.percent(shares.ppv_elsewhere)} elsewhere is consistent with it."
        )
    return text


def part(one: Part) -> str:
    """Write a part of a gap in percentage points."""
    return wording.points(one.value)


def part_range(one: Part) -> str:
    """Write its interval, or why there is none."""
    if one.low is None or one.high is None:
        return "too few for an interval"
    return wording.points_range(one.low, one.high)
