"""What a compressed frame says of itself: its end, its size, its colours; and that decoders get nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from client.codestreams import read_jpeg, read_jpeg2000
from client.dicom import read_image
from client.refusals import Reason, Unreadable

Writer = Callable[..., Path]
GREY_12 = {"Rows": 24, "Columns": 17, "BitsAllocated": 16, "BitsStored": 12}
SKIN, SPOT = (200, 150, 120), (90, 40, 40)


def grey(seed: int = 0) -> np.ndarray:
    """Draw a (24, 17) film of 12 bits."""
    return np.random.default_rng(seed).integers(0, 4096, (24, 17)).astype(np.uint16)


ENCODED: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "JPEG Extended": (JPEGExtended12Bit, lambda film: imagecodecs.jpeg8_encode(film, level=100, bitspersample=12)),
    "JPEG lossless": (JPEGLosslessSV1, lambda film: imagecodecs.jpeg8_encode(film, lossless=True, bitspersample=12)),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (
        JPEG2000Lossless,
        lambda film: imagecodecs.jpeg2k_encode(film, reversible=True, level=0, codecformat="J2K", bitspersample=12),
    ),
}
STRAY = {
    "zeros": bytes(64),
    "bytes": bytes(range(1, 40)),
    "another end": b"\x07\xff\xd9",
    "a second image": imagecodecs.jpeg8_encode(np.zeros((8, 8), np.uint8)),
    "one byte": b"\x01",
}


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("stray", STRAY)
def test_what_stands_behind_a_complete_image_does_not_count(write_dicom: Writer, name: str, stray: str) -> None:
    """A whole image with stray bytes behind its end is the image, whatever they are."""
    syntax, encode = ENCODED[name]
    alone = read_image(write_dicom([encode(grey())], syntax=syntax, **GREY_12), frames="first")
    path = write_dicom([encode(grey()) + STRAY[stray]], syntax=syntax, **GREY_12)
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC, alone.pixels_FHWC)


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("tables", ["basic", "none", "extended", "wrong"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_frames_are_found_with_any_offset_table_and_in_fragments(
    write_dicom: Writer, name: str, tables: str, pieces: int
) -> None:
    """Frames with stray bytes, whole or in fragments of even length, with a table, without, or with a wrong one."""
    syntax, encode = ENCODED[name]
    films = [grey(seed) for seed in range(3)]
    encoded = [encode(film) + bytes(range(20, 20 + 31 + len(encode(film)) % 2)) for film in films]
    encoded = [frame + bytes(len(frame) % 2) for frame in encoded]
    path = write_dicom([b"\0\0"], syntax=syntax, NumberOfFrames=3, **GREY_12)
    if tables == "extended" and pieces == 1:
        pixels, offsets, lengths = encapsulate_extended(encoded)
    else:
        pixels = encapsulate(encoded, fragments_per_frame=pieces, has_bot=tables in ("basic", "wrong"))
        offsets = lengths = None
    if tables == "wrong":
        pixels = pixels[:12] + (2**20).to_bytes(4, "little") + pixels[16:]
    import pydicom

    dataset = pydicom.dcmread(path)
    dataset.PixelData = pixels
    dataset["PixelData"].is_undefined_length = True
    if offsets:
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    dataset.save_as(path)
    found = read_image(path, frames="all").pixels_FHWC[..., 0]
    np.testing.assert_allclose(found, films, atol=40 if name == "JPEG Extended" else 0)
    np.testing.assert_array_equal(read_image(path, frames="middle").pixels_FHWC[0, ..., 0], found[1])


@pytest.mark.parametrize("name", ["JPEG Extended", "JPEG lossless", "JPEG-LS"])
def test_an_image_without_its_end_is_truncated(write_dicom: Writer, name: str) -> None:
    """An end that stands inside a segment, as a thumbnail's does, is not the image's."""
    syntax, encode = ENCODED[name]
    encoded = encode(grey())
    thumbnail = b"\xff\xe5\x00\x06\x07\x07\xff\xd9"
    whole = encoded[:2] + thumbnail + encoded[2:]
    found = read_image(write_dicom([whole], syntax=syntax, **GREY_12), frames="first").pixels_FHWC[0, ..., 0]
    np.testing.assert_allclose(found, grey(), atol=40)
    with pytest.raises(Unreadable) as refusal:
        read_image(write_dicom([whole[: len(whole) // 2]], syntax=syntax, **GREY_12), frames="first")
    assert refusal.value.reason is Reason.TRUNCATED


def picture() -> np.ndarray:
    """Draw a brown spot on skin, (48, 48, 3)."""
    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[:] = SKIN
    pixels[16:32, 16:32] = SPOT
    return pixels


def without(encoded: bytes, marker: int) -> bytes:
    """Cut a marker's segment out."""
    start = encoded.find(bytes((0xFF, marker)))
    return encoded[:start] + encoded[start + 2 + int.from_bytes(encoded[start + 2 : start + 4], "big") :]


