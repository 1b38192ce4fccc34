"""An ordered map over many files by a few processes that die with their parent."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from shared.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

_CHUNKS_AHEAD = 3
"""Chunks that are handed out to each worker before their turn; bounds the results that wait in memory."""

_BYTES_AHEAD = 2**28
"""And so many bytes of results for each worker, as far as is known beforehand."""


def map_files(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    chunk: int,
    worth_a_worker: int,
    weights: Sequence[int] | None = None,
) -> Generator[R, None, None]:
    """Yield function(item) in the order of `items`, computed by at most `workers` processes.

    One process is started for each `worth_a_worker` items; with fewer than two, all is computed here. `function` is
    found by its name in a fresh interpreter, so it must be a module's own or a `partial` of one. What it raises is
    raised here. `weights` say how many bytes the result of each item has: few large ones are handed out ahead.

    Raises:
        DataError: a worker was killed, mostly for want of memory.
    """
    workers = min(workers, len(items) // worth_a_worker)
    if workers < 2:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        waiting: deque[tuple[int, Future[list[R]]]] = deque()
        for place in _chunks(weights or [0] * len(items), chunk=chunk):
            weight = sum(weights[place]) if weights else 0
            while waiting and (
                len(waiting) == _CHUNKS_AHEAD * workers
                or sum(other for other, _ in waiting) + weight > _BYTES_AHEAD * workers
            ):
                yield from waiting.popleft()[1].result()
            waiting.append((weight, pool.submit(_map_chunk, function, items[place])))
        while waiting:
            yield from waiting.popleft()[1].result()
    except BrokenProcessPool:
        raise DataError(
            "A process that read images was killed, mostly because memory ran out. Lower [compute] workers in "
            "site.toml and run again: what was finished is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(weights: Sequence[int], *, chunk: int) -> Iterator[slice]:
    """Divide items into slices of `chunk` at most, each of which weighs a chunk's share or is a single item."""
    first = 0
    while first < len(weights):
        last, weight = first + 1, weights[first]
        while last < min(first + chunk, len(weights)) and weight + weights[last] <= _BYTES_AHEAD // _CHUNKS_AHEAD:
            weight += weights[last]
            last += 1
        yield slice(first, last)
        first = last


def _map_chunk(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [function(item) for item in items]


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a parent that was killed cannot tell its workers to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
