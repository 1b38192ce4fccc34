"""Expand a segmented palette (PS3.3 C.7.9.2) to the entries that its descriptor announces, and to none beyond them.

A few segments can stand for millions of entries, so that each is counted before it is expanded.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from client.calibration import is_big_endian, read_descriptor
from client.refusals import Reason, Unreadable

_DISCRETE, _LINEAR, _INDIRECT = range(3)


def segmented_table(
    holder: Dataset, *, descriptor: str, entries: str, dataset: FileDataset, signed: bool
) -> tuple[int, NDArray[np.uint16]]:
    """Read a segmented table of `dataset`: the first value that it maps, and its entries.

    Raises:
        Unreadable: it has fewer or more entries than its descriptor says, or a segment is none that the standard knows.
    """
    count, first, bits = read_descriptor(holder, descriptor, signed=signed)
    if bits not in (8, 16):
        raise Unreadable(Reason.MALFORMED)
    order = ">" if is_big_endian(dataset) else "<"
    table = _Expansion(holder[entries].value, order=order, octets=bits // 8, count=count)
    table.copy(0, segments=count)
    if len(table.entries) < count:
        raise Unreadable(Reason.MALFORMED)
    return first, np.array(table.entries, dtype=np.uint16)


class _Expansion:
    """The entries of a segmented table so far."""

    def __init__(self, content: bytes, *, order: str, octets: int, count: int) -> None:
        self.entries: list[int] = []
        self._content = content
        self._units = np.frombuffer(content, f"{order}u{octets}", count=len(content) // octets)
        self._order, self._octets, self._count = order, octets, count

    def copy(self, place: int, *, segments: int, is_copy: bool = False) -> None:
        """Add as many segments from a place on, or up to the last entry. Every segment adds one entry at least."""
        units = self._units
        while segments and len(self.entries) < self._count and place + 2 < len(units):
            kind, length = int(units[place]), int(units[place + 1])
            place, segments = place + 2, segments - 1
            if length == 0 or (kind != _INDIRECT and length > self._count - len(self.entries)):
                raise Unreadable(Reason.MALFORMED)
            if kind == _DISCRETE:
                self.entries += units[place : place + length].tolist()
                place += length
            elif kind == _LINEAR and self.entries:
                ramp = np.linspace(self.entries[-1], int(units[place]), length + 1)[1:]
                self.entries += np.around(ramp).astype(int).tolist()
                place += 1
            elif kind == _INDIRECT and not is_copy:  # which C.7.9.2.3 forbids to point to another
                self.copy(self._pointed_at(place), segments=length, is_copy=True)
                place += 4 // self._octets
            else:
                raise Unreadable(Reason.MALFORMED)

    def _pointed_at(self, place: int) -> int:
        """Read an offset in octets: two words, the lower first."""
        octets = self._content[place * self._octets :][:4]
        low, high = np.frombuffer(octets, f"{self._order}u2", count=2).tolist()
        return int(low + (high << 16)) // self._octets
