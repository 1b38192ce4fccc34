"""Unpack RLE frames (PS3.5 annex G), never to more than the header announces."""

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from client.refusals import Reason, Unreadable

_unpack: Callable[..., Any] = imagecodecs.packbits_decode  # its types know no arrays
_HEADER = 64
_SLACK = 1024
"""Octets that a writer may add to a plane."""


def unpacked(encoded: bytes, *, pixels: int, samples: int, octets: int) -> bytes:
    """Give a frame's pixels plane by plane, low octet first.

    RLE has a segment for each octet of each sample, the high one first.

    Raises:
        Unreadable: there are more or fewer segments, or one ends too early, or goes on for too long.
    """
    if len(encoded) < _HEADER:
        raise Unreadable(Reason.TRUNCATED)
    count, *starts = struct.unpack_from("<16L", encoded)
    if count != samples * octets or count > len(starts):
        raise Unreadable(Reason.UNDECODABLE)
    ends = [*starts[1:count], len(encoded)]
    frame = np.empty((samples, pixels, octets), np.uint8)
    plane = np.empty(pixels + _SLACK, np.uint8)
    for place, (start, end) in enumerate(zip(starts, ends, strict=False)):
        sample, octet = divmod(place, octets)
        frame[sample, :, octets - 1 - octet] = _plane(encoded[start:end], plane)[:pixels]
    return frame.tobytes()


def _plane(
    segment: bytes, room: "np.ndarray[tuple[int], np.dtype[np.uint8]]"
) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    try:
        found: NDArray[np.uint8] = _unpack(segment, out=room)
    except RuntimeError:  # more than there is room for, or damaged
        raise Unreadable(Reason.UNDECODABLE) from None
    if len(found) < len(room) - _SLACK:
        raise Unreadable(Reason.TRUNCATED)
    return found
