"""Decode frames of one DICOM object to stored values or RGB, each with the decoder that does it best.

imagecodecs decodes grey and all JPEG, RLE is unpacked here, and pydicom with its plugins reads what is left. A decoder
gets a frame only when the codestream's own size is the header's and within bounds: memory follows from the header.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from client.calibration import is_big_endian, stored_of
from client.codestreams import Codestream, read_jpeg, read_jpeg2000
from client.colours import apply_palette, colour_of, palette, to_rgb
from client.encapsulation import IsComplete, encoded_frames
from client.refusals import Reason, Unreadable
from client.run_lengths import unpacked
from client.stored_values import from_lossless, from_lossy

MAX_FRAME_VALUES = 2**26
"""Values of a frame: 256 MiB as float32, and about three times that while it is prepared. The largest films have 20
million pixels; what claims more is damaged, a slide, or meant to fill the memory."""

MAX_VALUES = 2**30
"""Values of all frames that are asked for; one after the other is in memory, but each takes its time."""

_JPEG = (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes)
_LOSSLESS = frozenset(
    {
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
    }
)
_OF_PIXELS = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
)


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
        return 2**8 - 1 if palette(dataset)[1].max() < 2**8 else 2**16 - 1
    return None


def is_lossy(dataset: FileDataset) -> bool:
    """Whether a lossy codec has moved the stored values, now or before (PS3.3 C.7.6.1.1.5)."""
    syntax = _transfer_syntax(dataset)
    lossless = not syntax.is_encapsulated or syntax in _LOSSLESS or syntax == uid.RLELossless
    return not lossless or str(dataset.get("LossyImageCompression", "")).strip() == "01"


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
    frames = _decode_encapsulated if syntax.is_encapsulated else _decode_native
    for stored in frames(dataset, syntax, indices):
        if stored.shape != (dataset.Rows, dataset.Columns, *channels):
            raise Unreadable(Reason.UNDECODABLE)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            yield apply_palette(dataset, stored)
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
    if values > MAX_FRAME_VALUES or values * frames > MAX_VALUES:
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


def _decode_native(dataset: FileDataset, syntax: uid.UID, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    for index in indices:
        stored = _decode_with_pydicom(dataset, syntax, index)
        yield stored if stored.dtype.kind == "f" else _without_unused_bits(stored, dataset)


def _decode_encapsulated(dataset: FileDataset, syntax: uid.UID, indices: Sequence[int]) -> Iterator[NDArray[Any]]:
    read = read_jpeg2000 if syntax in uid.JPEG2000TransferSyntaxes else read_jpeg if syntax in _JPEG else None
    frames = frame_count(dataset)
    for encoded in encoded_frames(dataset, indices, frames=frames, is_complete=read and _completeness(read)):
        if read:
            yield _decode_codestream(dataset, syntax, _checked(dataset, read(encoded)))
        elif syntax == uid.RLELossless:
            yield _decode_run_lengths(dataset, encoded)
        else:  # a film, or what this version has no decoder for
            raise Unreadable(Reason.UNDECODABLE)


def _completeness(read: Callable[[bytes], Codestream]) -> IsComplete:
    def is_complete(encoded: bytes) -> bool:
        try:
            read(encoded)
        except Unreadable as refusal:
            return refusal.reason is not Reason.TRUNCATED
        return True

    return is_complete


def _checked(dataset: FileDataset, stream: Codestream) -> Codestream:
    """Refuse a codestream of another size than the header's before anything is allocated for it."""
    size = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel
    if (stream.rows, stream.columns, stream.components) != size or stream.precision > max(dataset.BitsAllocated, 16):
        raise Unreadable(Reason.UNDECODABLE)
    return stream


