"""Small hostile files: each is refused, or read, within a memory that is measured in a process of its own."""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from client.bounded_file import MAX_HEADER, MAX_INFLATED, MAX_READS
from client.cache import MAX_PREPARED, most_rows, row_bytes
from client.dicom import MAX_FRAMES, read_header, read_image
from client.frames import MAX_FRAME_VALUES
from client.refusals import Reason, Unreadable
from shared.preprocessing import Contract

Writer = Callable[..., Path]

MOST_MIB = 900
"""A worker's memory for the largest frame that is read (2^26 values, twelve bytes each) and the interpreter, beside
what is prepared."""

PREPARE = """
import sys
from pathlib import Path
from client.cache import _prepare_file
from client.dicom import read_frames
from shared.preprocessing import Contract

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024

contract = Contract(size=224, window="percentile", spacing_mm=0, fit="pad", depth="uint8", channels=3)
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    found = _prepare_file(Path(path), contract=contract, frames="all", read=read_frames)
    print(getattr(found, "value", "read"), peak() - before)
    del found
"""


def prepared_alone(*paths: Path) -> list[tuple[str, int]]:
    """Prepare files in a fresh process; give what came of each, and how many MiB it took at its height."""
    found = subprocess.run(
        [sys.executable, "-c", PREPARE, *map(str, paths)], capture_output=True, text=True, check=True
    )
    return [(line.split()[0], int(line.split()[1])) for line in found.stdout.splitlines()]


def jpeg_ls_of(rows: int, columns: int) -> bytes:
    """Encode a constant image: a handful of bytes, whatever its size."""
    encoded = imagecodecs.jpegls_encode(np.zeros((64, 64), np.uint16))
    place = encoded.find(b"\xff\xf7") + 5
    return encoded[:place] + struct.pack(">HH", rows, columns) + encoded[place + 4 :]


def jpeg_of(rows: int, columns: int, **how: Any) -> bytes:
    """Encode a small image whose header says another size."""
    encoded = imagecodecs.jpeg8_encode(np.zeros((64, 64), np.uint8), **how)
    place = min(found for marker in (0xC0, 0xC3) if (found := encoded.find(bytes((0xFF, marker)))) > 0) + 5
    return encoded[:place] + struct.pack(">HH", rows, columns) + encoded[place + 4 :]


def jpeg_2000_of(rows: int, columns: int) -> bytes:
    """Encode a small image whose header says another size, in one tile."""
    encoded = imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint16), codecformat="J2K", reversible=True, level=0)
    place = encoded.find(b"\xff\x51") + 6
    size = struct.pack(">IIIIII", columns, rows, 0, 0, columns, rows)
    return encoded[:place] + size + encoded[place + 24 :]


def run_lengths(octets: int) -> bytes:
    """Write one RLE segment that unpacks to so many octets, 64 times its own length."""
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * (octets // 128)


def segmented_palette() -> dict[str, Any]:
    """Give a palette of six kilobytes whose segments stand for 33 million entries of each colour."""
    words = struct.pack("<3H", 0, 1, 0) + struct.pack("<3H", 1, 65_534, 7) * 500 + struct.pack("<4H", 2, 500, 0, 0)
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", "BitsAllocated": 8}
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [0, 0, 16]
        attributes[f"Segmented{colour}PaletteColorLookupTableData"] = words
    return attributes


HUGE = 60_000
SMALL = {"Rows": 64, "Columns": 64}
LARGE = {"Rows": HUGE, "Columns": HUGE}
BOMBS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "JPEG-LS, honest": (JPEGLSLossless, lambda: [jpeg_ls_of(HUGE, HUGE)], LARGE | {"BitsAllocated": 16}),
    "JPEG-LS, lying": (JPEGLSLossless, lambda: [jpeg_ls_of(HUGE, HUGE)], SMALL | {"BitsAllocated": 16}),
    "JPEG 2000, honest": (JPEG2000Lossless, lambda: [jpeg_2000_of(HUGE, HUGE)], LARGE | {"BitsAllocated": 16}),
    "JPEG 2000, lying": (JPEG2000Lossless, lambda: [jpeg_2000_of(HUGE, HUGE)], SMALL | {"BitsAllocated": 16}),
    "JPEG, lying": (JPEGBaseline8Bit, lambda: [jpeg_of(HUGE, HUGE)], SMALL),
    "JPEG lossless, lying": (JPEGLosslessSV1, lambda: [jpeg_of(HUGE, HUGE, lossless=True)], SMALL),
    "RLE": (RLELossless, lambda: [run_lengths(2**30)], SMALL),
    "RLE, honest": (RLELossless, lambda: [run_lengths(2**20)], LARGE),
    "ten thousand frames of a pixel": (
        RLELossless,
        lambda: [run_lengths(128)] * 10_000,
        {"Rows": 1, "Columns": 128, "NumberOfFrames": 10_000},
    ),
    "two billion frames": (JPEGLSLossless, lambda: [jpeg_ls_of(64, 64)], SMALL | {"NumberOfFrames": 2**31 - 1}),
    "JPEG-LS, whole": (  # two kilobytes that decode, to more than a frame may have
        JPEGLSLossless,
        lambda: [imagecodecs.jpegls_encode(np.zeros((8192, 8193), np.uint16))],
        {"Rows": 8192, "Columns": 8193, "BitsAllocated": 16},
    ),
    "as large as a frame may be": (
        JPEGLSLossless,
        lambda: [imagecodecs.jpegls_encode(np.zeros((8192, 8192), np.uint16))],
        {"Rows": 8192, "Columns": 8192, "BitsAllocated": 16},
    ),
}


