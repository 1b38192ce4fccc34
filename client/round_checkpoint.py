"""Where a round of training stands, on disk: an agent that was killed goes on from there and gives the same bits."""

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from shared.storage import atomic_file

LEAST_SECONDS = 30.0
"""At most so much work is lost with an agent that is killed."""

WRITING_SHARE = 0.05
"""Checkpoints take at most this share of the time, whatever the model and the disk: a larger one is written less often.
"""


@dataclass(slots=True)
class RoundCheckpoint:
    """One task's checkpoint. `key` says of what it is one: another request's or other rows' is not gone on from."""

    path: Path
    key: str
    least_seconds: float = LEAST_SECONDS
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + self.least_seconds

    def load(self) -> dict[str, Any] | None:
        """Give what was saved for this key; None if there is nothing, or nothing that can be used."""
        try:
            kept = torch.load(self.path, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError):
            return None  # a round begins anew rather than from what nobody can read
        return kept["state"] if isinstance(kept, dict) and kept.get("key") == self.key else None

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save what `state` gives if it is time to.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        if (began := time.monotonic()) < self._due:
            return
        with atomic_file(self.path) as part:
            torch.save({"key": self.key, "state": state()}, part)
        ended = time.monotonic()
        self._due = ended + max(self.least_seconds, (ended - began) / WRITING_SHARE)

    def forget(self) -> None:
        """Remove it: the round is finished."""
        self.path.unlink(missing_ok=True)
