"""The image index of one site: every file under its DICOM folder, with its header or the reason why it has none."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from client.anatomy import UNSAID, Nature
from client.dicom import Header, Identity, read_header
from client.refusals import Reason, Unreadable
from client.worker_pool import map_files
from shared.errors import DataError
from shared.plain_text import cell

HEADERS_WORTH_A_WORKER = 4000
"""A worker starts in the time of so many headers."""

_UNKNOWN = Identity(sop_instance_uid="", study_instance_uid="", accession_number="", patient_id="")

Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFile:
    """One file under the DICOM folder; `relative` has forward slashes on every system."""

    relative: str = field(repr=False)
    found: Header | Reason

    @property
    def identity(self) -> Identity:
        """Who and what the file is of; nothing but "" where its header could not be read."""
        return self.found.identity if isinstance(self.found, Header) else _UNKNOWN

    @property
    def nature(self) -> Nature:
        """What the object is; nothing where its header could not be read."""
        return self.found.nature if isinstance(self.found, Header) else UNSAID

    @property
    def frames(self) -> int:
        """How many frames the file has; 0 where its header could not be read."""
        return self.found.frames if isinstance(self.found, Header) else 0

    @property
    def exam(self) -> str:
        """What comes first of the study, the accession number, the object and the file; each patient's is another."""
        own = self.identity
        return own.study_instance_uid or own.accession_number or own.sop_instance_uid or self.relative


def printable(relative: str) -> str:
    """Write a relative path, which on some systems is no text, as one that no spreadsheet computes."""
    path = os.fsencode(relative).decode(errors="backslashreplace")
    return f"./{path}" if cell(path) != path else path


def index_images(folder: Path, *, workers: int, progress: Progress) -> list[IndexedFile]:
    """Read the header of every file in a folder and its subfolders, in the order of their paths.

    Links are followed, each folder once. What is not a regular file is `no_access`.

    Raises:
        DataError: the folder, or one inside it, is missing or may not be read.
    """
    paths = sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix())
    progress(0, len(paths))
    index = []
    headers = map_files(_header, paths, workers=workers, chunk=64, worth_a_worker=HEADERS_WORTH_A_WORKER)
    for done, (path, found) in enumerate(zip(paths, headers, strict=True), start=1):
        index.append(IndexedFile(relative=path.relative_to(folder).as_posix(), found=found))
        progress(done, len(paths))
    return index


def _header(path: Path) -> Header | Reason:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            return Reason.NO_ACCESS
        header = read_header(path)
    except Unreadable as refusal:
        return refusal.reason
    except OSError:
        return Reason.NO_ACCESS
    # A header that is wrong about its frames must not fill the memory: a frame takes a byte at least.
    return header if header.frames <= status.st_size else Reason.TRUNCATED


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise DataError(f"[data] dicom: there is no folder {folder.name}. Correct the path in site.toml.")
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        status = Path(parent).stat()
        if (place := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders.sort()
        yield from (Path(parent, name) for name in names)


def _refuse(fault: OSError) -> None:
    """Stop at a folder that cannot be listed: how many files are in it is unknown, so nothing adds up."""
    raise DataError(
        f"[data] dicom: a folder inside it cannot be listed ({fault.strerror}). Give this user the right to read "
        "all of its folders."
    ) from None
