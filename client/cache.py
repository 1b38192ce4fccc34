"""Preprocessed uint8/uint16 arrays on local disk, keyed by file and contract digest.

Each contract and choice of frames has a folder of its own under the cache, so that studies don't clash. A file's key
is the SHA-256 of its path, its size and its time of change: the cache holds no name, and hospitals on one machine may
share it. Rows of files that have changed or are gone stay, unused.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from client.cohort import CohortImage
from client.dicom import MAX_FRAMES, READER_VERSION, Frame, Frames, read_frames
from client.image_index import Progress
from client.refusals import Reason, Unreadable
from client.row_store import RowStore
from client.worker_pool import map_files
from shared.preprocessing import Contract, MissingSpacingError, prepare

FILES_WORTH_A_WORKER = 100
"""A worker starts, with all that it imports, in the time of so many files of a megapixel."""

MAX_PREPARED = 2**28
"""Bytes that the frames of one file may become together: 300 CT slices of 512 x 512 in three channels have 236 MB. A
file of ten kilobytes can hold ten thousand frames of one pixel, each of which becomes a whole image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedImages:
    """The prepared images of a cohort: image i is `array[rows[i]]`, or could not be read if `rows[i]` is -1.

    `array` is a read-only map of (rows, C, H, W). `unreadable` gives the reason by the image's place, as
    `Cohort.without` takes it. `digest` stands for the readable images' content and order. `prepared` files were read
    by this call, and `reused` ones by an earlier one.
    """

    array: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]
    unreadable: Mapping[int, Reason]
    digest: str
    prepared: int
    reused: int


class ReadFrames(Protocol):
    """Reads the frames of one file and gives what `make` makes of each, as `client.dicom.read_frames` does."""

    def __call__(self, path: Path, make: Callable[[Frame], Any], *, frames: Frames, most: int) -> list[Any]:
        """Read them, or raise Unreadable."""


def fill(
    images: Sequence[CohortImage],
    *,
    contract: Contract,
    frames: Frames,
    folder: Path,
    workers: int,
    progress: Progress,
    read: ReadFrames = read_frames,
) -> CachedImages:
    """Prepare each image that is not in the cache yet, and open the cache.

    Killed at any point, the next call goes on where this one was, and its result is the same. What is unreadable is
    tried again by each call: a decoder may have been installed, or a file mended, since.

    Args:
        images: the cohort's; every file with all of the frames that the study reads of it.
        contract: what to make of an image.
        frames: which frames of a file the study reads.
        folder: the site's cache folder; made if it is not there.
        workers: how many processes read files.
        progress: called with files done and files in all; those that are in the cache already are done.
        read: how to read a file; a worker must be able to import it.

    Raises:
        StorageError: the disk is full or cannot be written; finished images are kept and nothing half-written is used.
        DataError: a worker was killed.
    """
    keys = {path: _key(path) for path in dict.fromkeys(image.path for image in images)}
    name = f"{contract.digest()}-{frames}-{READER_VERSION}"
    rows_of = Counter(image.path for image in images)
    with RowStore.open(folder / name, shape=contract.shape, dtype=contract.dtype) as store:
        failed: dict[Path, Reason] = {
            path: Reason.TOO_LARGE for path, rows in rows_of.items() if rows > most_rows(contract)
        }
        missing = {path: key for path, key in keys.items() if key not in store.finished and path not in failed}
        reused = len(keys) - len(missing)
        progress(reused, len(keys))
        store.reserve(sum(rows_of[path] for path in missing))
        results = map_files(
            partial(_prepare_file, contract=contract, frames=frames, read=read),
            list(missing),
            workers=workers,
            chunk=4,
            worth_a_worker=FILES_WORTH_A_WORKER,
            weights=[rows_of[path] * row_bytes(contract) for path in missing],
        )
        with closing(results):
            for done, (path, result) in enumerate(zip(missing, results, strict=True), start=reused + 1):
                if isinstance(result, Reason):
                    failed[path] = result
                else:
                    store.add(missing[path], result)
                progress(done, len(keys))
        array = store.read()
    spans = {path: store.finished[key] for path, key in keys.items() if path not in failed}
    failed |= {
        image.path: Reason.TRUNCATED  # the header promised more frames than there are
        for image in images
        if image.path in spans and image.frame >= len(spans[image.path])
    }
    rows = [-1 if image.path in failed else spans[image.path][image.frame] for image in images]
    content = [name, *(f"{keys[image.path]}/{image.frame}" for image in images if image.path not in failed)]
    return CachedImages(
        array=array,
        rows=np.array(rows, dtype=np.int64),
        unreadable={place: failed[image.path] for place, image in enumerate(images) if image.path in failed},
        digest=hashlib.sha256("\n".join(content).encode()).hexdigest(),
        prepared=len(missing),
        reused=reused,
    )


def _key(path: Path) -> str:
    """Name a file's content without a word of it; a file that is gone has a key too, which nothing is kept under."""
    try:
        status = path.stat()
        state = f"{status.st_size}\0{status.st_mtime_ns}"
    except OSError:
        state = ""
    return hashlib.sha256(os.fsencode(f"{path.absolute()}\0{state}")).hexdigest()


def _prepare_file(path: Path, *, contract: Contract, frames: Frames, read: ReadFrames) -> npt.NDArray[Any] | Reason:
    """Prepare a file's frames, (F, C, H, W), or say why not; runs in a worker."""
    try:
        make = partial(_prepare_frame, contract=contract)
        return np.stack(read(path, make, frames=frames, most=most_rows(contract)))
    except Unreadable as refusal:
        return refusal.reason


def _prepare_frame(frame: Frame, *, contract: Contract) -> npt.NDArray[Any]:
    if frame.window_is_lost and contract.window == "dicom":
        raise Unreadable(Reason.MALFORMED)
    try:
        return prepare(frame.pixels_HWC, spacing_mm=frame.spacing_mm, window=frame.window, contract=contract)
    except MissingSpacingError:
        raise Unreadable(Reason.NO_SPACING) from None


def most_rows(contract: Contract) -> int:
    """Give how many frames of one file are prepared at most."""
    return min(MAX_FRAMES, MAX_PREPARED // row_bytes(contract))


def row_bytes(contract: Contract) -> int:
    """Give the size of one prepared image."""
    return math.prod(contract.shape) * contract.dtype.itemsize
