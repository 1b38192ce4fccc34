"""Arrays in blocks: nothing is copied that need not be, and nothing but what `pack` makes is read."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.packing import (
    BLOCK_ELEMENTS,
    MOST_TITLE_CHARACTERS,
    PackedBlock,
    combine,
    layout,
    named,
    pack,
    same_form,
    unpack,
)
from shared.parameters import CHUNK
from shared.unwritten import Unwritten

Blocks = list[PackedBlock]

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([7, 8]), "s": np.array(9, np.float32)}


def test_small_arrays_share_a_block_and_a_large_one_has_its_own() -> None:
    """A block ends before it would hold more than BLOCK_ELEMENTS, and is never cut within an array."""
    half = np.zeros(BLOCK_ELEMENTS // 2, np.float32)
    one = np.zeros(1, np.float32)
    large = np.zeros((3, BLOCK_ELEMENTS), np.float32)
    blocks = layout({"a": half, "b": half, "c": one, "large": large, "d": one})
    assert [[name for name, _ in block.parts] for block in blocks] == [["a", "b"], ["c"], ["large"], ["d"]]


def test_blocks_begin_at_the_same_arrays_in_half_precision() -> None:
    """Sums in fp32 and updates in fp16 run side by side."""
    arrays = {name: np.zeros(BLOCK_ELEMENTS // 3, np.float32) for name in "abcdefg"}
    assert [block.parts for block in layout(arrays)] == [block.parts for block in layout(arrays, dtype=np.float16)]


def test_what_is_unpacked_shares_the_bytes() -> None:
    """Unpacking copies nothing, and what it gives cannot be written to: it may be in use at several sites."""
    packed = pack(ARRAYS).packed
    unpacked = unpack(packed)
    for name, array in unpacked.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
        assert not array.flags.writeable
        assert np.shares_memory(array, np.frombuffer(packed[0].npy, np.uint8))


def test_what_came_in_goes_on_without_a_copy() -> None:
    """As it came, and as arrays in a dictionary of one's own too: a round's model is kept so."""
    unpacked = unpack(pack(ARRAYS).packed)
    for again in (pack(unpacked), pack(dict(unpacked))):
        assert again.packed[0].npy is unpacked.packed[0].npy


@pytest.mark.parametrize(
    "other",
    [
        lambda view: view[::-1, ::-1],
        lambda view: view.T,
        lambda view: view[:1],
        lambda view: view.reshape(3, 2),
        lambda view: view.view(np.int32),
        lambda view: np.frombuffer(view.base.base, np.float32, count=6).reshape(2, 3),
    ],
    ids=["reversed", "transposed", "a part", "another shape", "another dtype", "the header as numbers"],
)
def test_an_array_that_shows_its_bytes_otherwise_is_copied(other: Callable[[Any], Any]) -> None:
    """Only the very elements, in their order, stand for the bytes they lie in; anything else is written anew."""
    shown = other(unpack(pack({"w": ARRAYS["w"]}).packed)["w"])
    np.testing.assert_array_equal(pack({"w": shown})["w"], shown, strict=True)


def test_arrays_that_changed_places_are_copied() -> None:
    """Two arrays of one shape that show each other's elements travel under their own names."""
    first, second = np.float32([1, 2]), np.float32([3, 4])
    unpacked = unpack(pack({"first": first, "second": second}).packed)
    swapped = pack({"first": unpacked["second"], "second": unpacked["first"]})
    assert (swapped["first"].tolist(), swapped["second"].tolist()) == ([3, 4], [1, 2])


def test_who_sees_a_result_cannot_keep_it() -> None:
    """What could still be changed after it was sealed is refused."""
    kept: list[Any] = []
    with pytest.raises(BufferError):
        combine(np.add, {"w": np.zeros(2)}, {"w": np.zeros(2)}, dtype=np.float32, seen=kept.append)


def test_each_element_is_computed_where_it_is_read() -> None:
    """Over borders of chunks and blocks all of each is computed, and seen, once: no byte of what was before is left."""
    shapes = {"a": (3, 5), "none": (0, 2), "s": (), "large": (BLOCK_ELEMENTS + 1,), "long": (CHUNK + 1,)}
    first = {name: np.full(shape, 1 + place, np.float32) for place, (name, shape) in enumerate(shapes.items())}
    second = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    seen: list[float] = []
    result = combine(np.add, first, second, dtype=np.float16, seen=lambda chunk: seen.extend(chunk.tolist()))
    expected = {name: (array + 1).astype(np.float16) for name, array in first.items()}
    assert [block.npy for block in result.packed] == [block.npy for block in pack(expected).packed]
    assert seen == [number for array in expected.values() for number in array.reshape(-1).tolist()]


