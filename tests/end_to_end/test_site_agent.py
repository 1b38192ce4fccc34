"""A hospital from its first key to the finished model, with the real agent in a process of its own."""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from client.bootstrap import compose_agent, prepare, site_inputs
from client.cli import app
from client.courier import relay
from client.metrics_socket import read_page
from client.privacy_ledger import ledger_of
from client.site import SiteConfig, read_site
from client.site_audit import alone
from client.workbench import Workbench
from server.admission import admit_evidence
from server.bundle import build_bundle
from server.site_bounds import bounds
from shared.errors import DataError, PolyclinicError, PrivacyError, StorageError
from shared.invitation import CA, INVITATION, STUDY, Invitation, read_keys, write_paper
from shared.messages import (
    WIRE_VERSION,
    Answer,
    Approval,
    DeliverReply,
    DeliverTask,
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
    ReadyReply,
    ReadyTask,
    Refusal,
    RefusalReply,
    Task,
    TrainReply,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.model import build, exchanged, model_spec
from shared.parameters import digest
from shared.protocol import StudyProtocol
from shared.signing import Purpose, SigningKey, signed_digest
from shared.split import Split
from shared.wire import from_frames, to_frames
from simulations.synthetic_site import write
from simulations.synthetic_study import plain_hospital

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a deployed site runs on Linux")

PATIENCE_SECONDS = 120.0

COORDINATOR = SigningKey.draw()

SERVE = """
import sys
from functools import partial
from client import agent, round_checkpoint
from client.cli import app
from shared.errors import PolyclinicError
round_checkpoint.WRITING_SHARE = 0.5
agent.RoundCheckpoint = partial(round_checkpoint.RoundCheckpoint, least_seconds=0.2)
try:
    app(["serve", {site!r}])
except PolyclinicError as fault:
    print(fault)
    sys.exit(fault.exit_code)
"""
"""`polyclinic site serve`, which writes checkpoints early: a test cannot wait for half a minute."""


class Site:
    """A hospital's folder, its commands, and its agent as a process."""

    def __init__(self, folder: Path, protocol: StudyProtocol) -> None:
        self.folder, self.protocol = folder, protocol
        self.file = folder / "site.toml"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "agent.log"
        self.initial = {
            name: np.array(tensor.numpy())
            for name, tensor in build(model_spec(protocol), weights_file=None)[0].state_dict().items()
        }

    @property
    def config(self) -> SiteConfig:
        return read_site(self.file)

    def run(self, *words: str) -> str:
        """Run a command of this site's, and give what it prints."""
        result = CliRunner().invoke(app, [words[0], str(self.file), *words[1:]], catch_exceptions=True)
        if isinstance(result.exception, PolyclinicError):
            raise result.exception
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    def invite(self, **changes: str) -> Path:
        """Write what a coordinator sends."""
        folder = self.folder / "invitation"
        folder.mkdir(exist_ok=True)
        (folder / STUDY).write_text(self.protocol.to_toml())
        (folder / CA).write_text("a certificate\n")
        (folder / "courier.fab").write_bytes(build_bundle())
        named = {
            "site": "north",
            "coordinator": "Trial office",
            "address": "fl.example.org:443",
            "study": self.protocol.study.name,
            "digest": self.protocol.digest(),
            "initial": digest(self.initial),
            "weights": "",
            "bundle": hashlib.sha256(build_bundle()).hexdigest(),
            "ca": hashlib.sha256(b"a certificate\n").hexdigest(),
            "encoding": WIRE_VERSION,
            "signing": COORDINATOR.public,
        }
        write_paper(Invitation(**named | changes), folder / INVITATION)
        return folder

    def approve(self) -> str:
        """Make the keys and approve the study."""
        self.run("init")
        return self.run("approve", str(self.invite()), "--by", "Dr. Data, data manager", "--yes")

    def serve(self, *before: str) -> None:
        """Start the agent; it is up when its socket is there."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*before, sys.executable, "-c", SERVE.format(site=str(self.file))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.wait(lambda: self.config.link.agent_socket.exists() or self.process.poll() is not None)  # type: ignore[union-attr]

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send the agent a signal, and wait for its end."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_SECONDS)

    def wait(self, moment: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not moment():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def header(self, kind: Kind, number: int = 1, **changes: Any) -> Header:
        own = {
            "protocol_digest": self.protocol.digest(),
            "run_id": "run",
            "round": number,
            "site": "north",
            "kind": kind,
        }
        return Header(**own | changes)

    def travelling(self, number: int = 1) -> dict[str, Any]:
        model, _ = build(model_spec(self.protocol), weights_file=None)
        names = exchanged(model, self.protocol.model.trains_from(number), local_norm=False)
        return {name: self.initial[name] for name in names}

    def train(self, number: int = 1, arrays: Any = None) -> TrainTask:
        return TrainTask(header=self.header(Kind.TRAIN, number), arrays=arrays or self.travelling(number))

    def ask(self, task: Task) -> Answer:
        """Send a task as the courier does, and check that the agent's own key signed the reply."""
        socket = self.config.link.agent_socket.resolve()
        asked = encode_task(task)
        request = COORDINATOR.sign(asked, Purpose.TASK)
        content = relay(asked, socket=socket, wait_seconds=PATIENCE_SECONDS)
        answer = decode_answer(content)
        if answer.reply == RefusalReply(code=Refusal.PREPARING):
            time.sleep(0.2)
            return self.ask(task)
        assert signed_digest(content, read_keys(self.folder / "north.keys.toml").signing, Purpose.REPLY), answer
        assert answer.request == request
        return answer

    def simulated(self, task: Task) -> Any:
        """Let an agent in this process answer, as a simulation would."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        model, _ = build(model_spec(self.protocol), weights_file=None)
        bench = Workbench(model, device=torch.device("cpu"), precision="fp32")
        site = prepare(self.config, self.protocol, progress=lambda *_: None)
        inputs = site_inputs(site, self.protocol, bench, progress=lambda *_: None)
        agent = compose_agent(site, self.protocol, bench, inputs, folder=self.folder / "simulated")
        frames = list(agent.handle(to_frames(encode_task(task))))
        torch.set_num_threads(threads)
        return decode_answer(from_frames(frames)).reply


@pytest.fixture
def hospital(hospitals_on_disk: Path, tiny: Any, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Give `hospital(**sections)`: a hospital invited to a tiny study with these settings; its agent is stopped.

    `hospital(protocol)` is invited to this one instead.
    """
    made: list[Site] = []

    def make(protocol: StudyProtocol | None = None, **sections: Any) -> Site:
        folder = tmp_path / "north"
        shutil.copytree(hospitals_on_disk / "north", folder)
        made.append(Site(folder, protocol or tiny.protocol(**sections)))
        return made[-1]

    yield make
    for site in made:
        if site.process is not None and site.process.poll() is None:
            site.stop(signal.SIGKILL)


def test_a_hospital_from_its_keys_to_the_finished_model(hospital: Any, tmp_path: Path) -> None:
    """Keys, approval, readiness, training with the simulation's bits, one test, delivery, withdrawal, audit, purge."""
    site: Site = hospital()
    words = site.approve()
    for said in ("Tiny", "sees this hospital's update", "2 rounds", "no differential privacy", site.protocol.digest()):
        assert said in words
    site.run("keys", "--out", str(site.folder / "north.keys.toml"))
    assert "does not answer" in site.run("status")
    site.serve()

    ready = site.ask(ReadyTask(header=site.header(Kind.READY, 0))).reply
    assert isinstance(ready, ReadyReply)
    assert ready.approval is Approval.APPROVED
    update = site.ask(site.train()).reply
    assert isinstance(update, TrainReply)
    assert digest(update.update) == digest(site.simulated(site.train()).update)
    model = {name: array + update.update[name] for name, array in site.travelling().items()}
    test = EvaluateTask(header=site.header(Kind.EVALUATE, detail="test"), arrays=model, split=Split.TEST)
    assert isinstance(site.ask(test).reply, EvaluateReply)
    again = replace(test, header=replace(test.header, run_id="again"))
    assert site.ask(again).reply == RefusalReply(code=Refusal.TEST_RELEASED)
    foreign = ReadyTask(header=site.header(Kind.READY, protocol_digest="0" * 64))
    assert site.ask(foreign).reply == RefusalReply(code=Refusal.UNKNOWN_PROTOCOL)
    assert site.ask(site.train(3, model)).reply == RefusalReply(code=Refusal.ROUNDS_USED_UP)

    page = read_page(site.config.link.metrics_socket, timeout_seconds=5).decode()
    assert "polyclinic_site_rounds_total 1.0" in page
    assert 'polyclinic_site_refusals_total{code="test_already_released"} 1.0' in page
    status = site.run("status")
    assert "is ready" in status
    assert "rounds begun: 1 of 2; evaluations: 1; test split: released; model: not delivered" in status

    site.run("withdraw", first_patient(site))
    counted = site.ask(ReadyTask(header=site.header(Kind.READY, 0))).reply
    assert isinstance(counted, ReadyReply)
    assert counted.flow == ready.flow  # it left once: a second count, less by one, would tell whose side and class

    given = DeliverTask(
        header=site.header(Kind.DELIVER), arrays=model, thresholds=(0.5,), documents={"results.json": b"{}"}
    )
    assert site.ask(given).reply == DeliverReply(arrays_digest=digest(model))
    site.run("model", "--out", str(tmp_path / "use"))
    np.testing.assert_array_equal(load_file(tmp_path / "use" / "model.safetensors")["fc.bias"], model["fc.bias"])
    assert (tmp_path / "use" / "results.json").read_text() == "{}"

    assert site.stop() == 0
    assert "lines, whole" in site.run("audit", "verify")
    told = site.run("audit")
    assert "study approved" in told
    assert "patient withdrawn" in told
    assert first_patient(site) not in told + site.log.read_text()
    assert open_to_others(site) == {site.config.link.sockets: 0o711}
    cache = site.config.compute.cache
    foreign = cache / "an image of somebody else's"
    foreign.touch()
    assert len([*cache.rglob("*")]) > 3
    site.run("purge", "--yes")
    assert [*cache.rglob("*")] == [foreign]
    assert "No study is approved" in site.run("status")
    assert (site.folder / "state" / "studies" / site.protocol.digest() / "released" / "flow.json").exists()
    assert "lines, whole" in site.run("audit", "verify")


def open_to_others(site: Site) -> dict[Path, int]:
    """Give what others than the agent's user may enter or read, of all that its commands wrote here."""
    link = site.config.link
    roots = [link.state, link.keys, link.sockets, site.config.compute.cache]
    paths = [path for root in roots for path in (root, *root.rglob("*"))]
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in paths if not path.is_symlink()}
    assert len(modes) > 20
    gates = {link.keys: 0o711}
    doors = {link.agent_socket: 0o660, link.metrics_socket: 0o660}
    doors |= {path.parent: 0o750 for path in doors}
    expected = gates | doors
    return {path: mode for path, mode in modes.items() if mode & 0o077 and expected.get(path) != mode}


