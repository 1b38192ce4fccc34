"""Read a DICOM file's header within bounds, whatever lengths and numbers of elements it claims, deflated or not."""

import io
import os
import zlib
from typing import BinaryIO

from client.refusals import Reason, Unreadable

MAX_HEADER = 2**26
"""Bytes before the pixel data. Functional groups of thousands of frames and overlays of some hundred fit."""

MAX_READS = 2**20
"""Pieces in which a header is read, two or three an element: what an element takes in memory is far more than its
eight bytes in the file."""

MAX_INFLATED = 2**28
"""Bytes of a deflated data set; a thousand times what it may have in the file."""

_CHUNK = 2**20
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_THE_SAME_INFLATED = b"1.2.840.10008.1.2.1\0\0\0"  # explicit VR little endian (PS3.5 A.5), padded to the same length


class Deflated(Exception):  # noqa: N818  no error: it tells whoever reads to inflate what follows
    """What follows the meta information is deflated: pydicom asks for all of the rest, which it does for no other."""


class BoundedFile:
    """A file as pydicom reads it: up to the pixel data only so many bytes, in only so many pieces.

    Raises:
        Unreadable: while reading, the header is larger.
        Deflated: while reading, the data set is to be inflated first.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._bytes, self._reads = MAX_HEADER, MAX_READS
        self.size = size
        self.in_header = True

    def read(self, length: int = -1) -> bytes:
        """Read so many bytes, or fewer at the file's end."""
        if self.in_header:
            if length < 0:
                raise Deflated
            self._bytes -= min(length, self.size - self._file.tell())
            self._reads -= 1
            if self._bytes < 0 or self._reads < 0:
                raise Unreadable(Reason.TOO_LARGE)
        return self._file.read(length)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """Give the place."""
        return self._file.tell()


def inflated(file: BinaryIO) -> BoundedFile:
    """Give a file of the same data set that is not deflated; `file` stands where the deflated one begins.

    Raises:
        Unreadable: it would fill the memory, or ends too early.
    """
    begin, end = file.tell(), file.seek(0, os.SEEK_END)
    if end - begin > MAX_INFLATED:
        raise Unreadable(Reason.TOO_LARGE)
    file.seek(begin)
    _check_inflated(file)
    file.seek(0)
    meta = file.read(begin).replace(_DEFLATED, _THE_SAME_INFLATED)
    content = meta + zlib.decompress(file.read(), -zlib.MAX_WBITS)
    return BoundedFile(io.BytesIO(content), len(content))


def _check_inflated(file: BinaryIO) -> None:
    """Inflate it once, and keep nothing."""
    inflater, size, chunk = zlib.decompressobj(-zlib.MAX_WBITS), 0, file.read(_CHUNK // 16)
    while chunk and not inflater.eof:
        size += len(inflater.decompress(chunk, _CHUNK))
        if size > MAX_INFLATED:
            raise Unreadable(Reason.TOO_LARGE)
        chunk = inflater.unconsumed_tail or file.read(_CHUNK // 16)
