"""Typed tasks and replies, and their one encoding to and from Flower's RecordDict."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from shared.description import Description, description_from_numbers, description_to_numbers
from shared.evidence import Evidence, Withheld, evidence_from_numbers, evidence_to_numbers
from shared.landmarks import Landmarks, checked
from shared.parameters import NamedArrays
from shared.refusal_codes import Refusal as Refusal  # tasks, replies and their codes are read about in one place
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.tasks import DOCUMENTS as DOCUMENTS
from shared.tasks import WIRE_VERSION as WIRE_VERSION
from shared.tasks import DeliverTask as DeliverTask
from shared.tasks import DescribeTask as DescribeTask
from shared.tasks import EvaluateTask as EvaluateTask
from shared.tasks import Header as Header
from shared.tasks import Kind as Kind
from shared.tasks import LandmarksTask as LandmarksTask
from shared.tasks import ReadyTask as ReadyTask
from shared.tasks import Task as Task
from shared.tasks import TrainTask as TrainTask
from shared.tasks import from_floats, to_floats
from shared.wire import arrays_from_record, documents_from_record, documents_record, record_of, records_of

PACKAGE_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}([a-z0-9.+-]{0,24})")
"""A version of this package (PEP 440, in short): no site can write a sentence there."""

SHA256 = re.compile("[0-9a-f]{64}")

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.()-]{0,127}")
"""A run's name becomes a folder's at a site: no path can be written there."""

MOST_ROUNDS = 1_000_000


class Approval(StrEnum):
    """On whose word a site takes part: a person at the hospital approved the study's digest, or it is a simulation."""

    APPROVED = "approved"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyReply:
    """A site's patient flow, with small counts suppressed; which version of Polyclinic it runs, and on whose word."""

    flow: ReleasedFlow
    package: str
    approval: Approval


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarksReply:
    """Where the intensity landmarks of a site's images lie on average; withheld where too few patients are behind."""

    landmarks: Landmarks | Withheld


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
class DescribeReply:
    """How a site's images look to the model; withheld where too few patients are behind it."""

    description: Description


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverReply:
    """A site has stored the delivered model: the digest of its arrays as they arrived (`parameters.digest`)."""

    arrays_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalReply:
    """A site's refusal or failure, as a fixed code."""

    code: Refusal


