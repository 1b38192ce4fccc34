"""An approved study may ask what was approved and no more, and hand over only a model that it can have come to."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.intake import MOST_DELIVERIES, Intake, Limits
from client.task_store import TaskStore
from shared.audit import AuditLog, head_of, line_of
from shared.errors import TaskError
from shared.messages import (
    DeliverTask,
    DescribeTask,
    EvaluateTask,
    Header,
    Kind,
    LandmarksTask,
    ReadyTask,
    Refusal,
    Task,
    TrainTask,
)
from shared.split import Split

MORNING = datetime(2026, 3, 1, 8, tzinfo=UTC)
INITIAL = {"layer4.w": np.full(4, 0.5, np.float32), "fc.weight": np.ones((2, 3), np.float32)}
HEAD = {"fc.weight": INITIAL["fc.weight"]}


class Clock:
    """Tells the time that a test sets."""

    def __init__(self) -> None:
        self.now = MORNING
        self.passed = 0.0

    def __call__(self) -> datetime:
        return self.now

    def steady(self) -> float:
        """Tell seconds as they pass: whoever sets `now` puts the clock, unless `passed` grows by as much."""
        return self.passed


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_intake(tmp_path: Path, clock: Clock) -> Callable[..., Intake]:
    """Give `open_intake(**limits)`: the same folder each time, so that a second one is a restart."""

    def opened(**limits: Any) -> Intake:
        usual = {"rounds": 3, "since": 0, "rounds_per_day": None, "max_change": 10.0}
        return Intake(
            store=TaskStore(
                tmp_path / "tasks",
                now=clock,
                audit=AuditLog(tmp_path / "audit.jsonl"),
                study="d",
                steady=clock.steady,
            ),
            limits=Limits(**usual | limits),
            initial=INITIAL,
            wire="fp32",
            folder=tmp_path / "models",
        )

    return opened


@pytest.fixture
def here(tmp_path: Path) -> Callable[[], int]:
    """Give `here()`: the audit log's last line now, where an approval stands that is given now."""
    return lambda: line_of(tmp_path / "audit.jsonl", head_of(tmp_path / "audit.jsonl"))


def header(kind: Kind, number: int, run_id: str) -> Header:
    return Header(protocol_digest="d", run_id=run_id, round=number, site="north", kind=kind)


def train(number: int, arrays: Any = HEAD, run_id: str = "run") -> TrainTask:
    return TrainTask(header=header(Kind.TRAIN, number, run_id), arrays=arrays)


def evaluate(number: int, split: Split, run_id: str = "run") -> EvaluateTask:
    return EvaluateTask(header=header(Kind.EVALUATE, number, run_id), arrays=HEAD, split=split)


def work_on(intake: Intake, task: Task) -> None:
    intake.admit(task)
    intake.store.begin(task, "r")


def refused(intake: Intake, task: Task) -> str:
    with pytest.raises(TaskError) as fault:
        intake.admit(task)
    return fault.value.code


def test_no_more_rounds_than_were_approved(open_intake: Any) -> None:
    """Neither by a round's number, nor by running the study again, nor after a restart; what was begun may go on."""
    intake = open_intake()
    for number in (1, 2, 3):
        work_on(intake, train(number))
    for late in (intake, open_intake()):
        assert refused(late, train(4)) == Refusal.ROUNDS_USED_UP
        assert refused(late, train(0)) == Refusal.ROUNDS_USED_UP
        assert refused(late, train(2, run_id="again")) == Refusal.ROUNDS_USED_UP
        late.admit(train(3))


def test_a_new_approval_allows_the_rounds_anew(open_intake: Any, here: Any) -> None:
    """Whoever approves again, after a run was lost, allows as many rounds once more, and no more than that."""
    intake = open_intake()
    for number in (1, 2, 3):
        work_on(intake, train(number))
    intake = open_intake(since=here())
    for number in (1, 2, 3):
        work_on(intake, train(number, run_id="again"))
    for late in (intake, open_intake(since=intake.limits.since)):
        assert refused(late, train(2, run_id="a third time")) == Refusal.ROUNDS_USED_UP