def with_adobe(encoded: bytes, transform: int) -> bytes:
    """Put Adobe's marker in."""
    return encoded[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes((transform,)) + encoded[2:]


def renamed(encoded: bytes, identifiers: bytes) -> bytes:
    """Give the three components other identifiers, in the frame's header and in the scan's."""
    changed = bytearray(encoded)
    frame, scan = encoded.find(b"\xff\xc0"), encoded.find(b"\xff\xda")
    for place, identifier in enumerate(identifiers):
        changed[frame + 10 + 3 * place] = changed[scan + 5 + 2 * place] = identifier
    return bytes(changed)


def ycbcr(subsampling: str) -> bytes:
    """Encode the picture as YCbCr without any marker that says so."""
    return without(imagecodecs.jpeg8_encode(picture(), level=98, subsampling=subsampling), 0xE0)


def rgb() -> bytes:
    """Encode the picture as it is, without any marker and with identifiers 1, 2, 3."""
    encoded = imagecodecs.jpeg8_encode(picture(), level=98, colorspace="RGB", outcolorspace="RGB", subsampling="444")
    return renamed(without(encoded, 0xEE), bytes((1, 2, 3)))


AS_ENCODED = {
    "JFIF, declared RGB": ("RGB", lambda: imagecodecs.jpeg8_encode(picture(), level=98, subsampling="420")),
    "JFIF 4:4:4, declared RGB": ("RGB", lambda: imagecodecs.jpeg8_encode(picture(), level=98, subsampling="444")),
    "bare 4:2:0, declared RGB": ("RGB", lambda: ycbcr("420")),
    "bare 4:2:2, declared RGB": ("RGB", lambda: ycbcr("422")),
    "bare 4:2:0, declared YBR_FULL_422": ("YBR_FULL_422", lambda: ycbcr("420")),
    "bare 4:4:4, declared YBR_FULL": ("YBR_FULL", lambda: ycbcr("444")),
    "Adobe 1, declared RGB": ("RGB", lambda: with_adobe(ycbcr("444"), 1)),
    "Adobe 1, declared YBR_FULL_422": ("YBR_FULL_422", lambda: with_adobe(ycbcr("422"), 1)),
    "Adobe 0, declared YBR_FULL_422": ("YBR_FULL_422", lambda: with_adobe(rgb(), 0)),
    "Adobe 0, declared RGB": ("RGB", lambda: with_adobe(rgb(), 0)),
    "bare, declared RGB": ("RGB", rgb),
    "named R, G, B, declared YBR_FULL": ("YBR_FULL", lambda: renamed(rgb(), b"RGB")),
    "bare 4:2:0, declared MONOCHROME2": ("MONOCHROME2", lambda: ycbcr("420")),
}


@pytest.mark.parametrize("name", AS_ENCODED)
def test_colours_are_those_that_were_encoded(write_dicom: Writer, name: str) -> None:
    """What a JPEG says of its colours, by a marker or by its sampling, comes before what the header declares."""
    declared, encode = AS_ENCODED[name]
    path = colour_file(write_dicom, encode(), declared)
    found = read_image(path, frames="first").pixels_FHWC[0]
    assert np.abs(found[4, 4] - SKIN).max() <= 4
    assert np.abs(found[24, 24] - SPOT).max() <= 4


CONTRADICTIONS = {
    "Adobe says RGB, half the chroma YCbCr": lambda: with_adobe(ycbcr("420"), 0),
    "names say RGB, half the chroma YCbCr": lambda: renamed(ycbcr("420"), b"RGB"),
    "JFIF and Adobe's RGB": lambda: with_adobe(imagecodecs.jpeg8_encode(picture(), subsampling="444"), 0),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize("declared", ["RGB", "YBR_FULL_422"])
def test_a_jpeg_that_contradicts_itself_is_refused(write_dicom: Writer, name: str, declared: str) -> None:
    """Where two signs of one codestream differ, no colours are shown as if they were known."""
    with pytest.raises(Unreadable) as refusal:
        read_image(colour_file(write_dicom, CONTRADICTIONS[name](), declared), frames="first")
    assert refusal.value.reason is Reason.UNDECODABLE


@pytest.mark.parametrize("declared", ["YBR_PARTIAL_420", "YBR_ICT", "CMYK", "MONOCHROME2"])
def test_colours_that_nothing_tells_are_refused(write_dicom: Writer, declared: str) -> None:
    """A bare JPEG at full resolution under a photometric interpretation of another codec is not guessed."""
    with pytest.raises(Unreadable) as refusal:
        read_image(colour_file(write_dicom, ycbcr("444"), declared), frames="first")
    assert refusal.value.reason is Reason.UNDECODABLE


def colour_file(write_dicom: Writer, encoded: bytes, declared: str, syntax: str = JPEGBaseline8Bit) -> Path:
    """Write a colour object of the picture's size."""
    return write_dicom(
        [encoded],
        syntax=syntax,
        Rows=48,
        Columns=48,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation=declared,
    )


@pytest.mark.parametrize("declared", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"])
def test_jpeg_2000_undoes_its_own_transform_once(write_dicom: Writer, declared: str) -> None:
    """With the multiple component transform, RGB comes out of the codestream, whatever the header declares."""
    encoded = imagecodecs.jpeg2k_encode(picture(), reversible=True, level=0, codecformat="J2K", mct=True)
    path = colour_file(write_dicom, encoded, declared, JPEG2000)
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0], picture())


def test_jpeg_2000_without_the_transform_that_is_declared_is_refused(write_dicom: Writer) -> None:
    """Nothing tells whether the components are RGB or were transformed by somebody else."""
    encoded = imagecodecs.jpeg2k_encode(picture(), reversible=True, level=0, codecformat="J2K", mct=False)
    np.testing.assert_array_equal(
        read_image(colour_file(write_dicom, encoded, "RGB", JPEG2000), frames="first").pixels_FHWC[0], picture()
    )
    with pytest.raises(Unreadable):
        read_image(colour_file(write_dicom, encoded, "YBR_RCT", JPEG2000), frames="first")


def jp2_of(film: np.ndarray, box: bytes = b"", kind: bytes = b"uuid") -> bytes:
    """Encode a film as a JP2 file, with a box behind its second, the file type."""
    encoded = imagecodecs.jpeg2k_encode(film, reversible=True, level=0, codecformat="JP2", bitspersample=12)
    place = 12 + int.from_bytes(encoded[12:16], "big")
    written = (8 + len(box)).to_bytes(4, "big") + kind + box if box else b""
    return encoded[:place] + written + encoded[place:]


def test_a_jp2_file_is_its_codestream(write_dicom: Writer) -> None:
    """The boxes around it do not count."""
    path = write_dicom([jp2_of(grey())], syntax=JPEG2000Lossless, **GREY_12)
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], grey())


