"""Find each frame's bytes among the fragments of compressed pixel data (PS3.5 A.4), whatever the offset tables say."""

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets

from client.refusals import Reason, Unreadable

_END_OF_IMAGE = b"\xff\xd9"
"""Ends a JPEG, a JPEG-LS and a JPEG 2000 codestream."""

IsComplete = Callable[[bytes], bool]
"""Tells whether bytes hold a whole codestream."""


def encoded_frames(
    dataset: Dataset, indices: Sequence[int], *, frames: int, is_complete: IsComplete | None
) -> Iterator[bytes]:
    """Yield the frames `indices` of the object's `frames`, still compressed.

    As many fragments as frames are the frames, and all fragments are a single one. Otherwise the offset tables tell,
    if what they say is true of the fragments, and last the codestreams' own ends, where `is_complete` can see them.

    Raises:
        Unreadable: nothing tells where a frame begins, or one has no bytes.
    """
    fragments = [*generate_fragments(_behind_table(dataset.PixelData))]
    if len(fragments) == frames:
        groups = [range(place, place + 1) for place in range(frames)]
    elif frames == 1:
        groups = [range(len(fragments))]
    else:
        groups = _by_tables(dataset, fragments, frames) or _by_ends(fragments, frames, is_complete)
    for index in indices:
        frame = b"".join(fragments[groups[index].start : groups[index].stop])
        if not frame:
            raise Unreadable(Reason.UNDECODABLE)
        yield frame


def _behind_table(pixels: bytes) -> bytes:
    """Skip the basic offset table, which is the first item."""
    return pixels[8 + int.from_bytes(pixels[4:8], "little") :]


def _by_tables(dataset: Dataset, fragments: Sequence[bytes], frames: int) -> list[range]:
    """Read the basic or the extended offset table; [] where there is none, or it contradicts the fragments."""
    offsets = parse_basic_offsets(dataset.PixelData)
    if not offsets and (table := dataset.get("ExtendedOffsetTable")):
        offsets = [*struct.unpack(f"<{len(table) // 8}Q", table[: len(table) // 8 * 8])]
    starts = [0, *accumulate(8 + len(fragment) for fragment in fragments)]
    place_of = {start: place for place, start in enumerate(starts[:-1])}
    firsts = [place_of.get(offset, -1) for offset in offsets]
    ends = [*firsts[1:], len(fragments)]
    groups = [range(first, end) for first, end in zip(firsts, ends, strict=True)] if firsts else []
    true = len(groups) == frames and groups[0].start == 0 and all(groups)
    return groups if true else []


def _by_ends(fragments: Sequence[bytes], frames: int, is_complete: IsComplete | None) -> list[range]:
    """Begin a frame behind each codestream that is complete."""
    groups, first = [], 0
    for place, fragment in enumerate(fragments if is_complete else ()):
        ends = _END_OF_IMAGE in fragment or fragment.startswith(b"\xd9")
        if ends and is_complete and is_complete(b"".join(fragments[first : place + 1])):
            groups.append(range(first, place + 1))
            first = place + 1
    if len(groups) != frames:
        raise Unreadable(Reason.UNDECODABLE)
    return groups
