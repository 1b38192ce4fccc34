"""One side of a comparison: a process of its own that does its work whenever it is asked, and says what that cost."""

import itertools
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

Work = Callable[[], Any]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The environment of sides whose memory counts."""

TIMED = ONE_THREAD | {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""The environment of sides whose time counts.

One thread, because idle ones spin while they wait for others. And glibc keeps what is freed: whether it gives that back
to the system, and must fault it in again, is luck that moves either side by up to a tenth (docs/benchmarks.md).
"""

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One piece of work: its result and what it cost.

    `cpu_seconds` are those of the process and all that it started; `peak_bytes` is the most memory that the process
    itself has held since it began, with everything that it imported.
    """

    result: Any
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int


Side = Callable[[], Sample]
"""Asks a side to do its work once."""


@contextmanager
def side(make: Callable[..., Work], *, environment: Mapping[str, str], **settings: Any) -> Iterator[Side]:
    """Start a side: `make(**settings)` prepares the work in a fresh process, and none of that is counted."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, settings))
    with patch.dict(os.environ, environment):
        process.start()
    theirs.close()

    def ask() -> Sample:
        ours.send(True)
        return ours.recv()  # type: ignore[no-any-return]

    try:
        ours.recv()
        yield ask
        ours.send(False)
        process.join()
    finally:
        process.kill()


def _serve(pipe: Connection, make: Callable[..., Work], settings: dict[str, Any]) -> None:
    work = make(**settings)
    pipe.send("ready")
    while pipe.recv():
        cpu, wall = tree_cpu_seconds(), time.perf_counter()
        result = work()
        pipe.send(
            Sample(
                result=result,
                cpu_seconds=tree_cpu_seconds() - cpu,
                wall_seconds=time.perf_counter() - wall,
                peak_bytes=peak_bytes(),
            )
        )


def interleaved(sides: Sequence[AbstractContextManager[Side]], *, times: int, warm_up: int) -> list[list[Sample]]:
    """Let the sides work in turn (A B A B ...) and give each side's samples; the first `warm_up` rounds don't count."""
    with ExitStack() as open_sides:
        asks = [open_sides.enter_context(one) for one in sides]
        rounds = [[ask() for ask in asks] for _ in range(warm_up + times)]
    return [list(samples) for samples in zip(*rounds[warm_up:], strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Median:
    """The median of n values with an interval that holds whatever their distribution."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"median of {self.n}, {CONFIDENCE:.0%} interval {self.low:.4g} to {self.high:.4g}"


def median_of(values: Sequence[float]) -> Median:
    """Give the median with its interval between order statistics (Conover 1999, section 3.2).

    With fewer than 6 values no two of them enclose the median so surely; the interval is then their range.
    """
    ordered, n = sorted(values), len(values)
    tails = itertools.accumulate(math.comb(n, k) / 2**n for k in range(n))
    cut = max(0, sum(tail <= (1 - CONFIDENCE) / 2 for tail in tails) - 1)
    return Median(value=median(ordered), low=ordered[cut], high=ordered[-1 - cut], n=n)


def cpu_ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Median:
    """Compare CPU seconds pair by pair."""
    return median_of([a.cpu_seconds / b.cpu_seconds for a, b in zip(ours, theirs, strict=True)])


def wall_ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Median:
    """Compare wall-clock seconds pair by pair: where a GPU does the work, CPU seconds say little."""
    return median_of([a.wall_seconds / b.wall_seconds for a, b in zip(ours, theirs, strict=True)])


def tree_cpu_seconds() -> float:
    """CPU seconds of this process and, to a clock tick, of all its living descendants and those they waited for."""
    ticks, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        number = int(stat.parent.name)
        parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
    below = [number for number in parents if _descends(number, os.getpid(), parents)]
    return time.process_time() + sum(ticks[number] for number in below) / os.sysconf("SC_CLK_TCK")


def _descends(number: int, ancestor: int, parents: dict[int, int]) -> bool:
    above = parents.get(number, 0)
    while above not in (0, ancestor):
        above = parents.get(above, 0)
    return above == ancestor


def peak_bytes() -> int:
    """Most memory that this process has held at once (resident set size), since it began or since `forget_peak`."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """Memory that this process holds now."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Let `peak_bytes` begin anew from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
