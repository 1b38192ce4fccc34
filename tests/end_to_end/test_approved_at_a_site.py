"""A deployed agent, put together from an invitation and an approval as on a hospital's disk, without the network."""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent_service import Handler
from client.approval import Approvals
from client.approving import approve_study, look_at
from client.bootstrap import unseen
from client.deployment import Deployment
from client.metrics import SiteMetrics
from client.privacy_ledger import ledger_of
from client.site import SiteConfig, read_site
from client.site_audit import DEPARTURES
from client.site_keys import SiteKeys
from client.site_status import status_lines
from server import coordinator
from server.bootstrap import compose
from server.coordinator_folder import CoordinatorFolder
from server.coordinator_key import coordinator_key
from shared.audit import AuditLog, now
from shared.errors import PrivacyError, WeightsError
from shared.evidence import Withheld
from shared.messages import (
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
from shared.parameters import digest
from shared.protocol import StudyProtocol
from shared.refusal_codes import Refusal
from shared.signing import Purpose, SigningKey, signed_digest
from shared.split import Split
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Place:
    """A coordinator's folder and one hospital's, on one disk."""

    coordinator: CoordinatorFolder
    config: SiteConfig

    def approve(self, protocol: StudyProtocol, out: Path) -> Handler:
        """Invite the hospital, approve, and start its agent."""
        coordinator.invite(self.coordinator, "north", protocol, out)
        offer = look_at(self.config, out, weights_file=None, progress=unseen)
        study = approve_study(self.config, offer, approved_by="Dr. Data")
        return self.start(Deployment(config=self.config, study=study, progress=unseen))

    def start(self, deployment: Deployment) -> Handler:
        audit = AuditLog(self.config.link.state / DEPARTURES)
        metrics = SiteMetrics(site="north", version="0", studies=[])
        return deployment.handler(audit, metrics, turn=nullcontext(True))

    def bound(self, **policy: Any) -> "Place":
        """Give the same hospital with other limits in [policy]."""
        limits = self.config.policy.model_copy(update=policy)
        return replace(self, config=self.config.model_copy(update={"policy": limits}))

    def train(self, handler: Handler, protocol: StudyProtocol, run_id: str) -> Any:
        """Ask for round 1 of a run, signed as the coordinator does."""
        return self.ask(handler, first_round(protocol, run_id))

    def ask(self, handler: Handler, task: Task) -> Any:
        """Ask for anything, signed as the coordinator does, and read the reply, which is signed with the site's key."""
        content = encode_task(task)
        coordinator_key(self.coordinator).sign(content, Purpose.TASK)
        answer = from_frames(list(handler(to_frames(content))))
        key = SigningKey.read(SiteKeys(self.config.link.keys).signing)
        assert signed_digest(answer, key.public, Purpose.REPLY)
        return decode_answer(answer).reply


def head_of(protocol: StudyProtocol) -> dict[str, Any]:
    composed, _ = compose(protocol, weights_file=None)
    return {name: composed.initial[name] for name in ("fc.weight", "fc.bias")}


def header(protocol: StudyProtocol, kind: Kind, number: int, run_id: str = "run") -> Header:
    return Header(protocol_digest=protocol.digest(), run_id=run_id, round=number, site="north", kind=kind)


def first_round(protocol: StudyProtocol, run_id: str = "run") -> TrainTask:
    return TrainTask(header=header(protocol, Kind.TRAIN, 1, run_id), arrays=head_of(protocol))


@pytest.fixture
def place(hospitals_on_disk: Path, tmp_path: Path) -> Place:
    folder = CoordinatorFolder(path=tmp_path / "coordinator")
    settings = {"address": {"host": "localhost"}, "sites": {"names": ["north"]}}
    coordinator.make_folder(folder, settings, now=datetime.now(UTC))
    north = shutil.copytree(hospitals_on_disk / "north", tmp_path / "north")
    config = read_site(north / "site.toml")
    SiteKeys(config.link.keys).create()
    return Place(folder, config)


@pytest.mark.parametrize("off", [timedelta(days=400), timedelta(hours=1), timedelta(hours=-1), timedelta(days=-400)])
def test_a_clock_that_was_off_at_an_approval_changes_no_limit(
    place: Place, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    """Two rounds were approved: two train, whatever the clock said and after a restart; a new approval allows two."""
    protocol = tiny.protocol()
    for approval in ("first", "second"):
        monkeypatch.setattr("client.approving.now", lambda: now() + off)
        handler = place.approve(protocol, tmp_path / approval)
        monkeypatch.setattr("client.approving.now", now)
        for number in (1, 2):
            assert isinstance(place.train(handler, protocol, f"{approval} {number}"), TrainReply)
        assert "rounds begun: 2 of 2" in "\n".join(status_lines(place.config))
        third = place.train(handler, protocol, f"{approval} 3")
        assert third == RefusalReply(code=Refusal.ROUNDS_USED_UP)


def test_a_started_agent_reserves_no_budget(place: Place, tiny: Any, tmp_path: Path) -> None:
    """A private study's account that was closed unspent is not opened by a start: an approval alone reserves."""
    protocol = tiny.private_protocol(epsilon=6.0, size_rounding=10)
    place.approve(protocol, tmp_path / "first")
    ledger = ledger_of(place.config)
    assert [account.study for account in ledger.statement().accounts] == [protocol.digest()]
    ledger.close(protocol.digest())
    (study,) = Approvals(place.config.link.state / "studies").all()
    with pytest.raises(PrivacyError, match="Approve the study anew"):
        place.start(Deployment(config=place.config, study=study, progress=unseen))
    assert ledger.statement().accounts == ()
    assert isinstance(place.train(place.approve(protocol, tmp_path / "anew"), protocol, "run"), TrainReply)


def test_a_link_is_told_of_a_new_authority_whatever_the_files_times(place: Place, tiny: Any, tmp_path: Path) -> None:
    """The last approval's authority is that of every study of the same coordinator."""
    from client.superexec import link_command

    keys = SiteKeys(place.config.link.keys)
    place.approve(tiny.protocol(), tmp_path / "one")
    place.coordinator.ca.write_bytes(place.coordinator.ca.read_bytes() + b"\n")
    place.approve(tiny.protocol(federation={"rounds": 3}), tmp_path / "two")
    told = sorted(keys.node.parent.glob("*/ca.crt"))
    assert len(told) == 2
    assert {path.read_bytes() for path in told} == {place.coordinator.ca.read_bytes()}
    assert link_command(keys, runtime="127.0.0.1:9094", study=None)[4] in map(str, told)


def test_a_started_agent_answers_the_approved_coordinator_alone(place: Place, tiny: Any, tmp_path: Path) -> None:
    """A task without a signature, or with another's, is not worked on, nor is one that is too large read."""
    protocol = tiny.protocol()
    handler = place.approve(protocol, tmp_path / "papers")
    for key in (None, SigningKey.draw()):
        content = encode_task(first_round(protocol))
        if key:
            key.sign(content, Purpose.TASK)
        answer = decode_answer(from_frames(list(handler(to_frames(content)))))
        assert answer.reply == RefusalReply(code=Refusal.NOT_SIGNED)
    large = replace(first_round(protocol), arrays={"fc.weight": np.zeros((1 << 12, 1 << 13), np.float32)})
    assert place.ask(handler, large) == RefusalReply(code=Refusal.TOO_LARGE)


def test_a_started_agent_is_bound_by_the_hospitals_policy(place: Place, tiny: Any, tmp_path: Path) -> None:
    """How far a model may have moved, and how many rounds a day there are, is what site.toml says."""
    protocol = tiny.protocol()
    strict = place.bound(max_change=1e-6, rounds_per_day=1)
    handler = strict.approve(protocol, tmp_path / "papers")
    moved = {name: array + np.float32(0.1) for name, array in head_of(protocol).items()}
    look = EvaluateTask(header=header(protocol, Kind.EVALUATE, 1), arrays=moved, split=Split.VALIDATION, thresholds=())
    assert strict.ask(handler, look) == RefusalReply(code=Refusal.MOVED_TOO_FAR)
    assert isinstance(strict.train(handler, protocol, "one"), TrainReply)
    assert strict.train(handler, protocol, "two") == RefusalReply(code=Refusal.TOO_MANY_A_DAY)


@pytest.mark.parametrize("private", [False, True])
def test_a_started_agent_withholds_by_the_hospitals_min_cell(
    place: Place, tiny: Any, tmp_path: Path, private: bool
) -> None:
    """Below it nothing is trained, and neither flow nor evidence tells a number."""
    protocol = tiny.private_protocol(epsilon=6.0, size_rounding=10) if private else tiny.protocol()
    strict = place.bound(min_cell=25)
    handler = strict.approve(protocol, tmp_path / "papers")
    assert strict.train(handler, protocol, "run") == RefusalReply(code=Refusal.TOO_FEW_PATIENTS)
    look = EvaluateTask(
        header=header(protocol, Kind.EVALUATE, 1), arrays=head_of(protocol), split=Split.VALIDATION, thresholds=()
    )
    assert strict.ask(handler, look) == EvaluateReply(evidence=(Withheld(),))
    flow = strict.ask(handler, ReadyTask(header=header(protocol, Kind.READY, 0))).flow
    assert flow.splits[Split.VALIDATION].patients is None


def test_a_started_agent_rounds_its_flow_and_tells_it_once(place: Place, tiny: Any, tmp_path: Path) -> None:
    """[policy] count_rounding rounds what leaves, and what left first is on the disk for every later start."""
    protocol = tiny.protocol()
    rounded = place.bound(count_rounding=7, min_cell=1)
    ready = ReadyTask(header=header(protocol, Kind.READY, 0))
    first = rounded.ask(rounded.approve(protocol, tmp_path / "papers"), ready).flow
    patients = {name: one.patients for name, one in first.splits.items()}
    assert all(count % 7 == 0 for count in patients.values())
    exact = place.bound(count_rounding=1, min_cell=1)
    again = exact.ask(exact.approve(protocol, tmp_path / "anew"), ready).flow
    assert again == first


def test_a_started_agent_asks_the_ledger_what_was_charged(place: Place, tiny: Any, tmp_path: Path) -> None:
    """A round that is charged and that no list of tasks knows is not trained: its noise may have left already."""
    protocol = tiny.private_protocol(epsilon=6.0, size_rounding=10)
    lenient = place.bound(min_cell=1)
    handler = lenient.approve(protocol, tmp_path / "papers")
    task = first_round(protocol)
    audit = AuditLog(place.config.link.state / DEPARTURES)
    ledger_of(place.config).charge(
        protocol.digest(), number=1, task_id=task.header.task_id, arrays=digest(task.arrays), audit=audit
    )
    assert lenient.ask(handler, task) == RefusalReply(code=Refusal.ID_REUSED)


def test_a_started_agent_begins_with_the_weights_that_were_approved(place: Place, tiny: Any, tmp_path: Path) -> None:
    """Where this site computes another model from the study than the invitation names, it does not start."""
    protocol = tiny.protocol()
    place.approve(protocol, tmp_path / "papers")
    (study,) = Approvals(place.config.link.state / "studies").all()
    invitation = study.approval.invitation.model_copy(update={"initial": "0" * 64})
    other = replace(study, approval=study.approval.model_copy(update={"invitation": invitation}))
    with pytest.raises(WeightsError, match="not the one that the invitation names"):
        place.start(Deployment(config=place.config, study=other, progress=unseen))


def test_the_link_trusts_the_authority_that_was_explained(place: Place, tiny: Any, tmp_path: Path) -> None:
    """Who writes the invitation's folder while a person reads what it says changes nothing that is approved."""
    out, ca = tmp_path / "sent", place.coordinator.ca.read_bytes()
    coordinator.invite(place.coordinator, "north", tiny.protocol(), out)
    offer = look_at(place.config, out, weights_file=None, progress=unseen)
    (out / "ca.crt").write_bytes(b"another authority")
    study = approve_study(place.config, offer, approved_by="Dr. Data")
    told = SiteKeys(place.config.link.keys).node.parent / study.digest[:12] / "ca.crt"
    assert (told.read_bytes(), (study.folder / "ca.crt").read_bytes()) == (ca, ca)


@pytest.mark.parametrize("run_id", ["audit.jsonl", "local_norm", "approval.toml", "last_trained.safetensors"])
def test_no_run_has_the_name_of_what_an_agent_keeps(place: Place, tiny: Any, tmp_path: Path, run_id: str) -> None:
    """A coordinator chooses the run's id, which names folders: the agent that trained in it starts again."""
    protocol = tiny.protocol(federation={"rounds": 2, "local_norm": True}, model={"norm": "batch"})
    handler = place.approve(protocol, tmp_path / "sent")
    assert isinstance(place.train(handler, protocol, run_id), TrainReply)
    (study,) = Approvals(place.config.link.state / "studies").all()
    again = place.start(Deployment(config=place.config, study=study, progress=unseen))
    assert isinstance(place.train(again, protocol, "another"), TrainReply)
