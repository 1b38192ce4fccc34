"""The agent's socket takes tasks one at a time, refuses what is no task, and goes on."""

import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.agent import Agent
from client.agent_service import MOST_CONNECTIONS, WAITING, AgentService
from client.intake import Intake, Limits
from client.task_store import TaskStore
from shared.audit import now, verify
from shared.errors import StorageError
from shared.messages import (
    WIRE_VERSION,
    Answer,
    EvaluateTask,
    Header,
    Kind,
    ReadyReply,
    ReadyTask,
    RefusalReply,
    Task,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.model import exchanged
from shared.relay import PATH, cut
from shared.split import Split
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")


class Caller:
    """A courier, or whoever else may connect."""

    def __init__(self, socket: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{socket}")

    def call(self, frames: Iterable[bytes], *, seconds: float = 30) -> list[bytes]:
        return list(self.channel.stream_stream(PATH)(iter(frames), timeout=seconds))

    def status(self, frames: Iterable[bytes], *, seconds: float = 30) -> Any:
        with pytest.raises(grpc.RpcError) as fault:
            self.call(frames, seconds=seconds)
        return fault.value.code()

    def health(self) -> int:
        check = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest())
        return int(check.status)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Caller]]:
    """Give `serve(handler)`: a service at a socket of its own, and somebody who calls it."""
    running: list[AgentService] = []
    callers: list[Caller] = []

    def start(handler: Any, **settings: Any) -> Caller:
        service = AgentService(tmp_path / "run" / "agent.sock", handler, **settings)
        service.start()
        service.ready(handler)
        running.append(service)
        callers.append(Caller(tmp_path / "run" / "agent.sock"))
        return callers[-1]

    yield start
    for caller in callers:
        caller.channel.close()
    for service in running:
        service.stop()


def echo(frames: Iterable[bytes]) -> Iterator[bytes]:
    yield from list(frames)


def test_frames_of_any_size_go_in_and_come_out(serve: Any) -> None:
    """Larger than a gRPC message, they travel in pieces and arrive as they were."""
    array = np.random.default_rng(3).bytes(9 << 20)
    answer = serve(echo).call(cut([b"header", array, b"x"]))
    assert answer[0] == b"header"
    assert b"".join(answer[1:]) == array + b"x"


def test_only_its_group_may_connect(serve: Any, tmp_path: Path) -> None:
    """The socket is 0660 in a folder that is 0750."""
    serve(echo)
    assert stat.S_IMODE((tmp_path / "run" / "agent.sock").stat().st_mode) == 0o660
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750


def test_connections_without_end_take_no_more_than_a_few_of_the_agents_files(serve: Any, tmp_path: Path) -> None:
    """Whoever may connect and says nothing; when they have gone a task is answered."""
    caller = serve(echo)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ExitStack() as held:
        clients = [held.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(100)]
        for client in clients:
            client.connect(str(tmp_path / "run" / "agent.sock"))
            time.sleep(0.005)
        time.sleep(0.5)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + len(clients) + MOST_CONNECTIONS + 4
    time.sleep(0.5)
    assert caller.call([b"x"]) == [b"x"]


def test_it_is_healthy_once_it_is_ready(tmp_path: Path) -> None:
    """While the images are prepared it answers, and says that it is not serving."""
    service = AgentService(tmp_path / "a.sock", echo)
    service.start()
    caller = Caller(tmp_path / "a.sock")
    try:
        assert caller.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        assert caller.call([b"x"]) == [b"x"]
        service.ready(echo)
        assert caller.health() == health_pb2.HealthCheckResponse.SERVING
    finally:
        caller.channel.close()
        service.stop()
    assert not (tmp_path / "a.sock").exists()


