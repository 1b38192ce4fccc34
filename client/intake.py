"""What may come in: how often an approved study may ask, and which models it may hand to this site."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from client.loading import check_finite
from client.task_store import Begun, TaskStore
from shared.errors import TaskError
from shared.messages import DeliverTask, DescribeTask, EvaluateTask, Kind, LandmarksTask, Refusal, Task, TrainTask
from shared.parameters import Array, NamedArrays, Wire, cast, digest, l2_norm
from shared.split import CONCLUDING_LOOKS, Split
from shared.storage import atomic_file

ModelTask = TrainTask | EvaluateTask | DescribeTask | DeliverTask
"""A task that brings a model."""

MOST_DELIVERIES = 3
"""How often a study may hand over its model; each takes the place of the one before."""

MOST: Mapping[Kind, int] = {Kind.LANDMARKS: 1, Kind.DESCRIBE: 1, Kind.DELIVER: MOST_DELIVERIES}
"""How often an approved study may ask where landmarks lie (before round 1), how images look (to the model it ends
with), and hand that model over."""

ONCE = frozenset({Kind.LANDMARKS, Kind.DESCRIBE})
"""What is answered once in a study, like the test split, whatever was approved anew: exact sums over patients, of which
two would tell of whoever was withdrawn in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an approval allows: so many rounds, since it was given; of the hospital's own limits, those on tasks.

    `since` is the line of the site's audit log beyond which tasks count (`ApprovedStudy.since`): a place, and no time.
    `max_change` is how many times farther a model may have moved than this site's own training last moved it, for each
    round in between, or, where it has not trained in the run, than what was approved is long; `rounds_per_day` is None
    where the hospital sets no limit.
    """

    rounds: int
    since: int
    rounds_per_day: int | None
    max_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Judges tasks that were not begun yet, before anything is computed; what was begun may always be finished.

    `initial` has every array of the model before round 1 as this site computed it from the approved study: no
    coordinator chooses where round 1 starts. `folder` keeps, by run, the model that last came in to be trained.
    The norm of a model's change catches a model that was put in the place of the study's, to be trained, scored,
    described or delivered. It does not catch one that was moved little, in a direction of the coordinator's choosing.
    """

    store: TaskStore
    limits: Limits
    initial: NamedArrays
    wire: Wire
    folder: Path

    def admit(self, task: Task) -> None:
        """Let a task in, or refuse it by a fixed code.

        Raises:
            TaskError: a limit is reached, or the model is not one that this study can have come to.
        """
        if any(task.header.task_id == begun.task_id for begun in self.store.begun):
            return
        if isinstance(task, ModelTask):
            self._within_rounds(task.header.round)
        match task:
            case TrainTask():
                self._within_training()
                self._starts_as_approved(task)
            case EvaluateTask(split=Split.TEST):
                if any(begun.split == Split.TEST for begun in self.store.begun):
                    raise TaskError(Refusal.TEST_RELEASED, "the test split is released once, and it was")
            case EvaluateTask():
                self._within_looks(task.header.round)
            case LandmarksTask() | DescribeTask() | DeliverTask():
                self._at_most(MOST[task.header.kind], task.header.kind, Refusal.EVALUATIONS_USED_UP)
        if isinstance(task, ModelTask):
            self._can_have_come_to(task)
        if task.header.standard:  # last: a task that is refused leaves no file behind, whatever run it names
            self._one_scale(task)

    def remember(self, task: TrainTask, *, update_norm: float) -> None:
        """Keep the model that was trained, and how far training moved it: the measure of the next one.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        facts = {"round": str(task.header.round), "update_norm": repr(update_norm)}
        with atomic_file(self._last(task)) as part:
            part.write_bytes(save(dict(task.arrays), facts))

    def _one_scale(self, task: Task) -> None:
        """Hold a run to the standard scale that it began with: images are prepared in one way, or not at all."""
        kept = self.folder / task.header.run_id / "standard.json"
        told = json.dumps(task.header.standard)
        if not kept.exists():
            with atomic_file(kept) as part:
                part.write_text(told, encoding="utf-8")
        elif kept.read_text(encoding="utf-8") != told:
            raise TaskError(Refusal.WRONG_FORM, "the run began with another standard scale of intensities")

    def _within_rounds(self, number: int) -> None:
        if not 1 <= number <= self.limits.rounds:
            raise TaskError(Refusal.ROUNDS_USED_UP, "the study was approved for fewer rounds than the task's number")

    def _within_training(self) -> None:
        self._at_most(self.limits.rounds, Kind.TRAIN, Refusal.ROUNDS_USED_UP)
        today = sum(self.store.is_of_today(task) for task in self.store.begun if task.kind == Kind.TRAIN)
        if self.limits.rounds_per_day is not None and today >= self.limits.rounds_per_day:
            raise TaskError(Refusal.TOO_MANY_A_DAY, "the hospital's rounds_per_day are used up for now")

    def _within_looks(self, number: int) -> None:
        """Allow each round's model one look, and that of one round, the chosen one, the looks that conclude a study."""
        self._at_most(self.limits.rounds + CONCLUDING_LOOKS, Kind.EVALUATE, Refusal.EVALUATIONS_USED_UP)
        looks = Counter(task.round for task in self._counted(Kind.EVALUATE) if task.split != Split.TEST)
        looks[number] += 1
        several = [count - 1 for count in looks.values() if count > 1]
        if len(several) > 1 or sum(several) > CONCLUDING_LOOKS:
            raise TaskError(
                Refusal.EVALUATIONS_USED_UP,
                f"a round's model is scored once, and that of one round {CONCLUDING_LOOKS} times more, which was done",
            )

    def _at_most(self, most: int, kind: Kind, code: Refusal) -> None:
        if sum(task.split != Split.TEST for task in self._counted(kind)) >= most:
            raise TaskError(code, f"the approved study may ask {most} times for '{kind}', and it did")

    def _counted(self, kind: Kind) -> list[Begun]:
        """Give the tasks that count against a limit: those of this approval, or of the study for what leaves once."""
        begun = [task for task in self.store.begun if task.kind == kind]
        return begun if kind in ONCE else [task for task in begun if task.line > self.limits.since]

    def _starts_as_approved(self, task: TrainTask) -> None:
        start = self._start(task)
        if task.header.round == 1 and digest(task.arrays) != digest(cast(start, self.wire)):
            raise TaskError(Refusal.OTHER_WEIGHTS, "round 1 does not start from the approved study's initial weights")

    def _can_have_come_to(self, task: ModelTask) -> None:
        """Measure a model by what this site last trained in the run, or else by what was approved."""
        check_finite(task.arrays)
        start = self._start(task)
        last = self._load_last(task)
        before, number, step = last if last is not None else ({}, 0, l2_norm(start))
        moved = l2_norm(_difference(task.arrays, {**start, **before}))
        rounds = max(1, abs(task.header.round - number))
        if not moved <= self.limits.max_change * step * rounds:
            raise TaskError(
                Refusal.MOVED_TOO_FAR,
                f"the model moved by {moved:.3g} in {rounds} rounds, and a step of this site's is {step:.3g}",
            )

    def _start(self, task: ModelTask) -> NamedArrays:
        if not task.arrays.keys() <= self.initial.keys():
            raise TaskError(Refusal.WRONG_FORM, "the task has arrays that the study's model has not")
        return {name: self.initial[name] for name in task.arrays}

    def _load_last(self, task: ModelTask) -> tuple[dict[str, Array], int, float] | None:
        path = self._last(task)
        if not path.exists():
            return None
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys() if name in task.arrays}  # noqa: SIM118  # no dict
        return arrays, int(facts["round"]), float(facts["update_norm"])

    def _last(self, task: ModelTask) -> Path:
        return self.folder / task.header.run_id / "last_trained.safetensors"


def _difference(new: NamedArrays, old: Mapping[str, Array]) -> dict[str, Array]:
    """Subtract in fp32; an array of another shape is as far away as can be."""
    return {
        name: np.subtract(array, old[name], dtype=np.float32)
        if array.shape == old[name].shape
        else np.array([np.inf], np.float32)
        for name, array in new.items()
    }
