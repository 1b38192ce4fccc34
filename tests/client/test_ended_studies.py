"""A purge, a withdrawal, a new approval, half a backup: no limit of a study is forgotten, and no noise comes twice."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import Agent
from client.approval import Approvals, ApprovedStudy
from client.bootstrap import compose_agent, site_inputs
from client.delivery import Deliveries
from client.intake import Intake, Limits
from client.privacy_ledger import PrivacyLedger
from client.private_site import Vault, account_of
from client.task_store import TaskStore
from shared.audit import AuditLog, now
from shared.errors import PrivacyError
from shared.messages import (
    DescribeReply,
    DescribeTask,
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
    RefusalReply,
    Task,
    TrainReply,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.protocol import StudyProtocol
from shared.refusal_codes import Refusal
from shared.split import Split
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")

ZEROS = {"fc.weight": np.zeros((1, 512), np.float32), "fc.bias": np.zeros(1, np.float32)}

LAST = 19
"""So many patients there are. The last of them trains."""


class Site:
    """One hospital's state on disk; `agent` starts its agent on so many of its patients, as after an approval."""

    def __init__(self, tiny: Any, study: StudyProtocol, folder: Path) -> None:
        self.tiny, self.study, self.folder = tiny, study, folder
        self.studies = folder / "studies" / study.digest()

    def agent(self, *, patients: int = LAST, since: int = 0, approved: bool = True) -> Agent:
        """Give an agent as `client/deployment.py` puts it together; `approved` reserves first, as an approval does."""
        site, bench = self.tiny.hospital(self.study, self.folder, patients=patients), self.tiny.bench(self.study)
        site = replace(site, records=replace(site.records, content=site.pixels.digest))
        audit = AuditLog(self.folder / "audit.jsonl")
        ledger = PrivacyLedger(folder=self.folder, limit=None)
        vault = Vault(key=bytes(32), ledger=ledger, audit=audit, reserves=False) if self.study.privacy else None
        asked = self.study.privacy
        if asked and approved and ledger.find(self.study.digest()) is None:
            ledger.reserve(account_of(self.study, asked, patients=site.records.patients(Split.TRAIN), limit=None))
        inputs = site_inputs(site, self.study, bench, progress=lambda *_: None)
        agent = compose_agent(site, self.study, bench, inputs, folder=self.folder, vault=vault)
        store = TaskStore(
            self.studies / "tasks",
            now=now,
            audit=audit,
            study=self.study.digest(),
            charged=ledger.has_charged if vault else lambda _: False,
        )
        limits = Limits(rounds=2, since=since, rounds_per_day=None, max_change=1e9)
        initial = {name: np.array(array) for name, array in bench.arrays(bench.names).items()} | ZEROS
        return replace(
            agent,
            guard=replace(agent.guard, audit=audit),
            store=store,
            intake=Intake(store=store, limits=limits, initial=initial, wire="fp32", folder=self.studies / "models"),
            checkpoints=self.studies / "rounds",
            deliveries=Deliveries(site="north", folder=self.studies / "delivered", protocol=self.study),
        )

    def purge(self) -> None:
        """Do what `site purge` does to a study's folder."""
        self.studies.mkdir(parents=True, exist_ok=True)
        (self.studies / "approval.toml").touch()
        study = ApprovedStudy(approval=None, protocol=self.study, folder=self.studies)  # type: ignore[arg-type]
        Approvals(self.folder / "studies").end(study)

    def head(self, kind: Kind, *, number: int = 1, run_id: str = "run") -> Header:
        return Header(protocol_digest=self.study.digest(), run_id=run_id, round=number, site="north", kind=kind)

    def train(self, *, number: int = 1, run_id: str = "run") -> TrainTask:
        return TrainTask(header=self.head(Kind.TRAIN, number=number, run_id=run_id), arrays=ZEROS)


Hospital = Callable[..., Site]


@pytest.fixture
def hospital(tiny: Any, tmp_path: Path) -> Hospital:
    """Give `hospital(study, name)`: one of its own."""
    return lambda study, name="site": Site(tiny, study, tmp_path / name)


