"""Pretrained weights as each side keeps them: a folder of files, each named by its SHA-256."""

import hashlib
from pathlib import Path

from shared.errors import WeightsError
from shared.storage import atomic_file

PIECE_BYTES = 1 << 20


class KeptWeights:
    """The one place from which every command of a study takes the file that its model starts from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, digest: str) -> Path | None:
        """Give the file with this SHA-256, None where it is not kept."""
        path = self._folder / digest
        return path if digest and path.exists() else None

    def keep(self, file: Path, digest: str) -> Path:
        """Copy a file in, and give its place.

        Raises:
            WeightsError: the file cannot be read, or is not the one with this SHA-256.
            StorageError: the folder cannot be written.
        """
        path = self._folder / digest
        if path.exists():
            return path
        with atomic_file(path) as part:
            copy_checked(file, part, digest)
        return path

    def forget(self, digest: str) -> None:
        """Remove a file, if it is there."""
        if digest:
            (self._folder / digest).unlink(missing_ok=True)


def copy_checked(file: Path, to: Path, digest: str) -> None:
    """Copy a file of weights, and check on the way that it is the one that is meant.

    Raises:
        WeightsError: it cannot be read, or has another SHA-256.
    """
    found = hashlib.sha256()
    try:
        source = file.open("rb")
    except OSError as fault:
        raise WeightsError(f"{file}: cannot be read ({fault.strerror}). Check the path of the weights.") from None
    with source, to.open("wb") as target:
        while piece := source.read(PIECE_BYTES):
            found.update(piece)
            target.write(piece)
    if found.hexdigest() != digest:
        raise WeightsError(
            f"{file}: its SHA-256 is {found.hexdigest()}, and the weights that are meant have {digest}. "
            "Give that very file."
        )


def sha256_of(file: Path) -> str:
    """Compute a file's SHA-256.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with file.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except OSError as fault:
        raise WeightsError(f"{file}: cannot be read ({fault.strerror}). Check the path of the weights.") from None
