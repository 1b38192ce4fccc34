"""One run of a study: who takes part, what is asked of whom, what is chosen on validation and shown on test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from server.admission import Refused
from server.bootstrap import Coordinator, compose
from server.study_run import UNREACHED_THRESHOLD, Conclusion, StudyRun
from shared.errors import FederationError, StorageError
from shared.evidence import Evidence, Withheld
from shared.messages import (
    EvaluateReply,
    EvaluateTask,
    ReadyReply,
    ReadyTask,
    Refusal,
    RefusalReply,
    Reply,
    Task,
    TrainReply,
    TrainTask,
)
from shared.metrics import confusion, histogram
from shared.operating_point import choose
from shared.parameters import digest
from shared.protocol import StudyProtocol
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.scores import ScoredUnits
from shared.split import Split
from simulations.in_process_grid import InProcessGrid


class Ward:
    """A scripted hospital: `patients` train, updates are all `step`, and scores get better with the round.

    `quality` gives the separation of its classes by round; `withholds` the splits whose evidence it holds back.
    """

    def __init__(
        self,
        scripted_site: Any,
        *,
        patients: int | None = 20,
        step: float = 1.0,
        quality: Callable[[int], float] = float,
        withholds: tuple[Split, ...] = (),
        refuses: tuple[type, ...] = (),
        targets: int = 1,
        positives: int = 30,
    ) -> None:
        self._patients, self._step, self._quality = patients, step, quality
        self._withholds, self._refuses, self._targets, self._positives = withholds, refuses, targets, positives
        self.site = scripted_site(self._answer)

    def asked(self, kind: type) -> list[Any]:
        return [task for task in self.site.asked if isinstance(task, kind)]

    def _answer(self, task: Task) -> Reply:
        if isinstance(task, self._refuses):
            return RefusalReply(code=Refusal.DATA)
        match task:
            case ReadyTask():
                return ReadyReply(flow=flow(self._patients, self._targets))
            case TrainTask():
                return TrainReply(
                    update={name: np.full_like(array, self._step) for name, array in task.arrays.items()},
                    loss_by_epoch=(0.5,),
                    update_norm=1.0,
                    images_per_second=9.0,
                    seconds=1.0,
                )
            case EvaluateTask():
                return EvaluateReply(evidence=tuple(self._evidence(task, place) for place in range(self._targets)))

    def _evidence(self, task: EvaluateTask, place: int) -> Evidence | Withheld:
        if task.split in self._withholds:
            return Withheld()
        rng = np.random.default_rng([place, list(Split).index(task.split)])
        positive = np.arange(60) < self._positives
        logits = rng.standard_normal(60) + self._quality(task.header.round) * positive
        units = ScoredUnits(scores_M=1 / (1 + np.exp(-logits)), positive_M=positive, patients_M=np.arange(60))
        return Evidence(
            units=60,
            patients=60,
            positive_patients=self._positives,
            negative_patients=60 - self._positives,
            histogram=histogram(units, bins=16),
            confusion=confusion(units, threshold=task.thresholds[place]) if task.thresholds else None,
            auc=None,
            brier=0.2,
        )


def flow(patients: int | None, targets: int = 1) -> ReleasedFlow:
    hidden = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)
    split = SplitCounts(patients=patients, exams=patients, classes=(hidden,) * targets)
    return ReleasedFlow(found=None, excluded={}, splits={str(name): split for name in Split})


@pytest.fixture(scope="module")
def coordinator(tiny: Any) -> Callable[..., Coordinator]:
    """Give a way to compose a tiny study's coordinator; each distinct one is built once."""
    built: dict[StudyProtocol, Coordinator] = {}

    def of(**sections: Any) -> Coordinator:
        protocol = tiny.protocol(**sections)
        if protocol not in built:
            built[protocol], _ = compose(protocol, weights_file=None)
        return built[protocol]

    return of


class Trial:
    """A study run over wards."""

    def __init__(
        self, coordinator: Coordinator, wards: dict[str, Ward], folder: Path, *, train_on: Any = None, **settings: Any
    ) -> None:
        self.wards = wards
        self.shown: list[Any] = []
        nodes = {name: node for node, name in enumerate(wards, start=1)}
        own = {
            "grid": InProcessGrid({nodes[name]: ward.site.handle for name, ward in wards.items()}),
            "train_on": train_on or sorted(wards),
            "test_on": sorted(wards),
            "min_sites": 2,
            "deadline_seconds": 0.0,
        }
        self.study = StudyRun(coordinator=coordinator, nodes=nodes, run_id="run", folder=folder, **own | settings)

    def run(self) -> Conclusion:
        return self.study.run(self.study.flows(), progress=self.shown.append)


@pytest.fixture
def trial(coordinator: Any, scripted_site: Any, tmp_path: Path) -> Callable[..., Trial]:
    """Give `trial(wards, sections={}, **settings)`."""

    def make(wards: dict[str, dict[str, Any]], *, sections: Any = None, **settings: Any) -> Trial:
        made = {name: Ward(scripted_site, **script) for name, script in wards.items()}
        return Trial(coordinator(**sections or {}), made, **{"folder": tmp_path} | settings)

    return make


def test_every_site_is_asked_for_its_flow_and_may_refuse(trial: Any) -> None:
    """A flow comes back as it was sent, and a refusal with its code; both training and testing sites are asked."""
    run = trial({"b": {}, "a": {"refuses": (ReadyTask,)}, "c": {"targets": 2}}, train_on=["b"])
    flows = run.study.flows()
    assert list(flows) == ["a", "b", "c"]
    assert flows["b"] == flow(20)
    assert (flows["a"], flows["c"]) == (Refused(reason="data_unusable"), Refused(reason="counts_of_wrong_form"))


def test_a_silent_site_is_not_waited_for_for_ever(trial: Any) -> None:
    """Flower's errors until the deadline are no reply, and the others are heard."""

    class Deaf(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            if message.metadata.dst_node_id == 1:
                return Message(Error(0, "lost"), reply_to=message)
            return super()._answer(message)

    run = trial({"a": {}, "b": {}})
    flows = trial({"a": {}, "b": {}}, grid=Deaf(run.study.grid._agents)).study.flows()
    assert (flows["a"], flows["b"]) == (Refused(reason="no_reply"), flow(20))


def test_sites_weigh_by_their_patients_or_alike(trial: Any) -> None:
    """With 30 and 10 training patients the mean is a quarter of the way; with equal weights half of it."""
    for weighting, moved in (("patients", 0.25), ("equal", 0.5)):
        sections = {"federation": {"weighting": weighting, "rounds": 1}}
        wards = {"a": {"patients": 30, "step": 0.0}, "b": {"patients": 10, "step": 1.0}}
        run = trial(wards, sections=sections, folder=trial.__globals__["Path"](run_folder(trial, weighting)))
        initial = run.study.coordinator.initial
        model = run.run().model
        np.testing.assert_allclose(model["fc.bias"], initial["fc.bias"] + moved, rtol=1e-5)
