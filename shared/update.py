"""A site's update: what training changed, with its norm, written straight into the bytes that travel."""

import math
from functools import partial

import numpy as np

from shared.parameters import WIRE_DTYPES, Array, NamedArrays, Wire, blocks, squares
from shared.wire import write_array


def difference(new: NamedArrays, old: NamedArrays, *, wire: Wire) -> tuple[dict[str, Array], float]:
    """Subtract `old` from `new`, name by name, in fp32, and cast to what travels; give that with its L2 norm.

    One pass over memory: a block is in the processor's cache when its squares are added, and encoding copies nothing.
    """
    dtype = np.dtype(WIRE_DTYPES[wire]).name
    squared: list[float] = []
    with np.errstate(over="ignore"):  # the norm tells what is beyond the range
        update = {
            name: write_array(array.shape, dtype, partial(_subtract, array.reshape(-1), old[name].reshape(-1), squared))
            for name, array in new.items()
        }
    return update, math.sqrt(sum(squared))


def _subtract(new: Array, old: Array, squared: list[float], update: Array) -> None:
    """Fill an update from flat arrays, one of which is of fp32, and note the sum of squares of each block."""
    for place, block in blocks(update):
        np.subtract(new[place], old[place], out=block)
        squared.append(squares(block))
