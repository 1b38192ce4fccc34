"""A site's case mix in words: how varied its patients are beside the others', and what that makes of its AUC."""

from server import wording
from shared.case_mix import CaseMix, Comparison

_ALIKE = 1.0
"""The ratio of two spreads that are the same."""


def signed(one: Comparison, decimals: int) -> str:
    """Write a difference, with its sign."""
    return wording.signed(one.value, decimals)


def signed_range(one: Comparison, decimals: int) -> str:
    """Write its interval, each end with its sign."""
    return wording.signed_range(one.low, one.high, decimals)


def ratio_range(one: Comparison) -> str:
    """Write the interval of a ratio."""
    return f"{one.low:.2f} to {one.high:.2f}"


def difference(mix: CaseMix) -> str:
    """Write the whole difference in AUC."""
    return wording.signed(mix.expected.value + mix.rest.value, 3)


def reading(mix: CaseMix) -> str:
    """Say what the spread and the rest are consistent with, in words that follow "consistent with"."""
    if mix.spread.low > _ALIKE:
        patients = "Patients who vary more than elsewhere"
    elif mix.spread.high < _ALIKE:
        patients = "Patients who vary less than elsewhere"
    else:
        patients = "Patients who vary as elsewhere"
    return f"{patients}; {_left(mix.rest)}."


def left_over(mix: CaseMix) -> bool:
    """Tell whether something of the difference in AUC was shown that the case mix does not explain."""
    return mix.rest.low > 0 or mix.rest.high < 0


def _left(rest: Comparison) -> str:
    if rest.high < 0:
        return "a lower AUC than they lead one to expect: a model that is less right here"
    if rest.low > 0:
        return "a higher AUC than they lead one to expect: a model that is more right here"
    return "no difference in AUC was shown beyond what they lead one to expect"
