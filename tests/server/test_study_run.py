"""One run of a study: who takes part, what is asked of whom, what is chosen on validation and shown on test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from server.admission import Refused
from server.asking import Desk
from server.bootstrap import Coordinator, compose
from server.own_settings import own_results
from server.study_run import Conclusion, StudyRun
from shared.errors import FederationError, StorageError
from shared.estimates import Estimate
from shared.evidence import Evidence, Withheld
from shared.landmarks import Landmarks, standard_scale
from shared.messages import (
    Approval,
    DeliverReply,
    DeliverTask,
    DescribeTask,
    EvaluateReply,
    EvaluateTask,
    LandmarksReply,
    LandmarksTask,
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

USED_UP = Refusal.EVALUATIONS_USED_UP
LINE = Landmarks(positions=tuple(tenth / 10 for tenth in range(1, 10)))
LOW = Landmarks(positions=tuple(tenth / 20 for tenth in range(1, 10)))


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
        landmarks: Landmarks | Withheld | None = None,
    ) -> None:
        self._patients, self._step, self._quality = patients, step, quality
        self._withholds, self._refuses, self._targets, self._positives = withholds, refuses, targets, positives
        self.landmarks = landmarks
        self.site = scripted_site(self._answer)

    def asked(self, kind: type) -> list[Any]:
        return [task for task in self.site.asked if isinstance(task, kind)]

    def _answer(self, task: Task) -> Reply:
        if isinstance(task, self._refuses):
            return RefusalReply(code=Refusal.DATA)
        match task:
            case ReadyTask():
                return ReadyReply(flow=flow(self._patients, self._targets), package="0.1.0", approval=Approval.APPROVED)
            case LandmarksTask():
                return LandmarksReply(landmarks=self.landmarks) if self.landmarks else RefusalReply(code=USED_UP)
            case TrainTask():
                return TrainReply(
                    update={name: np.full_like(array, self._step) for name, array in task.arrays.items()},
                    loss_by_epoch=(0.5,),
                    update_norm=1.0,
                    images_per_second=9.0,
                    seconds=1.0,
                )
            case DeliverTask():
                return DeliverReply(arrays_digest=digest(task.arrays))
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
            confusion=confusion(units, threshold=at) if task.thresholds and (at := task.thresholds[place]) else None,
            auc=Estimate(value=0.8, low=0.7, high=0.9) if 0 < self._positives < 60 else None,
            brier=0.2,
        )


def flow(patients: int | None, targets: int = 1) -> ReleasedFlow:
    hidden = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)
    sizes = {Split.TRAIN: patients, Split.VALIDATION: 60, Split.TEST: 60}
    splits = {
        str(name): SplitCounts(patients=size, exams=size, classes=(hidden,) * targets) for name, size in sizes.items()
    }
    return ReleasedFlow(found=None, excluded={}, splits=splits)


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
            "desk": Desk(InProcessGrid({nodes[name]: ward.site.handle for name, ward in wards.items()})),
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

    agents = trial({"a": {}, "b": {}}).study.desk.grid._agents
    flows = trial({"a": {}, "b": {}}, desk=Desk(Deaf(agents))).study.flows()
    assert (flows["a"], flows["b"]) == (Refused(reason="no_reply"), flow(20))


@pytest.mark.parametrize(("weighting", "moved"), [("patients", 0.25), ("equal", 0.5)])
def test_sites_weigh_by_their_patients_or_alike(trial: Any, weighting: str, moved: float) -> None:
    """With 30 and 10 training patients the mean is a quarter of the way; with equal weights half of it."""
    wards = {"a": {"patients": 30, "step": 0.0}, "b": {"patients": 10, "step": 1.0}}
    run = trial(wards, sections={"federation": {"weighting": weighting, "rounds": 1}})
    initial = run.study.coordinator.initial
    np.testing.assert_allclose(run.run().model["fc.bias"], initial["fc.bias"] + moved, rtol=1e-5)


def test_who_is_not_ready_does_not_train(trial: Any) -> None:
    """Suppressed or zero training patients and a refusal keep a site from training; the others go on without it."""
    wards = {"a": {}, "b": {}, "few": {"patients": None}, "none": {"patients": 0}, "ill": {"refuses": (ReadyTask,)}}
    run = trial(wards)
    conclusion = run.run()
    assert [bool(ward.asked(TrainTask)) for ward in run.wards.values()] == [True, True, False, False, False]
    assert set(conclusion.state.history[0]["sites"]) == {"a", "b"}
    assert set(conclusion.test) == set(wards)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"patients": 900}, "more_patients_than_agreed"),
        ({"targets": 2}, "counts_of_wrong_form"),
        ({"refuses": (ReadyTask, DescribeTask)}, "data_unusable"),
    ],
)
def test_who_did_not_join_is_asked_for_no_evidence(trial: Any, tmp_path: Path, script: Any, reason: str) -> None:
    """Nothing would bound it: ten million invented units chose the threshold for all, and were the pooled figures."""
    two = {"a": {"refuses": (DescribeTask,)}, "b": {"refuses": (DescribeTask,)}}
    without = trial(two, folder=tmp_path / "without").run()
    run = trial(two | {"west": script}, folder=tmp_path / "with", largest={"west": 100})
    conclusion = run.run()
    assert conclusion.operating_point == without.operating_point
    assert conclusion.validation["west"] == conclusion.test["west"] == Refused(reason=reason)
    described = run.study.describe(conclusion, run.study.flows())
    assert described == dict.fromkeys("ab", Refused(reason="data_unusable")) | {"west": Refused(reason=reason)}
    assert {type(task) for task in run.wards["west"].site.asked} == {ReadyTask}


def test_a_site_that_was_added_after_the_run_began_is_one_of_later_runs(trial: Any, tmp_path: Path) -> None:
    """The flows that a resumed run goes on with say nothing of it: the process died of that, without a word."""
    without = trial({"a": {}, "b": {}}, folder=tmp_path / "without").run()
    run = trial({"a": {}, "b": {}, "west": {}}, folder=tmp_path / "with")
    conclusion = run.study.run(dict.fromkeys("ab", flow(20)), progress=run.shown.append)
    assert conclusion.operating_point == without.operating_point
    assert conclusion.test["west"] == Refused(reason="named_for_later_runs")
    assert run.wards["west"].site.asked == []


def test_nobody_is_tested_where_none_of_them_joined(trial: Any) -> None:
    """Each has its reason; the run ends as others do."""
    run = trial({"a": {}, "b": {}, "c": {"refuses": (ReadyTask,)}}, train_on=["a", "b"], test_on=["c"])
    assert run.run().test == {"c": Refused(reason="data_unusable")}


def test_too_few_sites_are_told_with_the_reasons(trial: Any) -> None:
    """The message names who cannot take part and why, and what to do; nobody was asked to train."""
    run = trial({"a": {}, "few": {"patients": None}, "ill": {"refuses": (ReadyTask,)}})
    with pytest.raises(FederationError) as fault:
        run.run()
    said = str(fault.value)
    assert "1 of 3 sites can take part, and the study needs 2" in said
    assert "few: fewer training patients than its min_cell; ill: data_unusable" in said
    assert "polyclinic site check" in said
    assert run.wards["a"].asked(TrainTask) == []


def test_too_few_sites_in_all_are_told_too(trial: Any) -> None:
    """Where nobody refused, there simply are no others."""
    with pytest.raises(FederationError, match="no others were named"):
        trial({"a": {}}).run()


def test_what_a_site_may_use_of_its_own_is_concluded_where_the_study_says_so(trial: Any, tmp_path: Path) -> None:
    """Chosen once, by each site's own evidence; it is what the delivery brings to that site."""
    wards = {"a": {}, "b": {"quality": lambda _: 0.5}}
    assert trial(wards, folder=tmp_path / "without").run().own == {}
    run = trial(wards, sections={"evaluation": {"own_settings": ["threshold"]}})
    conclusion = run.run()
    protocol = run.study.coordinator.protocol
    assert conclusion.own == own_results(protocol, conclusion.validation, conclusion.test, conclusion.operating_point)
    run.study.deliver(conclusion, {}, deadline_seconds=0.0)
    brought = {name: ward.asked(DeliverTask)[0].own for name, ward in run.wards.items()}
    assert brought["a"][0] != brought["b"][0]
    for site, own in brought.items():
        assert own[0] == conclusion.own["opacity"][site].threshold.point.threshold


