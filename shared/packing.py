"""Named arrays in a few long blocks, one array after another: where each lies, in the very bytes that travel."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shared.parameters import WIRE_DTYPES, Array, NamedArrays, Wire, chunks
from shared.unwritten import Unwritten

BLOCK_ELEMENTS = 1 << 20
"""A block takes arrays until it would hold more elements (4 MiB of fp32); a larger array has one for itself.

Flower holds one block twice while it puts that together, and has an object for each block, not for each array.
"""

MOST_TITLE_CHARACTERS = 1 << 18
"""Longest description of a model's arrays that is read; a ResNet-50's, with its statistics, has about 12,000."""

Part = tuple[str, tuple[int, ...]]
"""An array's name and shape."""


class PackedBlock(NamedTuple):
    """A block as it travels: which arrays are in it, and the .npy of all their elements, of this dtype and shape."""

    title: str
    dtype: str
    shape: tuple[int, ...]
    npy: bytes


@dataclass(frozen=True)
class Block:
    """Arrays of one dtype that lie one after another; everything about it follows from their names and shapes."""

    dtype: np.dtype[Any]
    parts: tuple[Part, ...]

    @cached_property
    def title(self) -> str:
        """Names and shapes, as JSON."""
        return json.dumps(self.parts, separators=(",", ":"))

    @cached_property
    def places(self) -> tuple[tuple[str, tuple[int, ...], slice], ...]:
        """Where each array's elements are."""
        ends = accumulate((math.prod(shape) for _, shape in self.parts), initial=0)
        return tuple(
            (name, shape, slice(*place)) for (name, shape), place in zip(self.parts, pairwise(ends), strict=True)
        )

    @cached_property
    def elements(self) -> int:
        """How many elements all arrays have."""
        return sum(math.prod(shape) for _, shape in self.parts)

    @cached_property
    def header(self) -> bytes:
        """What stands before the elements in a .npy file of version 1.0, as numpy writes it."""
        stream = BytesIO()
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.elements,)}
        np.lib.format.write_array_header_1_0(stream, description)
        return stream.getvalue()

    @cached_property
    def nbytes(self) -> int:
        """Length of the .npy."""
        return len(self.header) + self.dtype.itemsize * self.elements

    def run(self, npy: bytes | memoryview) -> Array:
        """Show all elements in a .npy of this block, one after another."""
        return np.frombuffer(npy, self.dtype, offset=len(self.header))

    def parts_of(self, run: Array) -> Iterator[tuple[str, Array]]:
        """Show each array in a run of this block's elements."""
        return ((name, run[place].reshape(shape)) for name, shape, place in self.places)


class PackedArrays(Mapping[str, Array]):
    """Read-only arrays by name that show the bytes of blocks; `runs` are each block's elements, one after another."""

    def __init__(self, blocks: Sequence[Block], npys: Sequence[bytes]) -> None:
        self.blocks = tuple(blocks)
        self.packed = [
            PackedBlock(block.title, block.dtype.name, (block.elements,), npy)
            for block, npy in zip(blocks, npys, strict=True)
        ]
        self.runs = [block.run(npy) for block, npy in zip(blocks, npys, strict=True)]

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        """Made when it is asked for: an update that only travels needs no object for each array."""
        return named(self.blocks, self.runs)

    def __getitem__(self, name: str) -> Array:
        """Show one array."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Name the arrays in their order."""
        return (name for block in self.blocks for name, _ in block.parts)

    def __len__(self) -> int:
        """Count the arrays."""
        return sum(len(block.parts) for block in self.blocks)


def named(blocks: Iterable[Block], runs: Iterable[Array]) -> dict[str, Array]:
    """Show each array in runs of blocks' elements."""
    return {name: array for block, run in zip(blocks, runs, strict=True) for name, array in block.parts_of(run)}


def pack(arrays: NamedArrays) -> PackedArrays:
    """Put arrays into blocks, with a single copy of their elements; a block that they show as it is isn't copied."""
    if isinstance(arrays, PackedArrays):
        return arrays
    blocks = layout(arrays)
    return PackedArrays(blocks, [_shown(block, arrays) or _joined(block, arrays) for block in blocks])


def unpack(packed: Iterable[PackedBlock]) -> PackedArrays:
    """Give arrays as read-only views on the blocks' bytes.

    Raises:
        ValueError: these are not the blocks that `pack` makes of arrays with these names and shapes; or one is longer
            or shorter than these arrays.
    """
    packed = list(packed)
    blocks = _described(tuple((one.title, one.dtype) for one in packed))
    for block, one in zip(blocks, packed, strict=True):
        if one.shape != (block.elements,) or len(one.npy) != block.nbytes:
            raise ValueError("an array is longer or shorter than its description says")
        if not one.npy.startswith(block.header):
            raise ValueError("an array is not of the form that its description says")
    return PackedArrays(blocks, [one.npy for one in packed])


