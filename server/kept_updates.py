"""One round's updates on disk, read back block by block: memory is the same, however many sites answer."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from shared.errors import StorageError
from shared.packing import layout, pack
from shared.parameters import CHUNK, Array, NamedArrays


class KeptUpdates:
    """Updates of the form of `like`, by site; leaving the context drops them.

    They wait because how far each may move the model is known only when all are there (server/update_bound.py), and
    no site is asked twice.
    """

    def __init__(self, like: NamedArrays) -> None:
        self.like = like
        self.blocks = layout(like, dtype=np.float32)
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any]]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Begin a round without any."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop what was kept."""
        self._open.close()

    def keep(self, site: str, update: NamedArrays) -> None:
        """Put one site's update, as it came, into a file without a name.

        Raises:
            StorageError: the disk with the temporary files is full or cannot be written.
        """
        runs = pack(update).runs
        try:
            file = self._open.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115  # it is one
            for run in runs:
                _write(file, run.view(np.uint8).data)
        except OSError as fault:
            raise StorageError(
                f"{tempfile.gettempdir()}: an update cannot be kept there until the round is over ({fault.strerror}). "
                "Make room, or name another folder in TMPDIR."
            ) from None
        self._files[site] = (file, runs[0].dtype if runs else np.dtype(np.float32))

    def runs(self, site: str) -> Iterator[Array]:
        """Read one update's blocks, one after the other."""
        first = 0
        for block in self.blocks:
            yield self._read(site, first, block.elements)
            first += block.elements

    def pieces(self, sites: Iterable[str]) -> Iterator[tuple[int, slice, Array]]:
        """Read several updates side by side, some elements of a block at a time: (sites, elements), in fp32."""
        sites = tuple(sites)
        first = 0
        for number, block in enumerate(self.blocks):
            for start in range(0, block.elements, CHUNK):
                part = slice(start, min(start + CHUNK, block.elements))
                rows = [self._read(site, first + start, part.stop - start) for site in sites]
                yield number, part, np.stack(rows).astype(np.float32, copy=False)
            first += block.elements

    def _read(self, site: str, first: int, elements: int) -> Array:
        file, dtype = self._files[site]
        data = os.pread(file.fileno(), elements * dtype.itemsize, first * dtype.itemsize)
        return np.frombuffer(data, dtype, count=elements)


def _write(file: IO[bytes], data: memoryview) -> None:
    """Write all of it: one call may take less, on a disk that is nearly full or of more than 2 GiB."""
    while data:
        data = data[file.write(data) :]
