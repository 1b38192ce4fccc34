"""A private study over two simulated hospitals: charged, noised, stamped; and refused where it cannot be private."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import private_training
from client.agent import Agent
from client.bootstrap import compose_agent, site_inputs
from client.intake import Intake, Limits
from client.privacy_ledger import PrivacyLedger
from client.private_site import Vault
from client.task_store import TaskStore
from server.alternatives import Alternatives
from server.environment import environment
from server.report import render
from server.results_json import from_json, to_json
from server.study_results import study_result
from shared.audit import AuditLog, now
from shared.errors import PrivacyError, SiteError
from shared.messages import (
    DescribeReply,
    DescribeTask,
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
    RefusalReply,
    TrainReply,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.model import exchanged
from shared.parameters import NamedArrays
from shared.protocol import StudyProtocol
from shared.refusal_codes import Refusal
from shared.split import Split
from shared.wire import from_frames, to_frames
from simulations.federation import Federation, Run, without_noise

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def study(tiny: Any) -> StudyProtocol:
    """Give a private study of two rounds, whose size is rounded to tens."""
    private: StudyProtocol = tiny.private_protocol(epsilon=6.0, size_rounding=10)
    return private


def federation(tiny: Any, study: StudyProtocol, folder: Path) -> Federation:
    return Federation(
        protocol=study,
        sites=[tiny.hospital(study, folder, name=name, patients=40) for name in ("north", "south")],
        device=torch.device("cpu"),
        weights_file=None,
        folder=folder,
        progress=lambda *_: None,
    )


def run(sites: Federation, run_id: str, folder: Path) -> Run:
    return sites.run(run_id, train_on=sites.names, min_sites=2, folder=folder, progress=lambda _: None)


@pytest.fixture(scope="module")
def runs(tiny: Any, study: StudyProtocol, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run, Path]:
    """Run the study and its twin once for all tests."""
    folder = tmp_path_factory.mktemp("private")
    sites = federation(tiny, study, folder)
    twin = run(replace(sites, adapt=without_noise), "twin", folder / "twin")
    return run(sites, "federated", folder), twin, folder


def test_the_results_state_what_was_spent_and_the_page_says_what_it_is_worth(
    runs: tuple[Run, Run, Path], study: StudyProtocol
) -> None:
    """Epsilon within the budget, the public size, the stamp of seeded noise, the twin; results.json gives it back."""
    private, twin, _ = runs
    result = study_result(
        study,
        private.conclusion,
        private.flows,
        private.describe(),
        private.coordinator.provenance,
        environment(torch.device("cpu"), seed=0),
        alternatives=Alternatives(twin=twin.conclusion),
        seeded=True,
    )
    assert set(result.privacy) == {"north", "south"}
    for one in result.privacy.values():
        assert 5.5 < one.epsilon <= one.budget == 6.0
        assert (one.unit, one.delta, one.public_patients, one.seeded) == ("patient", 1e-5, 20, True)
        assert (one.rounds, one.sample_rate) == (2, 1.0)
    assert from_json(to_json(result), where="results.json") == result
    page = render(result)
    for said in (
        "the same at every site",
        "not a guarantee",
        "One patient is added or removed",
        "disclosure control only",
        "without noise",
    ):
        assert said in page
    assert {loss for one in result.rounds for site in one.sites.values() for loss in site.loss_by_epoch} == set()


def test_each_round_is_charged_once_in_each_sites_ledger(runs: tuple[Run, Run, Path], study: StudyProtocol) -> None:
    """The ledger in the run's folder has as many rounds as were run; the twin, which has no privacy, charged none."""
    _, _, folder = runs
    for site in ("north", "south"):
        for run_id, rounds in (("federated", 2), ("twin", 0)):
            ledger = PrivacyLedger(folder=folder / "sites" / site / run_id, limit=None)
            (account,) = ledger.statement().accounts
            assert (account.study, account.rounds) == (study.digest(), rounds)


