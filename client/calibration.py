"""What the header of a DICOM object says of its stored values: their bits, modality LUT, padding and spacing.

Section numbers are those of DICOM PS3.3 (2024).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue

from client.pixels import AIR_HU, Linear, Meaning, Table
from client.refusals import Reason, Unreadable, refuses
from client.stored_values import Stored

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@refuses(otherwise=Reason.MALFORMED)
def read_meaning(dataset: FileDataset, frame: int, *, lossy: bool) -> Meaning:
    """Read what the stored values of one grey frame mean; `lossy` if a codec may have moved them."""
    stored = stored_of(dataset) if "PixelData" in dataset else None
    holders = of_frame(dataset, frame, "PixelValueTransformationSequence")
    units = next(filter(None, (text(holder, "RescaleType") for holder in holders)), "HU")
    in_hounsfield = text(dataset, "Modality") == "CT" and units == "HU"
    has_own = any(numbers(holder, "RescaleSlope") for holder in holders[:-1])
    return Meaning(
        modality_lut=_modality_table(dataset)
        if dataset.get("ModalityLUTSequence") and not has_own
        else _rescale(holders),
        lowest=stored.lowest if stored else 0,
        highest=stored.highest if stored else 0,
        padding=_padding(dataset, stored) if stored else None,
        darkest_is_high=dataset.PhotometricInterpretation == "MONOCHROME1",
        floor=AIR_HU if in_hounsfield else None,
        moved=lossy,
    )


def stored_of(dataset: Dataset) -> Stored:
    """Read what the header says of its stored bits."""
    bits = int(dataset.BitsStored)
    if not 1 <= bits <= max(int(dataset.BitsAllocated), 1):
        raise Unreadable(Reason.MALFORMED)
    high_bit = dataset.get("HighBit")
    return Stored(
        bits=bits,
        high_bit=bits - 1 if high_bit is None else int(high_bit),
        signed=bool(dataset.PixelRepresentation),
    )


@refuses(otherwise=Reason.MALFORMED)
def read_spacing_mm(dataset: Dataset, frame: int) -> tuple[float, float] | None:
    """Read the spacing of (rows, columns): in the patient, else at the detector, else of the scanned film.

    What cannot be read counts as absent: most studies do not ask for it.
    """
    for holder in of_frame(dataset, frame, "PixelMeasuresSequence"):
        for keyword in _SPACINGS:
            spacing = numbers(holder, keyword)
            if len(spacing) == 2 and all(0 < mm < math.inf for mm in spacing):
                return spacing[0], spacing[1]
    return None


def lookup_table(
    holder: Dataset, *, descriptor: str, entries: str, dataset: FileDataset, signed: bool
) -> tuple[int, NDArray[np.uint16]]:
    """Read a table of `dataset` (C.7.6.3.1.5, C.11.1.1, C.11.2.1.1): the first value that it maps, and its entries.

    `signed` if what it maps may be below zero. Entries of 8 bits may be packed two to a word or stand alone in one;
    both occur, and the length tells. Entries are never negative; older editions allowed to write them under SS.
    """
    count, first, _ = read_descriptor(holder, descriptor, signed=signed)
    value = holder[entries].value
    if isinstance(value, bytes):
        words = np.frombuffer(value, dtype=">u2" if is_big_endian(dataset) else "<u2").astype("<u2")
    else:
        words = np.atleast_1d(np.asarray(value, dtype=np.int64)).astype("<u2")
    table = words if len(words) >= count else words.view(np.uint8).astype(np.uint16)
    if len(table) < count:
        raise Unreadable(Reason.MALFORMED)
    return first, table[:count]


def read_descriptor(holder: Dataset, keyword: str, *, signed: bool) -> tuple[int, int, int]:
    """Read a table's number of entries, the first value that it maps, and the bits of an entry."""
    count, first, bits = (int(value) for value in holder[keyword].value)
    if signed and first >= 2**15:  # written as unsigned
        first -= 2**16
    return count % 2**16 or 2**16, first, bits


