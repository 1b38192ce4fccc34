"""The privacy ledger: what it says was spent agrees with another library, and never reads too little."""

import json
import math
import shutil
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from client.egress import EgressGuard
from client.privacy_account import Account, CountPlan
from client.privacy_ledger import EVENT, PrivacyLedger
from shared.audit import AuditLog, verify
from shared.errors import PolyclinicError, PrivacyError, StorageError, TaskError
from shared.messages import RefusalReply, decode_answer
from shared.privacy import PrivacyPlan, make_plan, plan_renyi
from shared.refusal_codes import Refusal
from shared.renyi_filter import PrivacyLimit, pure_renyi
from shared.split import Split
from shared.wire import from_frames

A, B, C = "a" * 64, "b" * 64, "c" * 64
LIMIT = PrivacyLimit(epsilon=6.0, delta=1e-5)
PLAN = PrivacyPlan(
    sample_rate=1.0,
    noise_multiplier=10.0,
    steps_per_round=2,
    rounds=10,
    delta=1e-5,
    clip=0.3,
    images_per_patient=1,
    expected_patients=100,
)


@pytest.fixture
def ledger(tmp_path: Path) -> PrivacyLedger:
    """Give an empty ledger with a limit."""
    return PrivacyLedger(folder=tmp_path, limit=LIMIT)


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    """Give the log that the ledger's charges are written into."""
    return AuditLog(tmp_path / "audit.jsonl")


def reserved(ledger: PrivacyLedger, study: str = A, plan: PrivacyPlan = PLAN, **more: object) -> PrivacyLedger:
    """Reserve a plan, and give the ledger back."""
    ledger.reserve(Account(study=study, plan=plan, name=f"study {study[0]}", accountant="prv", **more))
    return ledger


def charge(ledger: PrivacyLedger, audit: AuditLog, number: int, *, study: str = A, arrays: str = "x") -> PrivacyPlan:
    """Charge the round of this number."""
    return ledger.charge(study, number=number, task_id=f"{study[0]}{number}", arrays=arrays, audit=audit)


def rounds(ledger: PrivacyLedger) -> dict[str, int]:
    """Say how many rounds each study was charged for."""
    return {account.study: account.rounds for account in ledger.statement().accounts}


