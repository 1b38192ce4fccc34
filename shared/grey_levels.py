"""The grey levels of a file's own window: LINEAR_EXACT, SIGMOID and the VOI LUT (PS3.3 C.11.2.1).

All is elementwise IEEE arithmetic, so that a value has the same grey on every machine; that is why the exponential is
computed here.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_HALVINGS = 10
_FARTHEST = 40.0
"""Beyond 40 the sigmoid is 0 or 1 in double precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """The SIGMOID function (C.11.2.1.3.1): 1 / (1 + exp(-4 (x - centre) / width))."""

    centre: float
    width: float

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give each value's grey, 0 (black) to 1 (white)."""
        steps = 4 * (image.astype(np.float64) - self.centre) / self.width
        return 1 / (1 + _exponential(-steps))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LookUp:
    """A VOI LUT (C.11.2.1.1): entry i, 0 to 1, is the grey of `first` + i, and the ends go on for ever.

    Between two whole values, where the resampling leaves most, the grey is between theirs.
    """

    first: float
    entries: NDArray[np.float64] = field(repr=False)

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give each value's grey, 0 (black) to 1 (white)."""
        place = (image.astype(np.float64) - self.first).clip(0, len(self.entries) - 1)
        below = np.floor(place).astype(np.intp)
        above = np.minimum(below + 1, len(self.entries) - 1)
        share = place - below
        grey: NDArray[np.float64] = self.entries[below] * (1 - share) + self.entries[above] * share
        return grey


OwnWindow = tuple[float, float] | Sigmoid | LookUp
"""How a file wants to be shown; (centre, width) is LINEAR_EXACT (C.11.2.1.3.2)."""


def _exponential(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give exp(power) within 1e-9 of itself: a short series of power / 2^10, squared ten times."""
    small = power.clip(-_FARTHEST, _FARTHEST) / 2**_HALVINGS
    result: NDArray[np.float64] = np.ones_like(small)
    for term in (6, 5, 4, 3, 2, 1):
        result = 1 + result * small / term
    for _ in range(_HALVINGS):
        result *= result
    return result
