"""Stored values behind every codec and width: sign, unused bits, place of the highest bit, and overshoot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from client.dicom import read_image
from client.stored_values import Stored, from_lossless, from_lossy

Writer = Callable[..., Path]


def film(bits: int, *, signed: bool) -> np.ndarray:
    """Draw a (24, 17) film that fills the stored bits, from the lowest value to the highest."""
    ramp = np.linspace(0, 2**bits - 1, 24 * 17).astype(np.int64).reshape(24, 17)
    return ramp - 2 ** (bits - 1) if signed else ramp


def in_container(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Give the lowest bits of each value, without sign, in the smallest type that holds them."""
    return (pixels & (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def jpeg_lossless(pixels: np.ndarray, bits: int, predictor: int) -> bytes:
    """Encode with as many bits as are asked for (SOF3)."""
    return imagecodecs.jpeg8_encode(in_container(pixels, bits), lossless=True, bitspersample=bits, predictor=predictor)


def jpeg_ls(pixels: np.ndarray, bits: int) -> bytes:
    """Encode as JPEG-LS, whose precision follows the largest value."""
    return imagecodecs.jpegls_encode(in_container(pixels, bits))


def jpeg_2000(pixels: np.ndarray, bits: int) -> bytes:
    """Encode as an unsigned JPEG 2000 codestream, whatever the values are."""
    return imagecodecs.jpeg2k_encode(
        in_container(pixels, bits), reversible=True, level=0, codecformat="J2K", bitspersample=bits
    )


def jpeg_2000_signed(pixels: np.ndarray, bits: int) -> bytes:
    """Encode as a signed JPEG 2000 codestream."""
    kind = np.int8 if bits <= 8 else np.int16
    return imagecodecs.jpeg2k_encode(
        pixels.astype(kind), reversible=True, level=0, codecformat="J2K", bitspersample=bits
    )


CODECS: dict[str, tuple[str, Callable[[np.ndarray, int], bytes]]] = {
    "JPEG lossless, predictor 1": (JPEGLosslessSV1, lambda pixels, bits: jpeg_lossless(pixels, bits, 1)),
    "JPEG lossless, predictor 6": (JPEGLossless, lambda pixels, bits: jpeg_lossless(pixels, bits, 6)),
    "JPEG-LS": (JPEGLSLossless, jpeg_ls),
    "JPEG 2000": (JPEG2000Lossless, jpeg_2000),
    "JPEG 2000 under the syntax of lossy ones": (JPEG2000, jpeg_2000),
}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bits", [8, 10, 12, 13, 16])
@pytest.mark.parametrize("signed", [True, False])
def test_a_codestream_of_the_stored_bits_gives_every_value_with_its_sign(
    write_dicom: Writer, name: str, bits: int, signed: bool
) -> None:
    """The highest stored bit is the sign (PS3.5 8.1.1), whichever codec carried it without knowing."""
    syntax, encode = CODECS[name]
    pixels = film(bits, signed=signed)
    allocated = 8 if bits == 8 else 16
    path = write_dicom(
        [encode(pixels, bits)],
        syntax=syntax,
        Rows=24,
        Columns=17,
        BitsAllocated=allocated,
        BitsStored=bits,
        PixelRepresentation=int(signed),
    )
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], pixels)


@pytest.mark.parametrize("name", [*CODECS][:4])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_a_codestream_of_the_container_gives_the_stored_bits(
    write_dicom: Writer, name: str, signed: bool, extended: bool
) -> None:
    """Twelve bits in sixteen: with the sign in the unused ones, with nothing there, or with an old overlay."""
    syntax, encode = CODECS[name]
    pixels = film(12, signed=signed)
    container = pixels if extended else (pixels & 0xFFF) | 0x5000
    container[0, 0] |= 0x8000  # so that JPEG-LS needs all sixteen bits
    path = write_dicom(
        [encode(container, 16)],
        syntax=syntax,
        Rows=24,
        Columns=17,
        BitsAllocated=16,
        BitsStored=12,
        PixelRepresentation=int(signed),
    )
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], film(12, signed=signed))


@pytest.mark.parametrize("name", [*[*CODECS][:4], "RLE", "none"])
@pytest.mark.parametrize("signed", [True, False])
def test_values_at_the_left_of_their_container_are_moved(write_dicom: Writer, name: str, signed: bool) -> None:
    """HighBit 15 with twelve stored bits: the lowest four of sixteen are nothing."""
    pixels = film(12, signed=signed)
    container = in_container(pixels << 4, 16) | 5
    if name == "none":
        syntax, encoded = ExplicitVRLittleEndian, container.astype("<u2").tobytes()
    elif name == "RLE":
        planes = [imagecodecs.packbits_encode((container >> shift).astype(np.uint8).tobytes()) for shift in (8, 0)]
        header = np.zeros(16, "<u4")
        header[:3] = 2, 64, 64 + len(planes[0])
        syntax, encoded = RLELossless, [header.tobytes() + b"".join(planes)]
    else:
        syntax, encode = CODECS[name]
        encoded = [encode(container, 16)]
    path = write_dicom(
        encoded,
        syntax=syntax,
        Rows=24,
        Columns=17,
        BitsAllocated=16,
        BitsStored=12,
        HighBit=15,
        PixelRepresentation=int(signed),
    )
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_signed_codestream_keeps_its_sign_and_gives_unsigned_objects_their_bits(
    write_dicom: Writer, bits: int
) -> None:
    """JPEG 2000 and its high-throughput kind can say that values are signed; the header says what they are."""
    pixels = film(bits, signed=True)
    attributes = {"Rows": 24, "Columns": 17, "BitsAllocated": 8 if bits == 8 else 16, "BitsStored": bits}
    for signed, expected in ((1, pixels), (0, pixels & (2**bits - 1))):
        path = write_dicom(
            [jpeg_2000_signed(pixels, bits)], syntax=JPEG2000Lossless, **attributes, PixelRepresentation=signed
        )
        np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], expected)


