"""A deployed agent remembers: it answers again with the same bytes, signs, and takes the finished model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from client.agent import Agent
from client.delivery import Deliveries
from client.evaluation import nobody
from client.intake import Intake, Limits
from client.task_store import TaskStore
from client.trainer import train_round
from shared.audit import now, verify
from shared.messages import (
    Approval,
    DeliverReply,
    DeliverTask,
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
from shared.model import exchanged
from shared.own_settings import OwnSettings
from shared.parameters import digest
from shared.protocol import StudyProtocol
from shared.saved_model import open_model
from shared.signing import RECORD, Purpose, SigningKey, content_digest, signed_digest, signed_frames
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")

KEY, COORDINATOR = SigningKey.draw(), SigningKey.draw()


def header(protocol: StudyProtocol, kind: Kind, number: int = 1) -> Header:
    return Header(protocol_digest=protocol.digest(), run_id="run", round=number, site="north", kind=kind)


def sign(task: Task, key: SigningKey = COORDINATOR) -> list[bytes]:
    """Give a task's frames as a coordinator sends them."""
    return signed_frames(encode_task(task), key, Purpose.TASK)


def ask(agent: Agent, task: Task) -> list[bytes]:
    return list(agent.handle(sign(task)))


def reply(frames: list[bytes]) -> Any:
    return decode_answer(from_frames(frames)).reply


@pytest.fixture
def deploy(tiny: Any, tmp_path: Path) -> Callable[..., Agent]:
    """Give `deploy(protocol)`: the agent of one hospital, with its store in one folder; a later one is a restart."""

    def deployed(protocol: StudyProtocol) -> Agent:
        agent: Agent = tiny.agent(protocol, tmp_path)
        return replace(
            agent,
            guard=replace(agent.guard, key=KEY),
            coordinator=COORDINATOR.public,
            approval=Approval.APPROVED,
            store=TaskStore(tmp_path / "tasks", now=now, audit=agent.guard.audit, study=protocol.digest()),
            deliveries=Deliveries(site="north", folder=tmp_path / "model", protocol=protocol),
        )

    return deployed


def head_of(agent: Agent) -> dict[str, Any]:
    names = exchanged(agent.bench.classifier, "head", local_norm=False)
    return {name: array.copy() for name, array in agent.bench.arrays(names).items()}


def test_a_task_that_comes_again_gets_the_same_bytes_without_training(
    tiny: Any, deploy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a restart; each departure is in the log, the second as such."""
    agent = deploy(tiny.protocol())
    task = TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=head_of(agent))
    first = ask(agent, task)
    monkeypatch.setattr("client.agent.train_round", lambda *_, **__: pytest.fail("it trained again"))
    assert ask(agent, task) == first
    assert ask(deploy(agent.protocol), task) == first
    entries = verify(tmp_path / "sites" / "north" / "audit.jsonl")
    lines = [entry for entry in entries if entry["event"] == "departure"]
    assert [line["what"] for line in lines[1:]] == [["the same reply again"]] * 2
    assert len({line["sha256"] for line in lines}) == 1


def test_a_delivered_model_has_this_sites_own_settings_alone(tiny: Any, deploy: Any, tmp_path: Path) -> None:
    """They stand in its file under the site's name; a study that switched none on takes none, nor malformed ones."""
    agent = deploy(tiny.protocol(evaluation={"own_settings": ["threshold", "calibration"]}))

    def deliver(number: int, own: tuple[float, ...], agent: Agent = agent) -> Any:
        head = header(agent.protocol, Kind.DELIVER, number)
        task = DeliverTask(header=head, arrays=head_of(agent), thresholds=(0.5,), documents={}, own=own)
        return reply(ask(agent, task))

    assert isinstance(deliver(1, (0.25, -0.5, 1.25)), DeliverReply)
    facts = open_model(tmp_path / "model" / "model.safetensors").facts
    assert facts.own == {"north": {"opacity": OwnSettings(threshold=0.25, calibration=(-0.5, 1.25))}}
    assert facts.thresholds == {"opacity": 0.5}
    assert deliver(2, (0.25, -0.5, -1.25)).code == Refusal.WRONG_FORM
    without = deploy(tiny.protocol())
    assert deliver(1, (0.25, -0.5, 1.25), without).code == Refusal.WRONG_FORM
    assert isinstance(deliver(2, (), without), DeliverReply)
    assert open_model(tmp_path / "model" / "model.safetensors").facts.own == {}


@pytest.mark.parametrize("kind", ["threshold", "calibration"])
def test_a_site_gets_no_own_setting_of_a_kind_that_was_not_approved(tiny: Any, deploy: Any, kind: str) -> None:
    """A study of own thresholds hands no site a calibration, and the other way round."""
    agent = deploy(tiny.protocol(evaluation={"own_settings": [kind]}))
    nothing = float("nan")
    only = {"threshold": (0.25, nothing, nothing), "calibration": (nothing, -0.5, 1.25)}

    def deliver(number: int, own: tuple[float, ...]) -> Any:
        head = header(agent.protocol, Kind.DELIVER, number)
        task = DeliverTask(header=head, arrays=head_of(agent), thresholds=(0.5,), documents={}, own=own)
        return reply(ask(agent, task))

    other = only["calibration" if kind == "threshold" else "threshold"]
    assert deliver(1, other).code == Refusal.WRONG_FORM
    assert deliver(2, (0.25, -0.5, 1.25)).code == Refusal.WRONG_FORM
    assert isinstance(deliver(3, only[kind]), DeliverReply)


SCALE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)