def test_noise_is_what_sets_the_study_apart_from_its_twin(runs: tuple[Run, Run, Path]) -> None:
    """The twin takes the same steps, and its update is another: with the noise switched off this test would fail."""
    private, twin, _ = runs
    own, other = (np.concatenate([array.ravel() for array in one.conclusion.model.values()]) for one in (private, twin))
    assert np.linalg.norm(own - other) > 0.5 * np.linalg.norm(other)


def test_the_first_rounds_estimate_the_centre_and_the_others_train_the_head(tiny: Any, tmp_path: Path) -> None:
    """Every round is charged alike. The head waits for the centre, which stays as it is from then on."""
    study = tiny.private_protocol(epsilon=6.0, size_rounding=10, centre_rounds=2, federation={"rounds": 3})
    sites = federation(tiny, study, tmp_path)
    twin_too = {"federated": sites, "twin": replace(sites, adapt=without_noise)}
    centres = {}
    for run_id, each in twin_too.items():
        done = run(each, run_id, tmp_path / run_id)
        kept = done.coordinator.checkpoints(tmp_path / run_id / "checkpoints")
        second, third = (kept.load(number).model for number in (2, 3))
        start = done.coordinator.initial
        assert all(np.allclose(second[name], start[name], atol=1e-7) for name in ("fc.weight", "fc.bias"))
        assert not np.allclose(third["fc.weight"], second["fc.weight"], atol=1e-3)
        assert np.allclose(third["centre.weight"], second["centre.weight"], atol=1e-6)
        centres[run_id] = second["centre.weight"]
    noise = centres["federated"] - centres["twin"]
    assert np.linalg.norm(noise) > 0.5 * np.linalg.norm(centres["twin"]), "the centre leaves with noise"
    (account,) = PrivacyLedger(folder=tmp_path / "sites" / "north" / "federated", limit=None).statement().accounts
    assert (account.study, account.rounds) == (study.digest(), 3)


def private_agent(tiny: Any, study: StudyProtocol, folder: Path, **hospital: Any) -> tuple[Agent, PrivacyLedger]:
    site, bench = tiny.hospital(study, folder, patients=40, **hospital), tiny.bench(study)
    ledger = PrivacyLedger(folder=folder, limit=None)
    vault = Vault(key=bytes(32), ledger=ledger, audit=AuditLog(folder / "audit.jsonl"), reserves=True)
    inputs = site_inputs(site, study, bench, progress=lambda *_: None)
    return compose_agent(site, study, bench, inputs, folder=folder, vault=vault), ledger


ZEROS: NamedArrays = {"fc.weight": np.zeros((1, 512), np.float32), "fc.bias": np.zeros(1, np.float32)}


def train(
    agent: Agent, study: StudyProtocol, *, run_id: str = "run", number: int = 1, arrays: NamedArrays = ZEROS
) -> TrainReply | RefusalReply:
    head = Header(protocol_digest=study.digest(), run_id=run_id, round=number, site="north", kind=Kind.TRAIN)
    frames = agent.handle(to_frames(encode_task(TrainTask(header=head, arrays=arrays))))
    reply = decode_answer(from_frames(list(frames))).reply
    assert isinstance(reply, TrainReply | RefusalReply)
    return reply