def test_high_throughput_jpeg_2000_keeps_the_sign(write_dicom: Writer) -> None:
    """HTJ2K goes the same way."""
    pixels = film(16, signed=True).astype(np.int16)
    path = write_dicom(
        [imagecodecs.htj2k_encode(pixels)],
        syntax=HTJ2KLossless,
        Rows=24,
        Columns=17,
        BitsAllocated=16,
        PixelRepresentation=1,
    )
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], pixels)


@pytest.mark.parametrize("bits", [12, 16])
def test_run_lengths_keep_the_sign(write_dicom: Writer, bits: int) -> None:
    """RLE carries the container: the sign stands in the stored bits, and what is above them does not count."""
    pixels = film(bits, signed=True).astype(np.int16)
    container = pixels if bits == 16 else ((pixels & 0xFFF) | 0x3000).astype(np.int16)
    encoded = get_encoder(RLELossless).encode(
        container.tobytes(),
        rows=24,
        columns=17,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=1,
        photometric_interpretation="MONOCHROME2",
    )
    path = write_dicom(
        [encoded],
        syntax=RLELossless,
        Rows=24,
        Columns=17,
        BitsAllocated=16,
        BitsStored=bits,
        PixelRepresentation=1,
    )
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0, ..., 0], pixels)


@pytest.mark.parametrize(
    ("syntax", "encode", "error"),
    [
        (JPEGExtended12Bit, lambda pixels: imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12), 60),
        (JPEGLSNearLossless, lambda pixels: imagecodecs.jpegls_encode(pixels, level=2), 2),
        (JPEG2000, lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=80, codecformat="J2K", bitspersample=12), 40),
    ],
    ids=["JPEG Extended", "JPEG-LS near lossless", "JPEG 2000"],
)
def test_a_lossy_codec_keeps_the_sign(
    write_dicom: Writer, syntax: str, encode: Callable[[np.ndarray], bytes], error: int
) -> None:
    """Negative values come back as negative ones, within the codec's error; none is wrapped to the other end."""
    pixels = film(12, signed=True)
    pixels = np.where(pixels < 0, -1000 + pixels // 4, -1500)  # no value near the wrap at zero
    path = write_dicom(
        [encode(in_container(pixels, 12))],
        syntax=syntax,
        Rows=24,
        Columns=17,
        BitsAllocated=16,
        BitsStored=12,
        PixelRepresentation=1,
    )
    assert np.abs(read_image(path, frames="first").pixels_FHWC[0, ..., 0] - pixels).max() <= error


def test_differences_that_wrap_around_stay_within_the_precision() -> None:
    """A decoder may give a value that is 2^12 too large, which T.81 H.2.1 allows the encoder to mean."""
    decoded = np.array([7, 7 + 4096, 7 + 61440], np.uint16)
    stored = Stored(bits=12, high_bit=11, signed=False)
    assert from_lossless(decoded, stored, precision=12).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("values", "stored", "precision", "signed", "expected"),
    [
        ([0, 4095, 4200], {"bits": 12, "high_bit": 11, "signed": False}, 16, False, [0, 4095, 4095]),
        ([-3, 0, 4100], {"bits": 12, "high_bit": 11, "signed": False}, 16, True, [0, 0, 4095]),
        ([-1, -2048, 5], {"bits": 12, "high_bit": 11, "signed": False}, 12, True, [4095, 2048, 5]),
        ([65535, 61000, 5], {"bits": 12, "high_bit": 11, "signed": True}, 16, False, [-1, -2048, 5]),
        ([4095, 2048, 5], {"bits": 12, "high_bit": 11, "signed": True}, 16, False, [-1, -2048, 5]),
        ([-9000, 9000], {"bits": 12, "high_bit": 11, "signed": True}, 16, True, [-2048, 2047]),
        ([80, 160], {"bits": 12, "high_bit": 15, "signed": False}, 16, False, [5, 10]),
    ],
)
def test_lossy_values_are_clipped_and_never_wrapped(
    values: list[int], stored: dict[str, Any], precision: int, signed: bool, expected: list[int]
) -> None:
    """Each way to carry stored values in a lossy codestream, by hand."""
    found = from_lossy(np.array(values), Stored(**stored), precision=precision, signed=signed)
    assert found.tolist() == expected