@pytest.fixture(scope="module")
def private(tiny: Any) -> StudyProtocol:
    study: StudyProtocol = tiny.private_protocol(epsilon=6.0, size_rounding=10)
    return study


def ask(agent: Agent, task: Task) -> Any:
    return decode_answer(from_frames(list(agent.handle(to_frames(encode_task(task)))))).reply


def update(reply: Any) -> np.ndarray:
    assert isinstance(reply, TrainReply), reply
    return np.concatenate([array.ravel() for array in reply.update.values()])


def test_a_purge_and_a_new_approval_answer_no_task_twice(hospital: Hospital, private: StudyProtocol) -> None:
    """Purged, a patient withdrawn, approved anew: the task that was answered is refused, and nothing is charged."""
    site = hospital(private)
    update(ask(site.agent(), site.train()))
    site.purge()
    for patients in (LAST, LAST - 1):
        again = ask(site.agent(patients=patients), site.train())
        assert again == RefusalReply(code=Refusal.ID_REUSED)
    assert PrivacyLedger(folder=site.folder, limit=None).statement().accounts[0].rounds == 1


def test_noise_is_the_datas_and_coins_are_not(hospital: Hospital, private: StudyProtocol) -> None:
    """The same key and task over one patient fewer: both updates differ by noise, and not by one patient's vector."""
    everybody = update(ask(hospital(private, "one").agent(), hospital(private, "one").train()))
    same = update(ask(hospital(private, "two").agent(), hospital(private, "two").train()))
    fewer = update(ask(hospital(private, "three").agent(patients=LAST - 1), hospital(private, "three").train()))
    np.testing.assert_array_equal(everybody, same)
    one_patient = private.training.lr_head / 10  # at most: in units of the clip, divided by rate and public size
    assert np.linalg.norm(everybody - fewer) > 5 * one_patient


def test_the_test_split_is_released_once_whatever_was_purged(tiny: Any, hospital: Hospital) -> None:
    """Nor is a description given twice, nor an evaluation that was answered."""
    site = hospital(tiny.protocol())
    test = EvaluateTask(header=site.head(Kind.EVALUATE), arrays=ZEROS, split=Split.TEST, thresholds=(0.5,))
    seen = EvaluateTask(header=site.head(Kind.EVALUATE, number=2), arrays=ZEROS, split=Split.VALIDATION, thresholds=())
    described = DescribeTask(header=site.head(Kind.DESCRIBE), arrays=ZEROS)
    for task, kind in ((test, EvaluateReply), (seen, EvaluateReply), (described, DescribeReply)):
        assert isinstance(ask(site.agent(), task), kind)
    site.purge()
    approved = AuditLog(site.folder / "audit.jsonl").lines
    for task in (test, seen, described):
        again = ask(site.agent(patients=LAST - 1, since=approved), task)
        assert again == RefusalReply(code=Refusal.ID_REUSED)
    other_run = replace(test, header=site.head(Kind.EVALUATE, run_id="another"))
    assert ask(site.agent(since=approved), other_run) == RefusalReply(code=Refusal.TEST_RELEASED)
    other_run = replace(described, header=site.head(Kind.DESCRIBE, run_id="another"))
    for agent in (site.agent(), site.agent(patients=LAST - 1, since=approved)):
        assert ask(agent, other_run) == RefusalReply(code=Refusal.EVALUATIONS_USED_UP)


def test_a_log_that_was_lost_makes_no_charged_round_free(hospital: Hospital, private: StudyProtocol) -> None:
    """The ledger remembers what the log does not: one such task is refused, and after several nothing trains."""
    site = hospital(private)
    update(ask(site.agent(), site.train()))
    (site.folder / "audit.jsonl").rename(site.folder / "lost")
    shutil.rmtree(site.studies)
    assert ask(site.agent(), site.train()) == RefusalReply(code=Refusal.ID_REUSED)
    (site.folder / "lost").replace(site.folder / "audit.jsonl")
    update(ask(site.agent(), site.train(number=2)))
    (site.folder / "audit.jsonl").unlink()
    with pytest.raises(
        PrivacyError, match=r"audit\.jsonl: 2 of the charges in ledger\.sqlite are not in the audit log"
    ):
        site.agent()


