"""What somebody hostile tries at a site whose compartments are real, one attempt after the other; all of them fail.

Who tries: a bundle with code that runs in the courier, a coordinator that asks for more than was approved, and another
site's link. Where the attempts are listed with their outcomes: docs/threat_model.md.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from flwr.cli.build import build_fab_from_files

from client.site_keys import SiteKeys
from server import coordinator
from server.coordinator_key import coordinator_key
from server.fleet import fleet
from server.playing import Player
from server.round_records import read_rounds
from shared.errors import FederationError
from shared.messages import (
    WIRE_VERSION,
    Answer,
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
    ReadyTask,
    RefusalReply,
    Task,
    TrainReply,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.model import build, exchanged, model_spec
from shared.protocol import StudyProtocol
from shared.signing import Purpose, SigningKey, signed_digest, signed_frames
from shared.split import Split
from shared.wire import from_frames
from simulations.local_federation import LocalFederation
from simulations.namespaces import LINK_INSIDE, Namespaces, obstacle

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
    pytest.mark.skipif(bool(obstacle()), reason=f"no compartments here: {obstacle()}"),
]

QUICK = {"OMP_NUM_THREADS": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
PATIENCE_SECONDS = 240.0

PROBE = """
import os, socket
from pathlib import Path

def dial(family, address):
    with socket.socket(family) as wire:
        wire.settimeout(3)
        wire.connect(address)

VERBS = {
    "list": lambda path: len(os.listdir(path)),
    "read": lambda path: len(Path(path).read_bytes()),
    "write": lambda path: open(path, "ab").close(),
    "dial": lambda address: dial(socket.AF_INET, tuple(address)),
    "open": lambda path: dial(socket.AF_UNIX, path),
    "signal": lambda process: os.kill(process, 0),
}

def attempt(verb, what):
    try:
        VERBS[verb](what)
    except OSError as fault:
        return type(fault).__name__ + ": " + str(fault.strerror)
    return "done"
"""
"""Runs one attempt and says how it ended; the same text runs in a bundle, in a compartment, and without one."""

REFUSED = ("PermissionError", "FileNotFoundError", "ConnectionRefusedError", "OSError: Network is unreachable")
"""How the system refuses: by a path's mode, because the file is not in this view, nobody listens, or no way leads."""

HOSTILE_CLIENT = (
    PROBE
    + """
import json
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message, context):
    attempts = json.loads(message.content["attempts"]["json"])
    found = {name: attempt(verb, what) for name, (verb, what) in attempts.items()}
    return Message(RecordDict({"found": ConfigRecord({"json": json.dumps(found)})}), reply_to=message)
"""
)

HOSTILE_SERVER = """
import json, os
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    orders = json.loads(Path(os.environ["HOSTILE"], "orders.json").read_text())
    messages = [
        Message(RecordDict({"attempts": ConfigRecord({"json": json.dumps(attempts)})}), int(node), "query")
        for node, attempts in orders.items()
    ]
    replies = {}
    for reply in grid.send_and_receive(messages, timeout=120):
        said = json.loads(reply.content["found"]["json"]) if reply.has_content() else reply.error.reason
        replies[str(reply.metadata.src_node_id)] = said
    Path(os.environ["HOSTILE"], "replies.json").write_text(json.dumps(replies))
"""

RELAY = """
import base64, json, sys
from pathlib import Path
from client.courier import relay
from shared.wire import from_frames, to_frames

answers = {}
for name, frames in json.loads(Path(sys.argv[2]).read_text()):
    content = from_frames(map(base64.b64decode, frames))
    reply = relay(content, socket=Path(sys.argv[1]), wait_seconds=60)
    answers[name] = [base64.b64encode(frame).decode() for frame in to_frames(reply)]
print(json.dumps(answers))
"""
"""What the courier does with a coordinator's messages: it hands each on as it came, and brings back what was said."""

MANIFEST = f"""
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "polyclinic-wire"
version = "{WIRE_VERSION}.0.0"
description = "Names itself as the approved bundle does, and brings code."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "polyclinic"
fab-format-version = 0
fab-include = ["*.py"]

[tool.flwr.app.components]
serverapp = "hostile_server:app"
clientapp = "hostile_client:app"

[tool.flwr.app.config]
run = ""
"""


def attempt(verb: str, what: Any) -> str:
    """Run an attempt in this process: as root, and in no compartment."""
    names: dict[str, Any] = {}
    exec(PROBE, names)  # the very text that runs in the bundle
    return str(names["attempt"](verb, what))


