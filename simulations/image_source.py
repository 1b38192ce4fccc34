"""Reads one picture out of an image folder or an npz file, without losing a bit, or says why it cannot be used."""

import zipfile
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from shared.errors import DataError
from simulations.dicom_writer import Stored

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
}


class Unusable(Exception):  # noqa: N818  it is caught in the same room, and becomes the row's reason
    """A picture that cannot be used."""

    def __init__(self, reason: Skip) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Pixels (H, W) or (H, W, 3) as displayed; `lossy_ratio` is how much JPEG had compressed them, else None."""

    pixels: Stored
    lossy_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Image files under a folder; a picture's name is its path in there."""

    folder: Path = field(repr=False)

    def read(self, name: str) -> Picture:
        """Read one file: grey of 8 or 16 bits, or colour of 8; grey that is stored as colour becomes grey.

        Raises:
            Unusable: the file is missing or lies outside the folder, is no image, or has pixels of another kind
                (several frames, floating point, 32 bits, colour of 16).
        """
        try:
            path = (self.folder / name).resolve()
            if not (path.is_relative_to(self.folder.resolve()) and path.is_file()):
                raise Unusable(Skip.MISSING_IMAGE)
            with Image.open(path) as image:
                if getattr(image, "n_frames", 1) > 1 or _loses_bits(image) or _loses_bands(image):
                    raise Unusable(Skip.UNSUPPORTED_PIXELS)
                pixels = _pixels(ImageOps.exif_transpose(image))
                lossy = image.format == "JPEG"
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            # What Pillow raises on a broken or foreign file depends on the format; all of it means one thing here.
            raise Unusable(Skip.UNREADABLE_IMAGE) from None
        return Picture(pixels=pixels, lossy_ratio=pixels.nbytes / path.stat().st_size if lossy else None)


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


def _loses_bits(image: Image.Image) -> bool:
    """Tell whether Pillow would drop the lower half of 16-bit samples: it does so for all but plain grey."""
    raw = "".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    return ";16" in raw and not image.mode.startswith("I;16")


def _loses_bands(image: Image.Image) -> bool:
    """Tell whether a band would be dropped that says something: one more than grey or colour has, and not opaque.

    Of a TIFF, Pillow itself drops what stands behind the third sample, if nothing says what it is.
    """
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa", "RGBX"):
        lowest, highest = image.getchannel(len(image.getbands()) - 1).getextrema()
        return image.mode == "RGBX" or lowest != highest
    samples = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1) if isinstance(image, TiffImageFile) else 1
    return bool(samples > len(image.getbands()))


_SAMPLES_PER_PIXEL = 277


def _pixels(image: Image.Image) -> Stored:
    match image.mode:
        case "1" | "L" | "LA":
            return np.asarray(image.convert("L"))
        case "I;16" | "I;16L" | "I;16B" | "I;16N":
            return np.asarray(image).astype(np.uint16)
        case "RGB" | "RGBA" | "P" | "PA" | "CMYK" | "YCbCr":
            return _grey_if_equal(np.asarray(image.convert("RGB")))
    raise Unusable(Skip.UNSUPPORTED_PIXELS)


def _grey_if_equal(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    is_grey = (pixels == pixels[..., :1]).all()
    return np.ascontiguousarray(pixels[..., 0]) if is_grey else pixels


def _supported(pixels: NDArray[np.generic]) -> Stored:
    """Accept what a DICOM file can hold without loss."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.size and pixels.ndim == 2 and pixels.dtype == np.uint16:
        return pixels.astype(np.uint16)
    if pixels.size and pixels.dtype == np.uint8 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        return pixels.astype(np.uint8)
    raise Unusable(Skip.UNSUPPORTED_PIXELS)
