"""Reads one picture out of an image folder or an npz file, without losing a bit, or says why it cannot be used."""

import zipfile
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.pictures import Picture, Samples, read_picture
from client.refusals import Reason, Unreadable
from shared.errors import DataError

MEDMNIST_PARTS = ("train", "val", "test")
"""Parts of a MedMNIST file (arrays train_images, val_images, test_images), in the order in which they are counted."""


class Skip(StrEnum):
    """Why a row of the table gave no image."""

    RAGGED_ROW = "ragged_row"
    NO_IMAGE_NAME = "no_image_name"
    NO_PATIENT = "no_patient"
    NO_SITE = "no_site"
    DUPLICATE_ROW = "duplicate_row"
    CONFLICTING_ROWS = "conflicting_rows"
    MISSING_IMAGE = "missing_image"
    UNREADABLE_IMAGE = "unreadable_image"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    TOO_LARGE = "too_large"

    @property
    def sentence(self) -> str:
        """What was found and what to do about it, without a word from the table."""
        return _SENTENCES[self]


_SENTENCES = {
    Skip.RAGGED_ROW: "It has more or fewer cells than the first row. Correct it.",
    Skip.NO_IMAGE_NAME: "It names no image. Fill it in.",
    Skip.NO_PATIENT: "It says nothing of the patient, so that no split could keep patients apart. Fill it in.",
    Skip.NO_SITE: "It names no site. Fill it in.",
    Skip.DUPLICATE_ROW: "An earlier row says the same of the same image, and is used.",
    Skip.CONFLICTING_ROWS: "Another row says something else of the same image. Delete the wrong one.",
    Skip.MISSING_IMAGE: "The image is not there. Correct its name, or add the image.",
    Skip.UNREADABLE_IMAGE: "The image is broken, or is none. Copy it again.",
    Skip.UNSUPPORTED_PIXELS: (
        "The image has several frames, a fourth band, or pixels other than grey of 8 or 16 bits and colour of 8. "
        "Convert it."
    ),
    Skip.TOO_LARGE: "The image has more pixels than are read at once. Make it smaller.",
}

_SKIPS = {Reason.UNSUPPORTED_OBJECT: Skip.UNSUPPORTED_PIXELS, Reason.TOO_LARGE: Skip.TOO_LARGE}
"""What the reader's reason is to a table's row."""


class Unusable(Exception):  # noqa: N818  it is caught in the same room, and becomes the row's reason
    """A picture that cannot be used."""

    def __init__(self, reason: Skip) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Image files under a folder; a picture's name is its path in there."""

    folder: Path = field(repr=False)

    def read(self, name: str) -> Picture:
        """Read one file, as `client/pictures.py` does.

        Raises:
            Unusable: the file is missing or lies outside the folder, or cannot be used.
        """
        try:
            path = (self.folder / name).resolve()
            missing = not (path.is_relative_to(self.folder.resolve()) and path.is_file())
        except (OSError, ValueError):  # a name that no file can have
            raise Unusable(Skip.UNREADABLE_IMAGE) from None
        if missing:
            raise Unusable(Skip.MISSING_IMAGE)
        try:
            return read_picture(path)
        except Unreadable as fault:
            raise Unusable(_SKIPS.get(fault.reason, Skip.UNREADABLE_IMAGE)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArrays:
    """Pictures in an npz file: one array `images`, or MedMNIST's `train_images`, `val_images` and `test_images`.

    Arrays are (N, H, W) or (N, H, W, 3) of uint8 or uint16. A picture's name is its number, from 0; in a MedMNIST
    file it runs through train, val and test in this order, or is given within one of them, as `val/3`.
    """

    file: Path = field(repr=False)

    def read(self, name: str) -> Picture:
        """Take one picture.

        Raises:
            Unusable: there is no picture of this number, or its array has another shape or type.
            DataError: the file is not an npz file, or holds none of these arrays.
        """
        part, _, number = name.rpartition("/")
        arrays = _arrays(self.file)
        chosen = [arrays[part]] if part in arrays else [] if part else list(arrays.values())
        index = int(number) if number.isdecimal() else -1
        for array in chosen:
            if 0 <= index < len(array):
                return Picture(pixels=_supported(array[index]))
            index -= len(array)
        raise Unusable(Skip.MISSING_IMAGE)


ImageSource = ImageFolder | ImageArrays


def open_images(path: Path) -> ImageSource:
    """Take a folder or an npz file as the source of pictures.

    Raises:
        DataError: the path is neither, or the npz file cannot be used.
    """
    if path.is_dir():
        return ImageFolder(folder=path)
    if path.suffix.lower() != ".npz" or not path.is_file():
        raise DataError(f"--images {path}: neither a folder nor an .npz file. Correct the path.")
    _arrays(path)
    return ImageArrays(file=path)


@lru_cache(maxsize=1)
def _arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    """Load a file's arrays once a process; the key is "" for `images`, else the MedMNIST part."""
    names = {"": "images"} | {part: f"{part}_images" for part in MEDMNIST_PARTS}
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {part: archive[name] for part, name in names.items() if name in archive}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as fault:
        raise DataError(f"--images {file}: not a readable npz file ({type(fault).__name__}). Save it again.") from None
    if not arrays:
        raise DataError(
            f"--images {file}: it holds neither an array 'images' nor 'train_images', 'val_images' or 'test_images'. "
            "Rename the array."
        )
    return {"": arrays[""]} if "" in arrays else arrays


def _supported(pixels: NDArray[np.generic]) -> Samples:
    """Accept what a DICOM file can hold without loss."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.size and pixels.ndim == 2 and pixels.dtype == np.uint16:
        return pixels.astype(np.uint16)
    if pixels.size and pixels.dtype == np.uint8 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        return pixels.astype(np.uint8)
    raise Unusable(Skip.UNSUPPORTED_PIXELS)
