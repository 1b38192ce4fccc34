"""Peak memory of a simulation, in a fresh process each, against the plain loop and against itself with more sites."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import simulation
from benchmarks.record import Record, Target
from benchmarks.sides import ONE_THREAD, Work, side
from benchmarks.workload import Scale

AGAINST_PLAIN = Target(limit=1.2, side="at most")
FLAT = Target(limit=1.05, side="at most")

ROUNDS = 2
"""The second round has all that any later one has: the model, its update, the aggregate, a checkpoint, a validation."""


def run(scale: Scale) -> Iterator[Record]:
    """Compare the high-water marks of resident memory, with everything that each side imports."""
    sites = scale.more_sites
    ours = [_peak(simulation.ours, scale, count) for count in sites]
    plain = [_peak(simulation.plain, scale, count) for count in sites]
    middle = len(sites) // 2
    megabytes = ", ".join(f"{count} sites {peak / 1e6:.0f} MB" for count, peak in zip(sites, ours, strict=True))
    plain_megabytes = ", ".join(f"{peak / 1e6:.0f}" for peak in plain)
    yield Record(
        name="memory",
        value=ours[middle] / plain[middle],
        unit="x peak memory",
        target=AGAINST_PLAIN,
        against=f"plain PyTorch loop, {sites[middle]} sites, a fresh process each",
    )
    yield Record(
        name="memory_by_sites",
        value=max(ours) / min(ours),
        unit="x peak memory",
        target=FLAT,
        against=f"itself: {megabytes} (plain loop: {plain_megabytes})",
    )


def _peak(make: Callable[..., Work], scale: Scale, sites: int) -> int:
    settings = replace(scale, sites=sites, rounds=ROUNDS)
    with (
        tempfile.TemporaryDirectory() as folder,
        side(make, environment=ONE_THREAD, scale=settings, folder=Path(folder), where="cpu") as ask,
    ):
        return ask().peak_bytes
