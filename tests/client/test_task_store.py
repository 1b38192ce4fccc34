"""A task id belongs to one request, and its reply comes back byte for byte, whenever the agent died."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.task_store import TaskStore, request_digest
from shared.errors import StorageError, TaskError
from shared.messages import DeliverTask, EvaluateTask, Header, Kind, ReadyTask, TrainTask
from shared.split import Split

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FRAMES = [b'{"header": 1}', b"", b"\n\x00bytes\n", b"end"]


def header(kind: Kind = Kind.TRAIN, **changes: Any) -> Header:
    own = {"protocol_digest": "d", "run_id": "run", "round": 1, "site": "north", "kind": kind}
    return Header(**own | changes)


def train(**changes: Any) -> TrainTask:
    return TrainTask(header=header(**changes), arrays={})


def open_store(folder: Path) -> TaskStore:
    return TaskStore(folder, now=lambda: NOW)


def test_a_kept_reply_comes_back_byte_for_byte(tmp_path: Path) -> None:
    """Also to another process that opens the folder later; before it was kept there is none."""
    store, task = open_store(tmp_path), train()
    assert store.answer(task.header.task_id, "r") is None
    store.begin(task, "r")
    assert store.answer(task.header.task_id, "r") is None
    store.keep(task.header.task_id, "r", FRAMES)
    assert store.answer(task.header.task_id, "r") == FRAMES
    assert open_store(tmp_path).answer(task.header.task_id, "r") == FRAMES


def test_an_id_belongs_to_its_first_request(tmp_path: Path) -> None:
    """Another request is refused once the first was begun, finished or not, in this process or a later one."""
    store, task = open_store(tmp_path), train()
    store.begin(task, "r")
    for one in (store, open_store(tmp_path)):
        with pytest.raises(TaskError) as refused:
            one.answer(task.header.task_id, "other")
        assert refused.value.code == "task_id_reused"
        with pytest.raises(TaskError):
            one.begin(task, "other")


def test_what_was_begun_is_listed_once(tmp_path: Path) -> None:
    """A task that is begun again is not counted again; round, kind, detail and time are there."""
    store = open_store(tmp_path)
    test = EvaluateTask(header=header(Kind.EVALUATE, round=4), arrays={}, split=Split.TEST)
    for task in (train(), train(), test):
        store.begin(task, "r")
    again = open_store(tmp_path).begun
    assert again == store.begun
    assert [(task.kind, task.round, task.split, task.when) for task in again] == [
        ("train", 1, "", NOW),
        ("evaluate", 4, "test", NOW),
    ]


def test_a_line_that_a_crash_cut_off_is_forgotten(tmp_path: Path) -> None:
    """Nothing was done for a task whose line is not whole; the list goes on after it."""
    store = open_store(tmp_path)
    store.begin(train(), "r")
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write('{"task_id": "half')
    open_store(tmp_path).begin(train(round=2), "s")
    store.begin(train(round=3), "t")
    assert [task.round for task in open_store(tmp_path).begun] == [1, 2, 3]


def test_a_broken_list_or_reply_is_refused(tmp_path: Path) -> None:
    """A damaged file is an error, and not an empty memory."""
    store, task = open_store(tmp_path), train()
    store.begin(task, "r")
    store.keep(task.header.task_id, "r", FRAMES)
    (reply,) = (tmp_path / "replies").iterdir()
    for damage in (reply.read_bytes()[:-1], reply.read_bytes() + b"x", b"no header\n", b'{"frames": [1]}\nx'):
        reply.write_bytes(damage)
        with pytest.raises(StorageError, match="stored reply"):
            store.answer(task.header.task_id, "r")
    (tmp_path / "tasks.jsonl").write_text("[]\n{}\n")
    with pytest.raises(StorageError, match="list of tasks"):
        open_store(tmp_path)


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    """A task that cannot be remembered is not begun, and a reply that cannot be stored is not sent."""
    store, task = open_store(tmp_path / "store"), train()
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(StorageError):
        store.begin(task, "r")
    with pytest.raises(StorageError):
        store.keep(task.header.task_id, "r", FRAMES)
    assert store.begun == ()


def test_the_digest_of_a_request_covers_all_that_it_asks() -> None:
    """Arrays, split, thresholds, documents and header are in it; equal tasks have equal digests."""
    arrays = {"w": np.zeros(3, np.float32)}
    train = TrainTask(header=header(), arrays=arrays)
    evaluate = EvaluateTask(header=header(Kind.EVALUATE), arrays=arrays, split=Split.TEST, thresholds=(0.5,))
    deliver = DeliverTask(header=header(Kind.DELIVER), arrays=arrays, thresholds=(), documents={"report.html": b"a"})
    other = {"w": np.array([0, 0, 1e-40], np.float32)}
    asked = [
        ReadyTask(header=header(Kind.READY)),
        train,
        replace(train, arrays=other),
        replace(train, header=header(round=2)),
        evaluate,
        replace(evaluate, split=Split.VALIDATION),
        replace(evaluate, thresholds=(0.25,)),
        replace(evaluate, arrays=other),
        deliver,
        replace(deliver, documents={"report.html": b"b"}),
        replace(deliver, documents={"results.json": b"a"}),
        replace(deliver, thresholds=(0.5,)),
    ]
    assert len({request_digest(task) for task in asked}) == len(asked)
    assert request_digest(train) == request_digest(TrainTask(header=header(), arrays={"w": arrays["w"].copy()}))