def test_one_task_at_a_time_and_the_rest_wait(serve: Any) -> None:
    """Tasks never overlap; a few wait their turn, one too many is told to come again, and health answers all along."""
    at_work, most, lock, go_on = 0, 0, threading.Lock(), threading.Event()

    def slow(frames: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal at_work, most
        given = list(frames)
        with lock:
            at_work += 1
            most = max(most, at_work)
        go_on.wait(20)
        with lock:
            at_work -= 1
        yield from given

    caller = serve(slow)
    answers: list[Any] = []

    def ask() -> None:
        while True:  # the one too many below may take a place before this one has it
            try:
                return answers.append(caller.call([b"x"]))
            except grpc.RpcError as fault:
                if fault.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                time.sleep(0.05)

    threads = [threading.Thread(target=ask) for _ in range(1 + WAITING)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while caller.status([b"one too many"], seconds=0.2) is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert time.monotonic() < deadline
    assert caller.health() == health_pb2.HealthCheckResponse.SERVING
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert answers == [[b"x"]] * (1 + WAITING)
    assert most == 1


def test_who_sends_slowly_does_not_keep_the_turn(serve: Any) -> None:
    """A request that is not whole in time is broken off, and the next one is answered."""
    caller = serve(echo, receive_seconds=0.3)
    never = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"header"
        never.wait(20)

    assert caller.status(slowly()) is grpc.StatusCode.CANCELLED
    never.set()
    assert caller.call([b"x"]) == [b"x"]


def test_without_an_audit_log_nothing_leaves_and_the_agent_goes_on(serve: Any) -> None:
    """What cannot be recorded is not sent: the caller learns one word of a full disk, and no path."""

    def full(frames: Iterable[bytes]) -> Iterator[bytes]:
        if next(iter(frames)) == b"full":
            raise StorageError("/secret/path: no space")
        yield b"x"

    caller = serve(full)
    with pytest.raises(grpc.RpcError) as fault:
        caller.call([b"full"])
    assert (fault.value.code(), fault.value.details()) == (grpc.StatusCode.UNAVAILABLE, "storage")
    assert caller.call([b"x"]) == [b"x"]


def test_no_exceptions_text_goes_through_the_socket(serve: Any) -> None:
    """GRPC would tell the caller what an exception says; one that escaped the guard is one word."""

    def speaks(frames: Iterable[bytes]) -> Iterator[bytes]:
        raise ValueError("DOE^JOHN")
        yield b""

    with pytest.raises(grpc.RpcError) as fault:
        serve(speaks).call([b"x"])
    assert (fault.value.code(), fault.value.details()) == (grpc.StatusCode.INTERNAL, "internal")
    assert "DOE" not in str(fault.value)


def test_a_path_that_is_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    """Linux would only say that the address is not valid."""
    with pytest.raises(StorageError, match="107 bytes"):
        AgentService(tmp_path / ("a" * 110) / "agent.sock", echo).start()


def bad_requests(protocol: Any) -> list[tuple[str, list[bytes], str]]:
    """List what somebody at the socket could send: its name, its frames, and the reason of its refusal."""
    digest, other = protocol.digest(), "0" * 64

    def head_of(kind: Kind, **changes: Any) -> Header:
        own = {"protocol_digest": digest, "run_id": "run", "round": 1, "site": "north", "kind": kind}
        return Header(**own | changes)

    def train(**arrays: np.ndarray[Any, Any]) -> list[bytes]:
        named = {name.replace("_", "."): array for name, array in arrays.items()}
        return list(to_frames(encode_task(TrainTask(header=head, arrays=named))))

    def ready(**changes: Any) -> list[bytes]:
        return list(to_frames(encode_task(ReadyTask(header=head_of(Kind.READY, **changes)))))

    head, bias = head_of(Kind.TRAIN), np.zeros(1, np.float32)
    good = train(fc_weight=np.zeros((1, 512), np.float32), fc_bias=bias)

    def changed(old: str, new: str) -> list[bytes]:
        assert old in good[0].decode()
        return [good[0].decode().replace(old, new, 1).encode(), *good[1:]]

    size = len(good[1])
    nested = b'{"records": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return [
        ("nothing", [], "malformed"),
        ("noise", [bytes(range(256))], "malformed"),
        ("not a header", [b"[1, 2]"], "malformed"),
        ("nested too deep", [nested], "malformed"),
        ("truncated in an array", [good[0], good[1][:-9]], "malformed"),
        ("truncated after the header", good[:1], "malformed"),
        ("another length of a block", changed("[513]", "[512]"), "malformed"),
        ("more after the end", [*good, b"more"], "malformed"),
        ("negative size", changed(f", {size}]", ", -1]"), "malformed"),
        ("infinite size", changed(f", {size}]", ", Infinity]"), "malformed"),
        ("terabytes announced", changed(f", {size}]", ", 9999999999999]"), "too_large"),
        ("another dtype", changed('"float32"', '"object"'), "malformed"),
        ("a pickle", changed('"numpy.ndarray"', '"pickle"'), "malformed"),
        ("another shape", changed("[1,512]", "[512,512]"), "malformed"),
        ("the version before", changed(f'"version": "{WIRE_VERSION}"', '"version": "1"'), "other_version"),
        ("another task id", changed(head.task_id, other), "malformed"),
        ("a path for a run", changed('"run": "run"', '"run": "../../run"'), "malformed"),
        ("a round that is no number", changed('"round": 1', '"round": "1; DROP"'), "malformed"),
        ("a kind that is none", changed('"kind": "train"', '"kind": "delete"'), "malformed"),
        ("another study", ready(protocol_digest=other), "unknown_protocol"),
        ("another site", ready(site="south"), "wrong_site"),
        ("another model", train(fc_weight=np.zeros((7, 7), np.float32), fc_bias=bias), "initial_weights_differ"),
    ]


def deployed(agent: Agent, folder: Path) -> Agent:
    """Give the agent the memory of a deployed one, and the limits of an approval of two rounds."""
    store = TaskStore(folder / "tasks", now=now, audit=agent.guard.audit, study=agent.protocol.digest())
    limits = Limits(rounds=2, since=0, rounds_per_day=None, max_change=100.0)
    initial = {name: np.array(array) for name, array in agent.bench.arrays(agent.bench.names).items()}
    intake = Intake(store=store, limits=limits, initial=initial, wire="fp32", folder=folder / "models")
    return replace(agent, store=store, intake=intake)


def replays(agent: Agent) -> tuple[list[Task], list[tuple[str, list[bytes], str]]]:
    """List what is answered once, and what is refused when it comes again in another form."""
    protocol, names = agent.protocol, exchanged(agent.bench.classifier, "head", local_norm=False)
    arrays = {name: np.array(array) for name, array in agent.bench.arrays(names).items()}
    other = {name: array + np.float32(1) for name, array in arrays.items()}

    def head(kind: Kind, **changes: Any) -> Header:
        own = {"protocol_digest": protocol.digest(), "run_id": "replayed", "round": 1, "site": "north", "kind": kind}
        return Header(**own | changes)

    train = TrainTask(header=head(Kind.TRAIN), arrays=arrays)
    test = EvaluateTask(header=head(Kind.EVALUATE, detail="test"), arrays=arrays, split=Split.TEST)
    again = replace(test, header=replace(test.header, run_id="again"))
    bad = [
        ("the same id with other weights", replace(train, arrays=other), "task_id_reused"),
        ("the same id for another split", replace(test, split=Split.VALIDATION), "task_id_reused"),
        ("the test split under another id", again, "test_already_released"),
    ]
    return [train, test], [(name, list(to_frames(encode_task(task))), reason) for name, task, reason in bad]


def test_bad_requests_are_refused_with_their_reason_and_the_agent_goes_on(
    serve: Any, tiny: Any, tmp_path: Path
) -> None:
    """Twenty-five of them one after the other; each leaves a line in the log, and the next good task is answered."""
    protocol = tiny.protocol()
    agent = deployed(tiny.agent(protocol, tmp_path), tmp_path)
    caller = serve(agent.handle)
    good, replayed = replays(agent)
    first = [caller.call(cut(to_frames(encode_task(task)))) for task in good]
    bad = bad_requests(protocol) + replayed
    found = {}
    for name, frames, _ in bad:
        answer: Answer = decode_answer(from_frames(caller.call(cut(frames))))
        assert isinstance(answer.reply, RefusalReply), name
        found[name] = str(answer.reply.code)
    assert found == {name: reason for name, _, reason in bad}
    assert caller.status([b"x" * (5 << 20)]) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [caller.call(cut(to_frames(encode_task(task)))) for task in good] == first, (
        "a true replay gets the same bytes"
    )
    head = Header(protocol_digest=protocol.digest(), run_id="run", round=0, site="north", kind=Kind.READY)
    answer = decode_answer(from_frames(caller.call(to_frames(encode_task(ReadyTask(header=head))))))
    assert isinstance(answer.reply, ReadyReply)
    lines = list(verify(tmp_path / "sites" / "north" / "audit.jsonl"))
    assert sum(line["kind"] == "refusal" for line in lines) >= len(bad)
