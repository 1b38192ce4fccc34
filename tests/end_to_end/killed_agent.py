"""Kills a private agent at chosen moments, lets it go on, and reports what its ledger and its answers then were.

A process of its own, so that it may fork: `killed_agent.py FOLDER MOMENTS`, MOMENTS as JSON, each a number of an event
(a line of work between two of which the agent can die) or a fraction of the whole time; the report is JSON on stdout.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import TinyStudy

from client.agent import Agent
from client.bootstrap import compose_agent, site_inputs
from client.dp_engine import PrivateSteps
from client.egress import EgressGuard
from client.ledger_file import OpenLedger
from client.privacy_ledger import PrivacyLedger
from client.private_site import Vault
from client.task_store import TaskStore
from shared.audit import AuditLog, now
from shared.messages import Header, Kind, TrainReply, TrainTask, decode_answer, encode_task
from shared.model import exchanged
from shared.protocol import StudyProtocol
from shared.renyi_filter import PrivacyLimit
from shared.wire import from_frames, to_frames

KEY = bytes(range(32))
LIMIT = PrivacyLimit(epsilon=20.0, delta=1e-5)

EVENTS = (
    (TaskStore, "begin"),
    (OpenLedger, "charge"),
    (PrivacyLedger, "charge"),
    (AuditLog, "append"),
    (PrivateSteps, "sample"),
    (PrivateSteps, "release"),
    (EgressGuard, "release"),
    (TaskStore, "keep"),
)
"""Work before and after which the agent can be killed; `OpenLedger.charge` is inside the ledger's transaction."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A study of two private rounds at one hospital, whose plan is reserved in the folder `begun`."""

    protocol: StudyProtocol
    requests: list[list[bytes]]
    tasks: list[str]
    begun: Path
    compose: Callable[[Path], Agent]


def scene(folder: Path) -> Scene:
    """Build everything that the forked agents share."""
    tiny = TinyStudy()
    declared = tiny.protocol(training={"batch_size": 8, "local_epochs": 4, "loss": "bce"}).model_dump(by_alias=True)
    privacy = {"epsilon": 6.0, "size_rounding": 10, "accountant": "rdp"}
    protocol = StudyProtocol.model_validate(declared | {"privacy": privacy})
    site, bench = tiny.hospital(protocol, folder / "hospital"), tiny.bench(protocol)
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    names = exchanged(bench.classifier, "head", local_norm=False)
    arrays = bench.arrays(names)

    def compose(place: Path) -> Agent:
        vault = Vault(key=KEY, ledger=PrivacyLedger(folder=place, limit=LIMIT), audit=AuditLog(place / "audit.jsonl"))
        agent = compose_agent(site, protocol, bench, inputs, folder=place, vault=vault)
        return replace(agent, store=TaskStore(place / "tasks", now=now))

    requests, tasks = [], []
    for number in (1, 2):
        header = Header(protocol_digest=protocol.digest(), run_id="r", round=number, site="north", kind=Kind.TRAIN)
        sent = {name: array + np.float32(number) / 100 for name, array in arrays.items()}
        requests.append(list(to_frames(encode_task(TrainTask(header=header, arrays=sent)))))
        tasks.append(header.task_id)
    begun = folder / "begun"
    compose(begun)
    return Scene(protocol=protocol, requests=requests, tasks=tasks, begun=begun, compose=compose)


class Late:
    """What must never be built: training that is paid for when it is over."""

    def __init__(self, private: Any) -> None:
        self._private = private

    def train(self, task: TrainTask, **more: Any) -> Any:
        """Train, then charge."""
        outcome = replace(self._private, pay=lambda _: self._private.plan).train(task, **more)
        self._private.pay(task)
        return outcome


@dataclass(kw_only=True)
class Clock:
    """Counts the moments at which the agent can die, and kills it at one; `marks` is where each step leaves a trace."""

    die_at: int | None
    marks: int
    done: int = 0

    def event(self) -> None:
        """Count one moment, or be the last."""
        self.done += 1
        if self.done == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, kind: type, name: str) -> None:
        """Make a method count before and after it."""
        original = getattr(kind, name)

        def call(itself: Any, *args: Any, **more: Any) -> Any:
            self.event()
            if isinstance(itself, PrivateSteps):
                os.write(self.marks, itself.streams.task_id.encode() + b"\n")
            result = original(itself, *args, **more)
            self.event()
            return result

        setattr(kind, name, call)