@dataclass
class Scene:
    """Two hospitals in compartments; `north` is as approved, at `south` the bundle's folder was left writable."""

    federation: LocalFederation
    compartments: Namespaces
    folder: Path
    protocol: StudyProtocol

    def config(self, name: str) -> Any:
        return self.federation.sites[name].config

    def process(self, name: str) -> int:
        return self.federation.programs.running[name].pid

    def node(self, name: str) -> int:
        from server.enrolment import Register

        return Register(self.federation.place.sites).of([name])[name].node_id

    def departures(self, name: str) -> list[dict[str, Any]]:
        """Read what left a site, from its audit log."""
        log = self.config(name).link.state / "audit.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == "departure"]

    def attempts(self, name: str, other: str) -> dict[str, tuple[str, Any]]:
        """List what code in the courier of a site tries, as (verb, what)."""
        config, keys = self.config(name), SiteKeys(self.config(name).link.keys)
        bundle = next((self.federation.sites[name].home / "apps").glob("*/pyproject.toml"))
        address = self.federation.config.address
        return {
            "list the images": ("list", str(config.data.dicom)),
            "read an image": ("read", str(next(config.data.dicom.rglob("*.dcm")))),
            "read the labels": ("read", str(config.data.labels)),
            "list the prepared images": ("list", str(config.compute.cache)),
            "read the audit log": ("list", str(config.link.state)),
            "read the node key": ("read", str(keys.node)),
            "read the agent's signing key": ("read", str(keys.signing)),
            "read the coordinator's key": ("read", str(self.federation.place.server_key)),
            "change the installed bundle": ("write", str(bundle)),
            "dial the coordinator": ("dial", (address.host, address.port)),
            "dial the SuperLink": ("dial", ("127.0.0.1", self.federation.config.superlink.port)),
            "look into the agent's memory": ("read", f"/proc/{self.process(f'{name}-agent')}/environ"),
            "look into the link's memory": ("read", f"/proc/{self.process(f'{name}-link')}/environ"),
            "stop the agent": ("signal", self.process(f"{name}-agent")),
            "list another hospital's images": ("list", str(self.config(other).data.dicom)),
            "ask another hospital's agent": ("open", str(self.config(other).link.agent_socket)),
        }

    def from_inside(self, name: str, role: str, attempts: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
        """Let a process in a compartment try."""
        code = f"{PROBE}\nimport json, sys\nwanted = json.loads(sys.argv[1])\n"
        code += "print(json.dumps({name: attempt(*words) for name, words in wanted.items()}))"
        command = self.compartments.inside(name, role, [sys.executable, "-c", code, json.dumps(attempts)])
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | QUICK)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def scene(hospitals_on_disk: Path, tiny: Any) -> Iterator[Scene]:
    """Start a coordinator and two hospitals in compartments, in a folder that every user may pass."""
    folder = Path(tempfile.mkdtemp(prefix="isolated"))
    folder.chmod(0o755)
    (folder / "hospitals").mkdir()
    for name in ("north", "south"):
        shutil.copytree(hospitals_on_disk / name, folder / "hospitals" / name)
    compartments, protocol = Namespaces(), tiny.protocol()
    hostile = {"HOSTILE": str(folder / "hostile"), **QUICK}
    (folder / "hostile").mkdir()
    try:
        with LocalFederation(
            folder / "all",
            protocol,
            folder / "hospitals",
            compartments=compartments,
            variables=hostile,
            settings={},
            say=lambda _: None,
        ) as federation:
            scene = Scene(federation, compartments, folder, protocol)
            unlock(federation.sites["south"].home / "apps", compartments.user("south", "courier"))
            with fleet(federation.place) as superlink:
                await_that(lambda: all(node.online for node in superlink.nodes()), "both links are there", scene)
            agents = [scene.config(name).link.agent_socket for name in ("north", "south")]
            await_that(lambda: all(socket.exists() for socket in agents), "both agents are up", scene)
            yield scene
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unlock(apps: Path, user: int) -> None:
    """Switch one protection off: give the courier the folder of its bundle."""
    for path in [apps, *apps.rglob("*")]:
        os.chown(path, user, user)
        path.chmod(0o755 if path.is_dir() else 0o644)


