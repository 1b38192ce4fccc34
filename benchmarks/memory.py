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

SITE_ROUNDS = 2
"""Every run trains so often as the one with most sites does in so many rounds, because how much an allocator loses to
fragments depends on that. A second round has all that a later one has: model, aggregate, checkpoint, validation."""


def run(scale: Scale) -> Iterator[Record]:
    """Compare the high-water marks of resident memory, with everything that each side imports."""
    sites = scale.more_sites
    ours = [_peak(simulation.ours, scale, count) for count in sites]
    middle = len(sites) // 2
    plain = _peak(simulation.plain, scale, sites[middle])
    megabytes = ", ".join(f"{count} sites {peak / 1e6:.0f} MB" for count, peak in zip(sites, ours, strict=True))
    yield Record(
        name="memory",
        value=ours[middle] / plain,
        unit="x peak memory",
        target=AGAINST_PLAIN,
        against=f"plain PyTorch loop, {plain / 1e6:.0f} MB, {sites[middle]} sites, a fresh process each",
    )
    yield Record(
        name="memory_by_sites",
        value=max(ours) / min(ours),
        unit="x peak memory",
        target=FLAT,
        against=f"itself: {megabytes}",
    )


def _peak(make: Callable[..., Work], scale: Scale, sites: int) -> int:
    settings = replace(
        scale, sites=sites, rounds=SITE_ROUNDS * max(scale.more_sites) // sites, images=scale.images // 2
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        side(make, environment=ONE_THREAD, scale=settings, folder=Path(folder), where="cpu") as ask,
    ):
        return ask().peak_bytes