def test_a_round_is_charged_before_its_first_step(
    tiny: Any, study: StudyProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When training begins, the charge is in the ledger's file already: a kill afterwards cannot take it back."""
    agent, ledger = private_agent(tiny, study, tmp_path)
    seen = []

    def killed(*_: Any, **__: Any) -> None:
        seen.append(PrivacyLedger(folder=tmp_path, limit=None).statement().accounts[0].rounds)
        raise KeyboardInterrupt

    monkeypatch.setattr(private_training, "train_privately", killed)
    with pytest.raises(KeyboardInterrupt):
        train(agent, study)
    assert seen == [1]
    assert ledger.statement().accounts[0].rounds == 1


def test_the_same_task_gives_the_same_update_and_is_charged_once(
    tiny: Any, study: StudyProtocol, tmp_path: Path
) -> None:
    """A resumed round draws the same noise, another run's round another one."""
    agent, ledger = private_agent(tiny, study, tmp_path)
    first, again = train(agent, study), train(agent, study)
    assert isinstance(first, TrainReply)
    assert isinstance(again, TrainReply)
    np.testing.assert_array_equal(first.update["fc.weight"], again.update["fc.weight"])
    assert ledger.statement().accounts[0].rounds == 1
    other = train(agent, study, run_id="another")
    assert isinstance(other, TrainReply)
    assert not np.array_equal(first.update["fc.weight"], other.update["fc.weight"])


def test_a_round_that_cannot_be_paid_is_not_trained(
    tiny: Any, study: StudyProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the planned rounds the ledger refuses, and no step is taken; what leaves is a fixed code."""
    agent, _ = private_agent(tiny, study, tmp_path)
    for number in (1, 2):
        assert isinstance(train(agent, study, number=number), TrainReply)
    monkeypatch.setattr(private_training, "train_privately", lambda *_, **__: pytest.fail("it was trained"))
    refused = train(agent, study, run_id="another")
    assert isinstance(refused, RefusalReply)
    assert refused.code == Refusal.PRIVACY


def test_noised_counts_are_charged_by_side_and_refused_beyond_the_plan(
    tiny: Any, study: StudyProtocol, tmp_path: Path
) -> None:
    """Each look at a split's patients is in the ledger before it leaves; one that was not planned gets a fixed code."""
    noised = noised_study(study)
    agent, ledger = private_agent(tiny, noised, tmp_path)
    replies = [look(agent, noised, number=number) for number in (1, 2, 3, 4, 5)]
    assert [type(reply) for reply in replies] == [EvaluateReply] * 4 + [RefusalReply]
    (account,) = ledger.statement().accounts
    assert account.charged == {Split.TRAIN: 0, Split.VALIDATION: 4, Split.TEST: 0}
    assert account.counts_epsilon == 8.0
    without = without_noise(agent)
    assert look(without, noised, number=1) == look(without, noised, number=1)
    assert ledger.statement().accounts[0].charged[Split.VALIDATION] == 4


def noised_study(study: StudyProtocol) -> StudyProtocol:
    """Give the study with noise on its counts."""
    data = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    del data["task"]["classes"]
    data["task"]["unit"], data["privacy"]["count_noise_epsilon"] = "patient", 2.0
    return StudyProtocol.model_validate(data)


def test_a_noised_evaluation_is_charged_before_a_score_is_computed(
    tiny: Any, study: StudyProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails on its way was paid for: asked in vain, it is no answer for nothing."""
    noised = noised_study(study)
    agent, ledger = private_agent(tiny, noised, tmp_path)
    seen = []

    def fails(*_: Any, **__: Any) -> None:
        seen.append(ledger.statement().accounts[0].charged[Split.VALIDATION])
        raise ValueError

    monkeypatch.setattr("client.agent.evaluate_split", fails)
    assert isinstance(look(agent, noised, number=1), RefusalReply)
    assert seen == [1]


def test_no_patients_value_ends_a_noised_evaluation(tiny: Any, study: StudyProtocol, tmp_path: Path) -> None:
    """A head that overflows on one film answers with that film and without it; a description is computed of nobody."""
    noised = noised_study(study)
    agent, _ = private_agent(tiny, noised, tmp_path)
    known = int(agent.records.rows(Split.VALIDATION)[0])
    features = agent.inputs.evaluation(np.array([known]), start="head")
    head = {"fc.weight": 3e38 * np.sign(features.numpy()), "fc.bias": np.full(1, -3e38, np.float32)}
    answers = []
    for left_out in ((), (known,)):
        split_N = agent.records.split_N.copy()
        split_N[list(left_out)] = Split.TEST.value
        one = replace(agent, records=replace(agent.records, split_N=split_N))
        answers.append(
            look(one, noised, number=1, arrays={name: array.astype(np.float32) for name, array in head.items()})
        )
    assert [type(answer) for answer in answers] == [EvaluateReply] * 2
    described = Header(protocol_digest=noised.digest(), run_id="run", round=1, site="north", kind=Kind.DESCRIBE)
    unseen = replace(agent, inputs=None)  # type: ignore[arg-type]  # whoever looked at an image would fail
    frames = unseen.handle(to_frames(encode_task(DescribeTask(header=described, arrays=ZEROS))))
    assert isinstance(decode_answer(from_frames(list(frames))).reply, DescribeReply)


def look(
    agent: Agent, study: StudyProtocol, *, number: int, arrays: NamedArrays | None = None
) -> EvaluateReply | RefusalReply:
    head = Header(protocol_digest=study.digest(), run_id="run", round=number, site="north", kind=Kind.EVALUATE)
    task = EvaluateTask(header=head, arrays=arrays or ZEROS, split=Split.VALIDATION, thresholds=())
    reply = decode_answer(from_frames(list(agent.handle(to_frames(encode_task(task)))))).reply
    assert isinstance(reply, EvaluateReply | RefusalReply)
    return reply


def test_a_site_of_too_few_patients_is_judged_by_its_public_size(
    tiny: Any, study: StudyProtocol, tmp_path: Path
) -> None:
    """The refusal tells no more than the rounded size does."""
    agent, ledger = private_agent(tiny, study, tmp_path, min_cell=21)
    refused = train(agent, study)
    assert isinstance(refused, RefusalReply)
    assert refused.code == Refusal.TOO_FEW_PATIENTS
    assert ledger.statement().accounts[0].rounds == 0


def test_a_private_studys_model_is_held_to_max_change(tiny: Any, tmp_path: Path) -> None:
    """The rounds for the mean, and the first for the head, are within a tight one; another model is refused, unpaid.

    The measure is this site's own update, with its noise, as it left.
    """
    study = tiny.private_protocol(epsilon=6.0, size_rounding=10, centre_rounds=2, federation={"rounds": 4})
    agent, ledger = private_agent(tiny, study, tmp_path)
    names = exchanged(agent.bench.classifier, "head", local_norm=False)
    sent: dict[str, Any] = {name: array.copy() for name, array in agent.bench.arrays(names).items()}
    store = TaskStore(tmp_path / "tasks", now=now, audit=agent.guard.audit, study=study.digest())
    limits = Limits(rounds=4, since=0, rounds_per_day=None, max_change=1.01)
    intake = Intake(store=store, limits=limits, initial=sent, wire="fp32", folder=tmp_path / "models")
    agent = replace(agent, store=store, intake=intake)
    for number in (1, 2, 3):
        reply = train(agent, study, number=number, arrays=sent)
        assert isinstance(reply, TrainReply)
        before, sent = sent, {name: sent[name] + reply.update[name] for name in sent}
    other = {name: before[name] + 1.02 * (sent[name] - before[name]) for name in sent}
    assert train(agent, study, number=4, arrays=other) == RefusalReply(code=Refusal.MOVED_TOO_FAR)
    assert ledger.statement().accounts[0].rounds == 3
    assert isinstance(train(agent, study, number=4, arrays=sent), TrainReply)


def test_a_private_study_needs_a_key_and_a_ledger(tiny: Any, study: StudyProtocol, tmp_path: Path) -> None:
    """Without them there is no agent: a study with [privacy] is never trained as if it had none."""
    with pytest.raises(SiteError, match=r"neither a noise key nor a ledger\. Make them with `polyclinic site init`"):
        tiny.agent(study, tmp_path)


def test_a_hospitals_limit_refuses_the_study_before_round_1(tiny: Any, study: StudyProtocol, tmp_path: Path) -> None:
    """What the hospital allows over all studies stands above what a study asks for."""
    from shared.renyi_filter import PrivacyLimit

    site, bench = tiny.hospital(study, tmp_path, patients=40), tiny.bench(study)
    ledger = PrivacyLedger(folder=tmp_path, limit=PrivacyLimit(epsilon=1.0, delta=1e-5))
    vault = Vault(key=bytes(32), ledger=ledger, audit=AuditLog(tmp_path / "audit.jsonl"), reserves=True)
    with pytest.raises(PrivacyError, match=r"Ask for one, close a study"):
        compose_agent(site, study, bench, object(), folder=tmp_path, vault=vault)  # type: ignore[arg-type]
