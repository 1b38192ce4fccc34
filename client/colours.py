"""Turn what a decoder gives of a colour object into RGB: by what its codestream says, its header, or its palette."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels.processing import convert_color_space

from client.calibration import lookup_table
from client.codestreams import Codestream
from client.refusals import Reason, Unreadable
from client.segmented_table import segmented_table

_DECLARED = ("RGB", "YBR_FULL", "YBR_FULL_422")


def colour_of(dataset: FileDataset, stream: Codestream) -> str:
    """Give the photometric interpretation of what is in the codestream, which the header may contradict.

    Raises:
        Unreadable: neither says it.
    """
    declared = str(dataset.PhotometricInterpretation)
    if stream.colour:
        return "RGB" if stream.colour == "RGB" else "YBR_FULL"
    if declared not in _DECLARED:  # YBR_PARTIAL and the like; or JPEG 2000's transform, which was not done
        raise Unreadable(Reason.UNDECODABLE)
    return declared


def to_rgb(decoded: NDArray[Any], colour: str, dataset: FileDataset) -> NDArray[Any]:
    """Turn decoded components of a `colour` into RGB."""
    if colour == "RGB":
        return decoded
    if dataset.BitsStored > 8:
        raise Unreadable(Reason.UNDECODABLE)
    converted: NDArray[Any] = convert_color_space(decoded, "YBR_FULL", "RGB")
    return converted


def apply_palette(dataset: FileDataset, stored: NDArray[Any]) -> NDArray[Any]:
    """Look up the colours of stored values (H, W)."""
    first, table = palette(dataset)
    colours: NDArray[Any] = table[(stored.astype(np.int64) - first).clip(0, len(table) - 1)]
    return colours


def palette(dataset: FileDataset) -> tuple[int, NDArray[Any]]:
    """Read the palette (PS3.3 C.7.9): the first stored value that it maps, and its colours (entries, 3)."""
    read = segmented_table if "SegmentedRedPaletteColorLookupTableData" in dataset else lookup_table
    prefix = "Segmented" if read is segmented_table else ""
    channels = [
        read(
            dataset,
            descriptor=f"{colour}PaletteColorLookupTableDescriptor",
            entries=f"{prefix}{colour}PaletteColorLookupTableData",
            dataset=dataset,
            signed=bool(dataset.PixelRepresentation),
        )
        for colour in ("Red", "Green", "Blue")
    ]
    return channels[0][0], np.stack([entries for _, entries in channels], axis=1)