def first_patient(site: Site) -> str:
    """Read the PatientID of one patient whose images the study uses."""
    import pydicom

    return str(pydicom.dcmread(next(iter(sorted(site.config.data.dicom.rglob("*.dcm"))))).PatientID)


def test_an_agent_that_is_killed_in_a_round_gives_the_same_bits(hospital: Any) -> None:
    """Kill -9 in the middle of training; the courier waits for the restart, and the round goes on from where it was."""
    long = {"local_epochs": 24, "batch_size": 4, "optimiser": "sgd"}
    site: Site = hospital(
        model={"norm": "batch", "dropout": 0.3, "unfreeze": [{"round": 1, "from": "layer4"}]}, training=long
    )
    site.approve()
    site.run("keys", "--out", str(site.folder / "north.keys.toml"))
    site.serve()
    site.ask(ReadyTask(header=site.header(Kind.READY, 0)))
    task, answers = site.train(), []
    asking = threading.Thread(target=lambda: answers.append(site.ask(task)))
    asking.start()
    rounds = site.config.link.state / "studies" / site.protocol.digest() / "rounds"
    site.wait(lambda: rounds.exists() and bool(list(rounds.glob("*.pt"))))
    assert site.stop(signal.SIGKILL) == -signal.SIGKILL
    assert not answers
    (checkpoint,) = rounds.glob("*.pt")
    at = torch.load(checkpoint, weights_only=True)["state"]["at"]
    assert 60 * at["epoch"] + at["batch"] > 0
    site.serve()
    asking.join(PATIENCE_SECONDS)
    whole = site.simulated(task)
    assert digest(answers[0].reply.update) == digest(whole.update)
    assert answers[0].reply.loss_by_epoch == whole.loss_by_epoch
    assert not list(rounds.glob("*.pt"))
    departures = [json.loads(line) for line in (site.config.link.state / "audit.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "train" for line in departures) == 1


@pytest.mark.skipif(
    not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("unshare")),
    reason="only root may make a network namespace",
)
def test_an_agent_needs_no_network_interface(hospital: Any) -> None:
    """In a namespace of its own that has no interface up, not even loopback, it answers at its socket."""
    site: Site = hospital()
    site.approve()
    site.run("keys", "--out", str(site.folder / "north.keys.toml"))
    site.serve("unshare", "--net")
    assert isinstance(site.ask(site.train()).reply, TrainReply)
    interfaces = Path(f"/proc/{site.process.pid}/net/dev").read_text().splitlines()[2:]  # type: ignore[union-attr]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    assert Path(f"/proc/{site.process.pid}/net/route").read_text().count("\n") <= 1  # type: ignore[union-attr]
    assert site.stop() == 0


def test_files_that_are_gone_since_the_approval_are_told(hospital: Any) -> None:
    """A few are a warning in the agent's log, by their number; without most of them the agent does not start."""
    site = hospital()
    site.approve()
    files = sorted(path for path in site.config.data.dicom.rglob("*") if path.is_file())
    files[0].unlink()
    site.serve()
    try:
        site.wait(lambda: f"1 of the {len(files)} files" in site.log.read_text())
    finally:
        site.stop()
    most = len(files) * 3 // 4
    for path in files[1:most]:
        path.unlink()
    site.serve()
    assert site.process.wait(PATIENCE_SECONDS) == DataError.exit_code
    said = " ".join(site.log.read_text().split())
    assert f"{most} of the {len(files)} files that were in [data] dicom at the approval are not there" in said
    assert not any(path.name in said for path in files)


def test_an_archive_that_grows_during_a_study_is_not_refused(hospital: Any, tmp_path: Path) -> None:
    """Many patients come after the flow has left: the evidence is of the 24 whom it counted, and is admitted."""
    site = hospital()
    site.approve()
    site.run("keys", "--out", str(site.folder / "north.keys.toml"))
    site.serve()
    ready = site.ask(ReadyTask(header=site.header(Kind.READY, 0))).reply
    site.stop()
    later = plain_hospital("later", patients=200)
    write(later, tmp_path / "later", findings=["opacity"], exclusive=False, workers=2, progress=lambda *_: None)
    shutil.copytree(tmp_path / "later" / "dicom", site.config.data.dicom / "later")
    rows = (tmp_path / "later" / "labels.csv").read_text().split("\n", 1)[1]
    with site.config.data.labels.open("a") as table:
        table.write(rows)
    site.serve()
    update = site.ask(site.train()).reply
    model = {name: array + update.update[name] for name, array in site.travelling().items()}
    found = site.ask(EvaluateTask(header=site.header(Kind.EVALUATE), arrays=model, split=Split.VALIDATION)).reply
    assert found.evidence[0].patients == ready.flow.splits["validation"].patients
    bound = bounds(ready.flow, site.protocol)[Split.VALIDATION]
    wish = site.protocol.evaluation
    admitted = admit_evidence(found, targets=1, bins=wish.score_bins, thresholds=(), axes=wish.subgroups, most=bound)
    assert admitted == found
    assert "176 patients came after this study's first count" in site.log.read_text()


def test_only_one_agent_is_at_work(hospital: Any) -> None:
    """A second one stops at once, and says why."""
    site: Site = hospital()
    site.approve()
    with alone(site.config.link.state / "agent.lock", message="x"):
        site.serve()
        assert site.process.wait(PATIENCE_SECONDS) == StorageError.exit_code  # type: ignore[union-attr]
    assert "another agent is at work" in site.log.read_text()


def limited(site: Site, max_epsilon: float) -> None:
    """Let the hospital set a limit over all studies."""
    declared = tomllib.loads(site.file.read_text()) | {"policy": {"min_cell": 1, "max_epsilon": max_epsilon}}
    site.file.write_text(tomli_w.dumps(declared))


def test_an_approval_reserves_the_whole_privacy_plan(hospital: Any, tiny: Any) -> None:
    """Before any agent has started the ledger holds it, and the agent keeps to it: what is charged comes out of it."""
    site: Site = hospital(tiny.private_protocol(epsilon=6.0, size_rounding=10))
    limited(site, 8.0)
    words = site.approve()
    (account,) = ledger_of(site.config).statement().accounts
    assert (account.study, account.rounds, account.plan.rounds) == (site.protocol.digest(), 0, 2)
    assert account.plan.expected_patients % 10 == 0
    taken = ledger_of(site.config).statement().held_share
    assert 0.3 < taken < 1
    assert f"it takes {taken:.1%}" in words
    assert f"{1 - taken:.1%} would be left" in words
    site.run("keys", "--out", str(site.folder / "north.keys.toml"))
    site.run("withdraw", first_patient(site))
    site.serve()
    assert isinstance(site.ask(site.train()).reply, TrainReply)
    (charged,) = ledger_of(site.config).statement().accounts
    assert (charged.rounds, charged.plan) == (1, account.plan)
    assert site.stop() == 0
    withdraw_most(site)
    site.approve()  # as after an upgrade: far fewer patients are no reason against a study that has begun
    assert ledger_of(site.config).statement().accounts == (charged,)
    assert "stays reserved until" in site.run("purge", "--yes")


def withdraw_most(site: Site) -> None:
    """Take all patients out but five."""
    import pydicom

    everyone = {str(pydicom.dcmread(file).PatientID) for file in site.config.data.dicom.rglob("*.dcm")}
    for patient in sorted(everyone)[5:]:
        site.run("withdraw", patient)


def test_a_study_that_the_budget_does_not_allow_cannot_be_approved(hospital: Any, tiny: Any) -> None:
    """A second study that the first has left no budget for is refused in words, and nothing of it is kept."""
    site: Site = hospital(tiny.private_protocol(epsilon=6.0, size_rounding=10))
    limited(site, 8.0)
    site.approve()
    site.protocol = tiny.private_protocol(epsilon=7.0, size_rounding=10)
    with pytest.raises(PrivacyError, match=r"needs .* of this hospital's privacy budget"):
        site.approve()
    assert len(ledger_of(site.config).statement().accounts) == 1
    assert site.protocol.digest()[:12] not in site.run("status")
