"""Padding behind a lossy codec, which moves it: it ends as background, not below or beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from client.dicom import read_image

Writer = Callable[..., Path]
SIDE = 96
DOWN, RIGHT = np.mgrid[0:SIDE, 0:SIDE]
BODY = (DOWN - 48) ** 2 + (RIGHT - 48) ** 2 < 38**2
INSIDE = (DOWN - 48) ** 2 + (RIGHT - 48) ** 2 < 34**2
OUTSIDE = (DOWN - 48) ** 2 + (RIGHT - 48) ** 2 > 49**2


def film(padding: int, *, low: int, high: int) -> np.ndarray:
    """Draw a round body with noise between two values, and padding around it."""
    noise = np.random.default_rng(0).integers(0, (high - low) // 4, (SIDE, SIDE))
    body = low + (high - low) * 3 // 4 * RIGHT // SIDE + noise
    return np.where(BODY, body, padding)


LOSSY: dict[str, tuple[str, Callable[[np.ndarray], bytes], int]] = {
    "JPEG 2000": (JPEG2000, lambda film: imagecodecs.jpeg2k_encode(film, level=66, codecformat="J2K"), 16),
    "JPEG-LS near lossless": (JPEGLSNearLossless, lambda film: imagecodecs.jpegls_encode(film, level=5), 16),
    "JPEG Extended": (
        JPEGExtended12Bit,
        lambda film: imagecodecs.jpeg8_encode(film.astype(np.uint16), level=85, bitspersample=12),
        12,
    ),
    "JPEG": (JPEGBaseline8Bit, lambda film: imagecodecs.jpeg8_encode(film.astype(np.uint8), level=85), 8),
}


def read(write_dicom: Writer, name: str, pixels: np.ndarray, **attributes: Any) -> np.ndarray:
    """Write, compressed, and read one film."""
    syntax, encode, bits = LOSSY[name]
    signed = bool(pixels.min() < 0)
    path = write_dicom(
        [encode(pixels.astype(np.int16 if signed else np.uint16))],
        syntax=syntax,
        Rows=SIDE,
        Columns=SIDE,
        BitsAllocated=8 if bits == 8 else 16,
        BitsStored=bits,
        PixelRepresentation=int(signed),
        **attributes,
    )
    return read_image(path, frames="first").pixels_FHWC[0, ..., 0]


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("bright", [False, True])
def test_padding_that_a_codec_moved_is_all_background(
    write_dicom: Writer, name: str, photometric: str, bright: bool
) -> None:
    """Whether it was black or white, padding ends as dark as the darkest of the body, without a speck in it."""
    top = 2 ** min(LOSSY[name][2], 12) - 1
    padding = top if bright else 0
    pixels = film(padding, low=top // 6, high=top - top // 6)
    found = read(write_dicom, name, pixels, PixelPaddingValue=padding, PhotometricInterpretation=photometric)
    outside, body = found[OUTSIDE], found[INSIDE]
    assert outside.max() - outside.min() <= top / 16
    assert outside.max() <= np.quantile(body, 0.05)
    assert outside.max() - found.min() <= top / 16


def test_signed_background_does_not_fall_below_its_neighbours(write_dicom: Writer) -> None:
    """MR in JPEG 2000: the background's own value is no darker than what the codec made of the rest of it."""
    pixels = film(0, low=200, high=3000)
    pixels[0, 0] = -1  # signed values
    found = read(write_dicom, "JPEG 2000", pixels, PixelPaddingValue=0, Modality="MR")
    plain = read(write_dicom, "JPEG 2000", pixels, Modality="MR")
    assert (plain[OUTSIDE] < 0).any()  # the codec has moved it to both sides
    assert found[OUTSIDE].min() >= 0
    assert len(np.unique(found[OUTSIDE])) <= len(np.unique(plain[OUTSIDE])) / 4


def test_padding_in_the_middle_of_lossy_values_is_left_alone(write_dicom: Writer) -> None:
    """Nothing tells it from what was measured, so that nothing measured is blackened."""
    pixels = film(1500, low=0, high=3000)
    found = read(write_dicom, "JPEG Extended", pixels, PixelPaddingValue=1500)
    plain = read(write_dicom, "JPEG Extended", pixels)
    np.testing.assert_array_equal(found, plain)


def test_a_file_that_was_once_lossy_has_moved_padding_too(write_dicom: Writer) -> None:
    """LossyImageCompression says so, where the file is not compressed any more."""
    pixels = film(0, low=200, high=3000)
    moved = np.where(BODY, pixels, np.random.default_rng(1).integers(0, 12, (SIDE, SIDE)))
    path = write_dicom(
        moved.astype("<u2").tobytes(),
        syntax=ExplicitVRLittleEndian,
        Rows=SIDE,
        Columns=SIDE,
        BitsAllocated=16,
        BitsStored=12,
        PixelPaddingValue=0,
        LossyImageCompression="01",
    )
    found = read_image(path, frames="first").pixels_FHWC[0, ..., 0]
    assert len(np.unique(found[OUTSIDE])) == 1
    np.testing.assert_array_equal(found[INSIDE], pixels[INSIDE])


def test_exact_padding_of_a_lossless_file_is_taken_exactly(write_dicom: Writer) -> None:
    """Values beside the padding are measurements there."""
    pixels = film(0, low=200, high=3000)
    pixels[48, 48] = 1
    path = write_dicom(
        pixels.astype("<u2").tobytes(), Rows=SIDE, Columns=SIDE, BitsAllocated=16, BitsStored=12, PixelPaddingValue=0
    )
    found = read_image(path, frames="first").pixels_FHWC[0, ..., 0]
    assert found[48, 48] == 1
    np.testing.assert_array_equal(found[OUTSIDE], 1)
