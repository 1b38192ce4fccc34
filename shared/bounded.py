"""Numbers with bounds as text: what is not at a bound, or at a number beside it, is never printed as if it were.

A sensitivity of 0.9997 is not 100 %, one of 0.8996 is not the 90 % that were wished, and a target of 99.5 % is not 100.
"""

from collections.abc import Iterable

MOST_DECIMALS = 12
_EQUAL = 1e-9


def apart(number: float, decimals: int, *, bounds: Iterable[float] = (0.0, 1.0)) -> str:
    """Write a number with so many decimals, and with more where these would read as a bound that it is not.

    What differs from a bound by no more than rounding of sums does is that bound.
    """
    close = [bound for bound in bounds if abs(number - bound) > _EQUAL]
    for shown in range(decimals, MOST_DECIMALS):
        text = f"{number:.{shown}f}"
        if not any(text == f"{bound:.{shown}f}" for bound in close):
            return text
    return f"{number:.{decimals}f}"


def exactly(number: float) -> str:
    """Write a declared number with as many decimals as it has: 99.5, 95."""
    return f"{number:.10g}"
