"""A site's update: what training changed, with its norm, written straight into the bytes that travel."""

import math

import numpy as np

from shared.packing import PackedArrays, write
from shared.parameters import WIRE_DTYPES, Array, NamedArrays, Wire, blocks, squares


def difference(new: NamedArrays, old: NamedArrays, *, wire: Wire) -> tuple[PackedArrays, float]:
    """Subtract `old` from `new`, name by name, in fp32, and cast to what travels; give that with its L2 norm.

    One pass over memory: a block is in the processor's cache when its squares are added, and encoding copies nothing.
    """
    squared: list[float] = []

    def subtract(name: str, update: Array) -> None:
        flat_new, flat_old = new[name].reshape(-1), old[name].reshape(-1)
        for place, block in blocks(update):
            np.subtract(flat_new[place], flat_old[place], out=block)
            squared.append(squares(block))

    with np.errstate(over="ignore"):  # the norm tells what is beyond the range
        update = write(new, WIRE_DTYPES[wire], subtract)
    return update, math.sqrt(sum(squared))