def work(stage: Scene, place: Path, *, die_at: int | None, late: bool) -> None:
    """Answer both tasks, twice each; what is sent goes to files as it leaves."""
    agent = stage.compose(place)
    if late:
        agent = replace(agent, private=Late(agent.private))
    clock = Clock(die_at=die_at, marks=os.open(place / "marks", os.O_CREAT | os.O_WRONLY | os.O_APPEND))
    for kind, name in EVENTS:
        clock.watch(kind, name)
    for task, request in zip(stage.tasks, stage.requests, strict=True):
        for again in ("sent", "again"):
            out = os.open(place / f"{again}-{task}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            for frame in agent.handle(iter(request)):
                clock.event()
                os.write(out, len(frame).to_bytes(8, "big") + frame)
            os.close(out)
    (place / "events").write_text(str(clock.done))


def fork(
    stage: Scene, place: Path, *, die_at: int | None = None, after: float | None = None, late: bool = False
) -> bool:
    """Run the agent in a child, killed at an event or after some seconds; tell whether it lived to the end."""
    child = os.fork()
    if child == 0:
        try:
            work(stage, place, die_at=die_at, late=late)
        except BaseException as fault:
            (place / "fault").write_text(repr(fault))
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def frames_of(path: Path) -> tuple[list[bytes], bytes]:
    """Read what was sent: whole frames, and every byte."""
    content = path.read_bytes() if path.exists() else b""
    frames, at = [], 0
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 8], "big")
        frames.append(content[at + 8 : at + 8 + size])
        at += 8 + size
    return frames, content


def update_of(path: Path) -> dict[str, bytes]:
    """Decode the update that a whole reply holds."""
    reply = decode_answer(from_frames(iter(frames_of(path)[0]))).reply
    if not isinstance(reply, TrainReply):
        raise SystemExit(f"the agent refused: {reply}")
    return {name: array.tobytes() for name, array in reply.update.items()}


def look(place: Path) -> tuple[set[str], set[str]]:
    """Give the tasks whose steps saw patients, and those that the ledger has charged."""
    PrivacyLedger(folder=place, limit=LIMIT).statement()
    with sqlite3.connect(place / "ledger.sqlite") as ledger:
        rows = [task for (task,) in ledger.execute("SELECT task FROM charge")]
    if len(rows) != len(set(rows)):
        raise SystemExit("a task is charged twice")
    marks = place / "marks"
    return set(marks.read_text().split()) if marks.exists() else set(), set(rows)


def main(folder: Path, moments: list[int | float], *, late: bool) -> dict[str, Any]:
    """Go through all moments; the report has what went wrong, and at how many events the agent can die."""
    torch.set_num_threads(1)
    stage = scene(folder)
    whole = folder / "whole"
    shutil.copytree(stage.begun, whole)
    began = time.perf_counter()
    if not fork(stage, whole):
        raise SystemExit((whole / "fault").read_text())
    seconds = time.perf_counter() - began
    expected = {task: update_of(whole / f"sent-{task}") for task in stage.tasks}
    wrong, killed, before, within = [], 0, 0, 0
    for number, moment in enumerate(moments):
        place = folder / f"moment-{number}"
        shutil.copytree(stage.begun, place)
        timing = {"die_at": moment} if isinstance(moment, int) else {"after": moment * seconds}
        lived = fork(stage, place, late=late, **timing)
        killed += not lived
        spent, charged = look(place)
        before += not charged
        parts = {task: frames_of(place / f"sent-{task}")[1] for task in stage.tasks}
        within += any(not parts[task] for task in spent)
        if not spent <= charged:
            wrong.append(f"{moment}: {len(spent)} rounds were begun and {len(charged)} are charged")
        if late:
            continue
        if not fork(stage, place):
            raise SystemExit(f"{moment}: {(place / 'fault').read_text()}")
        if look(place)[1] != set(stage.tasks):
            wrong.append(f"{moment}: not each round is charged once")
        for task in stage.tasks:
            sent = frames_of(place / f"sent-{task}")[1]
            if update_of(place / f"sent-{task}") != expected[task]:
                wrong.append(f"{moment}: other bytes, so new noise for the same arrays")
            if not sent.startswith(parts[task]) or sent != frames_of(place / f"again-{task}")[1]:
                wrong.append(f"{moment}: what had left is not what leaves again")
        shutil.rmtree(place)
    events = int((whole / "events").read_text())
    return {"wrong": wrong, "killed": killed, "before_the_charge": before, "within_a_round": within, "events": events}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]), late=sys.argv[3] == "late")))
