"""Every stored value against a slow, independent reading of the raw bytes, one pixel at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from client.dicom import read_image

Writer = Callable[..., Path]
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


@dataclass(frozen=True, kw_only=True)
class Grey:
    """A grey file as its header describes it, and its bytes."""

    raw: bytes
    syntax: str
    frames: int
    rows: int
    columns: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    inverted: bool
    modality: str
    slope: float
    intercept: float
    table: tuple[int, list[int]] | None
    padding: tuple[int, int] | None

    def write(self, write_dicom: Writer) -> Path:
        attributes: dict[str, Any] = {
            "NumberOfFrames": self.frames,
            "Rows": self.rows,
            "Columns": self.columns,
            "BitsAllocated": self.allocated,
            "BitsStored": self.stored,
            "HighBit": self.high_bit,
            "PixelRepresentation": int(self.signed),
            "PhotometricInterpretation": "MONOCHROME1" if self.inverted else "MONOCHROME2",
            "Modality": self.modality,
        }
        if self.table is None:
            attributes |= {"RescaleSlope": self.slope, "RescaleIntercept": self.intercept}
        else:
            first, entries = self.table
            item = Dataset()
            item.add_new(0x00283002, "SS" if self.signed else "US", [len(entries), first, 16])
            item.add_new(0x00283006, "US", entries)
            attributes |= {"ModalityLUTSequence": [item]}
        return write_dicom(self.raw, syntax=self.syntax, **attributes, **self._padding())

    def _padding(self) -> dict[str, int]:
        if self.padding is None:
            return {}
        return dict(zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), self.padding, strict=True))


def stored_value(grey: Grey, number: int) -> int:
    """Read the pixel `number` bit by bit, as PS3.5 chapter 8 draws it."""
    width = grey.allocated // 8
    octets = list(grey.raw[number * width : (number + 1) * width])
    if grey.syntax != ExplicitVRBigEndian:
        octets.reverse()
    bits = "".join(f"{octet:08b}" for octet in octets)
    bits = bits[grey.allocated - 1 - grey.high_bit :][: grey.stored]
    value = int(bits, 2)
    return value - 2**grey.stored if grey.signed and bits[0] == "1" else value


def physical_value(grey: Grey, stored: int) -> float:
    """Apply the modality LUT of C.11.1 to one value."""
    if grey.table is None:
        return grey.slope * stored + grey.intercept
    first, entries = grey.table
    return entries[min(max(stored - first, 0), len(entries) - 1)]


def reference(grey: Grey) -> list[float]:
    """Give every pixel of the file in physical units, larger is brighter."""
    result: list[float] = []
    for frame in range(grey.frames):
        size = grey.rows * grey.columns
        stored = [stored_value(grey, frame * size + number) for number in range(size)]
        lowest = -(2 ** (grey.stored - 1)) if grey.signed else 0
        ends = physical_value(grey, lowest) + physical_value(grey, lowest + 2**grey.stored - 1)
        values = [physical_value(grey, value) for value in stored]
        if grey.inverted:
            values = [ends - value for value in values]
        if grey.modality == "CT":
            values = [max(value, -1024) for value in values]
        low, high = sorted(grey.padding) if grey.padding else (1, 0)
        inside = [value for value, raw in zip(values, stored, strict=True) if not low <= raw <= high]
        background = -1024.0 if grey.modality == "CT" else min(inside, default=None)
        for value, raw in zip(values, stored, strict=True):
            padded = low <= raw <= high and background is not None
            result.append(background if padded else value)
    return result


@st.composite
def greys(draw: st.DrawFn) -> Grey:
    """Draw any grey file without compression."""
    allocated = draw(st.sampled_from([8, 16]))
    stored = draw(st.integers(2, allocated))
    signed = draw(st.booleans())
    lowest = -(2 ** (stored - 1)) if signed else 0
    values = st.integers(lowest, lowest + 2**stored - 1)
    frames, rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    length = frames * rows * columns * allocated // 8
    table = st.tuples(values, st.lists(st.integers(0, 65535), min_size=2, max_size=9))
    return Grey(
        raw=draw(st.binary(min_size=length, max_size=length)),
        syntax=draw(st.sampled_from(SYNTAXES)),
        frames=frames,
        rows=rows,
        columns=columns,
        allocated=allocated,
        stored=stored,
        high_bit=draw(st.integers(stored - 1, allocated - 1)),
        signed=signed,
        inverted=draw(st.booleans()),
        modality=draw(st.sampled_from(["CT", "CR"])),
        slope=draw(st.sampled_from([1, 2, 0.5, -1, 9.570207])),
        intercept=draw(st.sampled_from([0, -1024, 12.25])),
        table=draw(st.none() | table),
        padding=draw(st.none() | st.tuples(values, values)),
    )


@settings(max_examples=150)
@given(grey=greys())
def test_every_grey_pixel_is_what_its_bits_mean(write_dicom: Writer, grey: Grey) -> None:
    """Depth, sign, bit position, byte order, modality LUT, inversion and padding agree with a slow reference."""
    image = read_image(grey.write(write_dicom), frames="all")
    assert image.pixels_FHWC.shape == (grey.frames, grey.rows, grey.columns, 1)
    np.testing.assert_allclose(image.pixels_FHWC.ravel(), reference(grey), rtol=1e-5, atol=0.05)


def linear_output(value: float, centre: float, width: float) -> float:
    """Give the display value in [0, 1] of the pseudo-code of C.11.2.1.2.1."""
    if value <= centre - 0.5 - (width - 1) / 2:
        return 0.0
    if value > centre - 0.5 + (width - 1) / 2:
        return 1.0
    return (value - (centre - 0.5)) / (width - 1) + 0.5


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("centre", "width"), [(40, 80), (1, 2), (100, 1), (-300.5, 1600)])
def test_the_window_shows_what_the_standard_shows(
    write_dicom: Writer, photometric: str, centre: float, width: float
) -> None:
    """The exact window, after the inversion, gives the LINEAR display values, reversed for MONOCHROME1."""
    path = write_dicom(
        bytes(range(256)),
        Rows=16,
        Columns=16,
        PhotometricInterpretation=photometric,
        RescaleIntercept=-128,
        RescaleSlope=2,
        WindowCenter=[centre, 7],
        WindowWidth=[width, 9],
    )
    image = read_image(path, frames="first")
    middle, extent = image.window
    black, white = middle - extent / 2, middle + extent / 2
    for value, pixel in enumerate(image.pixels_FHWC.ravel().tolist()):
        shown = linear_output(2 * value - 128, centre, width)
        expected = 1 - shown if photometric == "MONOCHROME1" else shown
        if extent > 0:
            assert min(max((pixel - black) / (white - black), 0), 1) == pytest.approx(expected, abs=1e-5)
        elif pixel != black:
            assert float(pixel > black) == expected
