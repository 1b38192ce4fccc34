"""From stored values to physical units: modality LUT, MONOCHROME1 inversion, padding, air.

Pure arithmetic on arrays; `client/dicom.py` reads what it needs from the file. PS3.3 is the DICOM standard's
part 3, 2024.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.grey_levels import LookUp, OwnWindow, Sigmoid

AIR_HU = -1024.0
"""The lowest value of the 12-bit Hounsfield scale. Below it lies no tissue: scanners write -2000 and the like
outside the circle that they reconstruct, with or without a PixelPaddingValue, and so do we read it: as air."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Rescale slope and intercept (PS3.3 C.11.1.1.2): output = slope * stored + intercept."""

    slope: float
    intercept: float

    def __call__(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Map stored values to physical ones."""
        physical: NDArray[np.float32] = stored.astype(np.float32)
        if self.slope != 1:
            physical *= np.float32(self.slope)
        if self.intercept != 0:
            physical += np.float32(self.intercept)
        return physical


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A modality LUT sequence (PS3.3 C.11.1.1.1): values outside the table take its first or last entry."""

    first: int
    entries: NDArray[np.float32]

    def __call__(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Map stored values to physical ones."""
        index = stored.astype(np.int64) - self.first
        physical: NDArray[np.float32] = self.entries[index.clip(0, len(self.entries) - 1)]
        return physical


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What the stored values of one grey frame mean.

    `lowest` and `highest` bound what the stored bits can hold; `padding` is an inclusive range of stored values
    that are no measurement, unless a lossy codec has `moved` them; `darkest_is_high` is MONOCHROME1; `floor` is a
    physical value below which there is nothing (CT: air).
    """

    modality_lut: Linear | Table
    lowest: int
    highest: int
    padding: tuple[int, int] | None
    darkest_is_high: bool
    floor: float | None
    moved: bool = False

    @property
    def mirror(self) -> np.float32:
        """The number from which a MONOCHROME1 value is taken away: the brightest that the bits hold turns darkest."""
        darkest, brightest = self.modality_lut(np.array([self.lowest, self.highest]))
        return np.float32(darkest + brightest)


def to_physical(stored: NDArray[Any], meaning: Meaning) -> NDArray[np.float32]:
    """Give physical values, float32, same shape: larger is brighter, padding is background.

    Padded pixels become `floor`, or where there is none the darkest value of the rest of the frame. A frame of
    padding only stays as it is: constant.
    """
    physical = meaning.modality_lut(stored)
    if meaning.darkest_is_high:
        np.subtract(meaning.mirror, physical, out=physical)
    if meaning.floor is not None:
        np.maximum(physical, np.float32(meaning.floor), out=physical)
    if meaning.padding is not None:
        find = _is_moved_padding if meaning.moved else _is_padding
        _fill_padding(physical, find(stored, meaning.padding), background=meaning.floor)
    return physical


def to_physical_window(window: OwnWindow | None, meaning: Meaning) -> OwnWindow | None:
    """Give the file's window as it applies after the inversion: what it made dark, it makes bright."""
    if window is None or not meaning.darkest_is_high:
        return window
    mirror = float(meaning.mirror)
    match window:
        case Sigmoid():
            return replace(window, centre=mirror - window.centre)
        case LookUp():
            last = window.first + len(window.entries) - 1
            return LookUp(first=mirror - last, entries=1 - window.entries[::-1])
        case (centre, width):
            return (mirror - centre, width)


def _is_moved_padding(stored: NDArray[Any], padding: tuple[int, int]) -> NDArray[np.bool_]:
    """Find the padding of a frame that a lossy codec has coded, so that values lie around it.

    Padding that is to be told apart stands at one end of the values. What lies beyond it there is the codec's error,
    and on the other side the error is twice that at most, or a sixty-fourth of all values, for it may have been
    clipped; or it reaches half the way to the rest, where that is farther. Padding in the middle of the values is
    left as it is: nothing tells it from what was measured.
    """
    low, high = padding
    lowest, highest = (float(end) for end in np.quantile(stored, (_SPECKS, 1 - _SPECKS)))
    span, below, above = highest - lowest, max(low - lowest, 0), max(highest - high, 0)
    if min(below, above) > span / _ENDS:
        return np.zeros(stored.shape, dtype=np.bool_)
    # From here on, padding is the lower end.
    values, end = (stored, high) if below <= above else (-stored.astype(np.int64), -low)
    error = max(2 * min(below, above), span / _CODEC_ERROR)
    rest = values[values > end + error]
    if rest.size:
        error = max(error, (float(np.quantile(rest, _REST)) - end) / 2)
    near: NDArray[np.bool_] = values <= end + error
    return near


_CODEC_ERROR = 64
_ENDS = 8
_SPECKS = 0.005
_REST = 0.02
"""Parts of all values of a frame: the error of a lossy codec that is taken for granted, and what counts as an end; and
the share of the pixels, and of the rest, that may be what a codec left beside an edge."""


def _is_padding(stored: NDArray[Any], padding: tuple[int, int]) -> NDArray[np.bool_]:
    low, high = padding
    return (stored >= low) & (stored <= high)


def _fill_padding(physical: NDArray[np.float32], padded: NDArray[np.bool_], *, background: float | None) -> None:
    if background is None and not padded.all():
        background = float(physical.min(where=~padded, initial=np.inf))
    if background is not None:
        physical[padded] = background
