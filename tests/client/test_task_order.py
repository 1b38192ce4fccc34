"""Whatever was asked before, a reply is that of a fresh agent: no task leaves the next anything but what is on disk."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import Agent
from client.bootstrap import compose_agent, site_inputs
from client.delivery import Deliveries
from client.privacy_ledger import PrivacyLedger
from client.private_site import Vault
from shared.audit import AuditLog
from shared.landmarks import TENTHS
from shared.messages import (
    DeliverTask,
    DescribeTask,
    EvaluateTask,
    Header,
    Kind,
    LandmarksTask,
    ReadyTask,
    Reply,
    Task,
    TrainReply,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.parameters import digest
from shared.protocol import StudyProtocol
from shared.split import Split
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")

UNFREEZING = {"unfreeze": [{"round": 2, "from": "layer4"}]}
AUGMENTED = {"augmentation": {"rotation_degrees": 10.0}}
"""So that a round computes what is before its first stage anew, by whatever is loaded there."""

STUDIES: dict[str, dict[str, Any]] = {
    "frozen": {"model": UNFREEZING, **AUGMENTED},
    "folded": {"model": UNFREEZING | {"norm": "folded"}, **AUGMENTED},
    "group": {"model": UNFREEZING | {"norm": "group"}, **AUGMENTED},
    "batch": {"model": UNFREEZING | {"norm": "batch"}, **AUGMENTED},
    "local_norm": {"model": UNFREEZING | {"norm": "batch"}, "federation": {"rounds": 2, "local_norm": True}},
    "views": {"model": {}, "training": {"feature_views": 2}, **AUGMENTED},
    "harmonised": {"images": {"harmonise": "landmarks"}, **AUGMENTED},
    "private": {"privacy": {"epsilon": 8.0, "size_rounding": 10}},
}

STANDARD = tuple(tenth / 10 for tenth in TENTHS)
"""The scale that a harmonising study's tasks bring."""


def header(protocol: StudyProtocol, kind: Kind, number: int, detail: str = "") -> Header:
    """Head a task of a run of its own, so that a site's own layers are those of its own round alone."""
    moves = protocol.images.harmonise == "landmarks" and kind not in (Kind.READY, Kind.LANDMARKS)
    return Header(
        protocol_digest=protocol.digest(), run_id=f"run {kind} {number}", round=number, site="north", kind=kind,
        detail=detail, standard=STANDARD if moves else (),
    )  # fmt: skip


def tasks(agent: Agent) -> dict[str, Task]:
    """Give one task of each kind that the study knows, about both rounds, with a model that has moved."""
    protocol, local = agent.protocol, agent.local_norm is not None
    start = agent.bench.start(agent.bench.names)

    def arrays(number: int, *, moved: float) -> dict[str, Any]:
        names = agent.bench.exchanged(protocol.model.trains_from(number), local_norm=local)
        return {name: start[name] + np.float32(moved) * (start[name] + np.float32(0.1)) for name in names}

    def final(number: int) -> dict[str, Any]:
        rest = {name: start[name] for name in arrays(2, moved=0)}
        return rest | arrays(number, moved=0.02)

    def score(number: int, split: Split, model: Any, thresholds: tuple[float, ...] = ()) -> EvaluateTask:
        head = header(protocol, Kind.EVALUATE, number, f"{split}{len(thresholds)}{len(model)}")
        return EvaluateTask(header=head, arrays=model, split=split, thresholds=thresholds)

    first = {"landmarks": LandmarksTask(header=header(protocol, Kind.LANDMARKS, 0))}
    return (first if protocol.images.harmonise == "landmarks" else {}) | {
        "ready": ReadyTask(header=header(protocol, Kind.READY, 0)),
        "train 1": TrainTask(header=header(protocol, Kind.TRAIN, 1), arrays=arrays(1, moved=0)),
        "train 2": TrainTask(header=header(protocol, Kind.TRAIN, 2), arrays=arrays(2, moved=0.01)),
        "look 1": score(1, Split.VALIDATION, arrays(1, moved=0.02)),
        "conclude 1": score(1, Split.VALIDATION, final(1), (0.4,)),
        "test 2": score(2, Split.TEST, final(2), (0.4,)),
        "describe 2": DescribeTask(header=header(protocol, Kind.DESCRIBE, 2), arrays=final(2)),
        "deliver 2": DeliverTask(
            header=header(protocol, Kind.DELIVER, 2), arrays=final(2), thresholds=(0.4,), documents={}
        ),
    }


