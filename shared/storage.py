"""Files that are whole or not there, lines that are whole or not there, and one error for a disk that is full."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import StorageError

_FILE_IN_THE_WAY = (
    "cannot be written, as a file stands where a folder is needed. Choose another path, or move that file away."
)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well, the file is synced and takes its place at `path` in one step.

    The path is to be opened and written; it has no folder for a library that writes beside it and renames that
    (safetensors' `save_file`).

    Raises:
        StorageError: the disk is full or cannot be written; what was at `path` before is untouched.
    """
    with _whole(path, mode=0o666) as part:
        yield part


@contextmanager
def private_file(path: Path) -> Iterator[Path]:
    """Do the same for a key, or a file that speaks of patients: from its first byte on, only this user can read it.

    Raises:
        StorageError: as `atomic_file`.
    """
    with _whole(path, mode=0o600) as part:
        yield part


@contextmanager
def _whole(path: Path, *, mode: int) -> Iterator[Path]:
    """Make the part anew, and give it by its descriptor where it can be: no link leads elsewhere, whoever may write."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # what a kill has left, or somebody has put there
        with _made(part, mode) as descriptor:
            held = Path(f"/proc/self/fd/{descriptor}")  # proc(5): opens the very file, by whatever name or none
            yield held if held.exists() else part  # a researcher's macOS has no /proc
            if os.fstat(descriptor).st_mtime_ns == 0:
                raise OSError(errno.ENODATA, "nothing was written")
            os.fsync(descriptor)
            if not os.path.samestat(part.lstat(), os.fstat(descriptor)):
                raise OSError(errno.ESTALE, "somebody else has put another file in its place")
            part.replace(path)
        sync(path.parent)
    except (FileExistsError, NotADirectoryError):
        raise StorageError(f"{path}: {_FILE_IN_THE_WAY}") from None
    except OSError as fault:
        raise StorageError(
            f"{path}: cannot be written ({fault.strerror or fault}). Free space, or choose another folder; "
            "what was there before is untouched."
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _made(part: Path, mode: int) -> Iterator[int]:
    """Make a file that was not there; its time is 0 until something is written."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)  # O_EXCL follows no link
    try:
        os.utime(descriptor, ns=(0, 0))
        yield descriptor
    finally:
        os.close(descriptor)


def new_file(path: Path) -> Path:
    """Give back where a command is to write a file that its user named.

    Raises:
        StorageError: something is there already, and a command overwrites nothing that is not its own.
    """
    if os.path.lexists(path):
        raise StorageError(f"{path}: is there, and is not overwritten. Name another file, or move that one away.")
    return path


def private_folder(path: Path) -> None:
    """Make a folder that only this user can enter, with those above it; one that is there becomes so.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except (FileExistsError, NotADirectoryError):
        raise StorageError(f"{path}: {_FILE_IN_THE_WAY}") from None
    except OSError as fault:
        raise StorageError(
            f"{path}: this folder cannot be made or taken for this user alone ({fault.strerror}). Correct the "
            "permissions of the folder above it, or choose another."
        ) from None


def append_line(path: Path, line: bytes) -> None:
    """Add a line, its end included, to a file of lines; it is on the disk itself when this returns.

    What a power loss or a full disk has left of an earlier line was told to nobody, and is cut off: else the two would
    be one line, and neither could be read.

    Raises:
        StorageError: the disk is full or cannot be written; the line counts as not written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(path.parent)
    except OSError as fault:
        raise StorageError(
            f"{path}: cannot be written ({fault.strerror or fault}). Free the disk; the last line was not added."
        ) from None


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