HARMONISED = {"images": {"harmonise": "landmarks"}, "federation": {"rounds": 1}}


def test_why_a_site_gave_no_landmarks_is_kept(trial: Any) -> None:
    """Too few patients and a failure are told apart; all sites get the mean of those that answered, and train."""
    wards = {"a": {"landmarks": LINE}, "b": {"landmarks": LOW}, "few": {"landmarks": Withheld()}, "late": {}}
    run = trial(wards, sections=HARMONISED)
    state = run.run().state
    assert state.landmarks == {"a": LINE, "b": LOW, "few": None, "late": None}
    assert state.no_landmarks == {"few": "too_few_patients", "late": "evaluations_used_up"}
    for ward in run.wards.values():
        assert {task.header.standard for task in ward.asked(TrainTask)} == {standard_scale([LINE, LOW])}


def test_a_study_does_not_begin_on_the_scale_of_too_few_sites(trial: Any) -> None:
    """The message has each site's reason and what to do; once they answer, the same run goes on with both."""
    wards = {"a": {"landmarks": LINE}, "b": {}, "few": {"landmarks": Withheld()}}
    run = trial(wards, sections=HARMONISED)
    with pytest.raises(FederationError) as fault:
        run.run()
    said = str(fault.value)
    assert "1 of 3 sites said where their images' landmarks lie, and the study needs 2" in said
    assert "(b: evaluations_used_up; few: too_few_patients)" in said
    assert "approve the study there again" in said
    assert "harmonise = 'none'" in said
    assert not any(ward.asked(TrainTask) for ward in run.wards.values())
    run.wards["b"].landmarks = LOW
    assert run.run().state.standard == standard_scale([LINE, LOW])


