"""Rows of equal arrays on local disk, with a journal of what is finished: whatever kills the writer, it can go on.

    rows.raw        the rows, one after the other, nothing else
    finished.jsonl  one line a finished entry: its key, its first row, how many rows
    lock            held by the process that writes

A line is written after the rows that it names are on the disk: what a line says is true, and what has no line is done
again. A journal that is damaged, or that names more rows than there are, is thrown away with its rows.
"""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shared.errors import StorageError

ENTRIES_A_COMMIT = 16
"""Entries that are synced to the disk together: so many at most are done again after a kill."""

_ROWS, _JOURNAL, _LOCK = "rows.raw", "finished.jsonl", "lock"


class RowStore:
    """An open store; `finished` says in which rows each committed entry lies."""

    def __init__(
        self,
        folder: Path,
        rows: FileIO,
        journal: FileIO,
        finished: dict[str, range],
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self._folder, self._rows, self._journal = folder, rows, journal
        self._shape, self._dtype = shape, dtype
        self._row_bytes = math.prod(shape) * dtype.itemsize
        self._added: dict[str, range] = {}
        self._end = _end(finished)
        self.finished = finished

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Self]:
        """Open a store of rows of one shape and type; waits while another process has it open.

        What was added is committed at the end, unless an exception ends it.

        Raises:
            StorageError: the folder cannot be written, or the disk is full; what was finished is kept.
        """
        with ExitStack() as files:
            with _writing(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = files.enter_context(_open(folder / _LOCK))
                fcntl.flock(lock, fcntl.LOCK_EX)
                finished = _recover(folder, row_bytes=math.prod(shape) * dtype.itemsize)
                rows, journal = (files.enter_context(_open(folder / name)) for name in (_ROWS, _JOURNAL))
            store = cls(folder, rows, journal, finished, shape=shape, dtype=dtype)
            yield store
            store._commit()

    def reserve(self, rows: int) -> None:
        """Make sure that there is space for so many more rows.

        Raises:
            StorageError: there is not; with what is needed and what is free.
        """
        needed, free = rows * self._row_bytes, _free(self._folder)
        if needed > free:
            raise StorageError(
                f"{self._folder}: {needed:,} bytes are needed for {rows} images and {free:,} are free. Free space, or "
                "choose another folder in site.toml, [compute] cache."
            )

    def add(self, key: str, rows: npt.NDArray[Any]) -> None:
        """Append the rows (n, *shape) of one entry; they can be read once they are committed."""
        with _writing(self._folder):
            _write(self._rows, np.ascontiguousarray(rows, self._dtype).data, at=self._end * self._row_bytes)
        self._added[key] = range(self._end, self._end + len(rows))
        self._end += len(rows)
        if len(self._added) == ENTRIES_A_COMMIT:
            self._commit()

    def read(self) -> npt.NDArray[Any]:
        """Commit, and map all rows into memory, read-only: (rows, *shape). The map outlives the store."""
        self._commit()
        shape = (self._end, *self._shape)
        return (
            np.memmap(self._folder / _ROWS, self._dtype, "r", shape=shape) if shape[0] else np.empty(shape, self._dtype)
        )

    def _commit(self) -> None:
        """Write down what was added, once it is on the disk."""
        if not self._added:
            return
        lines = "".join(json.dumps([key, rows.start, len(rows)]) + "\n" for key, rows in self._added.items())
        with _writing(self._folder):
            os.fsync(self._rows.fileno())
            _write(self._journal, memoryview(lines.encode()), at=self._journal.seek(0, os.SEEK_END))
            os.fsync(self._journal.fileno())
        self.finished |= self._added
        self._added = {}


def _recover(folder: Path, *, row_bytes: int) -> dict[str, range]:
    """Read the journal and cut off what is half-written; throw all away where the rest does not hold."""
    rows, journal = folder / _ROWS, folder / _JOURNAL
    content = journal.read_bytes() if journal.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    finished = _parse(whole)
    needed = _end(finished) * row_bytes
    if finished and rows.exists() and rows.stat().st_size >= needed:
        os.truncate(journal, len(whole))
        os.truncate(rows, needed)
        return finished
    # Deleted, not emptied: another process may still read the old rows.
    journal.unlink(missing_ok=True)
    rows.unlink(missing_ok=True)
    return {}


def _parse(journal: bytes) -> dict[str, range]:
    """Read the lines of a journal; {} if one of them is damaged or out of order."""
    finished: dict[str, range] = {}
    end = 0
    try:
        for line in journal.splitlines():
            key, first, count = json.loads(line)
            if first != end or count < 1:
                return {}
            end = first + count
            finished[str(key)] = range(first, end)
    except (ValueError, TypeError):
        return {}
    return finished


def _end(entries: Mapping[str, range]) -> int:
    """Give the number of the row after the last one."""
    return max((rows.stop for rows in entries.values()), default=0)


def _open(path: Path) -> FileIO:
    return FileIO(path, "r+", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, mode=0o600))


def _write(file: FileIO, content: memoryview, *, at: int) -> None:
    content = content.cast("B")
    file.seek(at)
    while content:
        content = content[file.write(content) :]


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what a disk refuses into one clear error."""
    try:
        yield
    except OSError as fault:
        raise StorageError(
            f"{folder}: cannot be written ({fault.strerror}). Free space, or choose another folder in site.toml, "
            "[compute] cache. What was finished is kept."
        ) from None
