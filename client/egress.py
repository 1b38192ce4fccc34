"""The guard: decides and records what may leave, errors included."""

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from client.called_as import suppress_calls
from client.disclosure import round_flow, suppress_description, suppress_evidence, suppress_flow, suppress_landmarks
from client.joint_disclosure import Token, released_sets, suppress_jointly
from client.knowable_faults import code_of
from client.patient_flow import FILE_REASONS
from client.private_release import PrivateRelease
from client.released import Released
from shared.audit import DEPARTURE, REFUSAL, AuditLog
from shared.errors import (
    DataError,
    DeviceError,
    EgressError,
    PolyclinicError,
    PrivacyError,
    SiteError,
    StorageError,
    StudyError,
    TaskError,
    WeightsError,
)
from shared.evidence import Evidence, Withheld
from shared.messages import (
    PACKAGE_VERSION,
    SHA256,
    Answer,
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
    RefusalReply,
    Reply,
    Task,
    TrainReply,
    TrainTask,
    encode_answer,
    renewed_answer,
)
from shared.packing import same_form
from shared.parameters import NamedArrays, Wire
from shared.released_flow import Count, ReleasedFlow
from shared.signing import Purpose, SigningKey, signed_frames
from shared.split import Split
from shared.wire import from_frames

log = logging.getLogger("polyclinic.site")

CODES: Mapping[type[PolyclinicError], Refusal] = {
    DataError: Refusal.DATA,
    DeviceError: Refusal.DEVICE,
    EgressError: Refusal.EGRESS,
    PrivacyError: Refusal.PRIVACY,
    SiteError: Refusal.DATA,
    StorageError: Refusal.STORAGE,
    StudyError: Refusal.UNKNOWN_PROTOCOL,
    WeightsError: Refusal.DATA,
}

Digest = Callable[[Sequence[bytes]], str]
"""What the audit log keeps of the frames that left."""


Keep = Callable[[list[bytes]], None]
"""Stores the frames of a reply, synced, or raises."""


def kept_by_nobody(_: list[bytes]) -> None:
    """Keep nothing: a simulation's replies are not sent again."""


