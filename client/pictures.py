"""Reads one picture (PNG, JPEG, TIFF) without losing a bit, or says why not: for `partition` and `predict` alike."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from client.dicom import MAX_FRAMES, Frame, Frames, Header, Identity, read_frames
from client.frames import MAX_FRAME_VALUES
from client.image_index import IndexedFile
from client.refusals import Reason, Unreadable, refuses

R = TypeVar("R")

Samples = NDArray[np.uint8] | NDArray[np.uint16]
"""A picture's values, (H, W) for grey and (H, W, 3) for colour."""

_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
"""How PNG, JPEG and TIFF begin."""

_SAMPLES_PER_PIXEL = 277
_NAMED = ("1", "L", "P", "RGB")
"""Modes in which Pillow turns the transparency of a colour into a band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Pixels (H, W) or (H, W, 3) as displayed; `lossy_ratio` is how much JPEG had compressed them, else None."""

    pixels: Samples
    lossy_ratio: float | None = None


@refuses(otherwise=Reason.UNDECODABLE)
def read_picture(path: Path) -> Picture:
    """Read one file: grey of 8 or 16 bits, or colour of 8; grey that is stored as colour becomes grey.

    Raises:
        Unreadable: no access, undecodable, too large, or pixels that DICOM would not hold without loss (several
            frames, a fourth band, floating point, 32 bits, colour of 16).
    """
    try:
        # Not by its path: Pillow then maps it into memory, and scrambles a TIFF that is to be turned by a quarter.
        with path.open("rb") as file, Image.open(file) as image:
            if image.width * image.height * len(image.getbands()) > MAX_FRAME_VALUES:
                raise Unreadable(Reason.TOO_LARGE)
            if getattr(image, "n_frames", 1) > 1 or _loses_bits(image) or _loses_bands(image):
                raise Unreadable(Reason.UNSUPPORTED_OBJECT)
            pixels = _pixels(ImageOps.exif_transpose(image))
            lossy = image.format == "JPEG"
    except OSError as fault:  # Pillow's own words for a broken or foreign file have no number
        raise Unreadable(Reason.NO_ACCESS if fault.errno else Reason.UNDECODABLE) from None
    return Picture(pixels=pixels, lossy_ratio=pixels.nbytes / path.stat().st_size if lossy else None)


def with_pictures(folder: Path, index: Sequence[IndexedFile], *, modality: str) -> list[IndexedFile]:
    """Take the pictures among the files that are not DICOM as images of the modality, each an exam and a patient alone.

    `polyclinic partition` makes of each picture an exam of its own too; whose it is only its table knows.
    """
    return [
        replace(file, found=_header(file.relative, modality))
        if file.found is Reason.NOT_DICOM and is_picture(folder / file.relative)
        else file
        for file in index
    ]


def is_picture(path: Path) -> bool:
    """Tell by its first bytes whether a file is a PNG, JPEG or TIFF; a file that cannot be opened is none."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(_STARTS)
    except OSError:
        return False


def read_either(path: Path, make: Callable[[Frame], R], *, frames: Frames, most: int = MAX_FRAMES) -> list[R]:
    """Read a picture as the one frame that its DICOM file of `polyclinic partition` would have, or a DICOM file.

    Raises:
        Unreadable: as `read_picture` and `read_frames`; or what `make` raises.
    """
    if not is_picture(path):
        return read_frames(path, make, frames=frames, most=most)
    pixels = read_picture(path).pixels.astype(np.float32)
    coloured = pixels.ndim == 3
    return [
        make(
            Frame(
                pixels_HWC=pixels if coloured else pixels[..., None],
                spacing_mm=None,
                window=(255 / 2, 255.0) if coloured else None,
            )
        )
    ]


def _header(relative: str, modality: str) -> Header:
    own = hashlib.sha256(os.fsencode(relative)).hexdigest()
    return Header(
        identity=Identity(sop_instance_uid=own, study_instance_uid="", accession_number="", patient_id=own),
        modality=modality,
        frames=1,
        photometric="",
        manufacturer="",
    )


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
    if "transparency" in image.info:  # of one colour, or of a palette's entries
        lowest, highest = image.convert("RGBA").getchannel("A").getextrema() if image.mode in _NAMED else (0, 255)
        return lowest != highest
    samples = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1) if isinstance(image, TiffImageFile) else 1
    return bool(samples > len(image.getbands()))


def _pixels(image: Image.Image) -> Samples:
    match image.mode:
        case "1" | "L" | "LA":
            return np.asarray(image.convert("L"))
        case "I;16" | "I;16L" | "I;16B" | "I;16N":
            return np.asarray(image).astype(np.uint16)
        case "RGB" | "RGBA" | "P" | "PA" | "CMYK" | "YCbCr":
            return _grey_if_equal(np.asarray(image.convert("RGB")))
    raise Unreadable(Reason.UNSUPPORTED_OBJECT)


def _grey_if_equal(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    is_grey = (pixels == pixels[..., :1]).all()
    return np.ascontiguousarray(pixels[..., 0]) if is_grey else pixels
