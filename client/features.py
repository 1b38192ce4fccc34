"""Outputs of the frozen part of the model, computed once a site and kept in files."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from client.site_data import Records, Rows
from client.workbench import Workbench
from shared.split import Split
from shared.storage import atomic_file

FORWARD_BATCH = 32
"""Images per forward pass where nothing trains; fixed, because a pass's last bits may depend on its batch."""

Seed = Callable[..., int]
"""Derives a seed for a named purpose: StudyProtocol.random_seed, bound to a site."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is to do."""


class Source(Protocol):
    """Makes what is cached: augmented or plain images behind the frozen part."""

    def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
        """Give augmented images behind the frozen part."""

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give images behind the frozen part."""


class FeatureCache:
    """While the part before `start` is frozen its outputs are constants: one file for each side and view.

    A file's name is a digest of all that its content depends on: the frozen arrays, the prepared images and their
    order, the view's augmentation and seed, device and thread count. A file is made when its side is first asked for.
    """

    def __init__(
        self,
        bench: Workbench,
        source: Source,
        records: Records,
        *,
        folder: Path,
        identity: str,
        seed: Seed,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._source = source
        self._records = records
        self._folder = folder
        self._identity = f"{identity}\x1f{bench.device.type}\x1f{torch.get_num_threads()}"
        self._seed = seed
        self._progress = progress
        self._place_N = np.empty(len(records), np.int64)
        for side in Split:
            self._place_N[records.rows(side)] = np.arange(len(records.rows(side)))
        self._files: dict[str, npt.NDArray[np.float32]] = {}

    def plain(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give the outputs of images as they are, in the order of `rows`, which are all of one side."""
        file = self._file("plain", rows, start, lambda batch: self._source.evaluation(batch, start=start))
        return torch.from_numpy(file[self._place_N[rows]])

    def views(self, rows: Rows, picked: Rows, *, start: str) -> torch.Tensor:
        """Give for each row the output of its view `picked`; a view is augmented once and for all."""
        outputs = np.stack(
            [self._view(int(view), rows, start)[place] for view, place in zip(picked, self._place_N[rows], strict=True)]
        )
        return torch.from_numpy(outputs)

    def _view(self, view: int, rows: Rows, start: str) -> npt.NDArray[np.float32]:
        generator = torch.Generator()

        def forward(batch: Rows) -> torch.Tensor:
            return self._source.training(
                batch, start=start, generator=generator.manual_seed(self._seed("view", view, batch[0]))
            )

        return self._file(f"view {view}, seed {self._seed('view', view)}", rows, start, forward)

    def _file(
        self, view: str, rows: Rows, start: str, forward: Callable[[Rows], torch.Tensor]
    ) -> npt.NDArray[np.float32]:
        side = Split(str(self._records.split_N[rows[0]]))
        key = "\x1f".join((view, side, start))
        if key not in self._files:
            parts = (self._bench.frozen_digest(start), self._identity, key)
            name = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
            path = self._folder / f"{name}.npy"
            if not path.exists():
                self._fill(path, self._records.rows(side), forward)
            self._files[key] = np.load(path, mmap_mode="r")
        return self._files[key]

    def _fill(self, path: Path, rows: Rows, forward: Callable[[Rows], torch.Tensor]) -> None:
        with atomic_file(path) as part:
            file: Any = None
            for batch in in_batches(rows):
                outputs = forward(batch).float().cpu().numpy()
                if file is None:
                    shape = (len(rows), *outputs.shape[1:])
                    file = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
                file[self._place_N[batch]] = outputs
                self._progress("frozen features", int(self._place_N[batch[-1]]) + 1, len(rows))
            file.flush()


def in_batches(rows: Rows) -> Iterator[Rows]:
    """Cut rows into batches of FORWARD_BATCH."""
    for first in range(0, len(rows), FORWARD_BATCH):
        yield rows[first : first + FORWARD_BATCH]
