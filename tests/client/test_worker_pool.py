"""A few processes compute an ordered map."""

import os
from typing import Any

import pytest

from client import worker_pool
from client.worker_pool import map_files
from shared.errors import DataError


def test_few_items_need_no_process() -> None:
    """Starting an interpreter for a handful of files would take longer than the files."""
    pids = map_files(lambda _: os.getpid(), [1, 2, 3], workers=8, chunk=1, worth_a_worker=2)
    assert set(pids) == {os.getpid()}


def test_results_come_in_order_from_other_processes() -> None:
    """More chunks than are handed out at once come back in the order of the items."""
    items = list(range(-25, 25))
    assert list(map_files(abs, items, workers=2, chunk=2, worth_a_worker=1)) == list(map(abs, items))


def test_what_a_worker_raises_is_raised_here() -> None:
    """A bug is not swallowed."""
    with pytest.raises(ValueError, match="invalid literal"):
        list(map_files(int, ["1", "x"], workers=2, chunk=1, worth_a_worker=1))


def test_a_killed_worker_is_said() -> None:
    """A worker that the system kills for its memory ends the run with advice."""
    with pytest.raises(DataError, match=r"Lower \[compute\] workers"):
        list(map_files(os._exit, [1, 1], workers=2, chunk=1, worth_a_worker=1))


def test_few_large_results_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of results that weigh much, no more are handed out than a worker's share holds, and none is left behind."""
    waiting: list[int] = []
    submit = worker_pool.ProcessPoolExecutor.submit

    def counted(pool: Any, *task: Any) -> Any:
        waiting.append(len(task[-1]))
        return submit(pool, *task)

    monkeypatch.setattr(worker_pool.ProcessPoolExecutor, "submit", counted)
    items = list(range(40))
    heavy = worker_pool.map_files(
        abs, items, workers=2, chunk=4, worth_a_worker=1, weights=[worker_pool._BYTES_AHEAD] * 40
    )
    assert next(heavy) == 0
    assert waiting == [1] * 2  # a share for each of the two workers
    assert list(heavy) == items[1:]
    waiting.clear()
    assert list(worker_pool.map_files(abs, items, workers=2, chunk=4, worth_a_worker=1, weights=[1] * 40)) == items
    assert waiting == [4] * 10