def await_that(moment: Any, what: str, scene: Scene) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not moment():
        logs = "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in scene.folder.glob("all/logs/*.log"))
        assert time.monotonic() < deadline, f"waited in vain until {what}\n{logs}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def hostile_bundle(scene: Scene) -> dict[str, Any]:
    """Send both sites a bundle with code under the approved one's name; give what came back from each."""
    parts = {
        "pyproject.toml": MANIFEST,
        "hostile_client.py": HOSTILE_CLIENT,
        "hostile_server.py": HOSTILE_SERVER,
    }
    bundle = build_fab_from_files({name: text.encode() for name, text in parts.items()})[0]
    others = {"north": "south", "south": "north"}
    orders = {scene.node(name): scene.attempts(name, other) for name, other in others.items()}
    (scene.folder / "hostile" / "orders.json").write_text(json.dumps(orders))
    replies = scene.folder / "hostile" / "replies.json"
    with fleet(scene.federation.place) as superlink:
        superlink.start(bundle, "hostile")
    await_that(replies.exists, "the hostile bundle's replies are there", scene)
    said = json.loads(replies.read_text())
    return {name: said[str(scene.node(name))] for name in others}


def test_each_program_has_a_user_and_a_network_of_its_own(scene: Scene) -> None:
    """Link, courier and agent of each site: six users, none of them root, six networks, no capability left."""
    users, networks = set(), {str(Path("/proc/self/ns/net").readlink())}
    for name in ("north", "south"):
        for role in ("link", "courier", "agent"):
            process = scene.process(f"{name}-{role}")
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{process}/status").read_text().splitlines()
                if ":\t" in line
            )
            users.add(status["Uid"].split()[1])
            networks.add(str(Path(f"/proc/{process}/ns/net").readlink()))
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
            assert status["NoNewPrivs"] == "1"
    assert len(users) == 6
    assert "0" not in users
    assert len(networks) == 7


def test_the_agents_network_has_no_interface_up_and_no_way(scene: Scene) -> None:
    """Not even loopback is up; its socket is 0660, in a folder that only the courier's group enters."""
    process = scene.process("north-agent")
    assert Path(f"/proc/{process}/net/route").read_text().count("\n") <= 1
    wires = [line.split(":")[0].strip() for line in Path(f"/proc/{process}/net/dev").read_text().splitlines()[2:]]
    assert wires == ["lo"]
    socket = scene.config("north").link.agent_socket
    assert socket.stat().st_mode & 0o777 == 0o660
    assert socket.parent.stat().st_mode & 0o777 == 0o750
    group = scene.compartments.group("north")
    assert {socket.stat().st_gid, socket.parent.stat().st_gid} == {group}


def test_a_foreign_bundle_dies_before_it_runs(hostile_bundle: dict[str, Any]) -> None:
    """Where the bundle's folder cannot be written, no line of it runs; where it can, it does run: see the next test."""
    assert "PermissionError" in hostile_bundle["north"]
    assert isinstance(hostile_bundle["south"], dict)


def test_the_approved_bundle_brings_no_study_that_was_not_approved(scene: Scene) -> None:
    """By the real ServerApp, SuperLink, links and couriers: another seed is another study, and ends before round 1."""
    other = scene.protocol.model_copy(update={"study": scene.protocol.study.model_copy(update={"seed": 1})})
    place, names = scene.federation.place, ("north", "south")
    run, before = coordinator.begin_run(place, other), {name: len(scene.departures(name)) for name in names}
    refused = r"0 of 2 sites can take part.*\(north: unknown_protocol; south: unknown_protocol\)"
    with (
        fleet(place) as superlink,
        pytest.raises(FederationError, match=refused),
    ):
        Player(place, run, superlink, say=lambda _: None).play()
    assert read_rounds(run.path) == ()
    for name in names:
        left = [(line["kind"], line["what"]) for line in scene.departures(name)[before[name] :]]
        assert left == [("refusal", ["unknown_protocol"])]


def test_code_that_runs_in_the_courier_reaches_nothing(hostile_bundle: dict[str, Any], scene: Scene) -> None:
    """With the first protection switched off, the second one holds: each attempt is refused by the system."""
    found = dict(hostile_bundle["south"])
    changed = found.pop("change the installed bundle")
    assert changed == "done", "the protection that was switched off"
    assert {name: said for name, said in found.items() if not said.startswith(REFUSED)} == {}
    assert found.keys() | {"change the installed bundle"} == scene.attempts("south", "north").keys()
    north = scene.from_inside("north", "courier", scene.attempts("north", "south"))
    assert {name: said for name, said in north.items() if not said.startswith(REFUSED)} == {}


def test_without_a_compartment_each_of_these_attempts_succeeds(scene: Scene) -> None:
    """The same words, run beside the compartments: what refuses them is the compartment, and nothing else.

    The SuperLink is in a network of its own, which refuses root on this machine as well; there it answers.
    """
    attempts = scene.attempts("south", "north")
    beside = attempts.pop("dial the SuperLink")
    found = {name: attempt(*words) for name, words in attempts.items()}
    assert set(found.values()) == {"done"}, found
    assert attempt(*beside).startswith("ConnectionRefusedError")
    code = f"{PROBE}\nimport json, sys\nprint(attempt(*json.loads(sys.argv[1])))"
    network = scene.federation.serving.network
    command = network.inside([sys.executable, "-c", code, json.dumps(beside)])
    inside = subprocess.run(command, capture_output=True, text=True, timeout=60, pass_fds=network.held)
    assert inside.stdout == "done\n", inside.stderr


def test_what_a_courier_needs_it_reaches(scene: Scene) -> None:
    """The link's runtime port, the agent's socket, its bundle: a courier that reached nothing would prove nothing."""
    needed = {
        "the link": ("dial", (LINK_INSIDE, scene.federation.sites["north"].port)),
        "the agent": ("open", str(scene.config("north").link.agent_socket)),
        "the bundle": ("list", str(scene.federation.sites["north"].home / "apps")),
    }
    assert scene.from_inside("north", "courier", needed) == dict.fromkeys(needed, "done")


def test_another_site_reaches_nothing(scene: Scene) -> None:
    """From the south's link, which has a way out: not the north's link, courier, agent, keys or images."""
    keys, config = SiteKeys(scene.config("north").link.keys), scene.config("north")
    number, port = scene.compartments.host.rsplit(".", 1)[0], scene.federation.sites["north"].port
    attempts = {
        "dial its link at the runtime port": ("dial", (f"{number}.10", port)),
        "dial the SuperLink": ("dial", (scene.compartments.host, scene.federation.config.superlink.port)),
        "ask its agent": ("open", str(config.link.agent_socket)),
        "read its node key": ("read", str(keys.node)),
        "read its superexec's secret": ("read", str(keys.link_secret)),
        "list its images": ("list", str(config.data.dicom)),
        "read its audit log": ("list", str(config.link.state)),
        "stop its link": ("signal", scene.process("north-link")),
    }
    found = scene.from_inside("south", "link", attempts)
    beyond = found.pop("dial its link at the runtime port")
    assert beyond.startswith(("OSError: No route to host", "TimeoutError")), "the sites share a wire"
    assert {name: said for name, said in found.items() if not said.startswith(REFUSED)} == {}
    door = (scene.compartments.host, scene.federation.config.address.port)
    assert scene.from_inside("south", "link", {"the coordinator": ("dial", door)}) == {"the coordinator": "done"}


@pytest.fixture(scope="module")
def answers(scene: Scene) -> dict[str, tuple[Answer, list[bytes]]]:
    """Hand the north what a hostile coordinator asks: what was approved, and then more; give its answers.

    The messages are those that would arrive by the link; a program in the courier's compartment relays them.
    """
    names = exchanged_names(scene.protocol)
    initial = {name: array for name, array in initial_arrays(scene.protocol).items() if name in names}
    other = {name: array + np.float32(1e-3) for name, array in initial.items()}
    far = {name: array + np.float32(1e3) for name, array in initial.items()}
    broken = {name: np.full_like(array, np.nan) for name, array in initial.items()}

    def header(kind: Kind, number: int = 1, **changes: Any) -> Header:
        own = {"protocol_digest": scene.protocol.digest(), "run_id": "run", "round": number, "site": "north"}
        return Header(**own | {"kind": kind} | changes)

    def score(arrays: Any, split: Split = Split.VALIDATION, **changes: Any) -> EvaluateTask:
        return EvaluateTask(header=header(Kind.EVALUATE, **changes), arrays=arrays, split=split)

    first = header(Kind.TRAIN)
    approved: dict[str, Task] = {
        "train the approved round": TrainTask(header=first, arrays=initial),
        "score the test split": score(initial, Split.TEST, detail="test"),
    }
    more: dict[str, Task] = {
        "ask for an unapproved study": TrainTask(header=replace(first, protocol_digest="0" * 64), arrays=initial),
        "ask for raw images": TrainTask(
            header=replace(first, run_id="images"), arrays={"images": np.zeros((24, 1, 64, 64), np.float32)}
        ),
        "provoke an exception with weights that are no numbers": score(broken, detail="nan"),
        "provoke an exception with a bad count of thresholds": replace(
            score(initial, detail="thresholds"), thresholds=(0.1, 0.2, 0.3)
        ),
        "the same task id with other weights": TrainTask(header=first, arrays=other),
        "more rounds than approved": TrainTask(header=header(Kind.TRAIN, 3), arrays=initial),
        "start from other weights": TrainTask(header=replace(first, run_id="weights"), arrays=other),
        "put another model in the place of the study's": TrainTask(header=header(Kind.TRAIN, 2), arrays=far),
        "score the test split a second time": score(initial, Split.TEST, run_id="again", detail="test"),
        "speak to another site": TrainTask(header=replace(first, site="south"), arrays=initial),
    }
    key = coordinator_key(scene.federation.place)
    tasks = [(name, framed(encode_task(task), key)) for name, task in (approved | more).items()]
    tasks.append(("ask by a kind of task that there is not", framed(kindless(first, initial), key)))
    tasks.append(("ask without the coordinator's key", framed(encode_task(ReadyTask(header=header(Kind.READY))), None)))
    foreign = encode_task(ReadyTask(header=header(Kind.READY)))
    tasks.append(("ask with a key of somebody else's", framed(foreign, SigningKey.draw())))
    file = scene.folder / "hostile" / "tasks.json"
    file.write_text(json.dumps(tasks))
    socket = str(scene.config("north").link.agent_socket)
    command = scene.compartments.inside("north", "courier", [sys.executable, "-c", RELAY, socket, str(file)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=os.environ | QUICK)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    decoded = {name: [base64.b64decode(frame) for frame in frames] for name, frames in said.items()}
    return {name: (decode_answer(from_frames(iter(frames))), frames) for name, frames in decoded.items()}


def initial_arrays(protocol: StudyProtocol) -> dict[str, Any]:
    model, _ = build(model_spec(protocol), weights_file=None)
    return {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}


def exchanged_names(protocol: StudyProtocol) -> list[str]:
    model, _ = build(model_spec(protocol), weights_file=None)
    return exchanged(model, protocol.model.trains_from(1), local_norm=False)


def framed(content: RecordDict, key: SigningKey | None) -> list[str]:
    return [base64.b64encode(frame).decode() for frame in signed_frames(content, key, Purpose.TASK)]


def kindless(head: Header, arrays: Any) -> RecordDict:
    """Make a task of a kind that there is not."""
    content = encode_task(TrainTask(header=head, arrays=arrays))
    content.config_records["task"]["kind"] = "images"
    return content


REASONS = {
    "ask for an unapproved study": "unknown_protocol",
    "ask for raw images": "arrays_of_wrong_form",
    "ask by a kind of task that there is not": "malformed",
    "ask without the coordinator's key": "not_signed_by_the_coordinator",
    "ask with a key of somebody else's": "not_signed_by_the_coordinator",
    "provoke an exception with weights that are no numbers": "arrays_not_finite",
    "provoke an exception with a bad count of thresholds": "malformed",
    "the same task id with other weights": "task_id_reused",
    "more rounds than approved": "rounds_used_up",
    "start from other weights": "initial_weights_differ",
    "put another model in the place of the study's": "model_moved_too_far",
    "score the test split a second time": "test_already_released",
    "speak to another site": "wrong_site",
}


def test_a_coordinator_gets_what_was_approved(answers: dict[str, Any]) -> None:
    """One round of training and one release of the test split: what follows is refused for what it asks."""
    assert isinstance(answers["train the approved round"][0].reply, TrainReply)
    assert isinstance(answers["score the test split"][0].reply, EvaluateReply)


@pytest.mark.parametrize("attempted", REASONS)
def test_a_coordinator_that_asks_for_more_gets_a_code(attempted: str, answers: dict[str, Any]) -> None:
    """A fixed code and a signature leave, whatever was asked and whatever went wrong: no array, no text, no figure."""
    answer, frames = answers[attempted]
    assert answer.reply == RefusalReply(code=REASONS[attempted])
    assert len(frames) == 1
    said = json.loads(frames[0])
    assert said["configs"].keys() == {"state", "signature"}
    assert said["configs"]["state"].keys() == {"version", "task_id", "request", "kind", "code"}
    assert said["arrays"] == []
    assert said["metrics"] == {}


def test_every_answer_is_signed_by_the_agent(answers: dict[str, Any], scene: Scene) -> None:
    """Refusals too: the coordinator can tell the agent's word from its courier's."""
    public = SiteKeys(scene.config("north").link.keys).public("north").signing
    for _, frames in answers.values():
        assert signed_digest(from_frames(iter(frames)), public, Purpose.REPLY)


def test_the_audit_log_has_a_line_for_each(answers: dict[str, Any], scene: Scene) -> None:
    """What left, refusals included, stands in the hospital's own log."""
    lines = (scene.config("north").link.state / "audit.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("refusal") >= len(REASONS)
    assert (kinds.count("train"), kinds.count("evaluate")) == (1, 1)
