"""Read what a compressed frame says of itself, before a decoder gets it: its size, its precision, its colours, its end.

Marker codes are those of ITU-T T.81 (JPEG), T.87 (JPEG-LS) and T.800 (JPEG 2000).
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from client.refusals import Reason, Unreadable

Colour = Literal["RGB", "YBR"]

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_LOSSLESS_FRAME, _LS_FRAME = 0xC3, 0xF7
_REFUSED = frozenset({0xDC, 0xDE})  # number of lines, hierarchical: they change the size that the frame states
_JFIF, _ADOBE, _LS_PARAMETERS = 0xE0, 0xEE, 0xF8
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})

# The next marker behind coded data. In JPEG, 0 is stuffed behind 255 (T.81 B.1.1.5), in JPEG-LS a bit (T.87 A.1).
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_LS_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")

MOST_SCANS = 128
"""A progressive image has about ten scans, and each is a pass over the whole image."""

MOST_TILES = 4096
MOST_PACKETS = 2**22
"""JPEG 2000: an OpenJPEG decoder sets up some hundred bytes for each precinct and layer, before it has seen one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """One compressed image; `encoded` is what a decoder gets: without what a file has in front of it, or behind a JPEG.

    `signed` is what the codestream says of its values; `colour` what it says of three components, None where it is
    silent.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    colour: Colour | None
    encoded: bytes = field(repr=False)


def read_jpeg(encoded: bytes) -> Codestream:
    """Read a JPEG or JPEG-LS image.

    Raises:
        Unreadable: it is no such image, contradicts itself, or ends before its end marker.
    """
    segments = [*_segments(encoded)]
    frames = [one for one in segments if one.marker in _FRAMES]
    scans = sum(one.marker == _SCAN for one in segments)
    if len(frames) != 1 or scans > MOST_SCANS or any(map(_changes_size, segments)):
        raise Unreadable(Reason.UNDECODABLE)
    if segments[-1].marker != _END:  # the decoders would fill up with grey and say nothing
        raise Unreadable(Reason.TRUNCATED)
    kind, header = frames[0].marker, frames[0].content
    precision, rows, columns, components = struct.unpack_from(">BHHB", header)
    parts = [header[6 + 3 * place : 9 + 3 * place] for place in range(components)]
    return Codestream(
        rows=rows,
        columns=columns,
        components=components,
        precision=precision,
        signed=False,
        colour=_colour(parts, segments, of_samples=kind in (_LOSSLESS_FRAME, _LS_FRAME)),
        encoded=encoded[: segments[-1].end],
    )


class _Segment(NamedTuple):
    """A marker, what it is followed by, and the place behind both."""

    marker: int
    content: bytes
    end: int


def _changes_size(segment: _Segment) -> bool:
    return segment.marker in _REFUSED or (segment.marker == _LS_PARAMETERS and segment.content[:1] == b"\x04")


def _segments(encoded: bytes) -> Iterator[_Segment]:
    """Yield the segments of the first image in `encoded`, to its end."""
    if encoded[:2] != bytes((0xFF, _START)):
        raise Unreadable(Reason.UNDECODABLE)
    place, behind = 2, _MARKER
    while found := behind.search(encoded, place):
        marker, place = encoded[found.start() + 1], found.end()
        if marker == _END:
            yield _Segment(marker, b"", place)
            return
        if marker in _ALONE:
            continue
        if place + 2 > len(encoded):
            return
        after = place + int.from_bytes(encoded[place : place + 2], "big")
        yield _Segment(marker, encoded[place + 2 : after], after)
        behind = _LS_MARKER if marker == _LS_FRAME else behind
        place = max(after, place + 2)


def _colour(parts: Sequence[bytes], segments: Sequence[_Segment], *, of_samples: bool) -> Colour | None:
    """Tell what three components are by all that a JPEG says of them: identifiers, sampling, JFIF, Adobe's marker.

    See T.81 B.2.2, JFIF 1.02 and Adobe's technical note 5116, section 18. Chroma of another resolution than the rest
    is YCbCr: nobody subsamples green. JFIF's promise does not hold `of_samples` that are coded as they are.

    Raises:
        Unreadable: two of these contradict each other, so that any answer could be the wrong colours.
    """
    if len(parts) != 3 or any(len(part) != 3 for part in parts):
        return None
    said: set[Colour] = set()
    for segment in segments:
        if segment.marker == _JFIF and segment.content.startswith(b"JFIF\0") and not of_samples:
            said.add("YBR")
        if segment.marker == _ADOBE and segment.content.startswith(b"Adobe") and len(segment.content) >= 12:
            said.add("YBR" if segment.content[11] else "RGB")
    if bytes(part[0] for part in parts) in (b"RGB", b"rgb"):
        said.add("RGB")
    if len({part[1] for part in parts}) > 1:
        said.add("YBR")
    if len(said) > 1:
        raise Unreadable(Reason.UNDECODABLE)
    return said.pop() if said else None


def read_jpeg2000(encoded: bytes) -> Codestream:
    """Read a JPEG 2000 codestream, high-throughput or not, alone or in a JP2 file.

    `encoded` begins where the codestream does that was looked at. A JP2 file may hold another one in front (a box that
    nobody knows is skipped), and a decoder would take the one that was not checked.

    Raises:
        Unreadable: it is no such codestream, its components differ, it asks for a decoder's whole memory, or the JP2
            file has a palette of its own (PS3.5 A.4.4 has no JP2 file at all).
    """
    start = encoded.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(encoded) < start + 45 or b"pclr" in encoded[:start]:
        raise Unreadable(Reason.UNDECODABLE)
    size, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack_from(
        ">HxxIIIIIIIIH", encoded, start + 4
    )
    kinds = {encoded[place : place + 3] for place in range(start + 42, start + 42 + 3 * components, 3)}
    if len(kinds) != 1 or not tile_width or not tile_height:
        raise Unreadable(Reason.UNDECODABLE)
    depth, across, down = kinds.pop()
    tiles = _parts(right - tile_left, tile_width) * _parts(bottom - tile_top, tile_height)
    packets, colour = _coding(encoded, start + 4 + size, columns=right - left, rows=bottom - top)
    if (across, down) != (1, 1) or tiles > MOST_TILES or packets * components > MOST_PACKETS:
        raise Unreadable(Reason.UNDECODABLE)
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        colour=colour,
        encoded=encoded[start:],
    )


def _coding(encoded: bytes, place: int, *, columns: int, rows: int) -> tuple[int, Colour | None]:
    """Give how many packets a component has at most, and RGB where the components were transformed (T.800 A.6.1)."""
    packets, layers = 0, 1
    colour: Colour | None = None
    while encoded[place : place + 1] == b"\xff" and (marker := encoded[place + 1]) != 0x90:
        content = encoded[place + 4 : place + 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")]
        if marker == 0x52:  # coding style, of all components
            layers = int.from_bytes(content[2:4], "big")
            colour = "RGB" if content[4] else colour
            packets = max(packets, _precincts(content[5:], bool(content[0] & 1), columns, rows))
        elif marker == 0x53:  # and of one
            packets = max(packets, _precincts(content[2:], bool(content[1] & 1), columns, rows))
        place += 4 + len(content)
    return packets * layers, colour


def _precincts(style: bytes, stated: bool, columns: int, rows: int) -> int:
    """Count the precincts of all resolutions, as if each had the image's size."""
    sizes = style[5 : 6 + style[0]] if stated else b"\xff" * (1 + style[0])
    return sum(_parts(columns, 2 ** (one & 15)) * _parts(rows, 2 ** (one >> 4)) for one in sizes)


def _parts(length: int, part: int) -> int:
    return max(0, -(-length // part))
