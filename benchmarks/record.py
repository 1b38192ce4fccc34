"""What a benchmark found: one number, its target, what it was measured against, and on which machine."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A promise about a number: a limit and the side of it that is kept."""

    limit: float
    side: Literal["at most", "at least"]

    def holds(self, value: float) -> bool:
        """Say whether a value keeps the promise."""
        return value <= self.limit if self.side == "at most" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.side} {self.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finding. `value` is None where it could not be measured here, and `against` then says why.

    Without a target it is there for orientation and promises nothing.
    """

    name: str
    value: float | None
    unit: str
    against: str
    target: Target | None = None

    @property
    def holds(self) -> bool | None:
        """True or False where there is a promise and a value, else None."""
        return None if self.target is None or self.value is None else self.target.holds(self.value)

    def __str__(self) -> str:
        shown = "not measured" if self.value is None else f"{self.value:.4g} {self.unit}"
        verdict = "" if self.holds is None else f" ({self.target}: {'holds' if self.holds else 'DOES NOT HOLD'})"
        return f"{self.name}: {shown}{verdict} | {self.against}"


def collect(records: Iterable[Record], file: Path) -> None:
    """Write records into a file of records, each in the place of an older one of its name."""
    known: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    entries = {entry["name"]: entry for entry in known} | {record.name: _entry(record) for record in records}
    file.write_text(json.dumps(list(entries.values()), indent=1) + "\n", encoding="utf-8")


def _entry(record: Record) -> dict[str, Any]:
    return asdict(record) | {
        "target": None if record.target is None else str(record.target),
        "holds": record.holds,
        "machine": machine(),
    }


def machine() -> str:
    """Name processor, cores, GPU and the versions that decide about speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{names[0] if names else platform.machine()}, {cores} cores, {gpu}, {versions}"
