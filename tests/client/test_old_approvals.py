"""What a hospital has of an earlier version: it is told what to do, and what was counted stays counted.

The files in tests/golden/encoding_2 were written by commit f6741bd, the last that spoke version 2 of the encoding: an
approved study with one trained round, and a private one with one charged round.
"""

import json
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.approval import Approvals, ApprovedStudy
from client.intake import Intake, Limits
from client.ledger_words import ledger_lines
from client.privacy_ledger import PrivacyLedger
from client.site import read_site
from client.site_service import SiteService
from client.site_status import status_lines
from client.task_store import TaskStore
from shared.audit import AuditLog
from shared.errors import PrivacyError, SiteError, StudyError
from shared.messages import (
    WIRE_VERSION,
    Approval,
    Header,
    Kind,
    TrainReply,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.signing import Purpose, SigningKey, signed_digest
from shared.split import Split
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")

WRITTEN = Path(__file__).parents[1] / "golden" / "encoding_2"
AT = datetime(2026, 3, 1, 9, tzinfo=UTC)
COORDINATOR, SITE = SigningKey.draw(), SigningKey.draw()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give a copy of what the earlier version left in [link] state."""
    shutil.copytree(WRITTEN, tmp_path / "state")
    return tmp_path / "state"


def plain(state: Path) -> ApprovedStudy:
    (found,) = (study for study in Approvals(state / "studies").all() if study.protocol.privacy is None)
    return found


def private(state: Path) -> ApprovedStudy:
    (found,) = (study for study in Approvals(state / "studies").all() if study.protocol.privacy is not None)
    return found


def test_an_earlier_approval_says_what_to_do(state: Path, tmp_path: Path) -> None:
    """`site status` lists it with one message; `site serve` ends with the same, and opens no socket."""
    lines = ['[site]\nname = "north"', '[data]\ndicom = "dicom"\nlabels = "labels.csv"\njoin = "path"']
    (tmp_path / "site.toml").write_text("\n".join([*lines, '[data.findings]\nopacity = "opacity"']))
    config = read_site(tmp_path / "site.toml")
    study = plain(state)
    told = "\n".join(status_lines(config))
    assert told.count("was approved under version 2 of the encoding") == 2
    assert "rounds begun: 1 of 2" in told
    for word in (
        "new invitation",
        "polyclinic site approve SITE.toml FOLDER",
        "polyclinic site bundle SITE.toml FOLDER",
    ):
        assert word in study.outdated
    assert "stays counted" in study.outdated
    service = SiteService(config=config, studies=[study], progress=lambda *_: None)
    with pytest.raises(SiteError, match="was approved under version 2 of the encoding"):
        service.serve(None)  # type: ignore[arg-type]  # it never gets to wait
    assert not config.link.agent_socket.exists()


def test_a_trained_round_is_answered_again_in_todays_words(state: Path, tiny: Any, tmp_path: Path) -> None:
    """The reply that the earlier version stored says what it said, in this version, signed over today's request."""
    study = plain(state)
    audit = AuditLog(state / "audit.jsonl")
    store = TaskStore(study.folder / "tasks", now=lambda: AT, audit=audit, study=study.digest)
    sent = load_file(study.folder / "models" / "run" / "last_trained.safetensors")
    arrays = {name: sent[name] for name in ("fc.weight", "fc.bias")}
    intake = Intake(
        store=store,
        limits=Limits(rounds=2, since=study.since(audit.path), rounds_per_day=None, max_change=100.0),
        initial=arrays,
        wire="fp32",
        folder=study.folder / "models",
    )
    agent = tiny.agent(study.protocol, tmp_path)
    agent = replace(
        agent,
        guard=replace(agent.guard, key=SITE),
        coordinator=COORDINATOR.public,
        approval=Approval.APPROVED,
        store=store,
        intake=intake,
    )
    header = Header(protocol_digest=study.digest, run_id="run", round=1, site="north", kind=Kind.TRAIN)
    content = encode_task(TrainTask(header=header, arrays=arrays))
    request = COORDINATOR.sign(content, Purpose.TASK)
    arrived = from_frames(agent.handle(to_frames(content)))
    assert signed_digest(arrived, SITE.public, Purpose.REPLY)
    answer = decode_answer(arrived)
    assert (answer.task_id, answer.request) == (header.task_id, request)
    assert isinstance(answer.reply, TrainReply)
    (kept,) = (study.folder / "tasks" / "replies").glob("*.reply")
    assert all(np.ascontiguousarray(array).tobytes() in kept.read_bytes() for array in answer.reply.update.values())
    assert [(begun.kind, begun.round) for begun in store.begun] == [("train", 1)]


def test_what_was_charged_stays_charged(state: Path) -> None:
    """The privacy ledger of the earlier version has the study, its plan and its one round; the same task is free."""
    study = private(state)
    ledger = PrivacyLedger(folder=state, limit=None)
    account = ledger.find(study.digest)
    assert account is not None
    assert account.charged[Split.TRAIN] == account.rounds == 1
    assert account.epsilon == pytest.approx(2.1, abs=0.9)
    begun = json.loads((study.folder / "tasks" / "tasks.jsonl").read_text())
    assert (begun["kind"], begun["round"]) == ("train", 1)
    charge = next(json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines() if "charge" in line)
    again = {"number": 1, "task_id": charge["task"], "arrays": charge["request"]}
    ledger.charge(study.digest, **again, audit=AuditLog(state / "audit.jsonl"))
    found = ledger.find(study.digest)
    assert found is not None
    assert found.rounds == 1


SITE_TOML = """[site]
name = "north"
[data]
dicom = "dicom"
labels = "labels.csv"
join = "path"
[data.findings]
opacity = "opacity"
"""

REFUSED = {
    "clip": ("clip = ", "clip = 1e-30"),
    "device": ("subgroups = ", 'subgroups = ["device"]'),
}


@pytest.fixture(params=REFUSED)
def outgrown(state: Path, request: pytest.FixtureRequest) -> str:
    """Make the earlier version's private study one that it took and today's bounds refuse; give its digest."""
    study = private(state)
    begins, now = REFUSED[request.param]
    lines = (study.folder / "study.toml").read_text().splitlines()
    assert sum(line.startswith(begins) for line in lines) == 1
    text = "\n".join(now if line.startswith(begins) else line for line in lines)
    (study.folder / "study.toml").write_text(text + "\n")
    return study.digest


def test_a_study_that_todays_bounds_refuse_stands_in_nobodys_way(state: Path, outgrown: str, tmp_path: Path) -> None:
    """`status` says so beside the other study, which is picked and served as before; asked for by name it says why."""
    (tmp_path / "site.toml").write_text(SITE_TOML)
    approvals = Approvals(state / "studies")
    (other,) = approvals.all()
    assert approvals.pick(None) == other
    assert approvals.at_least_one() == [other]
    told = "\n".join(status_lines(read_site(tmp_path / "site.toml")))
    assert f"{other.digest[:12]} “" in told
    assert f"{outgrown[:12]} “Tiny” was approved under version 2" in told
    assert "this Polyclinic refuses its study" in told
    with pytest.raises(SiteError, match="What was trained, released and spent stays counted"):
        approvals.pick(outgrown[:12])
    shutil.rmtree(other.folder)
    with pytest.raises(SiteError, match="this Polyclinic refuses its study"):
        approvals.at_least_one()


def test_a_refused_study_of_today_is_still_an_error(state: Path, outgrown: str) -> None:
    """Only an earlier version's is set aside: what was approved in this one and reads otherwise was changed."""
    record = state / "studies" / outgrown / "approval.toml"
    today = f'encoding = "{WIRE_VERSION}"\nsigning = "{COORDINATOR.public}"\n'
    record.write_text(record.read_text() + today)  # in its last table, the invitation
    with pytest.raises(StudyError):
        Approvals(state / "studies").all()


@pytest.mark.parametrize("clip", [1e-30, 1e-7, 1e7])
def test_a_ledger_with_a_clip_that_todays_bounds_refuse_is_read(state: Path, clip: float) -> None:
    """What was spent is told and counted, the account can be closed, and nothing more is reserved or trained by it."""
    study = private(state)
    with sqlite3.connect(state / "ledger.sqlite") as file:
        ((plan,),) = file.execute("SELECT plan FROM study").fetchall()
        file.execute("UPDATE study SET plan = ?", (json.dumps(json.loads(plan) | {"clip": clip}),))
    ledger = PrivacyLedger(folder=state, limit=None)
    account = ledger.find(study.digest)
    assert account is not None
    assert account.rounds == 1
    words = "\n".join(ledger_lines(ledger.statement()))
    assert f"its clip of {clip:g} is none that fp32 keeps to" in words
    audit = AuditLog(state / "audit.jsonl")
    with pytest.raises(PrivacyError, match="a clip is from 1e-06 to 1e\\+06"):
        ledger.charge(study.digest, number=2, task_id="t" * 64, arrays="a" * 64, audit=audit)
    with pytest.raises(PrivacyError, match="a new version of the study with such a clip"):
        ledger.reserve(replace(account, study="b" * 64))
    ledger.close(study.digest)
    closed = ledger.find(study.digest)
    assert closed is not None
    assert closed.closed
    assert closed.epsilon == account.epsilon
