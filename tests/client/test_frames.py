"""Colour, palettes and every compression against the pixels that were encoded."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from client import frames
from client.dicom import read_image
from client.refusals import Reason, Unreadable

Writer = Callable[..., Path]
GREY_12 = {"Rows": 24, "Columns": 17, "BitsAllocated": 16, "BitsStored": 12}
RGB = {"Rows": 4, "Columns": 6, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}


def film(*, bits: int, seed: int, signed: bool = False) -> np.ndarray:
    """Draw a (24, 17) ramp with noise that fills the stored bits."""
    noise = np.random.default_rng(seed).integers(0, 2 ** (bits - 2), (24, 17))
    ramp = np.linspace(0, 3 * 2 ** (bits - 2), 24 * 17).reshape(24, 17)
    values = (ramp + noise).astype(np.int64)
    return (values - 2 ** (bits - 1)).astype(np.int16) if signed else values.astype(np.uint16)


def rle(pixels: np.ndarray, *, bits: int) -> bytes:
    """Encode one grey frame as RLE."""
    return get_encoder(RLELossless).encode(
        pixels.tobytes(),
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=bits,
        pixel_representation=int(pixels.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
    )


LOSSLESS = {
    "JPEG lossless, first predictor": (
        JPEGLosslessSV1,
        lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=12),
    ),
    "JPEG lossless, fifth predictor": (
        JPEGLossless,
        lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=12, predictor=5),
    ),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (
        JPEG2000Lossless,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0, codecformat="J2K"),
    ),
    "RLE": (RLELossless, lambda pixels: rle(pixels, bits=12)),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_lossless_compression_gives_the_same_stored_values(write_dicom: Writer, name: str) -> None:
    """What was encoded without loss comes back value by value, for each frame that is asked for."""
    syntax, encode = LOSSLESS[name]
    films = [film(bits=12, seed=seed) for seed in range(3)]
    path = write_dicom([encode(pixels) for pixels in films], syntax=syntax, NumberOfFrames=3, **GREY_12)
    np.testing.assert_array_equal(read_image(path, frames="all").pixels_FHWC[..., 0], films)
    np.testing.assert_array_equal(read_image(path, frames="middle").pixels_FHWC[0, ..., 0], films[1])
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], films[0])


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000", "RLE"])
def test_a_signed_lossless_compression_keeps_the_sign(write_dicom: Writer, name: str) -> None:
    """Negative stored values survive every codec that may carry them."""
    syntax, encode = LOSSLESS[name]
    pixels = film(bits=16, seed=1, signed=True)
    encoded = encode(pixels.view(np.uint16) if name == "JPEG-LS" else pixels)
    path = write_dicom([encoded], syntax=syntax, **GREY_12 | {"BitsStored": 16}, PixelRepresentation=1)
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], pixels)


@pytest.mark.parametrize(
    ("syntax", "encode", "error"),
    [
        (JPEGExtended12Bit, lambda pixels: imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=12), 60),
        (JPEGLSNearLossless, lambda pixels: imagecodecs.jpegls_encode(pixels, level=3), 3),
        (JPEG2000, lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=80, codecformat="J2K"), 60),
    ],
    ids=["JPEG Extended, 12 bit", "JPEG-LS near lossless", "JPEG 2000"],
)
def test_a_lossy_compression_stays_near_and_within_the_stored_bits(
    write_dicom: Writer, syntax: str, encode: Callable[[np.ndarray], bytes], error: int
) -> None:
    """Lossy grey comes back within the codec's error, and an overshoot is clipped, never wrapped around."""
    pixels = film(bits=12, seed=2)
    pixels[:12], pixels[12:] = pixels[:12] // 2, 4095  # an edge to full scale makes a codec overshoot
    path = write_dicom([encode(pixels)], syntax=syntax, **GREY_12)
    found = read_image(path, frames="first").pixels_FHWC[0, ..., 0]
    assert np.abs(found - pixels).max() <= error
    assert found.max() <= 4095


def test_a_lossy_overshoot_beyond_bits_stored_is_clipped(write_dicom: Writer) -> None:
    """A 12-bit stream in a 10-bit object gives full scale where it is brighter, not the bits that are left."""
    pixels = np.full((24, 17), 1024, np.uint16)
    encoded = imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12)
    path = write_dicom([encoded], syntax=JPEGExtended12Bit, **GREY_12 | {"BitsStored": 10})
    assert read_image(path, frames="first").pixels_FHWC.min() >= 1015


