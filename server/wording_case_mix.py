"""A site's case mix in words: how varied its patients are beside the others', and what that makes of its AUC."""

from server import wording
from shared.case_mix import CaseMix
from shared.gap import Part

_NO_RATIO = 1.0


def signed(part: Part, decimals: int) -> str:
    """Write a difference, with its sign."""
    return wording.signed(part.value, decimals)


def signed_range(part: Part, decimals: int) -> str:
    """Write its interval, each end with its sign."""
    return wording.signed_range(*_ends(part), decimals)


def ratio_range(part: Part) -> str:
    """Write the interval of a ratio."""
    low, high = _ends(part)
    return f"{low:.2f} to {high:.2f}"


def difference(mix: CaseMix) -> str:
    """Write the whole difference in AUC."""
    return wording.signed(mix.expected.value + mix.rest.value, 3)


def reading(mix: CaseMix) -> str:
    """Say what the spread and the rest are consistent with, in words that follow "consistent with"."""
    low, high = _ends(mix.spread)
    if low > _NO_RATIO:
        patients = "Patients who vary more than elsewhere"
    elif high < _NO_RATIO:
        patients = "Patients who vary less than elsewhere"
    else:
        patients = "Patients who vary as elsewhere"
    return f"{patients}; {_left(mix.rest)}."


def left_over(mix: CaseMix) -> bool:
    """Tell whether something of the difference in AUC was shown that the case mix does not explain."""
    return mix.rest.shown(1) or mix.rest.shown(-1)


def _left(rest: Part) -> str:
    if rest.shown(-1):
        return "a lower AUC than they lead one to expect: a model that is less right here"
    if rest.shown(1):
        return "a higher AUC than they lead one to expect: a model that is more right here"
    return "no difference in AUC was shown beyond what they lead one to expect"


def _ends(part: Part) -> tuple[float, float]:
    low = part.value if part.low is None else part.low
    return low, part.value if part.high is None else part.high
