"""Writes one real DICOM file: pixels and attributes in, a Part 10 file in a lossless transfer syntax out."""

import uuid
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from shared.errors import StorageError

Stored = NDArray[np.uint8] | NDArray[np.uint16]
"""Stored values, (H, W) for grey and (H, W, 3) for colour."""

NAMES = uuid.UUID("e1d6c4f6-2a8b-5c39-9d0e-7b1f5a3c8e42")
"""Namespace of every UID that Polyclinic makes up; a random number, drawn once."""


class Encoding(StrEnum):
    """How the pixel data lies in the file; each is lossless."""

    EXPLICIT = "explicit"
    RLE = "rle"
    JPEG_LOSSLESS = "jpeg-lossless"
    JPEG_LS = "jpeg-ls"
    JPEG_2000 = "jpeg-2000"


TRANSFER_SYNTAX = {
    Encoding.EXPLICIT: ExplicitVRLittleEndian,
    Encoding.RLE: RLELossless,
    Encoding.JPEG_LOSSLESS: JPEGLosslessSV1,
    Encoding.JPEG_LS: JPEGLSLossless,
    Encoding.JPEG_2000: JPEG2000Lossless,
}


def made_up_uid(*words: object) -> str:
    """Derive a UID from words: the same words give the same UID, others another one.

    DICOM PS3.5 B.2: "2.25." and a UUID as a decimal number; here a name-based UUID (RFC 9562, version 5).
    """
    name = uuid.uuid5(NAMES, "\x1f".join(map(str, words)))
    return f"2.25.{name.int}"


def write_dicom(
    path: Path,
    pixels: Stored,
    *,
    bits_stored: int,
    photometric: str,
    encoding: Encoding,
    attributes: Mapping[str, Any],
) -> None:
    """Write one image; the same arguments give the same bytes.

    `attributes` maps DICOM keywords to values and must name SOPClassUID and SOPInstanceUID. Colour is written
    explicit or RLE only. JPEG-LS is for 8 and 16 bits stored only: its encoder takes the sample precision from the
    array, and PS3.5 8.2.3 wants it equal to Bits Stored.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    _describe_pixels(dataset, pixels, bits_stored, photometric)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = TRANSFER_SYNTAX[encoding]
    _set_pixels(dataset, pixels, bits_stored, encoding)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
    except OSError as fault:
        # Not the path: its last parts may hold a patient's name.
        raise StorageError(
            f"A DICOM file cannot be written ({fault.strerror or fault}). Free space or correct the folder's "
            "permissions, and run again."
        ) from None


def _describe_pixels(dataset: Dataset, pixels: Stored, bits_stored: int, photometric: str) -> None:
    """Fill in the Image Pixel module (PS3.3 C.7.6.3)."""
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = photometric
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = 0


def _set_pixels(dataset: Dataset, pixels: Stored, bits_stored: int, encoding: Encoding) -> None:
    """Put the pixel data in; an odd number of bytes gets its padding byte (PS3.5 8.1.1)."""
    if encoding is Encoding.RLE:
        dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    elif encoding is Encoding.EXPLICIT:
        data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    else:
        dataset.PixelData = encapsulate([_compressed(pixels, bits_stored, encoding)])
        dataset["PixelData"].VR = "OB"


def _compressed(pixels: Stored, bits_stored: int, encoding: Encoding) -> bytes:
    match encoding:
        case Encoding.JPEG_LOSSLESS:
            stream = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=bits_stored)
        case Encoding.JPEG_2000:
            stream = imagecodecs.jpeg2k_encode(
                pixels, level=0, codecformat="j2k", reversible=True, bitspersample=bits_stored
            )
        case _:
            # Noise may grow: room for twice the pixels.
            stream = imagecodecs.jpegls_encode(pixels, out=2 * pixels.nbytes + 1024)
    return bytes(stream)