def test_a_colour_jpeg_comes_back_as_the_colours_that_were_encoded(write_dicom: Writer) -> None:
    """YBR_FULL_422 inside JPEG baseline is turned into RGB."""
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, :16, 0] = pixels[:, 16:32, 1] = pixels[:, 32:, 2] = 200
    encoded = imagecodecs.jpeg8_encode(pixels, level=98, subsampling="422")
    attributes = RGB | {"Rows": 16, "Columns": 48, "PhotometricInterpretation": "YBR_FULL_422"}
    path = write_dicom([encoded], syntax=JPEGBaseline8Bit, PlanarConfiguration=0, **attributes)
    found = read_image(path, frames="first").pixels_FHWC[0]
    assert np.abs(found - pixels)[:, [4, 8, 20, 24, 40, 44]].max() <= 6


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_rgb_keeps_each_colour_in_its_place(write_dicom: Writer, planar: int, bits: int) -> None:
    """Colour by pixel and colour by plane give the same image, and its window is the full scale."""
    pixels = np.random.default_rng(3).integers(0, 2**bits, (4, 6, 3)).astype(f"<u{bits // 8}")
    raw = (pixels.transpose(2, 0, 1) if planar else pixels).tobytes()
    image = read_image(write_dicom(raw, PlanarConfiguration=planar, BitsAllocated=bits, **RGB), frames="first")
    np.testing.assert_array_equal(image.pixels_FHWC[0], pixels)
    assert image.window == ((2**bits - 1) / 2, 2**bits - 1)


def rgb_of_ybr(y: int, b: int, r: int) -> list[float]:
    """Give the inverse of C.7.6.3.1.2's YBR_FULL, clipped to 8 bits."""
    rgb = y + 1.402 * (r - 128), y - 0.344136 * (b - 128) - 0.714136 * (r - 128), y + 1.772 * (b - 128)
    return [min(max(value, 0), 255) for value in rgb]


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_uncompressed_ybr_becomes_rgb(write_dicom: Writer, photometric: str) -> None:
    """Each pixel is converted by the standard's matrix; two neighbours share their chrominance in 4:2:2."""
    rng = np.random.default_rng(4)
    luma, blue, red = rng.integers(0, 256, (3, 4, 6)).tolist()
    octets, expected = [], []
    for row, column in itertools.product(range(4), range(0, 6, 2)):
        pair = luma[row][column : column + 2]
        chroma = [(blue[row][column + i], red[row][column + i]) for i in range(2)]
        if photometric == "YBR_FULL_422":
            octets += [*pair, *chroma[0]]
            chroma[1] = chroma[0]
        else:
            octets += [pair[0], *chroma[0], pair[1], *chroma[1]]
        expected += [rgb_of_ybr(y, *colours) for y, colours in zip(pair, chroma, strict=True)]
    attributes = RGB | {"PhotometricInterpretation": photometric}
    image = read_image(write_dicom(bytes(octets), PlanarConfiguration=0, **attributes), frames="first")
    np.testing.assert_allclose(image.pixels_FHWC.reshape(-1, 3), expected, atol=1.01)


def palette(
    entries: list[list[int]], *, first: int, bits: int, big_endian: bool = False, packed: bool = False
) -> dict[str, Any]:
    """Give the attributes of a palette, one list of entries for each of red, green and blue."""
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, column in zip(("Red", "Green", "Blue"), entries, strict=True):
        octets = bytes(column) if packed else np.array(column, ">u2" if big_endian else "<u2").tobytes()
        if packed and big_endian:
            octets = np.frombuffer(octets, "<u2").astype(">u2").tobytes()
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [len(column), first, bits]
        attributes[f"{colour}PaletteColorLookupTableData"] = octets
    return attributes


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("packed", [True, False])
def test_a_palette_maps_every_stored_value(write_dicom: Writer, syntax: str, packed: bool) -> None:
    """16-bit indices, a table that starts late and ends early, entries of 8 or 16 bits: all are looked up."""
    big_endian = syntax == ExplicitVRBigEndian
    stored = [[0, 299, 300, 301], [555, 899, 900, 4000]]
    top = 256 if packed else 65536
    table = np.random.default_rng(5).integers(0, top, (3, 600)).tolist()
    expected = [
        [[table[colour][min(max(value - 300, 0), 599)] for colour in range(3)] for value in row] for row in stored
    ]
    path = write_dicom(
        np.array(stored, ">u2" if big_endian else "<u2").tobytes(),
        syntax=syntax,
        Rows=2,
        Columns=4,
        BitsAllocated=16,
        **palette(table, first=300, bits=8 if packed else 16, big_endian=big_endian, packed=packed),
    )
    image = read_image(path, frames="first")
    np.testing.assert_array_equal(image.pixels_FHWC[0], expected)
    assert image.window == ((top - 1) / 2, top - 1)