def one_after_the_other(names: Sequence[str]) -> list[str]:
    """Walk so that each name stands once directly behind each other one (a circuit of Euler)."""
    return [name for place, one in enumerate(names) for other in names[place + 1 :] for name in (one, other)] + [
        names[0]
    ]


def ask(agent: Agent, task: Task) -> Reply:
    return decode_answer(from_frames(agent.handle(to_frames(encode_task(task))))).reply


def told(reply: Reply) -> Any:
    """Give what a reply says, bit for bit; how long it took is no part of it."""
    assert not hasattr(reply, "code"), reply
    return (digest(reply.update), reply.loss_by_epoch) if isinstance(reply, TrainReply) else reply


@pytest.fixture
def fresh(tiny: Any, tmp_path: Path) -> Callable[..., Agent]:
    """Give `fresh(name, **sections)`: an agent that has done nothing yet, with a cache of its own for each name."""

    def made(name: str, **sections: Any) -> Agent:
        folder = tmp_path / name
        if "privacy" in sections:
            protocol = tiny.private_protocol(**sections["privacy"])
            vault = Vault(
                key=bytes(32),
                ledger=PrivacyLedger(folder=folder, limit=None),
                audit=AuditLog(folder / "audit.jsonl"),
                reserves=True,
            )
            site, bench = tiny.hospital(protocol, folder), tiny.bench(protocol)
            inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
            agent = compose_agent(site, protocol, bench, inputs, folder=folder, vault=vault)
        else:
            protocol = tiny.protocol(**sections)
            agent = tiny.agent(protocol, folder)
        return replace(agent, deliveries=Deliveries(site="north", folder=folder / "model", protocol=protocol))

    return made


@pytest.mark.parametrize("study", STUDIES)
def test_a_reply_does_not_depend_on_the_task_before(fresh: Any, study: str) -> None:
    """Every ordered pair of kinds of task, and both rounds: the second one's reply is the fresh agent's, to the bit."""
    kinds = tasks(fresh("kinds", **STUDIES[study]))
    alone = {name: told(ask(fresh(f"alone {name}", **STUDIES[study]), task)) for name, task in kinds.items()}
    agent, before = fresh("one after the other", **STUDIES[study]), "nothing"
    for name in one_after_the_other(list(kinds)):
        assert told(ask(agent, kinds[name])) == alone[name], f"{name} after {before}"
        before = name


def test_the_walk_has_every_ordered_pair() -> None:
    """Else a pair would not be tried, and nobody would see it."""
    for count in (2, 3, 8, 9):
        names = [str(place) for place in range(count)]
        walk = one_after_the_other(names)
        assert sorted(pairwise(walk)) == sorted(permutations(names, 2))


def whole(agent: Agent, **crafted: Any) -> dict[str, Any]:
    """Give every array of the model that can travel, some of them crafted."""
    arrays = {name: array for name, array in agent.bench.start(agent.bench.names).items() if array.dtype == np.float32}
    return arrays | crafted


def refusals(agent: Agent, arrays: dict[str, Any], number: int = 1) -> set[str]:
    """Give the codes with which evaluation, description and delivery of these arrays are refused."""
    protocol = agent.protocol
    asked: list[Task] = [
        EvaluateTask(header=header(protocol, Kind.EVALUATE, number, "a"), arrays=arrays, split=Split.VALIDATION),
        EvaluateTask(
            header=header(protocol, Kind.EVALUATE, number, "b"), arrays=arrays, split=Split.TEST, thresholds=(0.5,)
        ),
        DescribeTask(header=header(protocol, Kind.DESCRIBE, number), arrays=arrays),
        DeliverTask(header=header(protocol, Kind.DELIVER, number), arrays=arrays, thresholds=(0.5,), documents={}),
    ]
    return {str(getattr(ask(agent, task), "code", "answered")) for task in asked}