def test_a_decoder_gets_the_jpeg_2000_codestream_that_was_checked(write_dicom: Writer) -> None:
    """Of two in one JP2 file it is the first: memory follows from what was looked at, whatever stands behind."""
    checked = ENCODED["JPEG 2000"][1](grey())
    twofold = jp2_of(np.zeros((600, 500), np.uint16), bytes(16) + checked)
    assert imagecodecs.jpeg2k_decode(twofold).shape == (600, 500)  # what a decoder takes by itself
    assert imagecodecs.jpeg2k_decode(read_jpeg2000(twofold).encoded).shape == (24, 17)
    path = write_dicom([twofold], syntax=JPEG2000Lossless, **GREY_12)
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], grey())


def test_a_jp2_file_with_a_palette_of_its_own_is_refused() -> None:
    """Its codestream holds places in the palette, which are no grey values."""
    with pytest.raises(Unreadable):
        read_jpeg2000(jp2_of(grey(), bytes(16), kind=b"pclr"))


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("change", [{"Rows": 23}, {"Columns": 18}, {"Rows": 17, "Columns": 24}])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(
    write_dicom: Writer, monkeypatch: pytest.MonkeyPatch, name: str, change: dict[str, Any]
) -> None:
    """No decoder is given a frame that would fill more memory than the header announces."""
    monkeypatch.setattr("client.frames._decode_codestream", None)
    syntax, encode = ENCODED[name]
    with pytest.raises(Unreadable) as refusal:
        read_image(write_dicom([encode(grey())], syntax=syntax, **GREY_12 | change), frames="first")
    assert refusal.value.reason is Reason.UNDECODABLE