def test_a_palette_with_signed_indices_starts_below_zero(write_dicom: Writer) -> None:
    """The first mapped value of signed pixels is signed too."""
    table = [[10, 20, 30, 40], [11, 21, 31, 41], [12, 22, 32, 42]]
    attributes = palette(table, first=-2, bits=8)
    path = write_dicom(bytes([254, 255, 0, 1]), Rows=1, Columns=4, PixelRepresentation=1, **attributes)
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, 0, :, 1], table[1])


def segmented(content: bytes, *, count: int, bits: int) -> dict[str, Any]:
    """Give the attributes of a segmented palette, the same for the three colours."""
    attributes = palette([[0] * count] * 3, first=0, bits=bits)
    for colour in ("Red", "Green", "Blue"):
        del attributes[f"{colour}PaletteColorLookupTableData"]
        attributes[f"Segmented{colour}PaletteColorLookupTableData"] = content
    return attributes


RAMP = [0, 2, 5, 9, 1, 4, 49]  # 5, 9, then a ramp of four to 49
SEGMENTED: dict[str, tuple[list[int], list[int], int]] = {
    "discrete and linear": (RAMP, [5, 9, 19, 29, 39, 49], 16),
    "of 8 bits": (RAMP, [5, 9, 19, 29, 39, 49], 8),
    "padded": ([*RAMP, 0], [5, 9, 19, 29, 39, 49], 8),
    "copied from the beginning": ([*RAMP, 2, 1, 0, 0], [5, 9, 19, 29, 39, 49, 5, 9], 16),
    "copied from eight octets on": ([*RAMP, 2, 1, 8, 0], [5, 9, 19, 29, 39, 49, 49, 49, 49, 49], 16),
    "copied, of 8 bits": ([*RAMP, 2, 1, 0, 0, 0, 0], [5, 9, 19, 29, 39, 49, 5, 9], 8),
}


@pytest.mark.parametrize("name", SEGMENTED)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_segmented_palette_is_expanded(write_dicom: Writer, name: str, syntax: str) -> None:
    """Discrete, linear and indirect segments (C.7.9.2) give their entries; an offset is one of octets."""
    segments, expected, bits = SEGMENTED[name]
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    attributes = segmented(np.array(segments, f"{order}u{bits // 8}").tobytes(), count=len(expected), bits=bits)
    path = write_dicom(bytes(range(len(expected))), syntax=syntax, Rows=1, Columns=len(expected), **attributes)
    assert read_image(path, frames="first").pixels_FHWC[0, 0, :, 2].tolist() == expected


@pytest.mark.parametrize(
    "segments",
    [
        [0, 2, 5, 9, 1, 5, 49],
        [0, 2, 5, 9, 1, 3, 49],
        [0, 2, 5, 9, 2, 9, 0, 0],
        [0, 1, 5, 2, 1, 6, 0],
        [0, 0, 0, 6, 1, 2, 3, 4, 5, 6],
        [1, 6, 9],
        [3, 6, 9],
    ],
    ids=["more", "fewer", "copies more", "points to itself", "of no entries", "begins with a ramp", "unknown"],
)
def test_a_segmented_palette_of_other_entries_than_it_says_is_malformed(
    write_dicom: Writer, segments: list[int]
) -> None:
    """Entries are counted before they are expanded."""
    attributes = segmented(np.array(segments, "<u2").tobytes(), count=6, bits=16)
    with pytest.raises(Unreadable) as refusal:
        read_image(write_dicom(bytes(6), Rows=1, Columns=6, **attributes), frames="first")
    assert refusal.value.reason is Reason.MALFORMED