def test_a_charge_is_on_disk_and_in_the_audit_log_when_it_returns(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """Another process, which opens both files, finds it; the plan to train by is the one that was reserved."""
    assert charge(reserved(ledger), audit, 1) == PLAN
    with sqlite3.connect(f"file:{ledger.path}?mode=ro", uri=True) as other:
        assert other.execute("SELECT study, round, request FROM charge").fetchall() == [(A, 1, "x")]
        assert not list(ledger.folder.glob("*-journal")) + list(ledger.folder.glob("*-wal"))
    assert [(e["event"], e["task"], e["round"]) for e in verify(ledger.audited)] == [(EVENT, "a1", 1)]
    assert ledger.path.stat().st_mode & 0o077 == 0


def test_a_commit_waits_for_the_disk(ledger: PrivacyLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal is a file that is rolled back, and its deletion is synced too: nothing less keeps a commit."""
    from client import ledger_file

    seen = []

    def connect(path: Path) -> sqlite3.Connection:
        connection = original(path)
        seen.append(
            tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous"))
        )
        return connection

    original = ledger_file._connect
    monkeypatch.setattr(ledger_file, "_connect", connect)
    reserved(ledger)
    assert seen == [("delete", 3)]  # 3 is EXTRA


def test_a_round_that_goes_on_is_charged_once(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """The same task for the same arrays costs nothing more, at the ledger and in the audit log."""
    reserved(ledger)
    for _ in range(3):
        charge(PrivacyLedger(folder=ledger.folder, limit=LIMIT), audit, 1)
    assert rounds(ledger) == {A: 1}
    assert len(list(verify(ledger.audited))) == 1


def test_a_kill_between_ledger_and_audit_log_is_made_good(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """The charge stands in the ledger; the task that comes again brings it into the audit log."""

    class Killed(AuditLog):
        def append(self, event: str, **facts: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        charge(reserved(ledger), Killed(ledger.audited), 1)
    assert rounds(ledger) == {A: 1}
    charge(ledger, audit, 1)
    assert rounds(ledger) == {A: 1}
    assert len(list(verify(ledger.audited))) == 1


def test_a_task_id_is_never_charged_for_other_arrays(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """Else the noise of one release would stand under another."""
    charge(reserved(ledger), audit, 1)
    with pytest.raises(TaskError, match="noise is not drawn twice") as fault:
        charge(ledger, audit, 1, arrays="y")
    assert fault.value.code == Refusal.ID_REUSED
    assert rounds(ledger) == {A: 1}


def test_the_same_round_of_another_run_is_another_charge(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """A study that the coordinator begins anew trains on the same patients again, and that is paid again."""
    reserved(ledger)
    for run in ("one", "two"):
        ledger.charge(A, number=1, task_id=run, arrays="x", audit=audit)
    assert rounds(ledger) == {A: 2}


def test_no_more_rounds_than_planned(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """The plan is what ε was promised for."""
    reserved(ledger, plan=replace(PLAN, rounds=2))
    charge(ledger, audit, 1)
    charge(ledger, audit, 2)
    with pytest.raises(PrivacyError, match="used up its privacy plan: all 2 releases"):
        charge(ledger, audit, 3)
    charge(ledger, audit, 2)  # still the same task


def test_a_study_that_was_not_reserved_cannot_train(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """There is no plan to pay for."""
    with pytest.raises(PrivacyError, match="Approve the study at this site first"):
        charge(ledger, audit, 1)
    assert ledger.find(A) is None


def test_a_plan_is_fixed_before_round_1(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """Before it, another one takes its place; after it, another one is refused, and the same one is nothing new."""
    other = replace(PLAN, noise_multiplier=12.0)
    reserved(reserved(ledger), plan=other)
    found = ledger.find(A)
    assert found is not None
    assert (found.plan, found.begun) == (other, False)
    charge(ledger, audit, 1)
    reserved(ledger, plan=other)
    with pytest.raises(PrivacyError, match="fixed before round 1"):
        reserved(ledger, plan=PLAN)


def test_a_study_that_does_not_fit_is_refused_with_what_remains(ledger: PrivacyLedger) -> None:
    """The sentence has what the study needs, what is left, and what would fit; what it says would fit does."""
    reserved(ledger)
    remains = ledger.statement()
    with pytest.raises(PrivacyError, match=r"needs .*% of .*budget \(ε = 6 at δ = 1e-05.*% is left.*up to about ε = "):
        reserved(ledger, B, replace(PLAN, noise_multiplier=3.5))
    assert 0 < remains.next_epsilon < 6
    share = {"steps_per_round": 1, "rounds": 1, "noise_multiplier": fitting_noise(remains.next_epsilon)}
    reserved(ledger, B, replace(PLAN, **share))
    assert ledger.statement().next_epsilon < 0.2


def fitting_noise(epsilon: float) -> float:
    """Find the noise of one step of everyone that has this ε."""
    ask = {"delta": 1e-5, "clip": 1.0, "batch_size": 1, "local_epochs": 1, "rounds": 1, "images_per_patient": 1}
    return make_plan(epsilon=epsilon, expected_patients=1, accountant="prv", **ask).noise_multiplier


def test_only_closing_gives_back_what_was_never_run(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """Reserved rounds stand against the limit until then; charged ones for ever."""
    plan = replace(PLAN, noise_multiplier=6.0, rounds=15)
    reserved(ledger, plan=plan)
    charge(ledger, audit, 1)
    with pytest.raises(PrivacyError, match="is left"):
        reserved(ledger, B, plan)
    ledger.close(A)
    ledger.close(A)
    statement = ledger.statement()
    assert statement.held_share == statement.spent_share == pytest.approx(statement.share(statement.accounts[0])[0])
    assert statement.spent_share > 0
    reserved(ledger, B, replace(plan, rounds=14))
    with pytest.raises(PrivacyError, match="is closed"):
        charge(ledger, audit, 2)
    with pytest.raises(PrivacyError, match="is closed"):
        reserved(ledger, plan=plan)
    with pytest.raises(PrivacyError, match="no plan for study"):
        ledger.close(C)


def test_a_study_of_which_nothing_was_spent_can_be_approved_anew(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """Closing gives back all of it, and leaves nothing that would stand in the way."""
    ledger.close(reserved(ledger).statement().accounts[0].study)
    assert ledger.statement().accounts == ()
    charge(reserved(ledger, plan=replace(PLAN, noise_multiplier=12.0)), audit, 1)
    assert rounds(ledger) == {A: 1}


def test_a_limit_that_was_lowered_stops_the_next_round(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """What is charged stays within the limit that holds when it is charged."""
    charge(reserved(ledger), audit, 1)
    lower = PrivacyLedger(folder=ledger.folder, limit=PrivacyLimit(epsilon=0.5, delta=1e-5))
    with pytest.raises(PrivacyError, match=r"cannot pay for its next round: .*% of this"):
        charge(lower, audit, 2)


def test_a_plan_without_noise_is_refused_with_and_without_a_limit(tmp_path: Path) -> None:
    """No ledger can pay for it."""
    for limit in (LIMIT, None):
        with pytest.raises(PrivacyError, match="without noise"):
            reserved(PrivacyLedger(folder=tmp_path, limit=limit), plan=replace(PLAN, noise_multiplier=0.0))


def test_without_a_limit_each_study_still_has_its_account(tmp_path: Path, audit: AuditLog) -> None:
    """Nothing is promised over studies, and nothing is lost."""
    ledger = PrivacyLedger(folder=tmp_path, limit=None)
    for study in (A, B, C):
        reserved(ledger, study)
    charge(ledger, audit, 1)
    statement = ledger.statement()
    assert (statement.spent_share, statement.next_epsilon, statement.spent_epsilon) == (0, math.inf, 0)
    assert 0 < statement.accounts[0].epsilon < statement.accounts[0].planned_epsilon


@pytest.mark.parametrize("loss", ["deleted", "older", "emptied"])
def test_a_ledger_that_lost_charges_is_not_trusted(ledger: PrivacyLedger, audit: AuditLog, loss: str) -> None:
    """The audit log remembers: the budget never begins anew in silence, and nothing is charged or reserved."""
    charge(reserved(ledger), audit, 1)
    older = shutil.copy(ledger.path, ledger.folder / "older")
    charge(ledger, audit, 2)
    newest = shutil.copy(ledger.path, ledger.folder / "newest")
    match loss:
        case "deleted":
            ledger.path.unlink()
        case "older":
            shutil.copy(older, ledger.path)
        case "emptied":
            ledger.path.write_bytes(b"")
    for attempt in (ledger.statement, lambda: reserved(ledger, B), lambda: charge(ledger, audit, 3)):
        with pytest.raises(PrivacyError, match=r"of the charges in audit\.jsonl are not in the privacy ledger"):
            attempt()
    shutil.copy(newest, ledger.path)
    assert rounds(ledger) == {A: 2}


def test_a_ledger_that_is_damaged_is_said(ledger: PrivacyLedger) -> None:
    """No traceback of sqlite's."""
    ledger.path.write_bytes(b"not a ledger" * 100)
    with pytest.raises(StorageError, match=r"cannot be used .* mend the file"):
        ledger.statement()


def test_a_ledger_that_cannot_be_written_stops_the_round(
    ledger: PrivacyLedger, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk comes before the first step, and leaves the ledger as it was."""
    from client.ledger_file import OpenLedger

    reserved(ledger)

    def full(*args: object, **more: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(OpenLedger, "charge", full)
        with pytest.raises(StorageError, match="disk is full"):
            charge(ledger, audit, 1)
    assert rounds(ledger) == {A: 0}
    assert not ledger.audited.exists()


def _race(folder: Path, worker: int) -> list[str]:
    """Charge as many rounds as this process gets, and try to reserve a study that only one can have."""
    ledger = PrivacyLedger(folder=folder / "site", limit=LIMIT)
    log = AuditLog(folder / f"audit-{worker}.jsonl")  # the ledger's own log has one writer, the agent
    got = []
    for number in range(6):
        try:
            ledger.charge(A, number=number, task_id=f"{worker}-{number}", arrays="x", audit=log)
            got.append("round")
        except PrivacyError:
            pass
    try:
        reserved(ledger, "bc"[worker] * 64, replace(PLAN, noise_multiplier=6.0, rounds=15))
        got.append("study")
    except PrivacyError:
        pass
    return got


def test_two_processes_cannot_spend_the_same_budget(tmp_path: Path) -> None:
    """Of 12 attempts at 10 rounds 10 succeed, and of two studies for which there is room once, one."""
    reserved(PrivacyLedger(folder=tmp_path / "site", limit=LIMIT), plan=replace(PLAN, noise_multiplier=40.0))
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        got = [one for each in pool.map(_race, [tmp_path] * 2, range(2)) for one in each]
    assert got.count("round") == 10
    assert got.count("study") == 1


@pytest.mark.parametrize("seed", range(6))
def test_the_ledgers_figures_equal_an_independent_composition(tmp_path: Path, seed: int) -> None:
    """Rounds in any order, restarts that charge again, a site that joins late, two or three studies (Show 1).

    Within a study the other library's exact distribution of the loss (PLD), over studies its Rényi accountant at the
    filter's order; whatever is refused adds nothing to either.
    """
    rng = np.random.default_rng(seed)
    limit = PrivacyLimit(epsilon=float(rng.uniform(4, 12)), delta=1e-5)
    audit = AuditLog(tmp_path / "audit.jsonl")
    plans = {
        study: replace(
            PLAN,
            sample_rate=float(rng.choice([0.05, 0.2, 1.0])),
            noise_multiplier=float(rng.uniform(2.0, 8.0)),
            steps_per_round=int(rng.integers(1, 5)),
            rounds=int(rng.integers(3, 12)),
        )
        for study in (A, B, C)[: rng.integers(2, 4)]
    }
    done: dict[str, set[int]] = {}
    for study, plan in plans.items():
        try:
            PrivacyLedger(folder=tmp_path, limit=limit).reserve(
                Account(study=study, plan=plan, name="a study", accountant="prv")
            )
            done[study] = set()
        except PrivacyError:
            continue
    joined = {study: int(rng.integers(1, 4)) for study in done}  # the first round that this site hears of
    for _ in range(40):
        study = str(rng.choice(list(done)))
        number = int(rng.integers(joined[study], plans[study].rounds + 1))
        charge(PrivacyLedger(folder=tmp_path, limit=limit), audit, number, study=study)  # a new process each time
        done[study].add(number)
    order = limit.order
    over_studies = RdpAccountant([order])
    statement = PrivacyLedger(folder=tmp_path, limit=limit).statement()
    for account in statement.accounts:
        plan, run = plans[account.study], len(done[account.study])
        assert account.rounds == run
        step = PoissonSampledDpEvent(plan.sample_rate, GaussianDpEvent(plan.noise_multiplier))
        event = SelfComposedDpEvent(step, plan.steps_per_round * run)
        truth = PLDAccountant(value_discretization_interval=1e-3).compose(event).get_epsilon(plan.delta)
        assert truth - 2e-3 <= account.epsilon <= truth * 1.02 + 0.015
        over_studies.compose(event)
    assert statement.spent_share * limit.budget == pytest.approx(float(over_studies._rdp[0]), rel=1e-6)
    assert limit.allows(statement.spent_share * limit.budget)
    assert statement.spent_share <= statement.held_share <= 1


def test_counts_are_charged_by_side_and_the_larger_loss_is_the_studys(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """A patient is on one side: the losses of training, validation and test are not added."""
    counts = CountPlan(epsilon=0.4, releases=2)
    reserved(ledger, plan=replace(PLAN, noise_multiplier=40.0), counts=counts)
    for number in (1, 2):
        paid = ledger.charge_counts(
            A, side=Split.VALIDATION, number=number, task_id=f"v{number}", request="x", audit=audit
        )
        assert paid == 0.4
    ledger.charge_counts(A, side=Split.TEST, number=2, task_id="t", request="x", audit=audit)
    ledger.charge_counts(A, side=Split.TEST, number=2, task_id="t", request="x", audit=audit)
    (account,) = ledger.statement().accounts
    assert account.counts_epsilon == pytest.approx(0.8)
    assert account.spent(4.0) == pytest.approx(2 * pure_renyi(0.4, 4.0))
    assert account.held(4.0) == pytest.approx(max(account.spent(4.0), plan_renyi(account.plan, 4.0)))
    with pytest.raises(PrivacyError, match="all 2 releases on its validation patients"):
        ledger.charge_counts(A, side=Split.VALIDATION, number=3, task_id="v3", request="x", audit=audit)
    with pytest.raises(PrivacyError, match="in no privacy plan"):
        ledger.charge_counts(A, side=Split.TRAIN, number=3, task_id="v4", request="x", audit=audit)


def test_every_refusal_is_a_sentence_with_a_next_step(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """Whoever reads one knows what to do, and learns no more of a study than the start of its digest."""
    counts = CountPlan(epsilon=0.1, releases=1)
    small = replace(PLAN, noise_multiplier=40.0, rounds=1)
    reserved(ledger, plan=small, counts=counts)
    charge(ledger, audit, 1)
    charge(reserved(ledger, C, small), audit, 1, study=C)
    ledger.close(C)
    low = PrivacyLedger(folder=ledger.folder, limit=PrivacyLimit(epsilon=0.05, delta=1e-5))
    attempts = [
        lambda: charge(ledger, audit, 2),
        lambda: charge(ledger, audit, 1, arrays="y"),
        lambda: charge(ledger, audit, 1, study=B),
        lambda: charge(ledger, audit, 2, study=C),
        lambda: reserved(ledger, plan=PLAN),
        lambda: reserved(ledger, C),
        lambda: reserved(ledger, B, replace(PLAN, noise_multiplier=1.0)),
        lambda: reserved(ledger, B, replace(PLAN, noise_multiplier=0.0)),
        lambda: ledger.charge_counts(A, side=Split.TRAIN, number=1, task_id="c", request="x", audit=audit),
        lambda: low.charge_counts(A, side=Split.TEST, number=1, task_id="d", request="x", audit=audit),
        lambda: (ledger.path.unlink(), ledger.statement()),
        lambda: (ledger.path.write_bytes(b"0123456789abcdef" * 99), ledger.statement()),
    ]
    said = []
    for attempt in attempts:
        with pytest.raises(PolyclinicError) as fault:
            attempt()
        said.append(str(fault.value))
    assert len(set(said)) == len(attempts)
    steps = ("Ask", "Approve", "Plan", "Keep", "Score", "Raise", "Put", "Free")
    for words in said:
        assert words.endswith(".")
        assert any(f". {step} " in words for step in steps), words
        assert A not in words
    assert json.dumps(said)  # no bytes, no object


def test_a_refusal_of_the_ledger_leaves_as_a_fixed_code(ledger: PrivacyLedger, audit: AuditLog) -> None:
    """The coordinator learns that the budget is the reason, and not how much of it is left."""
    guard = EgressGuard(min_cell=10, audit=audit, exclusive=False, wire="fp32")
    with pytest.raises(PrivacyError) as fault:
        charge(ledger, audit, 1)
    reply = decode_answer(from_frames(guard.refuse(fault.value, task_id="a1"))).reply
    assert reply == RefusalReply(code=Refusal.PRIVACY)
    assert Refusal.PRIVACY == "privacy_budget"
