"""A task id belongs to one request, and its reply comes back byte for byte, whenever the agent died."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.task_store import TaskStore, read_begun, request_digest
from shared.audit import AuditLog
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
    return TaskStore(folder, now=lambda: NOW, audit=AuditLog(folder / "audit.jsonl"), study="d")


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
    """Nothing was done for a task whose line is not whole; the log goes on after it."""
    open_store(tmp_path).begin(train(), "r")
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"line": 2, "event": "task begun", "ta')
    assert len(read_begun(tmp_path, audit=tmp_path / "audit.jsonl", study="d")) == 1, "read while it is written"
    store = open_store(tmp_path)
    store.begin(train(round=2), "s")
    store.begin(train(round=3), "t")
    assert [task.round for task in open_store(tmp_path).begun] == [1, 2, 3]


def test_another_studys_tasks_are_not_this_ones(tmp_path: Path) -> None:
    """All studies of a site are in one log; each is counted for itself."""
    audit = AuditLog(tmp_path / "audit.jsonl")
    one, other = (TaskStore(tmp_path / name, now=lambda: NOW, audit=audit, study=name) for name in ("d", "e"))
    one.begin(train(), "r")
    other.begin(train(protocol_digest="e"), "r")
    assert [len(read_begun(tmp_path, audit=audit.path, study=name)) for name in ("d", "e", "f")] == [1, 1, 0]


def test_a_task_whose_reply_was_removed_is_not_worked_on_again(tmp_path: Path) -> None:
    """What has left is in the audit log: removed from the disk, it is neither sent again nor computed anew."""
    store, task = open_store(tmp_path), train()
    store.begin(task, "r")
    store.keep(task.header.task_id, "r", FRAMES)
    AuditLog(tmp_path / "audit.jsonl").append("departure", task=task.header.task_id, kind="train", what=["update"])
    shutil.rmtree(tmp_path / "replies")
    for again in (store, open_store(tmp_path)):
        with pytest.raises(TaskError) as refused:
            again.answer(task.header.task_id, "r")
        assert refused.value.code == "task_id_reused"


def test_a_refused_task_may_be_asked_again(tmp_path: Path) -> None:
    """A code that left is no answer: the next try is worked on."""
    store, task = open_store(tmp_path), train()
    store.begin(task, "r")
    AuditLog(tmp_path / "audit.jsonl").append("departure", task=task.header.task_id, kind="refusal", what=["data"])
    assert open_store(tmp_path).answer(task.header.task_id, "r") is None


def test_a_charged_task_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """The ledger remembers it and the log does not: whatever was answered to it once is not given for nothing again."""
    audit = AuditLog(tmp_path / "audit.jsonl")
    store = TaskStore(tmp_path, now=lambda: NOW, audit=audit, study="d", charged=lambda _: True)
    with pytest.raises(TaskError) as refused:
        store.begin(train(), "r")
    assert refused.value.code == "task_id_reused"
    assert store.begun == ()


OLD_LIST = (
    '{"task_id": "t1", "request": "r1", "run_id": "run", "round": 1, "kind": "train", "split": "", '
    '"at": "2026-01-05T10:00:00+00:00"}\n'
    '{"task_id": "t2", "request": "r2", "run_id": "run", "round": 2, "kind": "evaluate", "split": "test", '
    '"at": "2026-01-06T10:00:00+00:00"}\n'
    '{"task_id": "half'
)


def test_what_an_earlier_version_wrote_still_counts(tmp_path: Path) -> None:
    """Its list of a study's tasks, last line cut off by a crash, comes before what was begun since."""
    (tmp_path / "tasks.jsonl").write_text(OLD_LIST)
    store = open_store(tmp_path)
    store.begin(train(round=3), "r3")
    assert [(task.task_id, task.round, task.split) for task in open_store(tmp_path).begun][:2] == [
        ("t1", 1, ""),
        ("t2", 2, "test"),
    ]
    assert open_store(tmp_path).begun[2].round == 3
    with pytest.raises(TaskError):
        store.answer("t1", "another request")


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
    deliver = DeliverTask(header=header(Kind.DELIVER), arrays=arrays, thresholds=(), documents={"results.json": b"a"})
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
        replace(deliver, documents={"results.json": b"b"}),
        replace(deliver, documents={"other.json": b"a"}),
        replace(deliver, thresholds=(0.5,)),
    ]
    assert len({request_digest(task) for task in asked}) == len(asked)
    assert request_digest(train) == request_digest(TrainTask(header=header(), arrays={"w": arrays["w"].copy()}))