@pytest.mark.parametrize("wish", ["none", "landmarks"])
def test_a_delivered_model_is_of_the_approved_studys_images(tiny: Any, deploy: Any, tmp_path: Path, wish: str) -> None:
    """With the standard scale where the study harmonises, and without where it does not; else nothing is stored."""
    agent = deploy(tiny.protocol(images={"harmonise": wish}))

    def deliver(standard: tuple[float, ...]) -> Any:
        head = replace(header(agent.protocol, Kind.DELIVER), standard=standard)
        task = DeliverTask(header=head, arrays=head_of(agent), thresholds=(0.5,), documents={})
        return reply(ask(agent, task))

    right, wrong = (SCALE, ()) if wish == "landmarks" else ((), SCALE)
    assert deliver(wrong).code == Refusal.WRONG_FORM
    assert agent.store.begun == ()
    assert not (tmp_path / "model").exists()
    assert isinstance(deliver(right), DeliverReply)
    assert open_model(tmp_path / "model" / "model.safetensors").facts.standard == right


def test_the_same_task_id_with_other_weights_is_refused(tiny: Any, deploy: Any) -> None:
    """A single changed bit makes it another request; the first one's reply can still be had."""
    agent = deploy(tiny.protocol())
    task = TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=head_of(agent))
    first = ask(agent, task)
    crafted = {name: np.nextafter(array, np.float32(9)) for name, array in task.arrays.items()}
    refused = reply(ask(agent, replace(task, arrays=crafted)))
    assert isinstance(refused, RefusalReply)
    assert refused.code == "task_id_reused"
    assert ask(agent, task) == first


def test_other_weights_are_refused_even_if_the_first_were_never_answered(
    tiny: Any, deploy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id is bound before training begins: an agent that died in between takes the first request only."""
    agent = deploy(tiny.protocol())
    task = TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=head_of(agent))

    def dies(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("client.agent.train_round", dies)
    assert reply(ask(agent, task)).code == "out_of_memory"
    monkeypatch.setattr("client.agent.train_round", train_round)
    again = deploy(agent.protocol)
    assert reply(ask(again, replace(task, arrays={n: a + 1 for n, a in task.arrays.items()}))).code == "task_id_reused"
    assert reply(ask(again, task)).update_norm > 0


def test_every_reply_is_signed_refusals_too(tiny: Any, deploy: Any, tmp_path: Path) -> None:
    """The coordinator can tell this agent's word; the signature is among the bytes that the log's digest covers."""
    agent = deploy(tiny.protocol())
    ready = ask(agent, ReadyTask(header=header(agent.protocol, Kind.READY)))
    refusal = ask(agent, ReadyTask(header=replace(header(agent.protocol, Kind.READY), protocol_digest="e")))
    for frames in (ready, refusal):
        assert signed_digest(from_frames(frames), KEY.public, Purpose.REPLY)
    lines = list(verify(tmp_path / "sites" / "north" / "audit.jsonl"))
    assert [line["bytes"] for line in lines] == [len(b"".join(frames)) for frames in (ready, refusal)]
    told = reply(ready)
    assert isinstance(told, ReadyReply)
    assert (told.approval, told.package[0].isdigit()) == (Approval.APPROVED, True)
    assert reply(refusal).code == "unknown_protocol"


def test_a_reply_names_all_that_was_asked(tiny: Any, deploy: Any) -> None:
    """The digest of the request is in what the site signs: the coordinator's own, and for a refusal too."""
    agent = deploy(tiny.protocol())
    asked = [
        TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=head_of(agent)),
        ReadyTask(header=header(agent.protocol, Kind.READY)),
        ReadyTask(header=replace(header(agent.protocol, Kind.READY), site="south")),
    ]
    for task in asked:
        assert decode_answer(from_frames(ask(agent, task))).request == content_digest(encode_task(task))