def test_two_sizes_in_one_image_are_refused() -> None:
    """A second frame header, or a table that changes the size, is not left to the decoder."""
    encoded = imagecodecs.jpegls_encode(grey())
    header = encoded[2 : encoded.find(b"\xff\xda")]
    oversize = b"\xff\xf8\x00\x0b\x04\x04\x00\x01\x00\x00\x00\x01\x00"
    for added in (header, oversize, b"\xff\xdc\x00\x04\x10\x00"):
        with pytest.raises(Unreadable):
            read_jpeg(encoded[:2] + header + added + encoded[2 + len(header) :])


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Each scan of a progressive image costs a pass over all of it."""
    encoded = imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint8))
    scan = encoded[encoded.find(b"\xff\xda") : -2]
    assert read_jpeg(encoded[:-2] + scan * 100 + encoded[-2:]).rows == 16
    with pytest.raises(Unreadable):
        read_jpeg(encoded[:-2] + scan * 200 + encoded[-2:])


def siz(**changes: int) -> bytes:
    """Write the head of a JPEG 2000 codestream of 4096 x 4096 pixels."""
    at = {"tile": 4096, "precinct": 15, "layers": 1, "across": 1} | changes
    size = b"".join(value.to_bytes(4, "big") for value in (4096, 4096, 0, 0, at["tile"], at["tile"], 0, 0))
    coding = bytes((1, 0)) + at["layers"].to_bytes(2, "big") + bytes((0, 5, 4, 4, 0, 1))
    coding += bytes((at["precinct"] * 17,)) * 6
    return (
        b"\xff\x4f\xff\x51\x00\x29\x00\x00"
        + size
        + b"\x00\x01"
        + bytes((15, at["across"], 1))
        + b"\xff\x52"
        + (len(coding) + 2).to_bytes(2, "big")
        + coding
        + b"\xff\x90"
    )


@pytest.mark.parametrize("change", [{"tile": 16}, {"precinct": 0}, {"precinct": 3, "layers": 60000}, {"across": 2}])
def test_a_jpeg_2000_that_asks_for_a_decoders_memory_is_refused(change: dict[str, int]) -> None:
    """Tiles, precincts and layers by the million cost their memory before a byte of them is there."""
    assert read_jpeg2000(siz()).rows == read_jpeg2000(siz(tile=1024, precinct=7, layers=12)).rows == 4096
    with pytest.raises(Unreadable):
        read_jpeg2000(siz(**change))
