"""A site's update: what training changed, with its norm, written straight into the bytes that travel."""

import math

import numpy as np

from shared.packing import PackedArrays, combine
from shared.parameters import WIRE_DTYPES, NamedArrays, Wire, squares


def difference(new: NamedArrays, old: NamedArrays, *, wire: Wire) -> tuple[PackedArrays, float]:
    """Subtract `old` from `new`, name by name, in fp32, and cast to what travels; give that with its L2 norm.

    One pass over memory: a chunk is in the processor's cache when its squares are added, and encoding copies nothing.
    """
    squared: list[float] = []
    with np.errstate(over="ignore"):  # the norm tells what is beyond the range
        update = combine(
            np.subtract, new, old, dtype=WIRE_DTYPES[wire], seen=lambda chunk: squared.append(squares(chunk))
        )
    return update, math.sqrt(sum(squared))
