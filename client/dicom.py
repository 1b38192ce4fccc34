"""Read one DICOM file into a physical Image, or refuse it with a reason.

`read_header` and `read_image` raise Unreadable and nothing else, whatever the file holds, and neither they nor the
libraries below them print, log or warn about it. Section numbers are those of DICOM PS3.3 (2024).
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from client.calibration import read_meaning, read_spacing_mm, read_window, text
from client.frames import decode, frame_count, full_scale
from client.pixels import to_physical, to_physical_window
from client.refusals import Reason, Unreadable, refuses

for _library in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg"):  # they log the values that they stumble over
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)

_UNSUPPORTED_OBJECTS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.30",  # parametric map
        "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # label map segmentation
        "1.2.840.10008.5.1.4.1.1.77.1.6",  # whole slide microscopy: a frame is a tile
        "1.2.840.10008.5.1.4.1.1.77.1.7",  # the same by dermoscopy
        "1.2.840.10008.5.1.4.1.1.481.2",  # RT dose
    }
)
_TRAITS = {
    "sex": "PatientSex",
    "age": "PatientAge",
    "view": "ViewPosition",
    "manufacturer": "Manufacturer",
    "device": "ManufacturerModelName",
}
"""What a study may divide its patients by, and the attribute that says it."""

_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_PAST_THE_END = 0x100000000
_UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who and what an object is of; "" where the file does not say. Its repr shows no value.

    Who a patient is follows from the ID and its issuer (`client/people.py`); name, birth date and sex only tell where
    one person may have several.
    """

    sop_instance_uid: str = field(repr=False)
    study_instance_uid: str = field(repr=False)
    accession_number: str = field(repr=False)
    patient_id: str = field(repr=False)
    issuer: str = field(default="", repr=False)
    full_name: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)
    sex: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a cohort needs to know of a file before its pixels are read."""

    identity: Identity
    modality: str
    frames: int
    photometric: str
    manufacturer: str
    traits: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Image:
    """The chosen frames of one object in physical units, larger is brighter, orientation as stored.

    `pixels_FHWC` is finite float32, C = 1 (grey: after the modality LUT, Hounsfield units for CT) or 3 (RGB, full
    scale 2^bits - 1). `spacing_mm` is (between rows, between columns); for a projection it may be that of the
    detector. `window` is (centre, width) of the first VOI window, read as LINEAR_EXACT, and for colour the full
    scale.
    """

    pixels_FHWC: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None
    window: tuple[float, float] | None
    modality: str


@refuses(otherwise=Reason.MALFORMED)
def read_header(path: Path) -> Header:
    """Read what stands before the pixel data.

    Raises:
        Unreadable: not DICOM, no image, an object that is not read, malformed, or a file that ends too early (as
            far as the header shows it).
    """
    dataset = _read(path, until=min(_PIXELS))
    return Header(
        identity=Identity(
            sop_instance_uid=text(dataset, "SOPInstanceUID"),
            study_instance_uid=text(dataset, "StudyInstanceUID"),
            accession_number=text(dataset, "AccessionNumber"),
            patient_id=text(dataset, "PatientID"),
            issuer=text(dataset, "IssuerOfPatientID"),
            full_name=text(dataset, "PatientName"),
            birth_date=text(dataset, "PatientBirthDate"),
            sex=text(dataset, "PatientSex"),
        ),
        modality=text(dataset, "Modality"),
        frames=frame_count(dataset),
        photometric=text(dataset, "PhotometricInterpretation"),
        manufacturer=text(dataset, "Manufacturer"),
        traits={axis: text(dataset, keyword) for axis, keyword in _TRAITS.items()},
    )


@refuses(otherwise=Reason.UNDECODABLE)
def read_image(path: Path, *, frames: Literal["first", "middle", "all"]) -> Image:
    """Read frames of one file in physical units; "middle" of an even number is the later of the two.

    Raises:
        Unreadable: as `read_header`, or the pixel data are missing, damaged, too many or not finite.
    """
    dataset = _read(path, until=_PAST_THE_END)
    count = frame_count(dataset)
    indices = {"first": range(1), "middle": range(count // 2, count // 2 + 1), "all": range(count)}[frames]
    white = full_scale(dataset)
    meanings = {index: read_meaning(dataset, index) for index in indices} if white is None else {}
    pixels_FHWC = np.stack(
        [
            to_physical(stored, meanings[index]) if white is None else stored.astype(np.float32)
            for index, stored in zip(indices, decode(dataset, indices), strict=True)
        ]
    )
    if not np.isfinite(pixels_FHWC).all():
        raise Unreadable(Reason.NOT_FINITE)
    first = indices[0]
    return Image(
        pixels_FHWC=pixels_FHWC,
        spacing_mm=read_spacing_mm(dataset, first),
        window=(white / 2, float(white)) if white else to_physical_window(read_window(dataset, first), meanings[first]),
        modality=text(dataset, "Modality"),
    )


@refuses(otherwise=Reason.MALFORMED)
def _read(path: Path, *, until: int) -> FileDataset:
    """Parse a file up to the tag `until`; refuse what is no image that this version reads."""
    with path.open("rb") as file:
        _check_start(file)
        watch = _Watch(file, until=until)
        dataset = read_partial(file, stop_when=watch, force=True)
    if not dataset:  # pydicom drops what it read when a file ends inside an element of undefined length
        raise Unreadable(Reason.TRUNCATED)
    if dataset.get("SOPClassUID") in _UNSUPPORTED_OBJECTS:
        raise Unreadable(Reason.UNSUPPORTED_OBJECT)
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise Unreadable(Reason.NO_PIXELS)
    if not watch.met_pixels:
        raise Unreadable(Reason.TRUNCATED)
    return dataset


def _check_start(file: BinaryIO) -> None:
    """Refuse what does not begin like DICOM, with or without the preamble, or is filled with zeros after the meta."""
    head = file.read(144)
    if not head:
        raise Unreadable(Reason.EMPTY)
    if head[128:132] != b"DICM" and head[:2] not in (b"\x08\x00", b"\x00\x08", b"\x02\x00"):
        raise Unreadable(Reason.NOT_DICOM)
    if head[132:138] == b"\x02\x00\x00\x00UL":
        file.seek(144 + int.from_bytes(head[140:], "little"))
        if file.read(4) == bytes(4):
            raise Unreadable(Reason.TRUNCATED)
    file.seek(0)


class _Watch:
    """Stops pydicom at a tag, and refuses a file that ends before an element that it announces.

    A half-copied file may be filled up with zeros, which pydicom would read as millions of empty elements.
    """

    def __init__(self, file: BinaryIO, *, until: int) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._until = until
        self.met_pixels = False

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        if self.met_pixels:  # what follows the pixel data is padding, or nobody's business
            return True
        self.met_pixels = tag in _PIXELS
        begin = self._file.tell()  # the end of the file already, where the data set is deflated
        if tag < 0x00010000 or (length != _UNDEFINED_LENGTH and begin < self._size < begin + length):
            raise Unreadable(Reason.TRUNCATED)
        return bool(tag >= self._until)
