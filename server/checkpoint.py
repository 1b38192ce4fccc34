"""Atomic save and load of what is needed to resume a run at any round."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from shared.errors import StorageError
from shared.landmarks import Landmarks, Standard, standard_scale
from shared.parameters import Array, NamedArrays
from shared.storage import atomic_file

FORMAT = "polyclinic-checkpoint-1"
DAMAGE = (SafetensorError, OSError, ValueError, KeyError)
"""What reading a file may raise that is cut short, overwritten, not there, or no checkpoint."""

KEEP = 2
"""Checkpoints kept beside the best round's: the newest, and one to fall back on."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """All that the next round depends on, and what the finished rounds have shown.

    `model` holds every array that trains in any round of the study, in the model's order; `optimiser` the server
    optimiser's moments; `history` one record a finished round; `best` the round with the best validation so far.
    `landmarks` are the sites' own, asked for before round 1 where the study harmonises; None where one gave none, and
    `no_landmarks` says then why, as a code.
    """

    round: int = 0
    model: NamedArrays
    optimiser: dict[str, Array] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: tuple[int, float] | None = None
    landmarks: dict[str, Landmarks | None] = field(default_factory=dict)
    no_landmarks: dict[str, str] = field(default_factory=dict)

    @property
    def standard(self) -> Standard:
        """The scale that sites bring their images to; empty where the study does not harmonise."""
        return standard_scale(one for _, one in sorted(self.landmarks.items()) if one)


class CheckpointFolder:
    """The checkpoints of one run; each is one file that is either whole or not there."""

    def __init__(self, folder: Path, *, fingerprint: str) -> None:
        """`fingerprint` names protocol and initial weights; a checkpoint of another is refused."""
        self._folder = folder
        self._fingerprint = fingerprint

    def save(self, state: RunState) -> None:
        """Write the state of a finished round, then drop those that are no longer needed.

        Raises:
            StorageError: the disk is full or cannot be written; older checkpoints are untouched.
        """
        tensors = {f"model/{name}": array for name, array in state.model.items()}
        tensors |= {f"optimiser/{name}": array for name, array in state.optimiser.items()}
        facts = {"round": state.round, "history": state.history, "best": state.best, "order": list(state.model)}
        facts["landmarks"] = {site: one and asdict(one) for site, one in state.landmarks.items()}
        facts["no_landmarks"] = state.no_landmarks
        metadata = {"format": FORMAT, "fingerprint": self._fingerprint, "facts": json.dumps(facts)}
        save_tensors(self._path(state.round), tensors, facts=metadata)
        kept = {*self._rounds()[-KEEP:], state.best[0] if state.best else state.round}
        for number in set(self._rounds()) - kept:
            self._path(number).unlink()

    def latest(self) -> RunState | None:
        """Load the newest whole checkpoint; None where no round was finished.

        Raises:
            StorageError: the checkpoints belong to another study or other weights, or all are damaged.
        """
        rounds = self._rounds()
        for number in reversed(rounds):
            try:
                return self._read(number)
            except DAMAGE:
                continue
        if rounds:
            raise StorageError(f"{self._folder}: every checkpoint is damaged. Start again with another --out.")
        return None

    def load(self, number: int) -> RunState:
        """Load one round's checkpoint.

        Raises:
            StorageError: it is damaged, not there, or belongs to another study or other weights.
        """
        try:
            return self._read(number)
        except DAMAGE:
            raise StorageError(
                f"{self._path(number)}: the checkpoint of the round that the study chose is damaged or gone. Put a "
                "copy of it back and --resume; without one, start again with another --out."
            ) from None

    def _read(self, number: int) -> RunState:
        with safe_open(self._path(number), framework="numpy") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("fingerprint")) != (FORMAT, self._fingerprint):
                raise StorageError(
                    f"{self._path(number)} belongs to another study, other weights or another version. "
                    "Resume with the study, --set and --weights that the run began with, or choose another --out."
                )
            facts = json.loads(metadata["facts"])
            optimiser = [name for name in file.keys() if name.startswith("optimiser/")]  # noqa: SIM118  # not a dict
            return RunState(
                round=facts["round"],
                model={name: file.get_tensor(f"model/{name}") for name in facts["order"]},
                optimiser={name.removeprefix("optimiser/"): file.get_tensor(name) for name in optimiser},
                history=facts["history"],
                best=tuple(facts["best"]) if facts["best"] else None,
                landmarks={
                    site: Landmarks(positions=tuple(one["positions"])) if one else None
                    for site, one in facts.get("landmarks", {}).items()
                },
                no_landmarks=facts.get("no_landmarks", {}),
            )

    def _rounds(self) -> list[int]:
        names = (re.fullmatch(r"round-(\d+)\.safetensors", path.name) for path in self._folder.glob("round-*"))
        return sorted(int(match[1]) for match in names if match)

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:05d}.safetensors"


def save_tensors(path: Path, tensors: Mapping[str, Array], *, facts: Mapping[str, str]) -> None:
    """Write a safetensors file with what one must know to use it; equal content gives equal bytes.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with atomic_file(path) as part:
        try:
            save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, part, dict(facts))
        except SafetensorError as fault:
            raise OSError(str(fault)) from None
        _sort_facts(part)


def save_file(tensors: dict[str, Array], path: Path, facts: dict[str, str]) -> None:
    """Write a safetensors file; the library's function of this name writes beside it, where a part has no folder."""
    path.write_bytes(save(tensors, facts))


def _sort_facts(path: Path) -> None:
    """Put the facts in the file's header in order, in place: safetensors leaves their order to chance."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(length))
