"""The site's worker: answers one task at a time, from frames to frames; the same in simulation and deployment."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from client.delivery import Deliveries
from client.describing import describe, described_rows, described_split, withheld_description
from client.disclosure import too_few_to_train
from client.egress import EgressGuard
from client.evaluation import Witness, evaluate_split, nobody
from client.features import in_batches
from client.inputs import Inputs
from client.intake import Intake
from client.loading import load_model
from client.local_norm import LocalNorm
from client.opening import open_task
from client.private_training import PrivateTraining
from client.round_checkpoint import RoundCheckpoint
from client.site_data import Records
from client.task_store import TaskStore, request_digest
from client.trainer import train_round
from client.workbench import Workbench
from shared.errors import TaskError
from shared.landmarks import Standard, rises, summarise
from shared.loss import Loss, build_loss, positive_weights
from shared.messages import (
    Approval,
    DeliverReply,
    DeliverTask,
    DescribeReply,
    DescribeTask,
    EvaluateReply,
    EvaluateTask,
    LandmarksReply,
    LandmarksTask,
    ReadyReply,
    ReadyTask,
    Refusal,
    Reply,
    Task,
    TrainReply,
    TrainTask,
)
from shared.parameters import NamedArrays, digest
from shared.protocol import StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.update import difference
from shared.wire import MAX_CONTENT_BYTES

Harmonised = Callable[[Standard], Inputs]
"""Gives the site's images with their landmarks at the standard ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Answers tasks of the one protocol that its hospital approved; all else is refused with a fixed code.

    Nothing that a task says can change preprocessing or what leaves: the protocol is the agent's own. `flow` is exact;
    the guard suppresses what is small. `local_norm` is None unless the study keeps normalisation layers at the site,
    `harmonised` unless it brings images to a standard scale, and `private` is there under [privacy].
    `coordinator` is the public key with which tasks are signed: no agent of an approved study answers without one.
    What follows `approval` is a deployed site's: in simulation no reply is stored, nothing is counted against a limit,
    no round goes on from its middle, and no model is delivered. `witness` is a simulation's alone.
    """

    site: str
    protocol: StudyProtocol
    bench: Workbench
    records: Records
    inputs: Inputs
    flow: ReleasedFlow
    guard: EgressGuard
    min_patients: int
    local_norm: LocalNorm | None
    harmonised: Harmonised | None = None
    private: PrivateTraining | None = None
    coordinator: str | None = None
    approval: Approval = Approval.SIMULATED
    store: TaskStore | None = None
    intake: Intake | None = None
    checkpoints: Path | None = None
    most_bytes: int = MAX_CONTENT_BYTES
    deliveries: Deliveries | None = None
    witness: Witness = nobody

    def handle(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        """Answer one task. Every failure becomes a reply with a fixed code; no exception's text leaves.

        Raises:
            StorageError: the audit log cannot be written; then nothing leaves, not even a code.
        """
        task_id, request = "", ""
        try:
            if self.coordinator is None and self.approval is Approval.APPROVED:
                raise TaskError(Refusal.NOT_SIGNED, "no coordinator's key was approved, by which to know its tasks")
            task, request = open_task(frames, most_bytes=self.most_bytes, coordinator=self.coordinator)
            task_id = task.header.task_id
            self._refuse_foreign(task)
            reply = self._answer(task, request)
        except Exception as fault:  # the one place that catches all: an exception's text may hold a patient's value
            reply = self.guard.refuse(fault, task_id=task_id, request=request)
        yield from reply

    def _refuse_foreign(self, task: Task) -> None:
        if task.header.protocol_digest != self.protocol.digest():
            raise TaskError(Refusal.UNKNOWN_PROTOCOL, "the task names a protocol that this site did not approve")
        if task.header.site != self.site:
            raise TaskError(Refusal.WRONG_SITE, "the task is addressed to another site")
        on_scale = self.protocol.images.harmonise == "landmarks" and not isinstance(task, ReadyTask | LandmarksTask)
        if bool(task.header.standard) != on_scale:
            raise TaskError(Refusal.WRONG_FORM, "the task's standard scale is missing, or the study has none")
        if isinstance(task, EvaluateTask) and task.split is Split.TRAIN:
            raise TaskError(Refusal.WRONG_FORM, "training patients are scored for nobody")

    def _answer(self, task: Task, request: str) -> list[bytes]:
        """Work on a task, or send again what was sent; how ready a site is may change, and is not stored."""
        if self.store is None or isinstance(task, ReadyTask):
            return self.guard.release(task, self._work(task), request=request)
        task_id, asked = task.header.task_id, request_digest(task)
        if (kept := self.store.answer(task_id, asked)) is not None:
            return self.guard.release_again(task, kept, request=request)
        if self.intake is not None:
            self.intake.admit(task)
        self.store.begin(task, asked)
        kept_first = partial(self.store.keep, task_id, asked)
        frames = self.guard.release(task, self._work(task), request=request, keep=kept_first)
        if checkpoint := self._checkpoint(task):
            checkpoint.forget()
        return frames

    def _work(self, task: Task) -> Reply:
        match task:
            case ReadyTask():
                return ReadyReply(flow=self.flow, package=version("polyclinic"), approval=self.approval)
            case LandmarksTask():
                return self._landmarks()
            case TrainTask():
                return self._train(task)
            case EvaluateTask():
                return self._evaluate(task)
            case DescribeTask():
                return self._describe(task)
            case DeliverTask():
                return self._take(task)

    def _landmarks(self) -> LandmarksReply:
        """Find the landmarks of training patients without disease, one image each, before anything is moved."""
        if self.harmonised is None:
            raise TaskError(Refusal.WRONG_FORM, "the approved study does not harmonise, and asks for no landmarks")
        rows = described_rows(self.records, Split.TRAIN, exclusive=self.protocol.task.exclusive)
        images = (self.inputs.images(batch).cpu().numpy() for batch in in_batches(rows))
        found = summarise(images)
        if found.patients >= max(1, self.min_patients) and not rises(found.positions):
            raise TaskError(Refusal.DATA, "landmarks of this site's images coincide: few grey levels, or much white")
        return LandmarksReply(landmarks=found)

    def inputs_on(self, standard: Standard) -> Inputs:
        """Give the images as the study says: on the standard scale that came with a task, or as they are."""
        return self.harmonised(standard) if self.harmonised else self.inputs

    def _train(self, task: TrainTask) -> TrainReply:
        number = task.header.round
        if list(task.arrays) != self._exchanged(number):
            raise TaskError(Refusal.WRONG_FORM, "the task's arrays are not those that train in this round")
        if self.private is not None:
            return self._train_privately(task, self.private)
        if too_few_to_train(max(self.records.assessed_patients(Split.TRAIN)), self.min_patients):
            raise TaskError(Refusal.TOO_FEW_PATIENTS, "this site has fewer training patients than its min_cell")
        inputs = self.inputs_on(task.header.standard)
        self._load(task, before=number)
        records = self.records.learnable(least=self.min_patients)
        rows = records.training_rows()
        outcome = train_round(
            self.bench,
            inputs,
            rows=rows,
            labels_NK=records.labels_NK,
            start=self.protocol.model.trains_from(number),
            training=self.protocol.training,
            proximal_mu=self.protocol.federation.proximal_mu or 0.0,
            loss=self._loss(records.labels_NK[rows]),
            seed=partial(self.protocol.random_seed, "train", self.site, number),
            checkpoint=self._checkpoint(task),
        )
        if self.local_norm:
            self.local_norm.save(task.header.run_id, after=number)
        update, norm = self._update(task)
        return TrainReply(
            update=update,
            loss_by_epoch=outcome.loss_by_epoch,
            update_norm=norm,
            images_per_second=outcome.images / outcome.seconds,
            seconds=outcome.seconds,
        )

    def _checkpoint(self, task: Task) -> RoundCheckpoint | None:
        """Give the task's place on disk to go on from: only for the same request, over the same data."""
        if self.checkpoints is None or not isinstance(task, TrainTask):
            return None
        key = f"{request_digest(task)} {self.records.learnable(least=self.min_patients).digest()}"
        return RoundCheckpoint(self.checkpoints / f"{task.header.task_id}.pt", key)

    def _train_privately(self, task: TrainTask, private: PrivateTraining) -> TrainReply:
        """Train one round under [privacy]; the guard takes all out of the reply but what is noised, free or public."""
        self._load(task, before=task.header.round)
        outcome = private.train(
            task, bench=self.bench, inputs=self.inputs, records=self.records, protocol=self.protocol
        )
        update, _ = self._update(task)  # with its noise: so is its norm, by which the next model is judged
        return TrainReply(
            update=update, loss_by_epoch=(), update_norm=0.0, images_per_second=0.0, seconds=outcome.seconds
        )

    def _update(self, task: TrainTask) -> tuple[NamedArrays, float]:
        """Give what leaves of a trained round and its norm, by which the next model that comes in is judged."""
        update, norm = difference(self.bench.arrays(list(task.arrays)), task.arrays, wire=self.protocol.federation.wire)
        if self.intake is not None:
            self.intake.remember(task, update_norm=norm)
        return update, norm

    def _evaluate(self, task: EvaluateTask) -> EvaluateReply:
        self._load(task, before=task.header.round + 1)
        self.guard.charge(task)  # before a score is computed: whatever comes of it, it is paid for
        evidence = evaluate_split(
            self.bench,
            self.inputs_on(task.header.standard),
            self.records,
            split=task.split,
            start=self.protocol.model.trains_from(task.header.round),
            task=self.protocol.task,
            evaluation=self.protocol.evaluation,
            # Noised evidence is computed from noised counts: of the exact scores nothing is but the counts themselves.
            thresholds=() if self.guard.noises_counts else task.thresholds,
            witness=self.witness,
        )
        return EvaluateReply(evidence=evidence)

    def _describe(self, task: DescribeTask) -> DescribeReply:
        self._load(task, before=task.header.round + 1)
        if self.guard.noises_counts:  # nothing of it would leave, so that nothing of it is computed
            return DescribeReply(description=withheld_description(targets=len(self.protocol.task.targets)))
        description = describe(
            self.bench,
            self.inputs_on(task.header.standard),
            self.records,
            start=self.protocol.model.trains_from(task.header.round),
            exclusive=self.protocol.task.exclusive,
            split=described_split(self.protocol),
            seed=partial(self.protocol.random_seed, "description"),
        )
        return DescribeReply(description=description)

    def _take(self, task: DeliverTask) -> DeliverReply:
        if self.deliveries is None:
            raise TaskError(Refusal.WRONG_FORM, "a simulated site has no place for a delivered model")
        self._load(task, before=task.header.round + 1)
        self.deliveries.store(
            self.bench.arrays(self.bench.names),
            number=task.header.round,
            thresholds=task.thresholds,
            standard=task.header.standard,
            own=task.own,
            documents=task.documents,
        )
        return DeliverReply(arrays_digest=digest(task.arrays))

    def _load(self, task: TrainTask | EvaluateTask | DescribeTask | DeliverTask, *, before: int) -> None:
        """Load the model that came in, and this site's own layers as they were before a round, and nothing else."""
        ever = self._exchanged(self.protocol.federation.rounds)
        load_model(self.bench, task, trains=self._exchanged(task.header.round), ever_trains=ever)
        if self.local_norm:
            self.local_norm.load(task.header.run_id, before=before)

    def _exchanged(self, number: int) -> list[str]:
        start = self.protocol.model.trains_from(number)
        return self.bench.exchanged(start, local_norm=self.local_norm is not None)

    def _loss(self, labels_NK: npt.NDArray[np.float32]) -> Loss:
        training = self.protocol.training
        weights = torch.from_numpy(positive_weights(labels_NK))
        return build_loss(
            training.loss,
            exclusive=self.protocol.task.exclusive,
            gamma=training.gamma,
            alpha=training.alpha,
            positive_weights_K=weights.to(self.bench.device),
        )