def is_big_endian(dataset: FileDataset) -> bool:
    """Whether the file's numbers begin with their high byte."""
    return dataset.original_encoding[1] is False


def text(dataset: Dataset, keyword: str) -> str:
    """Read a value as text without its padding; "" where it is absent."""
    return str(dataset.get(keyword) or "").strip(" \x00")


def text_if_readable(dataset: Dataset, keyword: str) -> str:
    """Do the same with what most studies do not ask for; "" where it cannot be read."""
    try:
        return text(dataset, keyword)
    except Exception:  # pydicom raises various errors on a value that does not fit its VR
        return ""


def values_if_readable(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Do it with each of several values."""
    try:
        value = dataset.get(keyword) or ()
        return tuple(str(one).strip(" \x00") for one in ([value] if isinstance(value, str) else value))
    except Exception:  # the same
        return ()


def _modality_table(dataset: FileDataset) -> Table:
    """Read a modality LUT sequence (C.11.1.1.1)."""
    holder = dataset.ModalityLUTSequence[0]
    first, entries = lookup_table(
        holder,
        descriptor="LUTDescriptor",
        entries="LUTData",
        dataset=dataset,
        signed=bool(dataset.PixelRepresentation),
    )
    return Table(first=first, entries=entries.astype(np.float32))


def _rescale(holders: Sequence[Dataset]) -> Linear:
    """Read slope and intercept (C.11.1.1.2), each where it first stands, 1 and 0 where they are absent."""
    slope, *_ = next(filter(None, (numbers(holder, "RescaleSlope") for holder in holders)), (1.0,))
    intercept, *_ = next(filter(None, (numbers(holder, "RescaleIntercept") for holder in holders)), (0.0,))
    if slope == 0 or math.isnan(slope) or math.isnan(intercept):  # without them, the values mean something else
        raise Unreadable(Reason.MALFORMED)
    return Linear(slope=slope, intercept=intercept)


def _padding(dataset: Dataset, stored: Stored) -> tuple[int, int] | None:
    """Read the range of padding values (C.7.5.1.1.2), as signed as the pixels are, whatever the file's VR says."""
    first, last = (_whole(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if first is None:
        return None
    ends = [_as_signed_as(stored, end) for end in (first, last) if end is not None]
    if max(ends) < stored.lowest or min(ends) > stored.highest:  # what no pixel can hold marks none
        return None
    return max(min(ends), stored.lowest), min(max(ends), stored.highest)


def _as_signed_as(stored: Stored, end: int) -> int:
    """Read the two bytes of a padding value with the pixels' sign; they have more bits than may be stored."""
    word = end % _WORD
    return word - _WORD if stored.signed and word >= _WORD // 2 else word


_WORD = 2**16


def _whole(dataset: Dataset, keyword: str) -> int | None:
    """Read a whole number; None where it is absent or empty. Under VR UN or OB it is two bytes."""
    value = dataset.get(keyword)
    if isinstance(value, bytes) and len(value) == 2:
        return int.from_bytes(value, "little")
    value = value[0] if isinstance(value, MultiValue) and value else value
    return None if value is None or value in ("", b"", []) else int(value)


def of_frame(dataset: Dataset, frame: int, macro: str) -> list[Dataset]:
    """Give where a frame's attributes may stand: in its functional group, the shared one, or at the top (C.7.6.16).

    The first that has an attribute counts: a group may be there, and lack what a later one has.
    """
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    groups = [*own[frame : frame + 1], *shared[:1]]
    return [*(group[macro].value[0] for group in groups if group.get(macro)), dataset]


def numbers(holder: Dataset, keyword: str) -> tuple[float, ...]:
    """Read a decimal string of any multiplicity, under whatever VR; () where it is absent or empty.

    A value that is no number is NaN: whoever needs it decides what that means.
    """
    try:
        value: Any = holder.get(keyword)
    except Exception:  # pydicom raises various errors on a decimal string that is none
        value = holder.get_item(keyword).value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, str):
        value = value.strip(" \x00").split("\\")
    if value is None or value in ([], [""]):
        return ()
    return tuple(map(_number, value if isinstance(value, list | MultiValue) else [value]))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
