"""Named model arrays: order, norm, finite check, form, digest."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
NamedArrays = Mapping[str, Array]
"""Names to arrays, in the model's own order; the order is part of the meaning (digests and sums follow it)."""

Wire = Literal["fp32", "fp16"]
WIRE_DTYPES: Mapping[Wire, npt.DTypeLike] = {"fp32": np.float32, "fp16": np.float16}

CHUNK = 1 << 16
"""Elements per step of a pass over a model: 256 KiB of fp32, so that temporaries stay in the processor's cache."""


RUNNING_VARIANCE = ".running_var"
"""How the name of a batch normalisation's running variance ends: the one array that travels of which no element may be
negative, as its square root is taken."""


def chunks(array: Array) -> Iterator[tuple[slice, Array]]:
    """Walk over a contiguous array in flat chunks; a chunk is a view, and writing to it writes to the array."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        place = slice(start, start + CHUNK)
        yield place, flat[place]


def cast(arrays: NamedArrays, wire: Wire) -> dict[str, Array]:
    """Cast to what travels; arrays that have its dtype are passed on, not copied."""
    return {name: array.astype(WIRE_DTYPES[wire], copy=False) for name, array in arrays.items()}


def l2_norm(arrays: NamedArrays) -> float:
    """L2 norm over all arrays together; not finite exactly when some element is not (or is beyond fp32's squares).

    Sums squares per chunk in fp32 and the chunks in fp64, so that it costs one read of memory.
    """
    total = 0.0
    with np.errstate(over="ignore"):  # the result tells what is beyond fp32's squares
        for array in arrays.values():
            for _, chunk in chunks(array):
                total += squares(chunk)
    return math.sqrt(total)


def squares(chunk: Array) -> float:
    """Add up the squares of one chunk, in fp32."""
    # fp16 would overflow at 256² already; a fp32 chunk is used as it is, without a copy.
    wide = chunk.astype(np.float32, copy=False)
    return float(np.dot(wide, wide))


def digest(arrays: NamedArrays) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in order."""
    total = hashlib.sha256()
    for name, array in arrays.items():
        total.update(f"{name}\x1f{array.dtype.str}\x1f{array.shape}\x1f".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
