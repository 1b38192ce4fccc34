"""An attribute that a study does not use never excludes an image, however it is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from client import cache
from client.dicom import read_frames, read_header, read_image
from client.refusals import Reason
from shared.preprocessing import Contract

PLAIN = Contract(size=32, window="percentile", spacing_mm=0, fit="pad", depth="uint8", channels=1)
ATTRIBUTES = {"Rows": 8, "Columns": 8, "WindowCenter": "128", "WindowWidth": "256", "PixelSpacing": ["0.5", "0.5"]}
FILM = bytes(range(64))
ODD: dict[str, tuple[str, bytes, str]] = {
    "spacing with a comma between": ("PixelSpacing", b"0.143,0.143", ""),
    "spacing with decimal commas": ("PixelSpacing", b"0,143\\0,143", ""),
    "spacing of nothing": ("PixelSpacing", b"\\", ""),
    "spacing in words": ("PixelSpacing", b"see label", ""),
    "spacing under UT": ("PixelSpacing", b"2.5000\\2.5000", "UT"),
    "spacing under UN": ("PixelSpacing", b"2.5\\2.5", "UN"),
    "spacing under OB": ("PixelSpacing", b"\x00\xff\xfe\x01", "OB"),
    "spacing too long": ("PixelSpacing", b"0.14300000000000000000000001\\0.1430000000000000000000000001", ""),
    "spacing of one": ("PixelSpacing", b"0.5", ""),
    "detector spacing": ("ImagerPixelSpacing", b"0.14.3\\x", ""),
    "film spacing": ("NominalScannedPixelSpacing", b"\xff\xff", ""),
    "centre with a decimal comma": ("WindowCenter", b"2047,5", ""),
    "centre in words": ("WindowCenter", b"auto", ""),
    "width of which the second is empty": ("WindowWidth", b"4096\\", ""),
    "width under LO": ("WindowWidth", b"full", "LO"),
    "width under FD of four bytes": ("WindowWidth", b"1234", "FD"),
    "function": ("VOILUTFunction", b"whatever", ""),
    "explanation": ("WindowCenterWidthExplanation", b"\xe9\xff", ""),
    "age": ("PatientAge", b"about fifty", ""),
    "age under IS": ("PatientAge", b"4,5", "IS"),
    "age under DS": ("PatientAge", b"4,5", "DS"),
    "sex under FD": ("PatientSex", b"M ", "FD"),
    "view under US": ("ViewPosition", b"P", "US"),
    "manufacturer under DS": ("Manufacturer", b"Acme", "DS"),
    "device under SL": ("ManufacturerModelName", b"A", "SL"),
    "accession under IS": ("AccessionNumber", b"A-17", "IS"),
    "aspect ratio": ("PixelAspectRatio", b"1:1", ""),
    "smallest value": ("SmallestImagePixelValue", b"\x01", "US"),
    "birth date": ("PatientBirthDate", b"01.02.1950", ""),
    "series number": ("SeriesNumber", b"one", ""),
    "exposure": ("Exposure", b"1,25", ""),
    "burned in": ("BurnedInAnnotation", b"1,5", "DS"),
    "image type": ("ImageType", b"7", "FD"),
    "ratio": ("LossyImageCompressionRatio", b"12:1", ""),
    "padding that is empty": ("PixelPaddingValue", b"", "US"),
}


def with_raw(path: Path, keyword: str, value: bytes, vr: str) -> Path:
    """Put an attribute into a file as the bytes say, without asking what they mean."""
    dataset = pydicom.dcmread(path)
    tag = Tag(tag_for_keyword(keyword))
    value += b" " * (len(value) % 2)
    dataset._dict[tag] = RawDataElement(tag, vr or dictionary_VR(tag), len(value), value, 0, False, True)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("name", ODD)
def test_an_image_is_used_whatever_the_rest_says(write_dicom: Any, name: str) -> None:
    """The default study's pixels are those of the file without the odd attribute; its header can be read."""
    plain = cache._prepare_file(write_dicom(FILM, **ATTRIBUTES), contract=PLAIN, frames="first", read=read_frames)
    odd = with_raw(write_dicom(FILM, **ATTRIBUTES), *ODD[name])
    assert read_header(odd).identity.patient_id == "PAT^7"
    found = cache._prepare_file(odd, contract=PLAIN, frames="first", read=read_frames)
    assert not isinstance(found, Reason)
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("spacing with a comma between", None),
        ("spacing with decimal commas", None),
        ("spacing of one", None),
        ("spacing under UT", (2.5, 2.5)),
        ("spacing under UN", (2.5, 2.5)),
    ],
)
def test_what_cannot_be_read_counts_as_absent_where_it_is_asked_for(write_dicom: Any, name: str, expected: Any) -> None:
    """A study in mm leaves the image out for want of a spacing; one that stands under another VR is read."""
    odd = with_raw(write_dicom(FILM, **ATTRIBUTES), *ODD[name])
    assert read_image(odd, frames="first").spacing_mm == expected
    spaced = Contract(size=32, window="percentile", spacing_mm=1, fit="pad", depth="uint8", channels=1)
    found = cache._prepare_file(odd, contract=spaced, frames="first", read=read_frames)
    assert (found is Reason.NO_SPACING) == (expected is None)


@pytest.mark.parametrize("value", [b"-1024,5", b"none", b"\\"])
def test_a_rescale_that_cannot_be_read_is_needed(write_dicom: Any, value: bytes) -> None:
    """Without its slope and intercept, a grey value means something else: such an image is refused."""
    for keyword in ("RescaleIntercept", "RescaleSlope"):
        odd = with_raw(write_dicom(FILM, **ATTRIBUTES), keyword, value, "")
        assert cache._prepare_file(odd, contract=PLAIN, frames="first", read=read_frames) is Reason.MALFORMED


def test_a_rescale_that_colour_does_not_use_may_be_anything(write_dicom: Any) -> None:
    """Colour has no modality LUT."""
    attributes = {"Rows": 4, "Columns": 4, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    path = write_dicom(bytes(range(48)), **attributes, PlanarConfiguration=0)
    odd = with_raw(path, "RescaleSlope", b"1,0", "")
    assert read_image(odd, frames="first").pixels_FHWC.ravel().tolist() == list(range(48))
