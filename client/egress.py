"""The guard: decides and records what may leave, errors included."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from shared.audit import AuditLog
from shared.errors import (
    DataError,
    DeviceError,
    EgressError,
    PolyclinicError,
    SiteError,
    StorageError,
    StudyError,
    TaskError,
    WeightsError,
)
from shared.evidence import Evidence, Withheld
from shared.messages import (
    Answer,
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
from shared.parameters import NamedArrays, Wire, digest, same_form
from shared.released_flow import ClassCounts, Count, ReleasedFlow, SplitCounts

log = logging.getLogger("polyclinic.site")

CODES: Mapping[type[PolyclinicError], Refusal] = {
    DataError: Refusal.DATA,
    DeviceError: Refusal.DEVICE,
    EgressError: Refusal.EGRESS,
    SiteError: Refusal.DATA,
    StorageError: Refusal.STORAGE,
    StudyError: Refusal.UNKNOWN_PROTOCOL,
    WeightsError: Refusal.DATA,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressGuard:
    """Lets a reply leave only if it is on the list (README, "What may leave"), and records each departure.

    Default-deny: a reply is rebuilt field by field from what the list allows, small counts are suppressed by the
    hospital's `min_cell`, and anything else is an EgressError. Suppressed is never zero. `exclusive` and `wire` are
    the study's: classes that exclude one another, and the dtype that travels.
    """

    min_cell: int
    audit: AuditLog
    exclusive: bool
    wire: Wire

    def release(self, task: Task, reply: Reply) -> Answer:
        """Turn a reply into what may leave for this task.

        Raises:
            EgressError: the reply holds what is not on the list.
            StorageError: the departure cannot be recorded; then nothing leaves.
        """
        match task, reply:
            case _, RefusalReply(code=code):
                released: Reply = RefusalReply(code=Refusal(code))
                facts = [str(code)]
            case ReadyTask(), ReadyReply(flow=flow):
                released = ReadyReply(flow=suppress_flow(flow, min_cell=self.min_cell))
                facts = ["patient flow"]
            case TrainTask(), TrainReply():
                released = self._update(task.arrays, reply)
                facts = ["trainable arrays", "loss by epoch", "update norm", "images per second", "seconds"]
            case EvaluateTask(), EvaluateReply(evidence=evidence):
                kept = suppress_evidence(evidence, min_cell=self.min_cell, exclusive=self.exclusive)
                released = EvaluateReply(evidence=kept)
                facts = [f"{task.split} evidence", *("withheld" if isinstance(e, Withheld) else "counts" for e in kept)]
            case _:
                raise EgressError(f"a {type(reply).__name__} may not answer a {type(task).__name__}.")
        answer = Answer(task_id=task.header.task_id, reply=released)
        self._record(task, answer, facts)
        return answer

    def refuse(self, fault: BaseException, *, task_id: str) -> Answer:
        """Turn any exception into a fixed code; what it says stays in this site's log."""
        code = (
            fault.code
            if isinstance(fault, TaskError)
            else next((code for kind, code in CODES.items() if isinstance(fault, kind)), Refusal.INTERNAL)
        )
        log.error(
            "task %s refused as %s: %s",
            task_id[:12],
            code,
            fault if isinstance(fault, PolyclinicError) else type(fault).__name__,
        )
        self.audit.append("refused", task=task_id, code=str(code))
        return Answer(task_id=task_id, reply=RefusalReply(code=Refusal(code)))

    def _update(self, sent: NamedArrays, reply: TrainReply) -> TrainReply:
        if problem := same_form(reply.update, sent, wire=self.wire):
            raise EgressError(f"the update is not of the form that the task asked for: {problem}.")
        return TrainReply(
            update=reply.update,
            loss_by_epoch=tuple(map(float, reply.loss_by_epoch)),
            update_norm=float(reply.update_norm),
            images_per_second=float(reply.images_per_second),
            seconds=float(reply.seconds),
        )

    def _record(self, task: Task, answer: Answer, facts: list[str]) -> None:
        arrays = answer.reply.update if isinstance(answer.reply, TrainReply) else {}
        self.audit.append(
            "departure",
            task=answer.task_id,
            kind=str(task.header.kind),
            round=task.header.round,
            what=facts,
            arrays=len(arrays),
            bytes=sum(array.nbytes for array in arrays.values()),
            arrays_sha256=digest(arrays),
        )


def suppress_evidence(
    evidence: Iterable[Evidence | Withheld], *, min_cell: int, exclusive: bool
) -> tuple[Evidence | Withheld, ...]:
    """Withhold a split's evidence on every target of which a class has fewer than `min_cell` patients.

    Numerators are never suppressed alone. Classes exclude one another, so that one follows from the rest: there the
    whole split is withheld if any is too small.
    """
    items = tuple(evidence)
    small = [
        isinstance(item, Withheld) or min(item.positive_patients, item.negative_patients) < min_cell for item in items
    ]
    if exclusive and any(small):
        return tuple(Withheld() for _ in items)
    return tuple(Withheld() if too_small else item for item, too_small in zip(items, small, strict=True))


def suppress_flow(flow: ReleasedFlow, *, min_cell: int) -> ReleasedFlow:
    """Suppress the counts below `min_cell`, and those from which a suppressed one would follow.

    An exclusion that did not happen is shown as 0. The files found would give a single suppressed exclusion away, so
    they are shown only where none is suppressed; a split's classes are shown together or not at all.
    """
    excluded = {reason: _count(count, min_cell, zero_is_open=True) for reason, count in flow.excluded.items()}
    return replace(
        flow,
        found=None if None in excluded.values() else _count(flow.found, min_cell),
        excluded=excluded,
        splits={name: _split(split, min_cell) for name, split in flow.splits.items()},
    )


def _split(split: SplitCounts, min_cell: int) -> SplitCounts:
    classes_are_open = all(_count(count, min_cell) is not None for item in split.classes for count in item.all)
    hidden = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)
    open_patients = _count(split.patients, min_cell)
    return SplitCounts(
        patients=open_patients,
        exams=None if open_patients is None else split.exams,
        classes=split.classes if classes_are_open else tuple(hidden for _ in split.classes),
    )


def _count(count: Count, min_cell: int, *, zero_is_open: bool = False) -> Count:
    if count is None or (count == 0 and zero_is_open):
        return count
    return count if count >= min_cell else None
