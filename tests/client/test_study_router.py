"""Each task reaches the agent of its own study, and a study that is not approved any more reaches none."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from client.study_router import StudyRouter
from shared.errors import PolyclinicError, StorageError, TaskError, WeightsError
from shared.messages import Header, Kind, ReadyTask, encode_task
from shared.wire import to_frames


def task(digest: str) -> list[bytes]:
    head = Header(protocol_digest=digest, run_id="r", round=0, site="north", kind=Kind.READY)
    return [*to_frames(encode_task(ReadyTask(header=head))), b"more", b"of it"]


def answering(name: str, seen: list[Any]) -> Any:
    def handle(frames: Iterable[bytes]) -> Iterator[bytes]:
        seen.append((name, list(frames)))
        yield name.encode()

    return handle


class World:
    """A router over studies `a` and `b`, what reached which, and which are approved."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.approved = {"a", "b"}
        self.faults: list[Exception] = []
        self.unreadable: set[str] = set()
        self.router = StudyRouter(["a", "b"], refuse=self.refuse, approved=self.stands)

    def stands(self, digest: str) -> bool:
        if digest in self.unreadable:
            raise StorageError("too many open files")
        return digest in self.approved

    def refuse(self, fault: Exception) -> list[bytes]:
        self.faults.append(fault)
        return [b"refused"]

    def ready(self, *names: str) -> None:
        for name in names:
            self.router.ready(name, answering(name, self.seen))

    def ask(self, frames: Iterable[bytes]) -> bytes:
        return b"".join(self.router.handle(frames))

    def last_code(self) -> str:
        fault = self.faults[-1]
        assert isinstance(fault, TaskError)
        return str(fault.code)


@pytest.fixture
def world() -> World:
    return World()


def test_a_task_reaches_its_study_whole(world: World) -> None:
    """By turns, every frame as it came."""
    world.ready("a", "b")
    for name in ("a", "b", "a"):
        assert world.ask(task(name)) == name.encode()
    assert world.seen == [(name, task(name)) for name in ("a", "b", "a")]


def test_a_study_in_preparation_is_asked_again_while_the_other_answers(world: World) -> None:
    """What is ready does not wait for what is not."""
    world.ready("b")
    assert world.ask(task("b")) == b"b"
    assert world.ask(task("a")) == b"refused"
    assert world.last_code() == "preparing"


def test_a_foreign_study_is_refused_by_an_agent_that_signs(world: World) -> None:
    """One that is there looks at the task, and refuses it in its own words."""
    world.ready("b")
    assert world.ask(task("c")) == b"b"
    assert world.seen == [("b", task("c"))]


@pytest.mark.parametrize(
    "first", [b"", b"no JSON", b"[]", b"{}", b"[" * 100_000, b'{"configs": {"task": {"protocol": 7}}}']
)
def test_what_is_no_task_is_looked_at_by_an_agent_too(world: World, first: bytes) -> None:
    """It names it malformed; the router falls over nothing."""
    world.ready("a")
    assert world.ask([first]) == b"a"
    assert world.seen == [("a", [first] if first else [])]


def test_an_approval_that_was_taken_back_ends_its_study_at_once(world: World) -> None:
    """Its agent is not asked any more, while it runs; with the last one nothing is answered for."""
    world.ready("a", "b")
    world.approved = {"b"}
    assert world.ask(task("a")) == b"b"
    world.approved = set()
    assert world.ask(task("b")) == b"refused"
    assert world.last_code() == "unknown_protocol"


def test_an_approval_that_cannot_be_read_for_a_moment_ends_no_study(world: World) -> None:
    """Its task is refused, as nobody knows whether it stands; others answer, and so does it when it can be read."""
    world.ready("a", "b")
    world.unreadable = {"a"}
    assert world.ask(task("a")) == b"refused"
    assert isinstance(world.faults[-1], StorageError)
    assert world.ask(task("b")) == b"b"
    world.unreadable = set()
    assert world.ask(task("a")) == b"a"


def test_a_study_that_cannot_be_prepared_says_its_own_code(world: World) -> None:
    """The others answer."""
    fault: PolyclinicError = WeightsError("gone")
    world.router.failed("a", fault)
    world.ready("b")
    assert world.ask(task("a")) == b"refused"
    assert world.faults == [fault]
    assert world.ask(task("b")) == b"b"


def test_the_router_reads_the_digest_where_tasks_carry_it() -> None:
    """The form of a task's first frame is not only this file's guess."""
    assert json.loads(task("abc")[0])["configs"]["task"]["protocol"] == "abc"