def _decode_codestream(dataset: FileDataset, syntax: uid.UID, stream: Codestream) -> NDArray[Any]:
    if stream.components == 1:
        decoded = _GREY_CODECS[syntax](stream.encoded)
        if syntax in _LOSSLESS:
            return from_lossless(decoded, stored_of(dataset), precision=stream.precision)
        return from_lossy(decoded, stored_of(dataset), precision=stream.precision, signed=stream.signed)
    colour = colour_of(dataset, stream)
    if syntax in uid.JPEGTransferSyntaxes:
        decoded = imagecodecs.jpeg8_decode(stream.encoded, colorspace="RGB", outcolorspace="RGB")
        return _in_stored_range(to_rgb(decoded, colour, dataset), dataset)
    return _in_stored_range(_decode_with_pydicom(_alone(dataset, syntax, stream.encoded, colour), syntax, 0), dataset)


_GREY_CODECS: dict[str, Callable[[bytes], Any]] = (
    dict.fromkeys(uid.JPEGTransferSyntaxes, imagecodecs.jpeg8_decode)
    | dict.fromkeys(uid.JPEGLSTransferSyntaxes, imagecodecs.jpegls_decode)
    | dict.fromkeys(uid.JPEG2000TransferSyntaxes, imagecodecs.jpeg2k_decode)
)


def _decode_run_lengths(dataset: FileDataset, encoded: bytes) -> NDArray[Any]:
    """Decode RLE as the same frame without compression, which lies plane by plane."""
    native = _alone(dataset, uid.ExplicitVRLittleEndian, b"", str(dataset.PhotometricInterpretation))
    native.PlanarConfiguration = 1
    native.PixelData = unpacked(
        encoded,
        pixels=dataset.Rows * dataset.Columns,
        samples=dataset.SamplesPerPixel,
        octets=-(-dataset.BitsAllocated // 8),
    )
    return next(_decode_native(native, uid.ExplicitVRLittleEndian, [0]))


def _alone(dataset: FileDataset, syntax: uid.UID, encoded: bytes, colour: str) -> FileDataset:
    """Make an object of one frame."""
    attributes = {keyword: dataset[keyword].value for keyword in _OF_PIXELS if keyword in dataset}
    alone = FileDataset("", {}, file_meta=FileMetaDataset())
    alone.file_meta.TransferSyntaxUID = syntax
    for keyword, value in (attributes | {"PhotometricInterpretation": colour}).items():
        setattr(alone, keyword, value)
    alone.PixelData = encapsulate([encoded], has_bot=False) if encoded else b""
    return alone


def _decode_with_pydicom(dataset: FileDataset, syntax: uid.UID, index: int) -> NDArray[Any]:
    options: dict[str, Any] = {} if syntax in uid.JPEG2000TransferSyntaxes else {"correct_unused_bits": False}
    stored, properties = get_decoder(syntax).as_array(dataset, index=index, **options)
    if str(properties["photometric_interpretation"]).startswith("YBR"):
        raise Unreadable(Reason.UNDECODABLE)  # YBR_PARTIAL and the like: no decoder here turns them into RGB
    return stored


def _without_unused_bits(stored: NDArray[Any], dataset: FileDataset) -> NDArray[Any]:
    """Cut off the bits around the stored ones, such as old overlays (PS3.5 8.1.1); the sign bit is extended."""
    unused = dataset.BitsAllocated - dataset.BitsStored
    if unused == 0:
        return stored
    above = dataset.BitsAllocated - 1 - dataset.get("HighBit", dataset.BitsStored - 1)
    trimmed: NDArray[Any] = (stored << (above if 0 <= above <= unused else unused)) >> unused
    return trimmed


def _in_stored_range(stored: NDArray[Any], dataset: FileDataset) -> NDArray[Any]:
    stored_bits = stored_of(dataset)
    lowest, highest = stored_bits.lowest, stored_bits.highest
    limits = np.iinfo(stored.dtype)
    if lowest <= limits.min and limits.max <= highest:
        return stored
    clipped: NDArray[Any] = stored.clip(max(lowest, limits.min), min(highest, limits.max))
    return clipped
