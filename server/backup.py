"""Backup and restore of a coordinator: settings, keys, records of sites, and every run with its checkpoints."""

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from server.coordinator_folder import CoordinatorFolder
from shared.errors import CoordinatorError
from shared.storage import atomic_file

LEFT_OUT = frozenset({"flower", "state", "proxy", "logs"})
"""Flower's own state is made again from the records of the sites; scratch files and logs are not needed to go on."""


def backup(folder: CoordinatorFolder, target: Path) -> None:
    """Write everything that is needed to go on into one file, for its owner only: the authority's key is in it.

    A run may go on meanwhile: each of its files is whole at any time.

    Raises:
        CoordinatorError: there is no coordinator.
        StorageError: the file cannot be written.
    """
    if not folder.config.exists():
        raise CoordinatorError(f"{folder.path} holds no coordinator. Name its folder with --folder.")
    with atomic_file(target) as part:
        part.touch(mode=0o600)
        with tarfile.open(part, "w:gz") as archive:
            for path in _kept(folder.path):
                with suppress(FileNotFoundError):  # a run that goes on has removed it since it was listed
                    archive.add(path, str(path.relative_to(folder.path)), recursive=False, filter=_plain)


def restore(source: Path, folder: CoordinatorFolder) -> None:
    """Put a backup into an empty folder. The sites notice nothing; a run is then resumed.

    Raises:
        CoordinatorError: the folder is not empty, or the file is no backup.
    """
    if folder.path.exists() and any(folder.path.iterdir()):
        raise CoordinatorError(f"{folder.path} is not empty. Restore into a new folder: --folder.")
    if not source.is_file():
        raise CoordinatorError(f"{source}: there is no such file. Name one that `backup` wrote.")
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source, "r:gz") as archive:
            archive.extractall(folder.path, filter="data")  # refuses links and paths that lead out of the folder
    except (OSError, tarfile.TarError, EOFError):
        raise CoordinatorError(f"{source}: not a backup, or damaged. Try an older one.") from None
    if not folder.config.exists():
        raise CoordinatorError(f"{source}: not a backup of a coordinator. Try another file.")
    os.chmod(folder.private, 0o700)  # noqa: PTH101  # beside the files' own modes, which the archive keeps
    for key in folder.private.iterdir():
        key.chmod(0o600)


def _kept(folder: Path) -> Iterator[Path]:
    """List what a backup holds; files that are being written are no part of it."""
    for entry in sorted(folder.iterdir()):
        if entry.name not in LEFT_OUT:
            below = sorted(entry.rglob("*")) if entry.is_dir() else []
            yield from (path for path in (entry, *below) if path.suffix != ".part" and path.name != "lock")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return entry if entry.isfile() or entry.isdir() else None
