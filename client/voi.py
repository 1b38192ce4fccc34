"""Read how a file wants its grey levels to be shown: VOI LUT, LINEAR, LINEAR_EXACT and SIGMOID (PS3.3 C.11.2)."""

import math
from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from client.calibration import lookup_table, numbers, of_frame, text
from client.pixels import Meaning
from client.refusals import Reason, Unreadable, refuses
from shared.grey_levels import LookUp, OwnWindow, Sigmoid


@refuses(otherwise=Reason.MALFORMED)
def read_window(dataset: FileDataset, frame: int, meaning: Meaning) -> OwnWindow | None:
    """Read a frame's own window, None where it has none: the VOI LUT, else the first pair of centre and width.

    What the frame's own group says comes before the shared one, and that before the object. A value that is no number
    counts as absent.

    Raises:
        Unreadable: there is a VOI LUT, or a function, that cannot be read, so that no other window is the file's.
    """
    holders = of_frame(dataset, frame, "FrameVOILUTSequence")
    for place, holder in enumerate(holders):
        if holder.get("VOILUTSequence"):
            return _look_up(dataset, holder.VOILUTSequence, meaning)
        if pair := _pair(holder):
            without = [one for one in holders[place + 1 :] if not _pair(one)]  # another window's function is its own
            return _window(*pair, next(filter(None, map(_function, [holder, *without])), "LINEAR"))
    return None


def _look_up(dataset: FileDataset, tables: Iterable[Dataset], meaning: Meaning) -> LookUp:
    """Read the first VOI LUT (C.11.2.1.1): its entries fill the bits that it states, or that they have.

    They may have more bits than are stated; or fewer, where a device states 16, the size of a word, for entries of 10
    or 12 bits (dcm4che issue 413, dicom-rs 825), and all would be black.
    """
    table = next(iter(tables))
    signed = bool(meaning.modality_lut(np.array([meaning.lowest, meaning.highest])).min() < 0)
    first, entries = lookup_table(table, descriptor="LUTDescriptor", entries="LUTData", dataset=dataset, signed=signed)
    stated = int(table.LUTDescriptor[2])
    needed = max(int(entries.max()).bit_length(), min(stated, _FEWEST_BITS))
    bits = needed if stated - needed >= _BLACK else max(needed, stated)
    if not 1 <= bits <= 16:
        raise Unreadable(Reason.MALFORMED)
    return LookUp(first=float(first), entries=entries / (2.0**bits - 1))


_FEWEST_BITS = 8
"""Of an entry (C.11.2.1.1)."""

_BLACK = 4
"""Bits that no entry uses: the brightest would have a sixteenth of the light."""


def _pair(holder: Dataset) -> tuple[float, float] | None:
    """Read the first centre and width that are a window's."""
    pairs = zip(numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth"), strict=False)
    return next(((centre, width) for centre, width in pairs if math.isfinite(centre) and 0 < width < math.inf), None)


def _function(holder: Dataset) -> str:
    return text(holder, "VOILUTFunction").upper()


def _window(centre: float, width: float, function: str) -> OwnWindow:
    """Read what a function makes of centre and width.

    LINEAR (C.11.2.1.2.1) is LINEAR_EXACT with half a unit less in the centre and one less in the width, which is at
    least 1 there. PET files have narrower ones all the same: nothing but LINEAR_EXACT can be meant.
    """
    match function:
        case "SIGMOID":
            return Sigmoid(centre=centre, width=width)
        case "LINEAR_EXACT":
            return centre, width
        case "LINEAR":
            return (centre, width) if width < 1 else (centre - 0.5, width - 1)
        case _:
            raise Unreadable(Reason.MALFORMED)