def test_what_was_changed_on_the_way_is_not_trained(tiny: Any, deploy: Any) -> None:
    """Arrays that somebody between coordinator and agent changed get a code, and nothing is begun or counted."""
    agent = deploy(tiny.protocol())
    task = TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=head_of(agent))
    content = encode_task(replace(task, arrays={name: array + 1 for name, array in task.arrays.items()}))
    content[RECORD] = from_frames(sign(task))[RECORD]
    assert reply(list(agent.handle(to_frames(content)))).code == "not_signed_by_the_coordinator"
    assert agent.store.begun == ()
    assert isinstance(reply(ask(agent, task)), TrainReply)


def test_an_approved_agent_without_a_coordinators_key_answers_nothing(tiny: Any, deploy: Any) -> None:
    """No key in the approval means no task, signed or not: there is no way to leave the check out."""
    agent = replace(deploy(tiny.protocol()), coordinator=None)
    task = ReadyTask(header=header(agent.protocol, Kind.READY))
    for frames in (sign(task), list(to_frames(encode_task(task)))):
        assert reply(list(agent.handle(frames))).code == "not_signed_by_the_coordinator"


def test_a_stored_reply_is_signed_with_todays_key(tiny: Any, deploy: Any) -> None:
    """A site that has rotated its keys sends a finished round again so that the coordinator can know it."""
    agent = deploy(tiny.protocol())
    task = TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=head_of(agent))
    first, rotated = ask(agent, task), SigningKey.draw()
    again = ask(replace(agent, guard=replace(agent.guard, key=rotated)), task)
    assert again[1:] == first[1:]
    assert signed_digest(from_frames(again), rotated.public, Purpose.REPLY)
    assert signed_digest(from_frames(again), KEY.public, Purpose.REPLY) is None


def test_the_finished_model_and_the_report_stay_at_the_hospital(tiny: Any, deploy: Any, tmp_path: Path) -> None:
    """The whole model is one file with its thresholds, beside the report; the receipt is the arrays' digest."""
    agent = deploy(tiny.protocol(task={"findings": ["opacity", "effusion"]}))
    sent = {name: array + 1 for name, array in head_of(agent).items()}
    task = DeliverTask(
        header=header(agent.protocol, Kind.DELIVER, 2),
        arrays=sent,
        thresholds=(0.25, float("nan")),
        documents={"results.json": b'{"study": "Tiny"}'},
    )
    received = reply(ask(agent, task))
    assert isinstance(received, DeliverReply)
    assert received.arrays_digest == digest(sent)
    assert (tmp_path / "model" / "results.json").read_bytes() == b'{"study": "Tiny"}'
    with safe_open(tmp_path / "model" / "model.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(agent.bench.names)
        np.testing.assert_array_equal(file.get_tensor("fc.bias"), sent["fc.bias"])
        assert json.loads(file.metadata()["thresholds"]) == {"opacity": 0.25, "effusion": None}


def test_a_document_cannot_choose_its_place(tiny: Any, deploy: Any, tmp_path: Path) -> None:
    """Only known names are taken: no path, no other file."""
    agent = deploy(tiny.protocol())
    for name in ("../results.json", "report.html", "model.safetensors", "run.sh"):
        task = DeliverTask(
            header=header(agent.protocol, Kind.DELIVER), arrays=head_of(agent), thresholds=(), documents={name: b"x"}
        )
        assert reply(ask(agent, task)).code == "malformed"
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "document",
    [
        b"<script>alert(1)</script>",
        b'{"study": ',
        b'{"auc": NaN}',
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 40 + b"]" * 40,
        b'{"study": "\\u001b[2J"}',
        b'{"\\u202eydutS": 1}',
        b'["zero\\u200bwidth"]',
        b"\xff",
        b'"' + b"x" * (33 << 20) + b'"',
        b'{"note": "\xc2\x9b2J", "note": 1}',
    ],
    ids=[
        "page",
        "cut",
        "no number",
        "abyss",
        "deep",
        "terminal escape",
        "turned round",
        "invisible",
        "bytes",
        "large",
        "a key twice",
    ],
)
def test_a_delivered_document_is_numbers_and_names_that_print(
    tiny: Any, deploy: Any, tmp_path: Path, document: bytes
) -> None:
    """JSON of a sensible size and depth, whose texts show all they hold; else nothing is stored, no model either."""
    agent = deploy(tiny.protocol())
    head = header(agent.protocol, Kind.DELIVER)
    task = DeliverTask(header=head, arrays=head_of(agent), thresholds=(), documents={"results.json": document})
    assert reply(ask(agent, task)).code == "arrays_of_wrong_form"
    assert not (tmp_path / "model").exists()


