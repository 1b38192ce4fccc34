"""Typed tasks and replies, and their one encoding to and from Flower's RecordDict."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from shared.evidence import Evidence, Withheld, evidence_from_numbers, evidence_to_numbers
from shared.parameters import NamedArrays
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.wire import arrays_from_record, record_of, records_of

WIRE_VERSION = "1"
"""Changes whenever a message of one version could be misread by another."""


class Kind(StrEnum):
    """What a task asks for; also Flower's message type."""

    READY = "query"
    TRAIN = "train"
    EVALUATE = "evaluate"


class Refusal(StrEnum):
    """The fixed codes with which a site refuses or fails: all that ever leaves of an exception."""

    UNKNOWN_PROTOCOL = "unknown_protocol"
    OTHER_VERSION = "other_version"
    MALFORMED = "malformed"
    ID_REUSED = "task_id_reused"
    WRONG_SITE = "wrong_site"
    WRONG_FORM = "arrays_of_wrong_form"
    TOO_FEW_PATIENTS = "too_few_patients"
    DATA = "data_unusable"
    STORAGE = "storage"
    DEVICE = "device"
    EGRESS = "egress"
    DIVERGED = "training_diverged"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What every task carries: the approved protocol it belongs to, and its place in the run."""

    protocol_digest: str
    run_id: str
    round: int
    site: str
    kind: Kind
    detail: str = ""

    @property
    def task_id(self) -> str:
        """H(protocol digest, run, round, kind, site): the same however often the task is sent."""
        parts = (self.protocol_digest, self.run_id, str(self.round), self.kind + self.detail, self.site)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyTask:
    """Ask a site for its patient flow and whether it can take part."""

    header: Header


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """Ask a site to train one round from the given arrays."""

    header: Header
    arrays: NamedArrays


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateTask:
    """Ask a site to score one split; with thresholds (one a target, probabilities), also to count at them."""

    header: Header
    arrays: NamedArrays
    split: Split
    thresholds: tuple[float, ...] = ()


Task = ReadyTask | TrainTask | EvaluateTask


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyReply:
    """A site's patient flow, with small counts suppressed."""

    flow: ReleasedFlow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReply:
    """A site's update (new minus sent arrays) and how training went.

    `loss_by_epoch` is the mean loss of each epoch; `update_norm` the L2 norm; `images_per_second` over the round.
    """

    update: NamedArrays
    loss_by_epoch: tuple[float, ...]
    update_norm: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReply:
    """A site's evidence on one split, one entry a target in the study's order; withheld where too small."""

    evidence: tuple[Evidence | Withheld, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalReply:
    """A site's refusal or failure, as a fixed code."""

    code: Refusal


Reply = ReadyReply | TrainReply | EvaluateReply | RefusalReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply and the task it answers."""

    task_id: str
    reply: Reply
    version: str = field(default=WIRE_VERSION)


class MalformedError(ValueError):
    """A message is not of the form that this version speaks; the text names the part, never its content."""


def encode_task(task: Task, *, arrays: ArrayRecord | None = None) -> RecordDict:
    """Encode a task; `arrays`, where given, is the already encoded record of the task's arrays (one for all sites)."""
    head = task.header
    config = ConfigRecord(
        {
            "version": WIRE_VERSION,
            "task_id": head.task_id,
            "protocol": head.protocol_digest,
            "run": head.run_id,
            "round": head.round,
            "site": head.site,
            "kind": str(head.kind),
            "detail": head.detail,
        }
    )
    content = RecordDict({"task": config})
    if isinstance(task, TrainTask | EvaluateTask):
        content["arrays"] = record_of(task.arrays) if arrays is None else arrays
    if isinstance(task, EvaluateTask):
        config["split"] = str(task.split)
        config["thresholds"] = list(task.thresholds)
    return content


def decode_task(content: RecordDict) -> Task:
    """Decode a task, checking every field.

    Raises:
        MalformedError: a field is missing, of the wrong type or contradicts another.
    """
    try:
        config = records_of(content, ConfigRecord)["task"]
        if config["version"] != WIRE_VERSION:
            raise MalformedError("version")
        header = Header(
            protocol_digest=_text(config, "protocol"),
            run_id=_text(config, "run"),
            round=int(config["round"]),  # type: ignore[arg-type]  # a wrong type raises, and is MalformedError below
            site=_text(config, "site"),
            kind=Kind(_text(config, "kind")),
            detail=_text(config, "detail"),
        )
        if config["task_id"] != header.task_id:
            raise MalformedError("task_id")
        if header.kind is Kind.READY:
            return ReadyTask(header=header)
        arrays = arrays_from_record(records_of(content, ArrayRecord)["arrays"])
        if header.kind is Kind.TRAIN:
            return TrainTask(header=header, arrays=arrays)
        thresholds = tuple(float(value) for value in config["thresholds"])  # type: ignore[union-attr]
        return EvaluateTask(header=header, arrays=arrays, split=Split(_text(config, "split")), thresholds=thresholds)
    except MalformedError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise MalformedError(type(fault).__name__) from None


def _text(config: ConfigRecord, key: str) -> str:
    value = config[key]
    if not isinstance(value, str):
        raise MalformedError(key)
    return value


def encode_answer(answer: Answer) -> RecordDict:
    """Encode a reply with the id of its task."""
    state: dict[str, str | list[str]] = {"version": answer.version, "task_id": answer.task_id}
    content = RecordDict()
    match answer.reply:
        case RefusalReply(code=code):
            state |= {"kind": "refusal", "code": str(code)}
        case ReadyReply(flow=flow):
            state["kind"] = str(Kind.READY)
            content["flow"] = MetricRecord(flow.to_numbers())
        case TrainReply() as reply:
            state["kind"] = str(Kind.TRAIN)
            content["arrays"] = record_of(reply.update)
            content["metrics"] = MetricRecord(
                {
                    "loss_by_epoch": list(reply.loss_by_epoch),
                    "update_norm": reply.update_norm,
                    "images_per_second": reply.images_per_second,
                    "seconds": reply.seconds,
                }
            )
        case EvaluateReply(evidence=evidence):
            state["kind"] = str(Kind.EVALUATE)
            for place, item in enumerate(evidence):
                content[f"evidence{place}"] = MetricRecord(evidence_to_numbers(item))
    content["state"] = ConfigRecord(dict(state))
    return content


def decode_answer(content: RecordDict) -> Answer:
    """Decode a reply, checking every field.

    Raises:
        MalformedError: a field is missing, of the wrong type or of another version.
    """
    try:
        state = records_of(content, ConfigRecord)["state"]
        if state["version"] != WIRE_VERSION:
            raise MalformedError("version")
        return Answer(task_id=_text(state, "task_id"), reply=_reply(content, _text(state, "kind"), state))
    except MalformedError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise MalformedError(type(fault).__name__) from None


def _reply(content: RecordDict, kind: str, state: ConfigRecord) -> Reply:
    if kind == "refusal":
        return RefusalReply(code=Refusal(_text(state, "code")))
    match Kind(kind):
        case Kind.READY:
            return ReadyReply(flow=ReleasedFlow.from_numbers(_numbers(content, "flow")))
        case Kind.TRAIN:
            metrics = records_of(content, MetricRecord)["metrics"]
            return TrainReply(
                update=arrays_from_record(records_of(content, ArrayRecord)["arrays"]),
                loss_by_epoch=tuple(map(_finite, metrics["loss_by_epoch"])),  # type: ignore[arg-type]
                update_norm=_finite(metrics["update_norm"]),
                images_per_second=_finite(metrics["images_per_second"]),
                seconds=_finite(metrics["seconds"]),
            )
        case Kind.EVALUATE:
            places = sum(name.startswith("evidence") for name in records_of(content, MetricRecord))
            items = (evidence_from_numbers(_numbers(content, f"evidence{place}")) for place in range(places))
            return EvaluateReply(evidence=tuple(items))


def _finite(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]  # a wrong type raises, and is MalformedError
    if not math.isfinite(number):
        raise ValueError("a figure is not finite")
    return number


def _numbers(content: RecordDict, name: str) -> Mapping[str, int | float | list[int] | list[float]]:
    return dict(records_of(content, MetricRecord)[name].items())
