"""Reading one file: its identity, its frames, and every way to refuse it."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from client.anatomy import Nature
from client.dicom import Header, Identity, read_header, read_image
from client.refusals import Reason, Unreadable

Writer = Callable[..., Path]
TINY = {"Rows": 1, "Columns": 4}
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
BASIC_TEXT_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


def refusal_of(path: Path) -> Reason:
    """Give the reason for which the image is refused."""
    with pytest.raises(Unreadable) as refusal:
        read_image(path, frames="first")
    return refusal.value.reason


def test_the_header_says_who_and_what(write_dicom: Writer) -> None:
    """Identity, modality, frames, photometric interpretation and manufacturer are read without the pixels."""
    assert read_header(write_dicom(bytes(12), **TINY, NumberOfFrames=3, Modality="CR")) == Header(
        identity=Identity(
            sop_instance_uid="1.2.826.0.1.1",
            study_instance_uid="1.2.826.0.1.2",
            accession_number="ACC^7",
            patient_id="PAT^7",
            full_name="Secret^Name",
        ),
        modality="CR",
        frames=3,
        photometric="MONOCHROME2",
        manufacturer="Polyclinic",
        nature=Nature(sop_class="1.2.840.10008.5.1.4.1.1.7", image_type=(), burned_in=False),
        traits={"sex": "", "age": "", "view": "", "manufacturer": "Polyclinic", "device": ""},
    )


def test_what_the_header_does_not_say_is_empty(write_dicom: Writer) -> None:
    """Absent and blank values are "", and one frame."""
    absent = {"PatientID": None, "AccessionNumber": "  ", "Modality": "", "Manufacturer": None}
    header = read_header(write_dicom(bytes(4), **TINY, **absent))
    assert (header.identity.patient_id, header.identity.accession_number) == ("", "")
    assert (header.modality, header.manufacturer, header.frames) == ("", "", 1)


def test_an_identity_shows_no_value(write_dicom: Writer) -> None:
    """Neither an identity nor a header that is printed by mistake names a patient."""
    assert repr(read_header(write_dicom(bytes(4), **TINY)).identity) == "Identity()"


@pytest.mark.parametrize(("frames", "chosen"), [("first", [0]), ("middle", [2]), ("all", [0, 1, 2, 3])])
def test_frames_are_chosen(write_dicom: Writer, frames: Any, chosen: list[int]) -> None:
    """First, the later middle of an even number, or all, in order."""
    path = write_dicom(bytes(np.repeat(np.arange(4, dtype=np.uint8), 4)), **TINY, NumberOfFrames=4)
    assert read_image(path, frames=frames).pixels_FHWC[:, 0, 0, 0].tolist() == chosen


def test_an_image_is_finite_float32_with_its_modality(write_dicom: Writer) -> None:
    """The type of the pixels doesn't depend on the file."""
    image = read_image(write_dicom(bytes(4), **TINY, Modality="US"), frames="first")
    assert (image.pixels_FHWC.dtype, image.pixels_FHWC.shape, image.modality) == (np.float32, (1, 1, 4, 1), "US")


@pytest.mark.parametrize("values", [[1.5, -2.5, 0, 9], [1, np.nan, 0, 0], [1, np.inf, 0, 0]])
def test_floating_point_pixels_are_read_or_not_finite(write_dicom: Writer, values: list[float]) -> None:
    """Float pixel data pass through; NaN and infinity are refused."""
    floats = np.array(values, "<f4")
    path = write_dicom(None, **TINY, FloatPixelData=floats.tobytes(), BitsAllocated=32)
    if np.isfinite(floats).all():
        assert read_image(path, frames="first").pixels_FHWC.ravel().tolist() == values
    else:
        assert refusal_of(path) is Reason.NOT_FINITE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SOPClassUID": SEGMENTATION}, Reason.UNSUPPORTED_OBJECT),
        ({"SOPClassUID": BASIC_TEXT_REPORT, "Rows": None, "Columns": None}, Reason.NO_PIXELS),
        ({"Rows": 0}, Reason.NO_PIXELS),
    ],
)
def test_what_is_no_image_is_refused_by_its_header(write_dicom: Writer, change: dict[str, Any], reason: Reason) -> None:
    """Segmentations, reports and images without an extent are refused before their pixels are looked at."""
    path = write_dicom(bytes(4), **TINY | change)
    with pytest.raises(Unreadable) as refusal:
        read_header(path)
    assert refusal.value.reason is reason
    assert refusal_of(path) is reason