def test_arrays_of_different_shapes_are_not_combined() -> None:
    """Nothing is stretched to fit, and nothing that was not computed travels."""
    for length in (1, 2, 4):
        with pytest.raises(ValueError, match="shape"):
            combine(np.add, {"w": np.zeros(3)}, {"w": np.zeros(length)}, dtype=np.float32)


def test_sealed_bytes_are_those_that_were_written() -> None:
    """They cannot be sealed while somebody could write; whoever keeps a view keeps its memory."""
    unwritten = Unwritten(4)
    unwritten.view[:] = b"abcd"
    assert unwritten.seal() == b"abcd"
    shown = Unwritten(4)
    part = np.frombuffer(shown.view, np.uint8)[1:].reshape(3, 1)
    with pytest.raises(BufferError):
        shown.seal()
    assert part.shape == (3, 1)
    kept = Unwritten(1 << 20).view
    kept[:] = bytes(1 << 20)
    assert not any(kept[:: 1 << 12])


def cut(packed: Blocks) -> Blocks:
    return [packed[0]._replace(npy=packed[0].npy[:-4])]


def longer(packed: Blocks) -> Blocks:
    return [packed[0]._replace(npy=packed[0].npy + b"more")]


def each_in_a_block(packed: Blocks) -> Blocks:
    return [block for name, array in unpack(packed).items() for block in pack({name: array}).packed]


def titled(title: str) -> Callable[[Blocks], Blocks]:
    return lambda packed: [packed[0]._replace(title=title)]


def other_header(packed: Blocks) -> Blocks:
    return [packed[0]._replace(npy=packed[0].npy.replace(b"NUMPY", b"NUMPO"))]


BAD = {
    "bytes cut off": cut,
    "bytes that follow": longer,
    "another number of elements": lambda packed: [packed[0]._replace(shape=(8,))],
    "the dtype of half as much": lambda packed: [packed[0]._replace(dtype="float16")],
    "a block twice": lambda packed: packed * 2,
    "a block for each array": each_in_a_block,
    "another header": other_header,
    "no title": titled(""),
    "a title that is no list": titled("9"),
    "a title of other parts": titled('[["w",[9]],7]'),
    "a name that is none": titled("[[1,[9]]]"),
    "a length below zero": titled('[["w",[-3,-3]]]'),
    "a length that is no number": titled('[["w",[true,9]]]'),
    "a title with spaces": titled('[["w", [2,3]],["b",[2]],["s",[]]]'),
    "the same name twice": titled('[["w",[2,3]],["w",[2]],["s",[]]]'),
    "one element more": titled('[["w",[2,3]],["b",[3]],["s",[]]]'),
    "terabytes": titled('[["w",[999999999999,999999999999]]]'),
    "a title without end": titled("[" * 100_000),
    "a long title": titled(json.dumps([["w" * MOST_TITLE_CHARACTERS, [9]]], separators=(",", ":"))),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_pack_does_not_make_is_refused(change: Callable[[Blocks], Blocks]) -> None:
    """Each is a ValueError before an element is looked at."""
    packed = pack(ARRAYS).packed
    assert len(packed) == 1
    with pytest.raises(ValueError, match=r"array|Expecting|name"):
        unpack(change(packed))


def test_same_form_tells_what_differs_after_packing_too() -> None:
    """Names, order, shapes and dtypes of what came are compared with what was expected, whatever its blocks say."""
    expected = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    came = {
        "names": {"a": expected["a"], "c": expected["b"]},
        "shape": {"a": np.zeros((3, 2), np.float32), "b": expected["b"]},
        "fp32": {"a": expected["a"].astype(np.float16), "b": expected["b"].astype(np.float16)},
    }
    assert same_form(pack(expected), expected, wire="fp32") is None
    for word, arrays in came.items():
        assert word in str(same_form(unpack(pack(arrays).packed), pack(expected), wire="fp32"))
    assert "fp32" in str(same_form(expected | {"b": came["fp32"]["b"]}, expected, wire="fp32"))


def test_runs_can_be_shown_by_name() -> None:
    """Blocks say where each array lies in any run of their elements."""
    packed = pack(ARRAYS)
    shown = named(packed.blocks, [run.copy() for run in packed.runs])
    assert list(shown) == list(ARRAYS)
    assert all(np.array_equal(shown[name], array) for name, array in ARRAYS.items())
