"""Decode frames of one DICOM object to stored values or RGB, each with the decoder that does it best.

pydicom and its plugins decode everything but grey, unsigned JPEG lossless, JPEG-LS and JPEG Extended: there
imagecodecs is three to five times as fast, and reads the 12-bit JPEG that the plugins fail on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from client.calibration import is_big_endian, lookup_table, stored_range
from client.refusals import Reason, Unreadable

MAX_VALUES = 2**28
"""Values decoded at once: 1 GiB as float32. A header that claims more is damaged, or asks for frames one by one."""

_GREY_CODECS: dict[str, Callable[[bytes], Any]] = {
    uid.JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLossless: imagecodecs.jpeg8_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
}
_ENDS_WITH_MARKER = (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes)
_END_OF_IMAGE = b"\xff\xd9"


def frame_count(dataset: Dataset) -> int:
    """Give the number of frames; 1 where the object does not say."""
    count = int(dataset.get("NumberOfFrames") or 1)
    if count < 1:
        raise Unreadable(Reason.MALFORMED)
    return count


def full_scale(dataset: FileDataset) -> int | None:
    """Give the largest value of a colour channel, or None for a grey object."""
    if dataset.SamplesPerPixel > 1:
        return int(2**dataset.BitsStored - 1)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":  # its descriptor is too often wrong about the bits
        return 2**8 - 1 if _palette(dataset)[1].max() < 2**8 else 2**16 - 1
    return None


def decode(dataset: FileDataset, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Decode the frames `indices`, each (H, W, 1) stored values or (H, W, 3) RGB.

    Stored values are what the stored bits say: sign extended, bits beyond BitsStored cut off, and what a lossy
    codec overshoots clipped.

    Raises:
        Unreadable: truncated, too large or undecodable. Other exceptions of the decoders pass through.
    """
    syntax = _transfer_syntax(dataset)
    _check_size(dataset, syntax, frames=len(indices))
    channels = () if dataset.SamplesPerPixel == 1 else (dataset.SamplesPerPixel,)
    for index in indices:
        stored = _decode_frame(dataset, syntax, index)
        if stored.shape != (dataset.Rows, dataset.Columns, *channels):
            raise Unreadable(Reason.UNDECODABLE)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            yield _apply_palette(dataset, stored)
        else:
            yield stored if channels else stored[..., np.newaxis]


def _transfer_syntax(dataset: FileDataset) -> uid.UID:
    """Give the transfer syntax, or where the file has none, how the header turned out to be encoded."""
    stated = dataset.file_meta.get("TransferSyntaxUID")
    if stated:
        return uid.UID(stated)
    if is_big_endian(dataset):
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if dataset.original_encoding[0] else uid.ExplicitVRLittleEndian


def _check_size(dataset: FileDataset, syntax: uid.UID, *, frames: int) -> None:
    values = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
    if values * frames > MAX_VALUES:
        raise Unreadable(Reason.TOO_LARGE)
    if syntax.is_encapsulated or "PixelData" not in dataset:
        return
    if dataset["PixelData"].is_undefined_length:  # compressed, and the file does not say how
        raise Unreadable(Reason.UNDECODABLE)
    bits = values * dataset.BitsAllocated * frame_count(dataset)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    if len(dataset.PixelData or b"") * 8 < bits:
        raise Unreadable(Reason.TRUNCATED)


def _decode_frame(dataset: FileDataset, syntax: uid.UID, index: int) -> NDArray[Any]:
    if syntax in _ENDS_WITH_MARKER:
        encoded = get_frame(dataset.PixelData, index, number_of_frames=frame_count(dataset))
        if not encoded.rstrip(b"\x00\xff").endswith(_END_OF_IMAGE):
            raise Unreadable(Reason.TRUNCATED)  # the decoders would fill up with grey and say nothing
        if syntax in _GREY_CODECS and dataset.SamplesPerPixel == 1 and dataset.PixelRepresentation == 0:
            return _in_stored_range(_GREY_CODECS[syntax](encoded), dataset)
    return _decode_with_pydicom(dataset, syntax, index)


def _decode_with_pydicom(dataset: FileDataset, syntax: uid.UID, index: int) -> NDArray[Any]:
    options: dict[str, Any] = {} if syntax in uid.JPEG2000TransferSyntaxes else {"correct_unused_bits": False}
    if syntax == uid.RLELossless:
        options["decoding_plugin"] = "pydicom"  # pylibjpeg-rle panics on damaged data, past any `except Exception`
    stored, properties = get_decoder(syntax).as_array(dataset, index=index, **options)
    if str(properties["photometric_interpretation"]).startswith("YBR"):
        raise Unreadable(Reason.UNDECODABLE)  # YBR_PARTIAL and the like: no decoder here turns them into RGB
    if stored.dtype.kind == "f":
        return stored
    if syntax.is_encapsulated and syntax != uid.RLELossless:
        return _in_stored_range(stored, dataset)
    return _without_unused_bits(stored, dataset)


def _without_unused_bits(stored: NDArray[Any], dataset: FileDataset) -> NDArray[Any]:
    """Cut off the bits around the stored ones, such as old overlays (PS3.5 8.1.1); the sign bit is extended."""
    unused = dataset.BitsAllocated - dataset.BitsStored
    if unused == 0:
        return stored
    above = dataset.BitsAllocated - 1 - dataset.get("HighBit", dataset.BitsStored - 1)
    trimmed: NDArray[Any] = (stored << (above if 0 <= above <= unused else unused)) >> unused
    return trimmed


def _in_stored_range(stored: NDArray[Any], dataset: FileDataset) -> NDArray[Any]:
    lowest, highest = stored_range(dataset)
    limits = np.iinfo(stored.dtype)
    if lowest <= limits.min and limits.max <= highest:
        return stored
    clipped: NDArray[Any] = stored.clip(max(lowest, limits.min), min(highest, limits.max))
    return clipped


def _apply_palette(dataset: FileDataset, stored: NDArray[Any]) -> NDArray[Any]:
    first, table = _palette(dataset)
    colours: NDArray[Any] = table[(stored.astype(np.int64) - first).clip(0, len(table) - 1)]
    return colours


def _palette(dataset: FileDataset) -> tuple[int, NDArray[Any]]:
    """Read the palette (PS3.3 C.7.9): the first stored value that it maps, and its colours (entries, 3)."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        count, first, _ = dataset.RedPaletteColorLookupTableDescriptor
        return first, apply_color_lut(np.arange(first, first + (count or 2**16)), dataset)[:, :3]
    channels = [
        lookup_table(
            dataset,
            descriptor=f"{colour}PaletteColorLookupTableDescriptor",
            entries=f"{colour}PaletteColorLookupTableData",
            dataset=dataset,
        )
        for colour in ("Red", "Green", "Blue")
    ]
    return channels[0][0], np.stack([entries for _, entries in channels], axis=1)