@pytest.mark.parametrize("off", [-400.0, -1 / 24, 1 / 24, 400.0])
def test_no_clock_counts_what_an_approval_allows(open_intake: Any, here: Any, clock: Clock, off: float) -> None:
    """However far it was off when a study was approved, and whenever it is put right: the order of the log counts."""
    intake = open_intake(since=here())
    for number in (1, 2, 3):
        work_on(intake, train(number))
        work_on(intake, evaluate(number, Split.VALIDATION))
        clock.now += timedelta(days=off)
    for late in (intake, open_intake()):
        assert refused(late, train(2, run_id="again")) == Refusal.ROUNDS_USED_UP
    for again in range(2):
        work_on(intake, evaluate(2, Split.VALIDATION, f"again {again}"))
    assert refused(intake, evaluate(2, Split.VALIDATION, "once more")) == Refusal.EVALUATIONS_USED_UP


def test_the_test_split_is_released_once_whoever_approves_again(open_intake: Any, here: Any) -> None:
    """Another round, run, threshold or approval is no second first time; validation is not the test split."""
    work_on(open_intake(), evaluate(3, Split.TEST))
    for intake in (open_intake(), open_intake(since=here())):
        for task in (evaluate(2, Split.TEST), evaluate(3, Split.TEST, run_id="again")):
            assert refused(intake, task) == Refusal.TEST_RELEASED
        intake.admit(evaluate(3, Split.TEST))
        intake.admit(evaluate(3, Split.VALIDATION, run_id="other"))


def test_evaluations_are_limited(open_intake: Any) -> None:
    """One a round and two to conclude, of one round; then none, until it is approved again, nor after a restart.

    The test is no part of it. Another run's name, or another detail, makes no second first look.
    """
    intake = open_intake()
    work_on(intake, evaluate(3, Split.TEST, "last"))
    for number in (1, 2, 2, 2):
        work_on(intake, evaluate(number, Split.VALIDATION, f"run {len(intake.store.begun)}"))
    for later in (intake, open_intake()):
        for number in (1, 2):
            assert refused(later, evaluate(number, Split.VALIDATION, "another")) == Refusal.EVALUATIONS_USED_UP
        later.admit(evaluate(3, Split.VALIDATION))
    work_on(intake, evaluate(3, Split.VALIDATION))
    assert refused(open_intake(), evaluate(3, Split.VALIDATION, "another")) == Refusal.EVALUATIONS_USED_UP


@pytest.mark.parametrize("number", [0, 4])
def test_there_is_no_model_of_a_round_that_was_not_approved(open_intake: Any, number: int) -> None:
    """Neither to be scored nor to be described or delivered."""
    head = header(Kind.DELIVER, number, "run")
    for task in (
        evaluate(number, Split.VALIDATION),
        evaluate(number, Split.TEST),
        DescribeTask(header=head, arrays=HEAD),
        DeliverTask(header=head, arrays=HEAD, thresholds=(), documents={}),
    ):
        assert refused(open_intake(), task) == Refusal.ROUNDS_USED_UP


def test_images_are_described_once(open_intake: Any) -> None:
    """A second question how the images look is refused, whatever round or run it names."""
    intake = open_intake()
    work_on(intake, DescribeTask(header=header(Kind.DESCRIBE, 3, "run"), arrays=HEAD))
    for number, run in ((2, "run"), (3, "other")):
        again = DescribeTask(header=header(Kind.DESCRIBE, number, run), arrays=HEAD)
        assert refused(intake, again) == Refusal.EVALUATIONS_USED_UP


def test_landmarks_are_asked_for_once(open_intake: Any, here: Any) -> None:
    """A second question where landmarks lie is refused, whatever run it names, also after a new approval."""
    intake = open_intake()
    work_on(intake, LandmarksTask(header=header(Kind.LANDMARKS, 0, "run")))
    again = LandmarksTask(header=header(Kind.LANDMARKS, 0, "other"))
    assert refused(intake, again) == Refusal.EVALUATIONS_USED_UP
    assert refused(open_intake(since=here()), again) == Refusal.EVALUATIONS_USED_UP