def test_a_ledger_that_is_older_than_the_log_trains_nothing(hospital: Hospital, private: StudyProtocol) -> None:
    """Half a backup put back: what is missing in it was spent."""
    site = hospital(private)
    site.agent()
    shutil.copy(site.folder / "ledger.sqlite", site.folder / "backup")
    update(ask(site.agent(), site.train()))
    shutil.copy(site.folder / "backup", site.folder / "ledger.sqlite")
    with pytest.raises(PrivacyError, match="older copy"):
        site.agent()


def test_a_folder_that_was_deleted_is_no_new_beginning(hospital: Hospital, private: StudyProtocol) -> None:
    """All that a study's folder holds may go: what was begun and answered is known without it."""
    site = hospital(private)
    update(ask(site.agent(), site.train()))
    shutil.rmtree(site.folder / "studies")
    assert ask(site.agent(), site.train()) == RefusalReply(code=Refusal.ID_REUSED)
    update(ask(site.agent(), site.train(number=2)))
    third = ask(site.agent(), site.train(run_id="another"))
    assert third == RefusalReply(code=Refusal.ROUNDS_USED_UP)


def test_closing_an_account_gives_no_noise_back(hospital: Hospital, private: StudyProtocol) -> None:
    """What was begun and charged stays so: only an account of which nothing was spent is gone."""
    site = hospital(private)
    update(ask(site.agent(), site.train()))
    ledger = PrivacyLedger(folder=site.folder, limit=None)
    ledger.close(site.study.digest())
    site.purge()
    assert ask(site.agent(patients=LAST - 1), site.train()) == RefusalReply(code=Refusal.ID_REUSED)
    assert ask(site.agent(), site.train(number=2)) == RefusalReply(code=Refusal.PRIVACY)


def test_a_closed_account_comes_back_by_an_approval_alone(hospital: Hospital, private: StudyProtocol) -> None:
    """Closed before anything was spent, it is gone: neither a restart nor a withdrawal reserves it again."""
    site = hospital(private)
    site.agent()
    ledger = PrivacyLedger(folder=site.folder, limit=None)
    ledger.close(site.study.digest())
    for patients in (LAST, LAST - 1):
        with pytest.raises(PrivacyError, match="Approve the study anew"):
            site.agent(patients=patients, approved=False)
    assert ledger.statement().accounts == ()
    update(ask(site.agent(), site.train()))


def test_a_reply_is_kept_before_its_departure_is_recorded(
    hospital: Hospital, private: StudyProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, the agent sends the kept reply: what the log says has left can always be sent again."""
    site = hospital(private)
    agent = site.agent()

    def killed(self: AuditLog, event: str, **facts: Any) -> None:
        if event == "departure":
            raise KeyboardInterrupt
        real(self, event, **facts)

    real = AuditLog.append
    monkeypatch.setattr(AuditLog, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(agent, site.train())
    monkeypatch.setattr(AuditLog, "append", real)
    kept = list((site.studies / "tasks" / "replies").iterdir())
    assert len(kept) == 1
    assert isinstance(ask(site.agent(), site.train()), TrainReply)


def test_a_round_goes_on_from_no_other_patients_checkpoint(tiny: Any, hospital: Hospital) -> None:
    """The middle of a round is that of these very data: as many films with the same labels do not go on from it."""
    site = hospital(tiny.protocol())
    agent = site.agent()
    own, task = agent._checkpoint(site.train()), site.train()
    swapped = agent.records.patients_N.copy()
    swapped[0] += 1000
    other = replace(agent, records=replace(agent.records, patients_N=swapped))
    assert own is not None
    own.least_seconds = own._due = 0.0
    own.save_if_due(lambda: {"epoch": 1})
    for asked, found in ((agent, {"epoch": 1}), (other, None)):
        checkpoint = asked._checkpoint(task)
        assert checkpoint is not None
        assert checkpoint.load() == found