def test_an_image_object_without_pixel_data_is_truncated(write_dicom: Writer) -> None:
    """A header that announces rows and columns and then ends is half a file."""
    assert refusal_of(write_dicom(None, **TINY)) is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"patient,label\n1,0\n", Reason.NOT_DICOM),
        (bytes(4000), Reason.NOT_DICOM),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), Reason.NOT_DICOM),
        (bytes(128) + b"DICM", Reason.TRUNCATED),
    ],
)
def test_what_is_not_dicom_is_refused(tmp_path: Path, content: bytes, reason: Reason) -> None:
    """Tables, pictures, zeros and nothing at all are told apart from DICOM."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert refusal_of(path) is reason


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder are no access, not a crash."""
    assert refusal_of(tmp_path / "missing.dcm") is Reason.NO_ACCESS
    assert refusal_of(tmp_path) is Reason.NO_ACCESS


@pytest.mark.parametrize(
    ("syntax", "begin"),
    [
        (ImplicitVRLittleEndian, b"\x08\x00\x16\x00\x1a"),
        (ExplicitVRLittleEndian, b"\x08\x00\x16\x00UI"),
        (ExplicitVRBigEndian, b"\x00\x08\x00\x16UI"),
    ],
)
def test_a_file_without_preamble_is_read(write_dicom: Writer, syntax: str, begin: bytes) -> None:
    """Old exports begin with the data set itself, and say nothing of their transfer syntax."""
    stored = np.array([3, 400, 5, 600], ">u2" if syntax == ExplicitVRBigEndian else "<u2")
    path = write_dicom(stored.tobytes(), syntax=syntax, **TINY, BitsAllocated=16)
    content = path.read_bytes()
    path.write_bytes(content[content.index(begin) :])
    assert read_image(path, frames="first").pixels_FHWC.ravel().tolist() == [3, 400, 5, 600]


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, None])
def test_a_file_cut_anywhere_is_refused(write_dicom: Writer, syntax: str | None) -> None:
    """Whatever byte a file ends at, it is refused: nothing is read from half a file."""
    named = {} if syntax is None else {"syntax": syntax}
    path = write_dicom(bytes(range(64)), Rows=8, Columns=8, **named)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        assert refusal_of(path) in (
            Reason.EMPTY,
            Reason.NOT_DICOM,
            Reason.TRUNCATED,
            Reason.MALFORMED,
            Reason.NO_PIXELS,
        )


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("after_meta", [True, False])
def test_a_file_filled_up_with_zeros_is_refused_at_once(write_dicom: Writer, share: float, after_meta: bool) -> None:
    """A half-finished copy with the full length isn't parsed as millions of empty elements."""
    path = write_dicom(bytes(100_000), Rows=100, Columns=1000)
    content = path.read_bytes()
    begin = content.index(b"\x08\x00\x16\x00UI")
    kept = begin if after_meta else begin + int(share * 200)
    path.write_bytes(content[:kept])
    os.truncate(path, 200_000_000)
    started = time.process_time()
    assert refusal_of(path) in (Reason.TRUNCATED, Reason.MALFORMED)
    assert time.process_time() - started < 1


def test_zeros_after_the_pixels_do_no_harm(write_dicom: Writer) -> None:
    """Padding of a whole file to the block size of some archive is not read."""
    path = write_dicom(bytes([1, 2, 3, 4]), **TINY)
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert read_image(path, frames="first").pixels_FHWC.ravel().tolist() == [1, 2, 3, 4]


def test_nothing_is_logged_or_printed(
    write_dicom: Writer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file full of faults, each with a name in it, leaves no word in any log or stream."""
    caplog.set_level(logging.DEBUG)
    path = write_dicom(bytes(16), Rows=4, Columns=4, PixelSpacing=[77, 2], RescaleSlope=77, PatientBirthDate="20250101")
    content = path.read_bytes().replace(b"1.2.826.0.1.2", b"Doe^Jane.0.1.")
    path.write_bytes(content.replace(b"20250101", b"Doe^Jane").replace(b"77", b"J."))
    assert refusal_of(path) is Reason.MALFORMED
    assert read_header(path).identity.study_instance_uid.startswith("Doe^Jane")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