def sha256_of(frames: Sequence[bytes]) -> str:
    """Give the SHA-256 of all frames, one after the other."""
    total = hashlib.sha256()
    for frame in frames:
        total.update(frame)
    return total.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressGuard:
    """Lets a reply leave only if it is on the list (README, "What may leave"), and records each departure.

    Default-deny: a reply is rebuilt field by field from what the list allows, small counts are suppressed by the
    hospital's `min_cell`, and anything else is an EgressError. Suppressed is never zero. `exclusive` and `wire` are
    the study's: classes that exclude one another, and the dtype that travels. `key` signs what leaves; simulated sites
    have none. The signature is part of the recorded frames. `digest` is taken of these; only a simulation, in which
    nothing leaves the machine, does without (docs/decisions/0011).
    `private` is there under [privacy]. `described` is how many patients the split has that a description is of; no sum
    over some of them leaves where nobody knows (None). `released` is what has left in the study before, at a deployed
    site: its flow leaves as it left first, and no group that would tell of few beside an earlier one. Counts of the
    flow are rounded up to multiples of `count_rounding`, which is the hospital's, and of who was called what down.
    `assessed` says of each target whether the hospital's settings name it; without it, all are.
    """

    min_cell: int
    audit: AuditLog
    exclusive: bool
    wire: Wire
    private: PrivateRelease | None = None
    described: Count = None
    released: Released | None = None
    count_rounding: int = 1
    assessed: tuple[bool, ...] = ()
    key: SigningKey | None = None
    digest: Digest = sha256_of

    @property
    def noises_counts(self) -> bool:
        """True where evidence leaves as noised counts and what follows from them, and in no other form."""
        return self.private is not None and self.private.counts is not None

    def charge(self, task: EvaluateTask) -> None:
        """Charge what the evidence that a task asks for will cost, before anything is computed of it.

        Charged afterwards, an evaluation that fails on a patient's value would be an answer for nothing.

        Raises:
            TaskError: there is not a threshold for each target, or the task id was charged for another request.
            PrivacyError: the ledger cannot pay for the release.
            StorageError: the charge cannot be written.
        """
        if self.private is not None and self.private.counts is not None:
            self.private.counts.charge(task)

    def release(self, task: Task, reply: Reply, *, request: str = "", keep: Keep = kept_by_nobody) -> list[bytes]:
        """Turn a reply into the frames that leave for this task, recorded with their size and digest.

        `request` is the digest of all that the task asked, and part of what is signed.
        `keep` stores the frames before their departure is recorded: what the audit log says has left can be sent again,
        and need never be computed again.

        Raises:
            EgressError: the reply holds what is not on the list.
            StorageError: the departure cannot be recorded; then nothing leaves.
        """
        match task, reply:
            case ReadyTask(), ReadyReply():
                _refuse_free_words(reply)
                released: Reply = replace(reply, flow=self._flow(reply.flow))
                what = ["patient flow", "version", "approval"]
            case LandmarksTask(), LandmarksReply(landmarks=landmarks):
                mean = suppress_landmarks(landmarks, min_cell=self.min_cell) if self.private is None else Withheld()
                released = LandmarksReply(landmarks=mean)
                what = ["landmarks: withheld" if isinstance(mean, Withheld) else "landmarks"]
            case TrainTask(), TrainReply():
                released = self._update(task.arrays, reply)
                what = ["trainable arrays", "loss by epoch", "update norm", "images per second", "seconds"]
            case EvaluateTask(split=Split.VALIDATION | Split.TEST), EvaluateReply(evidence=evidence):
                # Noise comes first: which counts are too small is then told by noised counts too.
                noised = self.private.evidence(task, evidence) if self.private else evidence
                kept = self._evidence(task.split, noised)
                released = EvaluateReply(evidence=kept)
                what = [f"{task.split}: {_kind(item)}" for item in kept]
            case DescribeTask(), DescribeReply(description=description):
                shown = suppress_description(
                    description, patients=self.described, min_cell=self.min_cell, exclusive=self.exclusive
                )
                shown = shown if self.private is None else self.private.description(shown)
                released = DescribeReply(description=shown)
                parts = {"features": shown.features, "intensity": shown.intensity}
                what = [f"{name}: withheld" if isinstance(part, Withheld) else name for name, part in parts.items()]
                for name, tests in (("corners", shown.corners), ("marks", shown.marks)):
                    what += [f"{name}: withheld" if isinstance(one, Withheld) else name for one in tests]
            case DeliverTask(), DeliverReply(arrays_digest=digest):
                if not SHA256.fullmatch(digest):
                    raise EgressError("the receipt of a delivered model is no SHA-256.")
                released, what = reply, ["digest of the delivered arrays"]
            case _:
                raise EgressError(f"a {type(reply).__name__} may not answer a {type(task).__name__}.")
        answer = Answer(task_id=task.header.task_id, request=request, reply=released)
        frames = self._frames(answer)
        keep(frames)
        return self._record(answer.task_id, frames, kind=task.header.kind, what=what)

    def release_again(self, task: Task, frames: list[bytes], *, request: str = "") -> list[bytes]:
        """Let a stored reply leave once more, recorded like the first time.

        It says what it said, byte for byte; only the envelope is of today: its version, the request's digest and the
        signature, which differ where an older version or an older key stored it.

        Raises:
            StorageError: the departure cannot be recorded; then nothing leaves.
        """
        renewed = signed_frames(renewed_answer(from_frames(frames), request=request), self.key, Purpose.REPLY)
        return self._record(task.header.task_id, renewed, kind=task.header.kind, what=["the same reply again"])

    def refuse(self, fault: Exception, *, task_id: str, request: str = "") -> list[bytes]:
        """Turn any exception into a fixed code; what it says stays in this site's log, if it is one of ours.

        Another library's message may hold a patient's value: of these the log has the type alone.
        """
        code = _code_of(fault)
        said = str(fault) if isinstance(fault, PolyclinicError) else type(fault).__name__
        log.error("task %s refused as %s: %s", task_id[:12] or "(no id)", code, said)
        answer = Answer(task_id=task_id, request=request, reply=RefusalReply(code=code))
        return self._record(task_id, self._frames(answer), kind=REFUSAL, what=[str(code)])

    def _flow(self, flow: ReleasedFlow) -> ReleasedFlow:
        if self.private is None:
            shown = round_flow(suppress_flow(flow, min_cell=self.min_cell), to=self.count_rounding)
        else:
            shown = self.private.flow(flow)
        return self.released.flow(shown) if self.released else shown

    def _evidence(self, split: Split, counted: tuple[Evidence | Withheld, ...]) -> tuple[Evidence | Withheld, ...]:
        """Withhold what is small, and groups that tell of few together with all that leaves or has left."""
        kept = suppress_evidence(counted, min_cell=self.min_cell, exclusive=self.exclusive)
        token: Token = self.released.token if self.released else int
        safe = suppress_jointly(  # as if all findings were asked for: asked for one by one they tell no more
            kept,
            counted,
            min_cell=self.min_cell,
            exclusive=self.exclusive,
            earlier=self.released.sets(split) if self.released else (),
            token=token,
        )
        shown = tuple(_without_threshold(item) for item in safe)
        if self.released:
            self.released.remember(split, list(released_sets(shown, counted, token=token)))
        known = self.assessed or (True,) * len(shown)
        return tuple(self._told(item, assessed=one) for item, one in zip(shown, known, strict=True))

    def _told(self, item: Evidence | Withheld, *, assessed: bool) -> Evidence | Withheld:
        """Tell a finding that nobody looks for here from one that is held back: the settings say so, and no patient."""
        if not assessed:
            return Withheld(assessed=False)
        return item if isinstance(item, Withheld) else self._calls(item)

    def _calls(self, item: Evidence) -> Evidence:
        row = suppress_calls(item.called_as, min_cell=self.min_cell, count_rounding=self.count_rounding)
        return replace(item, called_as=row)

    def _update(self, sent: NamedArrays, reply: TrainReply) -> TrainReply:
        if problem := same_form(reply.update, sent, wire=self.wire):
            raise EgressError(f"the update is not of the form that the task asked for: {problem}.")
        if self.private is not None:
            return self.private.update(reply.update, seconds=reply.seconds)
        return TrainReply(
            update=reply.update,
            loss_by_epoch=tuple(map(float, reply.loss_by_epoch)),
            update_norm=float(reply.update_norm),
            images_per_second=float(f"{float(reply.images_per_second):.2g}"),  # no product: exactly how many images
            seconds=float(math.ceil(float(reply.seconds))),
        )

    def _frames(self, answer: Answer) -> list[bytes]:
        return signed_frames(encode_answer(answer), self.key, Purpose.REPLY)

    def _record(self, task_id: str, frames: list[bytes], *, kind: str, what: list[str]) -> list[bytes]:
        size, digest = sum(map(len, frames)), self.digest(frames)
        self.audit.append(DEPARTURE, task=task_id, kind=kind, what=what, bytes=size, sha256=digest)
        return frames


def _without_threshold(item: Evidence | Withheld) -> Evidence | Withheld:
    """Take the groups away where no threshold was given: nothing is counted in them."""
    return replace(item, subgroups=()) if isinstance(item, Evidence) and item.confusion is None else item


def _kind(item: Evidence | Withheld) -> str:
    if isinstance(item, Evidence):
        return "evidence"
    return "withheld" if item.assessed else "not assessed"


def _refuse_free_words(reply: ReadyReply) -> None:
    flow = reply.flow
    if not (PACKAGE_VERSION.fullmatch(reply.package) and reply.approval in list(Approval)):
        raise EgressError("the site's version or approval is not of the known form.")
    if not (flow.excluded.keys() <= set(FILE_REASONS) and flow.splits.keys() <= set(Split)):
        raise EgressError("the patient flow counts by a word that is neither a known reason nor a split.")


def _code_of(fault: Exception) -> Refusal:
    if isinstance(fault, TaskError) and fault.code in list(Refusal):
        return Refusal(fault.code)
    return next((code for kind, code in CODES.items() if isinstance(fault, kind)), code_of(fault))