Reply = ReadyReply | LandmarksReply | TrainReply | EvaluateReply | DescribeReply | DeliverReply | RefusalReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply and the task it answers: `request` is the digest of all that was asked, "" where that is not known."""

    task_id: str
    reply: Reply
    request: str = ""
    version: str = field(default=WIRE_VERSION)


class MalformedError(ValueError):
    """A message is not of the form that this version speaks; the text names the part, never its content."""


class OtherVersionError(MalformedError):
    """A message is of another version of the encoding."""


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
    if head.standard:
        config["standard"] = list(head.standard)
    if not isinstance(task, ReadyTask | LandmarksTask):
        content["arrays"] = record_of(task.arrays) if arrays is None else arrays
    if isinstance(task, EvaluateTask):
        config["split"] = str(task.split)
    if isinstance(task, EvaluateTask | DeliverTask):
        config["thresholds"] = to_floats(task.thresholds)
    if isinstance(task, DeliverTask):
        config["own"] = list(task.own)
        content["documents"] = documents_record(task.documents)
    return content


def check_version(content: RecordDict) -> None:
    """Check that a task speaks this version, before anything else of it is read.

    Raises:
        OtherVersionError: it speaks another one.
        MalformedError: it does not say.
    """
    version = records_of(content, ConfigRecord).get("task", ConfigRecord()).get("version")
    if version is None:
        raise MalformedError("version")
    if version != WIRE_VERSION:
        raise OtherVersionError("version")


def decode_task(content: RecordDict) -> Task:
    """Decode a task, checking every field.

    Raises:
        MalformedError: a field is missing, of the wrong type or contradicts another.
    """
    try:
        check_version(content)
        config = records_of(content, ConfigRecord)["task"]
        header = Header(
            protocol_digest=_text(config, "protocol"),
            run_id=_matching(config, "run", RUN_ID),
            round=_count(config, "round"),
            site=_text(config, "site"),
            kind=Kind(_text(config, "kind")),
            detail=_text(config, "detail"),
            standard=checked(config["standard"]) if "standard" in config else (),  # type: ignore[arg-type]
        )
        if config["task_id"] != header.task_id:
            raise MalformedError("task_id")
        if header.kind is Kind.READY:
            return ReadyTask(header=header)
        if header.kind is Kind.LANDMARKS:
            return LandmarksTask(header=header)
        arrays = arrays_from_record(records_of(content, ArrayRecord)["arrays"])
        if header.kind is Kind.TRAIN:
            return TrainTask(header=header, arrays=arrays)
        if header.kind is Kind.DESCRIBE:
            return DescribeTask(header=header, arrays=arrays)
        thresholds = from_floats(config["thresholds"])  # type: ignore[arg-type]
        if header.kind is Kind.DELIVER:
            documents = documents_from_record(records_of(content, ArrayRecord)["documents"], known=DOCUMENTS)
            own = tuple(float(value) for value in config["own"])  # type: ignore[union-attr]
            return DeliverTask(header=header, arrays=arrays, thresholds=thresholds, documents=documents, own=own)
        return EvaluateTask(header=header, arrays=arrays, split=Split(_text(config, "split")), thresholds=thresholds)
    except MalformedError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise MalformedError(type(fault).__name__) from None


def _count(config: ConfigRecord, key: str) -> int:
    value = config[key]
    if type(value) is not int or not 0 <= value <= MOST_ROUNDS:
        raise MalformedError(key)
    return value


def _text(config: ConfigRecord, key: str) -> str:
    value = config[key]
    if not isinstance(value, str):
        raise MalformedError(key)
    return value


def encode_answer(answer: Answer) -> RecordDict:
    """Encode a reply with the id of its task."""
    state: dict[str, str | list[str]] = {
        "version": answer.version,
        "task_id": answer.task_id,
        "request": answer.request,
    }
    content = RecordDict()
    match answer.reply:
        case RefusalReply(code=code):
            state |= {"kind": "refusal", "code": str(code)}
        case ReadyReply(flow=flow, package=package, approval=approval):
            state |= {"kind": str(Kind.READY), "package": package, "approval": str(approval)}
            content["flow"] = MetricRecord(flow.to_numbers())
        case LandmarksReply(landmarks=landmarks):
            state["kind"] = str(Kind.LANDMARKS)
            content["landmarks"] = MetricRecord(
                {"withheld": 1} if isinstance(landmarks, Withheld) else {"positions": list(landmarks.positions)}
            )
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
        case DescribeReply(description=description):
            state["kind"] = str(Kind.DESCRIBE)
            for name, numbers in description_to_numbers(description).items():
                content[name] = MetricRecord(numbers)
        case DeliverReply(arrays_digest=digest):
            state |= {"kind": str(Kind.DELIVER), "arrays": digest}
    content["state"] = ConfigRecord(dict(state))
    return content


def renewed_answer(content: RecordDict, *, request: str) -> RecordDict:
    """Put today's envelope around a reply as it was stored: this version, and the digest of the request at hand.

    What it says stays as it is. One that an older version stored is read by this one where the kind of reply is the
    same, and refused by the coordinator where it is not.
    """
    state = records_of(content, ConfigRecord)["state"]
    state["version"], state["request"] = WIRE_VERSION, request
    return content


def decode_answer(content: RecordDict) -> Answer:
    """Decode a reply, checking every field.

    Raises:
        MalformedError: a field is missing, of the wrong type or of another version.
    """
    try:
        state = records_of(content, ConfigRecord)["state"]
        if state["version"] != WIRE_VERSION:
            raise OtherVersionError("version")
        reply = _reply(content, _text(state, "kind"), state)
        return Answer(task_id=_text(state, "task_id"), request=_text(state, "request"), reply=reply)
    except MalformedError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as fault:
        raise MalformedError(type(fault).__name__) from None


def _reply(content: RecordDict, kind: str, state: ConfigRecord) -> Reply:
    if kind == "refusal":
        return RefusalReply(code=Refusal(_text(state, "code")))
    match Kind(kind):
        case Kind.READY:
            return ReadyReply(
                flow=ReleasedFlow.from_numbers(_numbers(content, "flow")),
                package=_matching(state, "package", PACKAGE_VERSION),
                approval=Approval(_text(state, "approval")),
            )
        case Kind.LANDMARKS:
            return LandmarksReply(landmarks=_landmarks(_numbers(content, "landmarks")))
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
        case Kind.DESCRIBE:
            numbers = {name: _numbers(content, name) for name in records_of(content, MetricRecord)}
            return DescribeReply(description=description_from_numbers(numbers))
        case Kind.DELIVER:
            return DeliverReply(arrays_digest=_matching(state, "arrays", SHA256))


def _landmarks(numbers: Mapping[str, int | float | list[int] | list[float]]) -> Landmarks | Withheld:
    if "withheld" in numbers:
        return Withheld()
    return Landmarks(positions=checked(numbers["positions"]))  # type: ignore[arg-type]


def _matching(config: ConfigRecord, key: str, form: re.Pattern[str]) -> str:
    value = _text(config, key)
    if not form.fullmatch(value):
        raise MalformedError(key)
    return value


def _finite(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]  # a wrong type raises, and is MalformedError
    if not math.isfinite(number):
        raise ValueError("a figure is not finite")
    return number


def _numbers(content: RecordDict, name: str) -> Mapping[str, int | float | list[int] | list[float]]:
    return dict(records_of(content, MetricRecord)[name].items())