def test_a_run_keeps_the_scale_that_it_began_with(open_intake: Any) -> None:
    """Another standard scale is refused for the rest of the run, also after a restart; another run may have its own."""

    def on(scale: float, number: int, run_id: str = "run") -> TrainTask:
        task = train(number, run_id=run_id)
        return replace(task, header=replace(task.header, standard=(scale,) * 9))  # a file's text: any nine numbers

    work_on(open_intake(), on(0.5, 1))
    assert refused(open_intake(), on(0.6, 2)) == Refusal.WRONG_FORM
    work_on(open_intake(), on(0.5, 2))
    work_on(open_intake(), on(0.6, 1, "other"))


def test_a_refused_task_leaves_no_file(open_intake: Any, tmp_path: Path) -> None:
    """However many runs it names, a task that is not let in pins no scale to the hospital's disk."""
    intake = open_intake()
    for number in range(20):
        task = train(9, run_id=f"run{number}")
        task = replace(task, header=replace(task.header, standard=(0.1 * number,) * 9))
        assert refused(intake, task) == Refusal.ROUNDS_USED_UP
    assert not list((tmp_path / "models").rglob("*"))


def test_deliveries_are_limited(open_intake: Any) -> None:
    """A coordinator cannot fill the hospital's disk with models."""

    def deliver(number: int) -> DeliverTask:
        return DeliverTask(header=header(Kind.DELIVER, number, "run"), arrays=HEAD, thresholds=(), documents={})

    intake = open_intake()
    for number in range(MOST_DELIVERIES):
        work_on(intake, deliver(1 + number))
    assert refused(intake, replace(deliver(3), header=header(Kind.DELIVER, 3, "x"))) == Refusal.EVALUATIONS_USED_UP


def test_the_hospitals_rounds_a_day_are_kept(open_intake: Any, clock: Clock) -> None:
    """A day is any 24 hours, which have passed by both clocks: nobody makes it shorter by putting one forward."""
    intake = open_intake(rounds_per_day=2)
    for number in (1, 2):
        work_on(intake, train(number))
        clock.now += timedelta(hours=1)
        clock.passed += 3600
    assert refused(intake, train(3)) == Refusal.TOO_MANY_A_DAY
    clock.now = MORNING + timedelta(days=400)
    assert refused(intake, train(3)) == Refusal.TOO_MANY_A_DAY
    clock.passed = 24 * 3600
    clock.now = MORNING + timedelta(hours=23)
    assert refused(intake, train(3)) == Refusal.TOO_MANY_A_DAY
    assert refused(open_intake(rounds_per_day=2), train(3)) == Refusal.TOO_MANY_A_DAY
    clock.now = MORNING + timedelta(hours=24)
    intake.admit(train(3))


def test_a_new_approval_makes_no_new_day(open_intake: Any, here: Any) -> None:
    """The hospital's limit a day is over all approvals."""
    intake = open_intake(rounds_per_day=2)
    for number in (1, 2):
        work_on(intake, train(number))
    assert refused(open_intake(rounds_per_day=2, since=here()), train(1, run_id="x")) == Refusal.TOO_MANY_A_DAY


def test_round_1_starts_from_the_studys_own_weights(open_intake: Any) -> None:
    """A single changed bit is another start; so are arrays that the model has not."""
    intake = open_intake()
    intake.admit(train(1))
    assert (
        refused(intake, train(1, {"fc.weight": np.nextafter(HEAD["fc.weight"], np.float32(2))}))
        == "initial_weights_differ"
    )
    assert refused(intake, train(1, {"fc.bias": np.zeros(1, np.float32)})) == Refusal.WRONG_FORM