def test_a_hostile_file_does_not_fill_the_memory(write_dicom: Writer, tmp_path: Path) -> None:
    """Whatever a header or a codestream claims, a worker's memory stays within what the largest films need."""
    paths = [
        write_dicom(encode(), syntax=syntax, **attributes).rename(tmp_path / str(place))
        for place, (syntax, encode, attributes) in enumerate(BOMBS.values())
    ]
    for name, (word, mebibytes) in zip(BOMBS, prepared_alone(*paths), strict=True):
        assert mebibytes <= MOST_MIB, name
        refused = ("too_large", "undecodable", "truncated")
        assert word in (("read",) if name.startswith("as large") else refused), name


def test_a_palette_is_not_expanded_without_bound(write_dicom: Writer) -> None:
    """Segments that stand for more entries than the descriptor says are refused before they are expanded."""
    [(word, mebibytes)] = prepared_alone(write_dicom(bytes(64 * 64), **SMALL, **segmented_palette()))
    assert word == "malformed"
    assert mebibytes <= 100


def test_a_deflated_data_set_is_not_inflated_without_bound(write_dicom: Writer) -> None:
    """A data set of a gibibyte of zeros in a megabyte is refused, header and image."""
    path = write_dicom(bytes(16), Rows=4, Columns=4)
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    rest = deflater.compress(content[start:])
    for _ in range(MAX_INFLATED // 2**20 + 1):
        rest += deflater.compress(bytes(2**20))
    # The syntax's two more characters make the element, and the group, two bytes longer.
    meta = _with_syntax(content[:start], b"1.2.840.10008.1.2.1.99")
    path.write_bytes(meta + rest + deflater.flush())
    assert path.stat().st_size < 2**20
    with pytest.raises(Unreadable) as refusal:
        read_header(path)
    assert refusal.value.reason is Reason.TOO_LARGE
    [(word, mebibytes)] = prepared_alone(path)
    assert word == "too_large"
    assert mebibytes <= 100


def element(tag: int, value: bytes = b"", *, claimed: int | None = None) -> bytes:
    """Write an element without its VR."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if claimed is None else claimed) + value


GIGABYTE = 10**9
UNDEFINED = 0xFFFFFFFF
HEADERS: dict[str, Callable[[bytes, bytes], tuple[bytes, int, bytes]]] = {
    "meta group": lambda meta, _: (meta[:140] + struct.pack("<L", GIGABYTE) + meta[144:], GIGABYTE, b""),
    "element of the meta": lambda meta, rest: (
        meta + b"\x02\x00\x02\x01OB\x00\x00" + struct.pack("<L", GIGABYTE),
        GIGABYTE,
        rest,
    ),
    "character set": lambda meta, rest: (meta + element(0x00080005, claimed=GIGABYTE), GIGABYTE, rest),
    "private element": lambda meta, rest: (meta + element(0x00091001, claimed=GIGABYTE), GIGABYTE, rest),
    "element without an end": lambda meta, rest: (
        meta + element(0x00091001, claimed=UNDEFINED),
        GIGABYTE,
        element(0xFFFEE0DD) + rest,
    ),
    "element in a sequence": lambda meta, rest: (
        meta
        + element(0x00081140, claimed=UNDEFINED)
        + element(0xFFFEE000, claimed=UNDEFINED)
        + element(0x00091001, claimed=GIGABYTE),
        GIGABYTE,
        element(0xFFFEE00D) + element(0xFFFEE0DD) + rest,
    ),
}

READ_HEADER = """
import sys
from pathlib import Path
from client.dicom import read_header
from client.refusals import Unreadable

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    try:
        read_header(Path(path))
        found = "read"
    except Unreadable as refusal:
        found = refusal.reason.value
    print(found, peak() - before)
"""


def test_no_header_fills_the_memory(write_dicom: Writer, tmp_path: Path) -> None:
    """Lengths that a sparse file has room for with a few kilobytes of disk."""
    content = write_dicom(bytes(16), Rows=4, Columns=4, syntax=ImplicitVRLittleEndian).read_bytes()
    begin = 144 + int.from_bytes(content[140:144], "little")
    paths = []
    for name, made in HEADERS.items():
        head, gap, rest = made(content[:begin], content[begin:])
        paths.append(tmp_path / name)
        paths[-1].write_bytes(head)
        os.truncate(paths[-1], len(head) + gap)
        with paths[-1].open("ab") as file:
            file.write(rest)
    told = subprocess.run(
        [sys.executable, "-c", READ_HEADER, *map(str, paths)], capture_output=True, text=True, check=True
    )
    for path, line in zip(paths, told.stdout.splitlines(), strict=True):
        word, mebibytes = line.split()
        assert word in ("too_large", "truncated", "malformed", "no_pixels"), path.name
        assert int(mebibytes) <= 200, path.name


def test_elements_of_a_header_are_bounded_in_number(write_dicom: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes far more in memory than its eight bytes in the file."""
    most = 2**14
    monkeypatch.setattr("client.bounded_file.MAX_READS", most)
    content = write_dicom(bytes(16), Rows=4, Columns=4, syntax=ImplicitVRLittleEndian).read_bytes()
    begin = 144 + int.from_bytes(content[140:144], "little")
    path = write_dicom(None)
    items = element(0x00081140, claimed=UNDEFINED) + element(0xFFFEE000) * most + element(0xFFFEE0DD)
    path.write_bytes(content[:begin] + items + content[begin:])
    with pytest.raises(Unreadable) as refusal:
        read_header(path)
    assert refusal.value.reason in (Reason.TOO_LARGE, Reason.TRUNCATED)  # pydicom makes an OSError of it in items


def test_a_deflated_data_set_is_read_whatever_its_meta_information_claims(
    write_dicom: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong length of the meta group leaves the bound where it is, and an honest data set is read."""
    most = 2**20
    monkeypatch.setattr("client.bounded_file.MAX_INFLATED", most)
    content = write_dicom(bytes(16), Rows=4, Columns=4).read_bytes()
    begin = 144 + int.from_bytes(content[140:144], "little")
    for claimed in (None, 0, 2**31):
        for size, reason in ((0, None), (most + 1, Reason.TOO_LARGE)):
            meta = _with_syntax(content[:begin], b"1.2.840.10008.1.2.1.99")
            if claimed is not None:
                meta = meta[:140] + struct.pack("<L", claimed) + meta[144:]
            packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
            rest = packer.compress(content[begin:]) + packer.compress(bytes(size)) + packer.flush()
            path = write_dicom(None)
            path.write_bytes(meta + rest)
            if reason is None:
                assert read_image(path, frames="first").pixels_FHWC.shape == (1, 4, 4, 1)
                continue
            with pytest.raises(Unreadable) as refusal:
                read_header(path)
            assert refusal.value.reason is reason


def _with_syntax(meta: bytes, syntax: bytes) -> bytes:
    """Put another transfer syntax into a file's meta information."""
    place = meta.find(b"\x02\x00\x10\x00UI")
    old = int.from_bytes(meta[place + 6 : place + 8], "little")
    changed = meta[: place + 6] + struct.pack("<H", len(syntax)) + syntax + meta[place + 8 + old :]
    length = int.from_bytes(meta[140:144], "little") + len(syntax) - old
    return changed[:140] + struct.pack("<L", length) + changed[144:]


def test_the_bounds_leave_room_for_what_hospitals_have() -> None:
    """A CT of 300 slices, the largest films, colour photographs of 20 megapixels, and a heart of a thousand frames."""
    whole = Contract(size=512, window="percentile", spacing_mm=0, fit="pad", depth="uint8", channels=3)
    assert most_rows(whole) >= 300
    assert MAX_FRAME_VALUES >= 3 * 20_000_000
    assert MAX_FRAMES >= 5000
    assert MAX_HEADER >= 2000 * 16_000  # functional groups of 2,000 frames
    assert MAX_READS >= 3 * 2000 * 100  # a hundred elements each
    assert most_rows(whole) * row_bytes(whole) <= MAX_PREPARED
