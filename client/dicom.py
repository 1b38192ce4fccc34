"""Read one DICOM file into a physical Image, or refuse it with a reason.

`read_header` and `read_image` raise Unreadable and nothing else, whatever the file holds, and neither they nor the
libraries below them print, log or warn about it. Section numbers are those of DICOM PS3.3 (2024).
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from client.anatomy import UNSAID, Nature
from client.bounded_file import BoundedFile, Deflated, inflated
from client.calibration import read_meaning, read_spacing_mm, text, text_if_readable, values_if_readable
from client.frames import decode, frame_count, full_scale, is_lossy
from client.pixels import to_physical, to_physical_window
from client.refusals import Reason, Unreadable, refuses
from client.voi import read_window
from shared.grey_levels import OwnWindow

R = TypeVar("R")

Frames = Literal["first", "middle", "all"]
"""Which frames of a file a study reads."""

READER_VERSION = 3
"""Part of what the cache's folders are called: raise it with any change that can move a bit of a physical image."""

MAX_FRAMES = 2**14
"""Frames of a file that are read as images of their own. The longest studies of the heart have some thousands; a
header can claim two billion in ten bytes."""

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
    nature: Nature = UNSAID
    traits: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One frame in physical units, larger is brighter, orientation as stored.

    `pixels_HWC` is finite float32, C = 1 (grey: after the modality LUT, Hounsfield units for CT) or 3 (RGB, full
    scale 2^bits - 1). `spacing_mm` is (between rows, between columns); for a projection it may be that of the
    detector. `window` is the frame's own, None where it has none, for colour the full scale; `window_is_lost` if it
    has one that cannot be read.
    """

    pixels_HWC: NDArray[np.float32] = field(repr=False)
    spacing_mm: tuple[float, float] | None
    window: OwnWindow | None
    window_is_lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Image:
    """The chosen frames of one object, each with a spacing and a window of its own."""

    frames: tuple[Frame, ...]
    modality: str

    @property
    def pixels_FHWC(self) -> NDArray[np.float32]:
        """The pixels of all frames."""
        return np.stack([frame.pixels_HWC for frame in self.frames])

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """The spacing of the first of the frames."""
        return self.frames[0].spacing_mm

    @property
    def window(self) -> OwnWindow | None:
        """The window of the first of the frames."""
        return self.frames[0].window


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
            accession_number=text_if_readable(dataset, "AccessionNumber"),
            patient_id=text(dataset, "PatientID"),
            issuer=text(dataset, "IssuerOfPatientID"),
            full_name=text_if_readable(dataset, "PatientName"),
            birth_date=text_if_readable(dataset, "PatientBirthDate"),
            sex=text_if_readable(dataset, "PatientSex"),
        ),
        modality=text(dataset, "Modality"),
        frames=frame_count(dataset),
        photometric=text(dataset, "PhotometricInterpretation"),
        manufacturer=text_if_readable(dataset, "Manufacturer"),
        nature=Nature(
            sop_class=text(dataset, "SOPClassUID"),
            image_type=values_if_readable(dataset, "ImageType"),
            burned_in=text_if_readable(dataset, "BurnedInAnnotation").upper() == "YES",
        ),
        traits={axis: text_if_readable(dataset, keyword) for axis, keyword in _TRAITS.items()},
    )


def read_image(path: Path, *, frames: Frames) -> Image:
    """Read frames of one file in physical units; "middle" of an even number is the later of the two.

    Raises:
        Unreadable: as `read_header`, or the pixel data are missing, damaged, too many or not finite.
    """
    found = read_frames(path, lambda frame: frame, frames=frames)
    return Image(frames=tuple(found), modality=read_header(path).modality)


@refuses(otherwise=Reason.UNDECODABLE)
def read_frames(path: Path, make: Callable[[Frame], R], *, frames: Frames, most: int = MAX_FRAMES) -> list[R]:
    """Read frames of one file one by one, and give what `make` makes of each: no two are in memory together.

    Raises:
        Unreadable: as `read_image`; or more than `most` frames are asked for; or what `make` raises.
    """
    dataset = _read(path, until=_PAST_THE_END)
    count = frame_count(dataset)
    indices = {"first": range(1), "middle": range(count // 2, count // 2 + 1), "all": range(count)}[frames]
    if len(indices) > most:
        raise Unreadable(Reason.TOO_LARGE)
    white, lossy = full_scale(dataset), is_lossy(dataset)
    read = partial(_grey, lossy=lossy) if white is None else partial(_coloured, white=float(white))
    return [make(read(dataset, index, stored)) for index, stored in zip(indices, decode(dataset, indices), strict=True)]


def _grey(dataset: FileDataset, index: int, stored: NDArray[Any], *, lossy: bool) -> Frame:
    meaning = read_meaning(dataset, index, lossy=lossy)
    pixels_HWC = to_physical(stored, meaning)
    if not np.isfinite(pixels_HWC).all():
        raise Unreadable(Reason.NOT_FINITE)
    window, lost = None, False
    try:
        window = to_physical_window(read_window(dataset, index, meaning), meaning)
    except Unreadable:
        lost = True
    spacing_mm = read_spacing_mm(dataset, index)
    return Frame(pixels_HWC=pixels_HWC, spacing_mm=spacing_mm, window=window, window_is_lost=lost)


def _coloured(dataset: FileDataset, index: int, stored: NDArray[Any], *, white: float) -> Frame:
    return Frame(
        pixels_HWC=stored.astype(np.float32), spacing_mm=read_spacing_mm(dataset, index), window=(white / 2, white)
    )


@refuses(otherwise=Reason.MALFORMED)
def _read(path: Path, *, until: int) -> FileDataset:
    """Parse a file up to the tag `until`; refuse what is no image that this version reads."""
    with path.open("rb") as file:
        _check_start(file)
        try:
            watch, dataset = _parse(BoundedFile(file, os.fstat(file.fileno()).st_size), until=until)
        except Deflated:
            watch, dataset = _parse(inflated(file), until=until)
    if not dataset:  # pydicom drops what it read when a file ends inside an element of undefined length
        raise Unreadable(Reason.TRUNCATED)
    if dataset.get("SOPClassUID") in _UNSUPPORTED_OBJECTS:
        raise Unreadable(Reason.UNSUPPORTED_OBJECT)
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise Unreadable(Reason.NO_PIXELS)
    if not watch.met_pixels:
        raise Unreadable(Reason.TRUNCATED)
    return dataset


def _parse(file: BoundedFile, *, until: int) -> tuple["_Watch", FileDataset]:
    watch = _Watch(file, until=until)
    return watch, read_partial(cast(BinaryIO, file), stop_when=watch, force=True)


def _check_start(file: BinaryIO) -> None:
    """Refuse what does not begin like DICOM, with or without the preamble, or is filled with zeros after the meta."""
    head = file.read(144)
    if not head:
        raise Unreadable(Reason.EMPTY)
    if head[128:132] != b"DICM" and head[:2] not in (b"\x08\x00", b"\x00\x08", b"\x02\x00"):
        raise Unreadable(Reason.NOT_DICOM)
    if head[132:138] == b"\x02\x00\x00\x00UL":
        file.seek(int.from_bytes(head[140:], "little"), os.SEEK_CUR)
        if file.read(4) == bytes(4):
            raise Unreadable(Reason.TRUNCATED)
    file.seek(0)


class _Watch:
    """Stops pydicom at a tag, and refuses a file that ends before an element that it announces.

    A half-copied file may be filled up with zeros, which pydicom would read as millions of empty elements.
    """

    def __init__(self, file: BoundedFile, *, until: int) -> None:
        self._file = file
        self._until = until
        self.met_pixels = False

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        if self.met_pixels:  # what follows the pixel data is padding, or nobody's business
            return True
        self.met_pixels = tag in _PIXELS
        self._file.in_header = not self.met_pixels
        begin = self._file.tell()
        if tag < 0x00010000 or (length != _UNDEFINED_LENGTH and begin < self._file.size < begin + length):
            raise Unreadable(Reason.TRUNCATED)
        return bool(tag >= self._until)