def test_the_last_round_is_chosen_and_tested_once(trial: Any) -> None:
    """After the rounds each site scores validation twice (to choose, to count) and its test split a single time."""
    run = trial({"a": {}, "b": {}})
    conclusion = run.run()
    assert (conclusion.chosen, conclusion.state.round, [record["round"] for record in run.shown]) == (2, 2, [1, 2])
    assert digest(conclusion.model) == digest(conclusion.state.model)
    for ward in run.wards.values():
        asked = [(task.header.round, task.split, bool(task.thresholds)) for task in ward.asked(EvaluateTask)]
        rounds = [(1, "validation", False), (2, "validation", False)]
        assert asked == [*rounds, (2, "validation", False), (2, "validation", True), (2, "test", True)]
        assert all(digest(task.arrays) == digest(conclusion.model) for task in ward.asked(EvaluateTask)[2:])


def test_the_operating_point_is_chosen_on_merged_validation_and_travels_as_it_is(trial: Any) -> None:
    """It equals `choose` on the sum of the released histograms; the sites count at that very float."""
    run = trial({"a": {}, "b": {"quality": lambda _: 0.5}, "c": {"withholds": (Split.VALIDATION,)}})
    conclusion = run.run()
    released = [conclusion.validation[site].evidence[0].histogram for site in "ab"]
    wish = run.study.coordinator.protocol.evaluation
    expected = choose(
        released[0] + released[1], target=wish.target_sensitivity, claim=wish.claim, confidence=wish.confidence
    )
    assert conclusion.operating_point == {"opacity": expected}
    for ward in run.wards.values():
        assert [task.thresholds for task in ward.asked(EvaluateTask)[-2:]] == [(expected.threshold,)] * 2
    assert conclusion.validation["c"].evidence == (Withheld(),)
    assert conclusion.test["c"].evidence[0].confusion is not None