def test_weights_that_travel_in_half_precision_are_compared_so(open_intake: Any, tmp_path: Path) -> None:
    """What is sent as fp16 starts from the initial weights cast to fp16."""
    usual = open_intake()
    intake = Intake(store=usual.store, limits=usual.limits, initial=INITIAL, wire="fp16", folder=tmp_path / "models")
    intake.admit(train(1, {"fc.weight": HEAD["fc.weight"].astype(np.float16)}))


def test_a_model_that_moved_too_far_is_refused(open_intake: Any) -> None:
    """The measure is this site's own last update, times the limit and the rounds in between."""
    intake = open_intake()
    work_on(intake, train(1))
    intake.remember(train(1), update_norm=0.1)

    def moved(by: float) -> dict[str, Any]:
        step = np.zeros((2, 3), np.float32)
        step[0, 0] = by
        return {"fc.weight": HEAD["fc.weight"] + step}

    for later in (intake, open_intake()):
        later.admit(train(2, moved(0.99)))
        assert refused(later, train(2, moved(1.01))) == Refusal.MOVED_TOO_FAR
        later.admit(train(3, moved(1.99)))
        assert refused(later, train(3, moved(2.01))) == Refusal.MOVED_TOO_FAR
    own = {"run_id": "trained elsewhere only"}  # then the measure is the length of what was approved, here √6
    later.admit(train(2, moved(2 * 10 * 2.44), **own))
    assert refused(later, train(2, moved(2 * 10 * 2.46), **own)) == Refusal.MOVED_TOO_FAR


def test_a_model_to_be_scored_described_or_delivered_is_held_to_the_same(open_intake: Any) -> None:
    """By this site's own last update in the run, and before its first by what was approved."""

    def asked(arrays: Any) -> list[Task]:
        head = header(Kind.DESCRIBE, 1, "run")
        return [
            replace(evaluate(1, Split.VALIDATION), arrays=arrays),
            replace(evaluate(1, Split.TEST), arrays=arrays),
            DescribeTask(header=head, arrays=arrays),
            DeliverTask(header=replace(head, kind=Kind.DELIVER), arrays=arrays, thresholds=(), documents={}),
        ]

    def sharp(by: float) -> dict[str, Any]:
        return {"fc.weight": HEAD["fc.weight"] + np.float32(by / 6**0.5)}

    intake = open_intake()
    for within, beyond in ((24.0, 25.0), (0.99, 1.01)):
        for task in asked(sharp(within)):
            intake.admit(task)
        for task in asked(sharp(beyond)):
            assert refused(open_intake(), task) == Refusal.MOVED_TOO_FAR
        intake.remember(train(1), update_norm=0.1)
    for value in (np.nan, np.inf):
        for task in asked({"fc.weight": np.full((2, 3), value, np.float32)}):
            assert refused(intake, task) == Refusal.NOT_FINITE
    for task in asked({"fc.weight": np.full((2, 3), 3e38, np.float32)}):
        assert refused(intake, task) == Refusal.MOVED_TOO_FAR


def test_what_begins_to_train_must_still_be_as_it_was(open_intake: Any) -> None:
    """Arrays that no round has trained yet are measured against the initial ones."""
    intake = open_intake()
    intake.remember(train(1), update_norm=0.1)
    intake.admit(train(2, INITIAL))
    crafted = INITIAL | {"layer4.w": INITIAL["layer4.w"] + 2}
    assert refused(intake, train(2, crafted)) == Refusal.MOVED_TOO_FAR
    assert refused(intake, train(2, INITIAL | {"layer4.w": np.zeros(5, np.float32)})) == Refusal.MOVED_TOO_FAR


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_is_refused(open_intake: Any, value: float) -> None:
    """It would make every update and every score of this site not finite."""
    assert refused(open_intake(), train(2, {"fc.weight": np.full((2, 3), value, np.float32)})) == Refusal.NOT_FINITE


def test_whether_a_site_is_ready_may_always_be_asked(open_intake: Any) -> None:
    """It costs nothing and says nothing new."""
    intake = open_intake(rounds=0)
    intake.admit(ReadyTask(header=header(Kind.READY, 0, "run")))