@pytest.mark.parametrize("norm", ["frozen", "folded", "group"])
def test_a_crafted_backbone_neither_enters_nor_stays(fresh: Any, norm: str) -> None:
    """Evaluate, describe or deliver with a backbone of one's own, then the approved round 1: it is as if never asked.

    Once the backbone was such that a head's update was a training film, this was a film's way out.
    """
    sections = {"model": {"norm": norm}}
    agent = fresh("attacked", **sections)
    stem = {name: np.ones_like(array) for name, array in whole(agent).items() if name.startswith("conv1")}
    bias = {name: array for name, array in whole(agent).items() if name.startswith("fc.")}
    assert refusals(agent, whole(agent, **stem)) == {"arrays_of_wrong_form"}
    assert refusals(agent, bias | stem) == {"arrays_of_wrong_form"}
    assert refusals(agent, whole(agent)) == {"arrays_of_wrong_form"}
    task = tasks(agent)["train 1"]
    assert told(ask(agent, task)) == told(ask(fresh("never asked", **sections), task))


def test_an_array_that_has_not_trained_yet_must_be_the_studys_own(fresh: Any) -> None:
    """What trains in a later round may come with the final model, and only as the study starts with it until then."""
    agent = fresh("later", model=UNFREEZING)
    final = tasks(agent)["conclude 1"].arrays  # type: ignore[union-attr]
    assert "answered" in refusals(agent, final)
    crafted = final | {"layer4.1.conv2.weight": final["layer4.1.conv2.weight"] * np.float32(1.001)}
    assert refusals(agent, crafted) == {"initial_weights_differ"}
    assert "answered" in refusals(agent, crafted, number=2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_model_that_is_not_finite_is_refused_at_the_door(fresh: Any, value: float) -> None:
    """One element is enough, in any kind of task, before an image is looked at."""
    agent = fresh("not finite")
    for task in tasks(agent).values():
        if isinstance(task, ReadyTask):
            continue
        arrays = {name: array.copy() for name, array in task.arrays.items()}  # type: ignore[union-attr]
        arrays["fc.bias"][0] = value
        task = type(task)(**{f: getattr(task, f) for f in task.__slots__} | {"arrays": arrays})  # type: ignore[union-attr]
        assert getattr(ask(agent, task), "code", None) == "arrays_not_finite"


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("size", [LARGEST, 1e30, -1e30, 1e5, 1e-40])
@pytest.mark.parametrize(
    "targets", [{"findings": ["opacity", "effusion"]}, {"classes": ["normal", "opacity", "effusion"]}]
)
def test_no_finite_model_is_refused_for_what_its_images_are(fresh: Any, size: float, targets: Any) -> None:
    """Heads whose sums overflow on some film or on all are scored and described like any other."""
    agent = fresh("overflowing", task=targets)
    for name in ("look 1", "test 2", "describe 2"):
        task = tasks(agent)[name]
        sign = np.sign(task.arrays["fc.weight"])  # type: ignore[union-attr]
        for weight in (sign, np.abs(sign), np.eye(*sign.shape, dtype=np.float32)):
            arrays = dict(task.arrays) | {"fc.weight": (weight * np.float32(size)).astype(np.float32)}  # type: ignore[union-attr]
            changes: dict[str, Any] = {"arrays": arrays}
            if name == "test 2":
                changes["thresholds"] = (0.5,) * sign.shape[0]
            asked = type(task)(**{f: getattr(task, f) for f in task.__slots__} | changes)  # type: ignore[union-attr]
            reply = ask(agent, asked)
            assert not hasattr(reply, "code"), (name, reply)