def combine(
    operation: np.ufunc,
    first: NamedArrays,
    second: NamedArrays,
    *,
    dtype: npt.DTypeLike,
    seen: Callable[[Array], None] = lambda _: None,
) -> PackedArrays:
    """Compute `operation(first, second)`, name by name, in the very bytes that will travel.

    These bytes begin with what was in memory before, and none of that is left: a numpy operation writes every element
    of its result. `seen` is shown each chunk of the result while it is in the processor's cache.

    Raises:
        ValueError: two arrays of one name have different shapes.
        BufferError: `seen` kept a chunk, and could change it later.
    """
    blocks, npys = layout(first, dtype=dtype), []
    for block in blocks:
        unwritten = Unwritten(block.nbytes)
        unwritten.view[: len(block.header)] = block.header
        for name, result in block.parts_of(block.run(unwritten.view)):
            if second[name].shape != result.shape:  # numpy would repeat an array of one element
                raise ValueError(f"{name} has shape {second[name].shape}, and not {result.shape}")
            _compute(operation, first[name].reshape(-1), second[name].reshape(-1), result, seen)
        del result
        npys.append(unwritten.seal())
    return PackedArrays(blocks, npys)


def _compute(operation: np.ufunc, first: Array, second: Array, result: Array, seen: Callable[[Array], None]) -> None:
    for place, piece in chunks(result):
        operation(first[place], second[place], out=piece)
        seen(piece)


def same_form(arrays: NamedArrays, expected: NamedArrays, *, wire: Wire) -> str | None:
    """Say in one phrase how names, order, shapes or dtypes differ from what was expected; None when they don't."""
    if layout(arrays) == layout(expected, dtype=WIRE_DTYPES[wire]):
        return None
    if list(arrays) != list(expected):
        return f"{len(arrays)} arrays were sent, {len(expected)} with these names and this order were expected"
    for place, (name, array) in enumerate(arrays.items()):
        if array.shape != expected[name].shape:
            return f"array {place} has shape {array.shape}, {expected[name].shape} was expected"
    return f"not all arrays are {wire}, as was expected"


def layout(arrays: NamedArrays, *, dtype: npt.DTypeLike | None = None) -> tuple[Block, ...]:
    """Lay out arrays, as they are or cast to a dtype; where blocks begin is the same for each dtype."""
    same = None if dtype is None else np.dtype(dtype)
    if isinstance(arrays, PackedArrays) and all(same in (None, block.dtype) for block in arrays.blocks):
        return arrays.blocks
    return _laid_out(tuple((name, same or array.dtype, array.shape) for name, array in arrays.items()))


@lru_cache(maxsize=32)  # a model's arrays come again with each message
def _laid_out(form: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]) -> tuple[Block, ...]:
    """Lay out arrays: the only way in which arrays of these names, dtypes and shapes travel."""
    blocks: list[Block] = []
    parts: list[Part] = []
    full = 0
    for place, (name, dtype, shape) in enumerate(form, start=1):
        after = form[place] if place < len(form) else None
        parts.append((name, shape))
        full += math.prod(shape)
        if after is None or after[1] != dtype or full + math.prod(after[2]) > BLOCK_ELEMENTS:
            blocks.append(Block(dtype, tuple(parts)))
            parts, full = [], 0
    return tuple(blocks)


@lru_cache(maxsize=32)
def _described(titles: tuple[tuple[str, str], ...]) -> tuple[Block, ...]:
    """Read titles, and refuse any that `pack` would not have written."""
    if sum(len(title) for title, _ in titles) > MOST_TITLE_CHARACTERS:
        raise ValueError("the names of the arrays are longer than those of any model")
    try:
        form = tuple(
            (str(name), np.dtype(dtype), tuple(_length(length) for length in shape))
            for title, dtype in titles
            for name, shape in json.loads(title)
        )
    except (TypeError, RecursionError):
        raise ValueError("a block of arrays has a title that is none") from None
    blocks = _laid_out(form)
    if [(block.title, block.dtype.name) for block in blocks] != list(titles):
        raise ValueError("arrays lie in other blocks than they must")
    if len({name for name, _, _ in form}) != len(form):
        raise ValueError("two arrays have the same name")
    return blocks


def _length(length: object) -> int:
    if type(length) is not int or length < 0:
        raise ValueError("an array has a length that is none")
    return length


def _shown(block: Block, arrays: NamedArrays) -> bytes | None:
    """Give the .npy of which the arrays of a block show all elements as they are, if there is one."""
    owner: Any = arrays[block.parts[0][0]]
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if not isinstance(owner, bytes) or len(owner) != block.nbytes or not owner.startswith(block.header):
        return None
    first, size = block.run(owner).ctypes.data, block.dtype.itemsize
    for name, _, place in block.places:
        array = arrays[name]
        if array.size and (array.ctypes.data != first + size * place.start or not array.flags.c_contiguous):
            return None
    return owner


def _joined(block: Block, arrays: NamedArrays) -> bytes:
    elements = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data for name, _ in block.parts]
    return b"".join((block.header, *elements))
