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

    A value that is no number counts as absent.

    Raises:
        Unreadable: there is a VOI LUT, or a function, that cannot be read, so that no other window is the file's.
    """
    holder = of_frame(dataset, frame, "FrameVOILUTSequence")
    if holder.get("VOILUTSequence"):
        return _look_up(dataset, holder.VOILUTSequence, meaning)
    return _window(holder)


def _look_up(dataset: FileDataset, tables: Iterable[Dataset], meaning: Meaning) -> LookUp:
    """Read the first VOI LUT (C.11.2.1.1): its entries fill the bits that it states, or that they have."""
    table = next(iter(tables))
    signed = bool(meaning.modality_lut(np.array([meaning.lowest, meaning.highest])).min() < 0)
    first, entries = lookup_table(table, descriptor="LUTDescriptor", entries="LUTData", dataset=dataset, signed=signed)
    bits = max(int(table.LUTDescriptor[2]), int(entries.max()).bit_length())
    if not 1 <= bits <= 16:
        raise Unreadable(Reason.MALFORMED)
    return LookUp(first=float(first), entries=entries / (2.0**bits - 1))


def _window(holder: Dataset) -> OwnWindow | None:
    """Read the first window that is one.

    LINEAR (C.11.2.1.2.1) is LINEAR_EXACT with half a unit less in the centre and one less in the width, which is at
    least 1 there. PET files have narrower ones all the same: nothing but LINEAR_EXACT can be meant.
    """
    pairs = zip(numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth"), strict=False)
    for centre, width in pairs:
        if math.isfinite(centre) and 0 < width < math.inf:
            break
    else:
        return None
    match text(holder, "VOILUTFunction").upper():
        case "SIGMOID":
            return Sigmoid(centre=centre, width=width)
        case "LINEAR_EXACT":
            return centre, width
        case "" | "LINEAR":
            return (centre, width) if width < 1 else (centre - 0.5, width - 1)
        case _:
            raise Unreadable(Reason.MALFORMED)
