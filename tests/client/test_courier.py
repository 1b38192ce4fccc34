"""The courier carries bytes, waits for an agent that restarts, and says no more than a fixed code."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from client import courier
from client.agent_service import AgentService
from client.courier import relay
from client.site_keys import SiteKeys
from client.superexec import courier_command, link_command, refuse_taken
from shared.errors import SiteError
from shared.messages import Answer, Header, Kind, ReadyTask, RefusalReply, TrainTask, decode_answer, encode_task
from shared.refusal_codes import FROM_THE_COURIER, Refusal
from shared.relay import AGENT_SOCKET
from shared.wire import to_frames

HEAD = Header(protocol_digest="d", run_id="run", round=1, site="north", kind=Kind.TRAIN)


def task(elements: int = 4) -> RecordDict:
    array = np.random.default_rng(1).random(elements, dtype=np.float32)
    return encode_task(TrainTask(header=HEAD, arrays={"w": array}))


def echo(frames: Iterable[bytes]) -> Iterator[bytes]:
    yield from list(frames)


def start(socket: Path, handler: Any = echo) -> AgentService:
    service = AgentService(socket, handler)
    service.start()
    return service


def code(content: RecordDict) -> Answer:
    return decode_answer(content)


def test_what_goes_in_comes_back_as_it_was(tmp_path: Path) -> None:
    """Payloads larger than a gRPC message, both ways, bit for bit."""
    service = start(tmp_path / "a.sock")
    try:
        content = task(3 << 20)
        back = relay(content, socket=tmp_path / "a.sock", wait_seconds=30)
    finally:
        service.stop()
    assert list(to_frames(back)) == list(to_frames(content))


def test_every_kind_of_task_is_relayed() -> None:
    """A kind that the courier does not know would end at Flower, and no site would ever see it."""
    known = set(courier.app._registered_funcs)
    assert known == {str(kind) if "." in kind else f"{kind}.default" for kind in Kind}


def test_an_agent_that_restarts_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is not there yet, or dies in the middle: the same task is sent again."""
    monkeypatch.setattr(courier, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(courier, "LONGEST_PAUSE_SECONDS", 0.1)
    answers: list[RecordDict] = []
    at_work = threading.Event()

    def never(frames: Iterable[bytes]) -> Iterator[bytes]:
        list(frames)
        at_work.set()
        time.sleep(1)
        yield from ()

    asking = threading.Thread(target=lambda: answers.append(relay(task(), socket=tmp_path / "a.sock", wait_seconds=60)))
    asking.start()
    time.sleep(0.2)
    first = start(tmp_path / "a.sock", never)
    assert at_work.wait(20)
    first._server.stop(0).wait(5)
    second = start(tmp_path / "a.sock")
    asking.join(30)
    second.stop()
    assert list(to_frames(answers[0])) == list(to_frames(task()))


def test_an_agent_that_stays_away_is_an_unsigned_code(tmp_path: Path) -> None:
    """With the task's id, so that the coordinator knows what to ask again; a task without one has none."""
    answer = code(relay(task(), socket=tmp_path / "none.sock", wait_seconds=0.1))
    assert answer == Answer(task_id=HEAD.task_id, reply=RefusalReply(code=Refusal.UNREACHABLE))
    for odd in (RecordDict(), RecordDict({"task": ConfigRecord({"task_id": 5})})):
        assert code(relay(odd, socket=tmp_path / "none.sock", wait_seconds=0.1)).task_id == ""


@pytest.mark.parametrize(
    ("reply", "expected"),
    [([b"DOE^JOHN is no header"], Refusal.MALFORMED), ([], Refusal.MALFORMED), ([b"x" * (5 << 20)], Refusal.TOO_LARGE)],
    ids=["noise", "nothing", "too large"],
)
def test_what_is_no_reply_becomes_a_code(tmp_path: Path, reply: list[bytes], expected: Refusal) -> None:
    """Whatever answers at the socket, no text of it goes on."""

    def strange(frames: Iterable[bytes]) -> Iterator[bytes]:
        list(frames)
        yield from reply

    service = AgentService(tmp_path / "a.sock", strange)
    service.start()
    try:
        content = relay(task(), socket=tmp_path / "a.sock", wait_seconds=0.1)
    finally:
        service.stop()
    answer = code(content)
    assert isinstance(answer.reply, RefusalReply)
    assert answer.reply.code is expected
    assert expected in FROM_THE_COURIER
    assert "DOE" not in str(list(to_frames(content)))


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_task_is_relayed_by_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """Flower finds a handler for each message type that a coordinator sends."""
    from flwr.app import Context
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setenv(AGENT_SOCKET, str(tmp_path / "a.sock"))
    service = start(tmp_path / "a.sock")
    try:
        content = encode_task(ReadyTask(header=HEAD))
        message = Message(content, 1, str(kind))
        message.metadata.__dict__["_message_id"] = "1"
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        answer = courier.app(message, context)
    finally:
        service.stop()
    assert list(to_frames(answer.content)) == list(to_frames(content))


LIGHT = """
import resource, sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "torchvision", "pydicom", "scipy", "opacus", "safetensors"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import client.courier, client.superexec, client.cli
from pathlib import Path
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmRSS"):
        print(int(line.split()[1]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_the_courier_is_light_and_needs_no_torch() -> None:
    """Without torch, pydicom and scipy it starts, `polyclinic site courier` too, in at most 300 MB."""
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) <= 300


def test_flower_finds_the_app_without_running_it() -> None:
    """`app` is assigned in a way that Flower's look at the syntax tree sees."""
    from flwr.supercore.object_ref import validate

    valid, reason = validate("client.courier:app", project_dir=Path(courier.__file__).parents[1])
    assert valid, reason


def test_link_and_courier_get_what_is_theirs_and_no_more(tmp_path: Path) -> None:
    """The courier's command names no key of the link's but the shared secret; the link's names the study's address."""
    keys = SiteKeys(tmp_path / "keys")
    keys.create()
    for_courier = courier_command(keys, runtime="127.0.0.1:9094")
    assert str(keys.node.parent) not in " ".join(for_courier)
    with pytest.raises(SiteError, match="approve"):
        link_command(keys, runtime="127.0.0.1:9094", study=None)
    study = keys.node.parent / "0123456789ab"
    study.mkdir()
    (study / "address").write_text("fl.example.org:443\n")
    command = link_command(keys, runtime="10.0.0.1:9094", study="0123")
    assert command[:3] == ["flower-supernode", "--superlink", "fl.example.org:443"]
    assert command[-8:-2] == ["--host", "10.0.0.1", "--port", "9094", "--isolation", "process"]
    assert str(keys.signing.parent) not in " ".join(command)
    assert os.fspath(keys.node) in command


def test_a_runtime_port_that_is_taken_is_told_before_flower_starts() -> None:
    """One line with what to do, and not Flower's traceback; what is no address is told alike; a free port passes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SiteError, match=f"{where} cannot be opened .*another --runtime"):
            refuse_taken(where)
    refuse_taken(where)
    for wrong in ("9094x", "127.0.0.1:99999"):
        with pytest.raises(SiteError, match="cannot be opened"):
            refuse_taken(wrong)