def test_exact_scores_of_a_deployed_site_are_shown_to_nobody(tiny: Any, deploy: Any) -> None:
    """What a simulation's receipts are made of exists at no hospital: the agent's witness does nothing."""
    assert deploy(tiny.protocol()).witness is nobody


def test_a_simulated_site_takes_no_model(tiny: Any, tmp_path: Path) -> None:
    """It has no place for one, and says so by a code."""
    agent = tiny.agent(tiny.protocol(), tmp_path)
    task = DeliverTask(header=header(agent.protocol, Kind.DELIVER), arrays=head_of(agent), thresholds=(), documents={})
    assert reply(ask(agent, task)).code == "arrays_of_wrong_form"


def test_an_approval_limits_what_the_agent_does(tiny: Any, deploy: Any, tmp_path: Path) -> None:
    """A round too many and weights of somebody's own are refused before any training, by their codes."""
    agent = deploy(tiny.protocol())
    sent = head_of(agent)
    limits = Limits(rounds=2, since=0, rounds_per_day=None, max_change=100.0)
    intake = Intake(store=agent.store, limits=limits, initial=sent, wire="fp32", folder=tmp_path / "models")
    agent = replace(agent, intake=intake, checkpoints=tmp_path / "rounds")
    other = {name: array + 1 for name, array in sent.items()}
    refused = reply(ask(agent, TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=other)))
    assert refused.code == "initial_weights_differ"
    update = reply(ask(agent, TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=sent))).update
    following = {name: sent[name] + update[name] for name in sent}
    crafted = {name: array + 1e6 for name, array in following.items()}
    assert reply(ask(agent, TrainTask(header=header(agent.protocol, Kind.TRAIN, 2), arrays=crafted))).code == (
        "model_moved_too_far"
    )
    second = reply(ask(agent, TrainTask(header=header(agent.protocol, Kind.TRAIN, 2), arrays=following)))
    assert second.update_norm > 0
    assert reply(ask(agent, TrainTask(header=header(agent.protocol, Kind.TRAIN, 3), arrays=following))).code == (
        "rounds_used_up"
    )
    assert [begun.round for begun in agent.store.begun] == [1, 2]
    assert not list((tmp_path / "rounds").glob("*"))


def test_a_message_that_is_too_large_is_refused_before_it_is_read(tiny: Any, deploy: Any) -> None:
    """The agent takes as much as its model needs, and no more."""
    agent = replace(deploy(tiny.protocol()), most_bytes=100)
    task = TrainTask(header=header(agent.protocol, Kind.TRAIN), arrays=head_of(agent))
    assert reply(ask(agent, task)).code == "too_large"
    other = encode_task(task)
    other.config_records["task"]["version"] = "0"
    assert reply(list(replace(agent, most_bytes=1 << 20).handle(to_frames(other)))).code == "other_version"