@pytest.mark.parametrize(
    "script", [{"withholds": (Split.VALIDATION,)}, {"positives": 0}], ids=["withheld", "no positive"]
)
def test_without_validation_evidence_there_is_no_operating_point(trial: Any, script: Any) -> None:
    """There is None, the sites are sent None, and count at nothing."""
    run = trial({"a": script, "b": script})
    conclusion = run.run()
    assert conclusion.operating_point == {"opacity": None}
    assert run.wards["a"].asked(EvaluateTask)[-1].thresholds == (None,)
    assert [item.confusion for item in conclusion.test["a"].evidence] == [None]


BEST = {"federation": {"rounds": 4, "select": "best_validation"}}


def rising_and_falling(number: int) -> float:
    return {1: 0.0, 2: 3.0, 3: 1.0, 4: 0.0}[number]


def test_the_best_round_is_loaded_back_and_tested(trial: Any) -> None:
    """With select = "best_validation" the model of round 2 is the result, though four rounds were run."""
    run = trial({name: {"quality": rising_and_falling} for name in "ab"}, sections=BEST)
    conclusion = run.run()
    initial = run.study.coordinator.initial
    assert (conclusion.chosen, conclusion.state.round) == (2, 4)
    np.testing.assert_allclose(conclusion.model["fc.bias"], initial["fc.bias"] + 2, rtol=1e-5)
    np.testing.assert_allclose(conclusion.state.model["fc.bias"], initial["fc.bias"] + 4, rtol=1e-5)
    final = run.wards["a"].asked(EvaluateTask)[-3:]
    assert [task.header.round for task in final] == [2, 2, 2]
    assert all(digest(task.arrays) == digest(conclusion.model) for task in final)


def test_training_and_testing_sites_may_differ(trial: Any) -> None:
    """A baseline trains and validates at one site and is tested at all."""
    run = trial({"a": {}, "b": {}, "c": {}}, train_on=["b"], min_sites=1)
    conclusion = run.run()
    assert set(conclusion.validation) == {"b"}
    assert set(conclusion.test) == {"a", "b", "c"}
    assert [len(ward.asked(TrainTask)) for ward in run.wards.values()] == [0, 2, 0]
    assert {task.split for task in run.wards["a"].asked(EvaluateTask)} == {Split.TEST}


def test_each_round_is_on_disk(trial: Any, tmp_path: Path) -> None:
    """A checkpoint and a line of rounds.jsonl for each finished round."""
    conclusion = trial({"a": {}, "b": {}}).run()
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "round-00001.safetensors",
        "round-00002.safetensors",
    ]
    lines = (tmp_path / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == conclusion.state.history


def test_a_finished_run_is_concluded_again_without_training(trial: Any, tmp_path: Path) -> None:
    """Resumed, a run asks for no round a second time; what a kill left out of rounds.jsonl is written."""
    first = trial({"a": {}, "b": {}}).run()
    (tmp_path / "rounds.jsonl").write_text("")
    run = trial({"a": {}, "b": {}})
    again = run.run()
    assert digest(again.model) == digest(first.model)
    assert again.test == first.test
    assert run.wards["a"].asked(TrainTask) == []
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 2


def test_a_run_goes_on_after_its_last_checkpoint(trial: Any, tmp_path: Path) -> None:
    """With the second round's checkpoint gone, the second round alone is run, and the model is the same."""
    first = trial({"a": {}, "b": {"step": 3.0}}).run()
    (tmp_path / "checkpoints" / "round-00002.safetensors").unlink()
    run = trial({"a": {}, "b": {"step": 3.0}})
    assert digest(run.run().model) == digest(first.model)
    assert [task.header.round for task in run.wards["a"].asked(TrainTask)] == [2]


def test_another_studys_checkpoints_are_refused(trial: Any) -> None:
    """A folder with another study's rounds is not gone on with."""
    trial({"a": {}, "b": {}}).run()
    with pytest.raises(StorageError, match="belongs to another study"):
        trial({"a": {}, "b": {}}, sections={"study": {"seed": 1}}).run()
