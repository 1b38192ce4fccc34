"""What the header of a DICOM object says of its pixels: modality LUT, padding, window and spacing.

Section numbers are those of DICOM PS3.3 (2024).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from client.pixels import AIR_HU, Linear, Meaning, Table
from client.refusals import Reason, Unreadable, refuses

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@refuses(otherwise=Reason.MALFORMED)
def read_meaning(dataset: FileDataset, frame: int) -> Meaning:
    """Read what the stored values of one grey frame mean."""
    lowest, highest = stored_range(dataset)
    rescale = _of_frame(dataset, frame, "PixelValueTransformationSequence")
    in_hounsfield = text(dataset, "Modality") == "CT" and text(rescale, "RescaleType") in ("", "HU")
    return Meaning(
        modality_lut=_modality_table(dataset) if dataset.get("ModalityLUTSequence") else _rescale(rescale),
        lowest=lowest,
        highest=highest,
        padding=_padding(dataset, highest=highest),
        darkest_is_high=dataset.PhotometricInterpretation == "MONOCHROME1",
        floor=AIR_HU if in_hounsfield else None,
    )


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """Give the smallest and largest value that the stored bits can hold; (0, 0) for floating-point pixels."""
    if "PixelData" not in dataset:
        return 0, 0
    bits = dataset.BitsStored
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


@refuses(otherwise=Reason.MALFORMED)
def read_window(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """Read the first VOI window as LINEAR_EXACT (C.11.2.1.3.2): centre -+ width / 2 become black and white.

    LINEAR (C.11.2.1.2.1) is LINEAR_EXACT with half a unit less in the centre and one less in the width. SIGMOID is
    replaced by its tangent in the centre, which is LINEAR_EXACT with the same numbers. A VOI LUT sequence is not
    read: an image that has nothing else has no window.
    """
    holder = _of_frame(dataset, frame, "FrameVOILUTSequence")
    centres, widths = _numbers(holder, "WindowCenter"), _numbers(holder, "WindowWidth")
    if not centres or not widths or not math.isfinite(centres[0]) or not 0 < widths[0] < math.inf:
        return None
    if text(holder, "VOILUTFunction") in ("", "LINEAR"):
        return centres[0] - 0.5, max(widths[0] - 1, 0.0)
    return centres[0], widths[0]


@refuses(otherwise=Reason.MALFORMED)
def read_spacing_mm(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """Read the spacing of (rows, columns): in the patient, else at the detector, else of the scanned film."""
    holder = _of_frame(dataset, frame, "PixelMeasuresSequence")
    for keyword in _SPACINGS:
        spacing = _numbers(holder, keyword)
        if len(spacing) == 2 and all(0 < mm < math.inf for mm in spacing):
            return spacing[0], spacing[1]
    return None


def lookup_table(
    holder: Dataset, *, descriptor: str, entries: str, dataset: FileDataset
) -> tuple[int, NDArray[np.uint16]]:
    """Read a table of `dataset` (C.7.6.3.1.5, C.11.1.1): the first stored value that it maps, and its entries.

    Entries of 8 bits may be packed two to a word or stand alone in one; both occur, and the length tells.
    """
    count, first, _ = (int(value) for value in holder[descriptor].value)
    count = count % 2**16 or 2**16
    if dataset.PixelRepresentation and first >= 2**15:  # written as unsigned
        first -= 2**16
    value = holder[entries].value
    if isinstance(value, bytes):
        words = np.frombuffer(value, dtype=">u2" if is_big_endian(dataset) else "<u2").astype("<u2")
        table = words if len(words) >= count else words.view(np.uint8).astype(np.uint16)
    else:
        table = np.atleast_1d(np.asarray(value, dtype=np.uint16))
    if len(table) < count:
        raise Unreadable(Reason.MALFORMED)
    return first, table[:count]


def is_big_endian(dataset: FileDataset) -> bool:
    """Whether the file's numbers begin with their high byte."""
    return dataset.original_encoding[1] is False


def text(dataset: Dataset, keyword: str) -> str:
    """Read a value as text without its padding; "" where it is absent."""
    return str(dataset.get(keyword) or "").strip(" \x00")


def _modality_table(dataset: FileDataset) -> Table:
    """Read a modality LUT sequence (C.11.1.1.1)."""
    holder = dataset.ModalityLUTSequence[0]
    first, entries = lookup_table(holder, descriptor="LUTDescriptor", entries="LUTData", dataset=dataset)
    return Table(first=first, entries=entries.astype(np.float32))


def _rescale(holder: Dataset) -> Linear:
    """Read slope and intercept (C.11.1.1.2), 1 and 0 where they are absent."""
    slope, *_ = _numbers(holder, "RescaleSlope") or (1.0,)
    intercept, *_ = _numbers(holder, "RescaleIntercept") or (0.0,)
    if slope == 0:
        raise Unreadable(Reason.MALFORMED)
    return Linear(slope=slope, intercept=intercept)


def _padding(dataset: Dataset, *, highest: int) -> tuple[int, int] | None:
    """Read the range of padding values (C.7.5.1.1.2), as signed as the pixels are, whatever the file's VR says."""
    first, last = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if first is None or "PixelData" not in dataset:
        return None
    period = 2**dataset.BitsStored
    ends = [(int(end) - highest - 1) % period + highest + 1 - period for end in (first, last) if end is not None]
    return min(ends), max(ends)


def _of_frame(dataset: Dataset, frame: int, macro: str) -> Dataset:
    """Find where a frame's attributes stand: in its functional group, the shared one, or at the top (C.7.6.16)."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in [*own[frame : frame + 1], *shared[:1]]:
        if group.get(macro):
            item: Dataset = group[macro].value[0]
            return item
    return dataset


def _numbers(holder: Dataset, keyword: str) -> tuple[float, ...]:
    """Read a decimal string of any multiplicity; () where it is absent or empty."""
    value: Any = holder.get(keyword)
    if value is None or value == "":
        return ()
    return tuple(float(number) for number in ([value] if isinstance(value, str | float | int) else value))
