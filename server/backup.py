"""Backup and restore of a coordinator: settings, keys, records of sites, and every run with its checkpoints."""

import os
import tarfile
from contextlib import suppress
from pathlib import Path

from server.coordinator_folder import CoordinatorFolder
from shared.errors import CoordinatorError
from shared.storage import new_file, private_file

LEFT_OUT = frozenset({"flower", "state", "proxy", "logs"})
"""Flower's own state is made again from the records of the sites; scratch files and logs are not needed to go on."""


def backup(folder: CoordinatorFolder, target: Path) -> None:
    """Write everything that is needed to go on into one file, for its owner only: the authority's key is in it.

    A run may go on meanwhile: each file is read as it was when it was opened, whatever takes its place, and a run's
    newest checkpoint first, before it can be dropped for a newer one.

    Raises:
        CoordinatorError: there is no coordinator.
        StorageError: something is there already, or it cannot be written.
    """
    if not folder.config.exists():
        raise CoordinatorError(f"{folder.path} holds no coordinator. Name its folder with --folder.")
    with private_file(new_file(target)) as part, tarfile.open(part, "w:gz") as archive:
        for parent, folders, names in os.walk(folder.path):
            here = Path(parent)
            if here == folder.path:
                folders[:] = sorted(set(folders) - LEFT_OUT)
            else:
                with suppress(FileNotFoundError):  # a run that goes on has removed it since
                    archive.add(here, arcname=here.relative_to(folder.path), recursive=False)
            for name in sorted(names, reverse=True):
                if not name.endswith(".part") and name != "lock":
                    _add(archive, here / name, as_name=str((here / name).relative_to(folder.path)))


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


def _add(archive: tarfile.TarFile, path: Path, *, as_name: str) -> None:
    """Add a regular file, by its one open descriptor; one that is gone by now is passed over."""
    if path.is_symlink() or not path.is_file():
        return
    with suppress(FileNotFoundError), path.open("rb") as file:
        archive.addfile(archive.gettarinfo(arcname=as_name, fileobj=file), file)