def test_a_short_palette_is_malformed(write_dicom: Writer) -> None:
    """A table that is shorter than it says is refused, not read past its end."""
    attributes = palette([[1, 2], [1, 2], [1, 2]], first=0, bits=16)
    attributes["GreenPaletteColorLookupTableDescriptor"] = [9, 0, 16]
    with pytest.raises(Unreadable) as refusal:
        read_image(write_dicom(bytes(2), Rows=1, Columns=2, **attributes), frames="first")
    assert refusal.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("name", ["JPEG lossless, first predictor", "JPEG-LS", "JPEG 2000", "RLE"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_stream_that_was_cut_is_refused(write_dicom: Writer, name: str, share: float) -> None:
    """Part of a compressed frame is not taken for an image with a grey rest."""
    syntax, encode = LOSSLESS[name]
    encoded = encode(film(bits=12, seed=6))
    path = write_dicom([encoded[: int(len(encoded) * share)]], syntax=syntax, **GREY_12)
    with pytest.raises(Unreadable) as refusal:
        read_image(path, frames="first")
    assert refusal.value.reason in (Reason.TRUNCATED, Reason.UNDECODABLE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Rows": 23}, Reason.UNDECODABLE),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}, Reason.UNDECODABLE),
        ({"NumberOfFrames": 5}, Reason.UNDECODABLE),
        ({"NumberOfFrames": -1}, Reason.MALFORMED),
        ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
        ({"syntax": MPEG2MPML}, Reason.UNDECODABLE),
    ],
)
def test_a_stream_that_contradicts_its_header_is_refused(
    write_dicom: Writer, change: dict[str, Any], reason: Reason
) -> None:
    """Other sizes, channels, frame counts and unknown syntaxes are refused, each with its reason."""
    encoded = imagecodecs.jpegls_encode(film(bits=12, seed=7))
    path = write_dicom([encoded], **{"syntax": JPEGLSLossless} | GREY_12 | change)
    with pytest.raises(Unreadable) as refusal:
        read_image(path, frames="all")
    assert refusal.value.reason is reason


@pytest.mark.parametrize(
    ("raw", "change", "reason"),
    [
        (bytes(6), {}, Reason.TRUNCATED),
        (bytes(14), {"NumberOfFrames": 2}, Reason.TRUNCATED),
        (bytes(14), {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3}, Reason.TRUNCATED),
        (
            bytes(24),
            {"PhotometricInterpretation": "YBR_PARTIAL_422", "SamplesPerPixel": 3, "PlanarConfiguration": 0},
            Reason.UNDECODABLE,
        ),
    ],
)
def test_native_pixels_that_contradict_their_header_are_refused(
    write_dicom: Writer, raw: bytes, change: dict[str, Any], reason: Reason
) -> None:
    """Too few bytes, and colour that no decoder here reads, are refused."""
    path = write_dicom(raw, **{"Rows": 2, "Columns": 4, "BitsAllocated": 8} | change)
    with pytest.raises(Unreadable) as refusal:
        read_image(path, frames="all")
    assert refusal.value.reason is reason


def test_frames_in_fragments_under_an_uncompressed_syntax_are_refused(write_dicom: Writer) -> None:
    """Compressed bytes are not shown as if they were pixels."""
    path = write_dicom([imagecodecs.jpegls_encode(film(bits=12, seed=8))], syntax=JPEGLSLossless, **GREY_12)
    content = path.read_bytes()
    assert content.count(JPEGLSLossless.encode()) == 1
    path.write_bytes(content.replace(JPEGLSLossless.encode(), ExplicitVRLittleEndian.encode().ljust(22, b"\0")))
    with pytest.raises(Unreadable) as refusal:
        read_image(path, frames="first")
    assert refusal.value.reason is Reason.UNDECODABLE


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("implicit", [True, False])
def test_without_a_transfer_syntax_the_encoding_of_the_header_counts(order: str, implicit: bool) -> None:
    """An object whose meta names no syntax is read as its data set was encoded."""
    dataset = Dataset()
    dataset.file_meta = Dataset()
    dataset.set_original_encoding(implicit, order == "<")
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated = 1, 2, 1, 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.add_new("PixelData", "OW", np.array([1, 258], f"{order}u2").tobytes())
    (stored,) = frames.decode(dataset, [0])
    assert stored.ravel().tolist() == [1, 258]
