"""Outputs of the frozen part of the model, computed once a site and kept in files."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from client.site_data import Rows
from client.workbench import Workbench
from shared.augmentation import Generators
from shared.storage import atomic_file

FORWARD_BATCH = 32
"""Images per forward pass where nothing trains; fixed, because a pass's last bits may depend on its batch."""

Seed = Callable[..., int]
"""Derives a seed for a named purpose: StudyProtocol.random_seed, bound to a site."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is to do; a sentence that counts nothing, 0 of 0.
"""


class Source(Protocol):
    """Makes what is cached: augmented or plain images behind the frozen part."""

    def training(self, rows: Rows, *, start: str, generator: Generators) -> torch.Tensor:
        """Give augmented images behind the frozen part."""

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give images behind the frozen part."""


class FeatureCache:
    """While the part before `start` is frozen its outputs are constants: a file of the images as they are, one a view.

    A file's name is a digest of all that its content depends on: the frozen arrays, the prepared images and their
    order, device and thread count; for a view, also its augmentation, its seed and which images train. Images as they
    are serve every split and every study of one model; a view is made of training images alone. What a view makes of an
    image is drawn by a seed of the image's own, from its name in `names`, so that nobody else's being there moves it.
    """

    def __init__(
        self,
        bench: Workbench,
        source: Source,
        *,
        folder: Path,
        pixels: str,
        names: Sequence[str],
        training_rows: Rows,
        augmentation: str,
        seed: Seed,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._source = source
        self._folder = folder
        self._identity = f"{pixels}\x1f{bench.device.type}\x1f{torch.get_num_threads()}"
        self._names = names
        self._every = np.arange(len(names))
        self._training_rows = training_rows
        whose = hashlib.sha256("\n".join(f"{row} {names[row]}" for row in training_rows).encode()).hexdigest()
        self._augmentation = f"{augmentation}\x1f{whose}"
        self._seed = seed
        self._progress = progress
        self._files: dict[str, npt.NDArray[np.float32]] = {}

    def plain(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give the outputs of images as they are, in the order of `rows`."""
        file = self._file("plain", self._every, start, lambda batch: self._source.evaluation(batch, start=start))
        return torch.from_numpy(file[rows])

    def views(self, rows: Rows, picked: Rows, *, start: str) -> torch.Tensor:
        """Give for each training row the output of its view `picked`; a view is augmented once and for all."""
        files = {int(view): self._view(int(view), start) for view in np.unique(picked)}
        places = np.searchsorted(self._training_rows, rows)
        return torch.from_numpy(np.stack([files[view][place] for view, place in zip(picked, places, strict=True)]))

    def _view(self, view: int, start: str) -> npt.NDArray[np.float32]:
        seed = self._seed("view", view)

        def forward(batch: Rows) -> torch.Tensor:
            # Each keyed by its image alone, so that a view is the same whoever is there and whatever was made before.
            own = [torch.Generator().manual_seed(self._seed("view", view, self._names[row])) for row in batch]
            return self._source.training(batch, start=start, generator=own)

        return self._file(f"view {view}, {seed}, {self._augmentation}", self._training_rows, start, forward)

    def _file(
        self, view: str, rows: Rows, start: str, forward: Callable[[Rows], torch.Tensor]
    ) -> npt.NDArray[np.float32]:
        """Open a view's file, made first where it is not there yet."""
        key = f"{view}\x1f{start}"
        if key not in self._files:
            parts = (self._bench.frozen_digest(start), self._identity, key)
            name = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
            path = self._folder / f"{name}.npy"
            if not path.exists():
                self._fill(path, rows, forward)
            self._files[key] = np.load(path, mmap_mode="r")
        return self._files[key]

    def _fill(self, path: Path, rows: Rows, forward: Callable[[Rows], torch.Tensor]) -> None:
        with atomic_file(path) as part:
            file: Any = None
            done = 0
            for batch in in_batches(rows):
                outputs = forward(batch).float().cpu().numpy()
                if file is None:
                    shape = (len(rows), *outputs.shape[1:])
                    file = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
                file[done : done + len(batch)] = outputs
                done += len(batch)
                self._progress("frozen features", done, len(rows))
            file.flush()


def gathered(rows: Rows, width: int, compute: Callable[[Rows], torch.Tensor]) -> npt.NDArray[np.float64]:
    """Put together what `compute` gives of each batch of rows, in fp64: (len(rows), width)."""
    parts = [compute(batch).double().cpu().numpy() for batch in in_batches(rows)]
    return np.concatenate([np.empty((0, width)), *parts])


def in_batches(rows: Rows) -> Iterator[Rows]:
    """Cut rows into batches of FORWARD_BATCH."""
    for first in range(0, len(rows), FORWARD_BATCH):
        yield rows[first : first + FORWARD_BATCH]
