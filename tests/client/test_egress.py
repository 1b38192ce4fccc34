"""Nothing leaves that is not on the list, each departure is recorded, and no exception speaks."""

import dataclasses
import hashlib
import json
import logging
import math
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.egress import CODES, EgressGuard
from client.patient_flow import FILE_REASONS
from client.private_release import PrivateRelease
from shared import errors
from shared.audit import AuditLog, verify
from shared.description import CORNERS, CornerEffect, CornerTest, Description, MarkTest
from shared.errors import DataError, EgressError, PolyclinicError, StorageError, TaskError
from shared.estimates import Calibration, Coefficient, Estimate, ScoreQuality
from shared.evidence import Evidence, Withheld
from shared.feature_summary import summarise as summarise_features
from shared.intensity import BINS
from shared.intensity import summarise as summarise_intensity
from shared.landmarks import CountedLandmarks, Landmarks
from shared.messages import (
    WIRE_VERSION,
    Answer,
    Approval,
    DeliverReply,
    DeliverTask,
    DescribeReply,
    DescribeTask,
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
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
    decode_answer,
)
from shared.metrics import Confusion, ScoreHistogram
from shared.released_flow import KNOWN_REASONS, ClassCounts, ReleasedFlow, SplitCounts
from shared.split import Split
from shared.wire import from_frames

NAME = "DOE^JOHN"

MAY_LEAVE = {
    "Answer": {"task_id", "request", "reply", "version"},
    "ReadyReply": {"flow", "package", "approval"},
    "ReleasedFlow": {"found", "excluded", "splits"},
    "SplitCounts": {"patients", "exams", "classes"},
    "ClassCounts": {"positive_patients", "negative_patients", "positive_exams", "negative_exams"},
    "LandmarksReply": {"landmarks"},
    "Landmarks": {"positions"},
    "TrainReply": {"update", "loss_by_epoch", "update_norm", "images_per_second", "seconds"},
    "EvaluateReply": {"evidence"},
    "DeliverReply": {"arrays_digest"},
    "DescribeReply": {"description"},
    "Description": {"features", "intensity", "corners", "marks"},
    "FeatureSummary": {"split", "patients", "mean", "covariance", "split_null"},
    "IntensitySummary": {"patients", "shares", "split_null"},
    "CornerTest": {"positive_patients", "negative_patients", "effects"},
    "CornerEffect": {"value", "error", "freedom", "auc", "auc_without"},
    "MarkTest": {"split", "positive_patients", "negative_patients", "areas"},
    "Evidence": {
        *("units", "patients", "positive_patients", "negative_patients"),
        *("histogram", "confusion", "auc", "brier", "quality", "subgroups", "called_as"),
    },
    "CalledAs": {"units"},
    "GroupEvidence": {"axis", "group", "positive_patients", "negative_patients", "confusion", "auc"},
    "ScoreQuality": {
        *("average_precision", "brier", "calibration"),
        *("called_design_effect", "cleared_design_effect"),
    },
    "Calibration": {"slope", "intercept"},
    "Coefficient": {"value", "low", "high"},
    "ScoreHistogram": {"positives", "negatives"},
    "Confusion": {"tp", "fp", "tn", "fn", "positives_design_effect", "negatives_design_effect"},
    "Estimate": {"value", "low", "high"},
    "Withheld": {"assessed"},
    "RefusalReply": {"code"},
}
"""The table "What may leave" as types and fields: a new one is added here only once it stands in that table."""

ON_THE_WIRE = {
    "query": {"flow": {"found", "excluded/*", "split/*"}},
    "query.landmarks": {"landmarks": {"positions", "withheld"}},
    "train": {"metrics": {"loss_by_epoch", "update_norm", "images_per_second", "seconds"}},
    "evaluate": {
        "evidence*": {
            *("units", "patients", "positives", "negatives", "confusion", "design_effects", "auc", "brier"),
            *("predictive_design_effects", "average_precision", "brier_interval"),
            *("calibration_slope", "calibration_intercept", "withheld", "subgroup/*"),
        }
    },
    "query.describe": {
        "features": {"split", "patients", "mean", "covariance", "split_null", "withheld"},
        "intensity": {"patients", "shares", "split_null", "withheld"},
        "corners*": {"patients", *CORNERS, "withheld"},
        "marks*": {"split", "patients", "areas", "withheld"},
    },
    "query.deliver": {},
    "refusal": {},
}
"""The same by Flower record and key, for each kind of reply."""


LINE = Coefficient(value=-0.5, low=-1.0, high=0.25)


def header(kind: Kind) -> Header:
    return Header(protocol_digest="d", run_id="run", round=3, site="north", kind=kind)


SENT = {"fc.weight": np.zeros((1, 4), np.float32), "fc.bias": np.zeros(1, np.float32)}
READY = ReadyTask(header=header(Kind.READY))
TRAIN = TrainTask(header=header(Kind.TRAIN), arrays=SENT)
DELIVER = DeliverTask(header=header(Kind.DELIVER), arrays=SENT, thresholds=(0.5,), documents={})
SCALE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LANDMARKS = LandmarksTask(header=header(Kind.LANDMARKS))
DESCRIBE = DescribeTask(header=header(Kind.DESCRIBE), arrays=SENT)
EVALUATE = EvaluateTask(header=header(Kind.EVALUATE), arrays=SENT, split=Split.TEST, thresholds=(0.5,))


def update(**changes: Any) -> TrainReply:
    """Give an update of the form that the task asks for."""
    figures = {"loss_by_epoch": (0.5, 0.25), "update_norm": 1.0, "images_per_second": 80.0, "seconds": 2.0}
    arrays = {name: np.ones_like(array) for name, array in SENT.items()}
    return TrainReply(**({"update": arrays} | figures | changes))  # type: ignore[arg-type]


def ready(counts: ReleasedFlow, **changes: Any) -> ReadyReply:
    """Give a site that is ready, with its flow."""
    return ReadyReply(**({"flow": counts, "package": "0.1.0", "approval": Approval.APPROVED} | changes))  # type: ignore[arg-type]


def evidence(patients: int) -> Evidence:
    """Give evidence on as many patients of each class."""
    return Evidence(
        units=2 * patients,
        patients=2 * patients,
        positive_patients=patients,
        negative_patients=patients,
        histogram=ScoreHistogram(positives=(0, patients), negatives=(patients, 0)),
        confusion=Confusion(tp=patients, fp=0, tn=patients, fn=0),
        auc=Estimate(value=1.0, low=0.9, high=1.0),
        brier=0.1,
        quality=ScoreQuality(
            average_precision=Estimate(value=1.0, low=0.9, high=1.0),
            brier=Estimate(value=0.1, low=0.05, high=0.2),
            calibration=Calibration(slope=LINE, intercept=LINE),
            called_design_effect=1.5,
            cleared_design_effect=1.0,
        ),
    )


def description(patients: int, *, positives: int = 20) -> DescribeReply:
    """Describe as many patients' images, with both corner tests of so many positives."""
    drawn = np.random.default_rng(0)
    effect = CornerEffect(value=0.5, error=0.1, freedom=9, auc=0.9, auc_without=0.8)
    return DescribeReply(
        description=Description(
            features=summarise_features(drawn.standard_normal((patients, 32)), split=Split.TRAIN, seed=0),
            intensity=summarise_intensity(np.full((patients, BINS), 1 / BINS), seed=0),
            corners=(
                CornerTest(positive_patients=positives, negative_patients=60, effects=(effect,) * 4),
                CornerTest(positive_patients=60, negative_patients=60, effects=()),
            ),
            marks=tuple(
                MarkTest(split=Split.TRAIN, positive_patients=count, negative_patients=60, areas=(0.5,) * 4)
                for count in (positives, 60)
            ),
        )
    )


def flow(excluded: dict[str, int] | None = None, **splits: int) -> ReleasedFlow:
    def of(patients: int) -> SplitCounts:
        target = ClassCounts(positive_patients=40, negative_patients=40, positive_exams=40, negative_exams=40)
        return SplitCounts(patients=patients, exams=patients, classes=(target,))

    patients = splits or {"train": 80, "validation": 80, "test": 80}
    return ReleasedFlow(
        found=240, excluded=excluded or {}, splits={name: of(count) for name, count in patients.items()}
    )


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def guard(audit: Path) -> EgressGuard:
    return EgressGuard(min_cell=10, audit=AuditLog(audit), exclusive=False, wire="fp32", described=240)


def read(frames: list[bytes]) -> Reply:
    return decode_answer(from_frames(frames)).reply


def test_the_coordinator_knows_every_reason_that_a_site_counts_by() -> None:
    """One that it does not know would be shown as another reason."""
    assert set(FILE_REASONS) == KNOWN_REASONS


def test_what_the_settings_do_not_name_leaves_as_not_assessed(tmp_path: Path) -> None:
    """Held back for few patients and not looked for are two things, on the wire and in the audit log."""
    log = AuditLog(tmp_path / "audit.jsonl")
    guard = EgressGuard(min_cell=10, audit=log, exclusive=False, wire="fp32", assessed=(True, True, False))
    reply = read(guard.release(EVALUATE, EvaluateReply(evidence=(evidence(20), evidence(5), evidence(0)))))
    assert isinstance(reply, EvaluateReply)
    assert reply.evidence[1:] == (Withheld(), Withheld(assessed=False))
    assert list(verify(log.path))[-1]["what"] == ["test: evidence", "test: withheld", "test: not assessed"]


def test_an_update_leaves_as_it_is(guard: EgressGuard) -> None:
    """Arrays equal to the task's in names, order, shape and dtype leave with their figures."""
    reply = read(guard.release(TRAIN, update()))
    assert isinstance(reply, TrainReply)
    assert list(reply.update) == list(SENT)
    np.testing.assert_array_equal(reply.update["fc.weight"], np.ones((1, 4)))
    assert (reply.loss_by_epoch, reply.update_norm, reply.images_per_second, reply.seconds) == ((0.5, 0.25), 1, 80, 2)


@pytest.mark.parametrize("seconds", [0.7, 12.3, 478.0])
def test_speed_and_duration_do_not_give_the_number_of_images(guard: EgressGuard, seconds: float) -> None:
    """Two digits of the rate and whole seconds: one training image more or less leaves as the same."""
    replies = [
        read(guard.release(TRAIN, update(images_per_second=images / seconds, seconds=seconds)))
        for images in (2389, 2390)
    ]
    left = [(reply.images_per_second, reply.seconds) for reply in replies if isinstance(reply, TrainReply)]
    assert left == [(float(f"{2390 / seconds:.2g}"), math.ceil(seconds))] * 2


def test_evidence_and_flow_leave_suppressed(guard: EgressGuard) -> None:
    """At min_cell 10 evidence and flow of nine patients leave as withheld and suppressed, those of ten exact."""
    assert read(guard.release(EVALUATE, EvaluateReply(evidence=(evidence(9), evidence(10))))) == EvaluateReply(
        evidence=(Withheld(), evidence(10))
    )
    reply = read(guard.release(READY, ready(flow(excluded={"truncated": 9}, train=80, test=9))))
    assert isinstance(reply, ReadyReply)
    assert (reply.flow.excluded, reply.flow.splits["test"].patients) == ({"truncated": None}, None)
    assert reply.flow.splits["train"].patients == 80


def test_evidence_on_training_patients_never_leaves(guard: EgressGuard) -> None:
    """The list has validation and test patients alone, however many trained."""
    with pytest.raises(EgressError, match="may not answer"):
        guard.release(dataclasses.replace(EVALUATE, split=Split.TRAIN), EvaluateReply(evidence=(evidence(40),)))


def test_classes_are_withheld_together(audit: Path) -> None:
    """Where classes exclude one another, one of nine patients withholds all."""
    guard = EgressGuard(min_cell=10, audit=AuditLog(audit), exclusive=True, wire="fp32")
    reply = read(guard.release(EVALUATE, EvaluateReply(evidence=(evidence(50), evidence(9)))))
    assert reply == EvaluateReply(evidence=(Withheld(), Withheld()))


@pytest.mark.parametrize(
    ("min_cell", "patients", "features", "intensity"),
    [(1, 39, False, True), (1, 40, True, True), (50, 49, False, False), (50, 50, True, True)],
)
def test_sums_over_images_leave_of_enough_patients_alone(
    audit: Path, min_cell: int, patients: int, features: bool, intensity: bool
) -> None:
    """Features of fewer than 40 patients never leave, and neither sum of fewer than the hospital's min_cell."""
    guard = EgressGuard(min_cell=min_cell, audit=AuditLog(audit), exclusive=False, wire="fp32", described=200)
    reply = read(guard.release(DESCRIBE, description(patients)))
    assert isinstance(reply, DescribeReply)
    assert isinstance(reply.description.features, Withheld) is not features
    assert isinstance(reply.description.intensity, Withheld) is not intensity


@pytest.mark.parametrize(("described", "leave"), [(None, False), (80, True), (81, False), (89, False), (90, True)])
def test_a_sum_from_which_few_patients_would_follow_does_not_leave(
    guard: EgressGuard, described: int | None, leave: bool
) -> None:
    """Of 89 patients in the flow, sums over the 80 without disease would tell that 9 have it; of 80, that none has."""
    reply = read(dataclasses.replace(guard, described=described).release(DESCRIBE, description(80)))
    assert isinstance(reply, DescribeReply)
    for part in (reply.description.features, reply.description.intensity):
        assert isinstance(part, Withheld) is not leave


@pytest.mark.parametrize(("patients", "leaves"), [(0, False), (9, False), (10, True)])
def test_landmarks_leave_of_min_cell_patients_and_never_under_privacy(audit: Path, patients: int, leaves: bool) -> None:
    """The mean of fewer patients than the hospital's min_cell is withheld; under [privacy] every mean is."""
    guard = EgressGuard(min_cell=10, audit=AuditLog(audit), exclusive=False, wire="fp32")
    said = LandmarksReply(landmarks=CountedLandmarks(patients=patients, positions=SCALE))
    reply = read(guard.release(LANDMARKS, said))
    assert isinstance(reply, LandmarksReply)
    assert reply.landmarks == (Landmarks(positions=SCALE) if leaves else Withheld())
    uncounted = guard.release(LANDMARKS, LandmarksReply(landmarks=Landmarks(positions=SCALE)))
    assert read(uncounted) == LandmarksReply(landmarks=Withheld())
    private = dataclasses.replace(guard, private=PrivateRelease(public_size=50, images_a_round=50.0))
    hidden = read(private.release(LANDMARKS, said))
    assert hidden == LandmarksReply(landmarks=Withheld())


@pytest.mark.parametrize("exclusive", [False, True])
def test_corner_tests_are_withheld_like_their_findings_evidence(audit: Path, exclusive: bool) -> None:
    """With nine positive patients neither leaves at min_cell 10; of classes, none does then."""
    guard = EgressGuard(min_cell=10, audit=AuditLog(audit), exclusive=exclusive, wire="fp32")
    reply = read(guard.release(DESCRIBE, description(80, positives=9)))
    assert isinstance(reply, DescribeReply)
    for tests in (reply.description.corners, reply.description.marks):
        assert [isinstance(one, Withheld) for one in tests] == [True, exclusive]


def test_features_in_too_many_dimensions_do_not_leave(guard: EgressGuard) -> None:
    """A sum of 80 patients may have 16 dimensions; one of another form is refused, not cut."""
    wide = description(160).description
    assert not isinstance(wide.features, Withheld)
    forged = dataclasses.replace(wide, features=dataclasses.replace(wide.features, patients=80))
    with pytest.raises(EgressError):
        guard.release(DESCRIBE, DescribeReply(description=forged))


OTHER_FORMS = {
    "another name": {"fc.weight": SENT["fc.weight"], "patients": SENT["fc.bias"]},
    "another order": dict(reversed(SENT.items())),
    "one more": SENT | {"images": np.zeros((9, 9), np.float32)},
    "one less": {"fc.weight": SENT["fc.weight"]},
    "another shape": SENT | {"fc.bias": np.zeros(2, np.float32)},
    "another dtype": SENT | {"fc.bias": np.zeros(1, np.float16)},
    "a dtype that never travels": SENT | {"fc.bias": np.zeros(1, np.int64)},
}


@pytest.mark.parametrize("arrays", OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_arrays_of_another_form_do_not_leave(guard: EgressGuard, audit: Path, arrays: dict[str, Any]) -> None:
    """Names, order, shapes and dtypes must be the task's; else nothing leaves, and nothing is said to have left."""
    with pytest.raises(EgressError):
        guard.release(TRAIN, update(update=arrays))
    assert not audit.exists()


def test_half_precision_travels_only_where_the_study_says_so(audit: Path) -> None:
    """With wire = "fp16" an fp16 update leaves and an fp32 one does not."""
    guard = EgressGuard(min_cell=10, audit=AuditLog(audit), exclusive=False, wire="fp16")
    half = {name: array.astype(np.float16) for name, array in SENT.items()}
    assert isinstance(read(guard.release(TRAIN, update(update=half))), TrainReply)
    with pytest.raises(EgressError):
        guard.release(TRAIN, update())


REPLIES: dict[str, Any] = {
    "flow": ready(flow()),
    "landmarks": LandmarksReply(landmarks=CountedLandmarks(patients=20, positions=SCALE)),
    "update": update(),
    "evidence": EvaluateReply(evidence=(evidence(20),)),
    "description": description(80),
    "refusal": RefusalReply(code=Refusal.DATA),
    "exact flow": flow(),
    "text": NAME,
    "nothing": None,
}


@pytest.mark.parametrize(
    ("task", "own"),
    [(READY, "flow"), (LANDMARKS, "landmarks"), (TRAIN, "update"), (EVALUATE, "evidence"), (DESCRIBE, "description")],
    ids=["ready", "landmarks", "train", "evaluate", "describe"],
)
def test_a_task_is_answered_by_its_own_kind_of_reply_alone(guard: EgressGuard, task: Task, own: str) -> None:
    """Default-deny: another reply, or an object that is none, does not leave."""
    for name, reply in REPLIES.items():
        if name != own:
            with pytest.raises(EgressError):
                guard.release(task, reply)
    assert isinstance(read(guard.release(task, REPLIES[own])), type(REPLIES[own]))


@pytest.mark.parametrize(
    "words", [flow(excluded={NAME: 50}), flow(train=80, validation=80, test=80, **{NAME: 80})], ids=["reason", "split"]
)
def test_a_flow_holds_no_free_word(guard: EgressGuard, words: ReleasedFlow) -> None:
    """A flow counts by the fixed reasons and splits; any other word does not leave."""
    with pytest.raises(EgressError):
        guard.release(READY, ready(words))
    known = flow(excluded={str(reason): 50 for reason in FILE_REASONS})
    assert read(guard.release(READY, ready(known))) == ready(known)


def test_figures_that_are_no_numbers_do_not_leave(guard: EgressGuard) -> None:
    """Loss, norm and rates leave as numbers; a text in their place is no reply."""
    for field in ("update_norm", "images_per_second", "seconds"):
        with pytest.raises(ValueError):
            guard.release(TRAIN, update(**{field: NAME}))
    with pytest.raises(ValueError):
        guard.release(TRAIN, update(loss_by_epoch=(NAME,)))


def types_within(hint: Any) -> Iterator[type]:
    """Walk over the dataclasses that a type can hold."""
    if dataclasses.is_dataclass(hint):
        yield typing.cast(type, hint)
        for inner in typing.get_type_hints(hint).values():
            yield from types_within(inner)
    for argument in typing.get_args(hint):
        yield from types_within(argument)


def test_every_field_that_a_reply_can_have_is_on_the_list() -> None:
    """A field that somebody adds to a reply, or to what it holds, must first stand in the table of what may leave."""
    found = {kind.__name__: {field.name for field in dataclasses.fields(kind)} for kind in types_within(Answer)}
    assert found == MAY_LEAVE


FULL: list[tuple[Task, Any]] = [
    (READY, ready(flow(excluded={"truncated": 30}))),
    (LANDMARKS, LandmarksReply(landmarks=CountedLandmarks(patients=20, positions=SCALE))),
    (TRAIN, update()),
    (EVALUATE, EvaluateReply(evidence=(evidence(20), evidence(5)))),
    (DESCRIBE, description(80, positives=9)),
    (DELIVER, DeliverReply(arrays_digest="0" * 64)),
]


@pytest.mark.parametrize(("task", "reply"), FULL, ids=[str(task.header.kind) for task, _ in FULL])
def test_every_key_on_the_wire_is_on_the_list(guard: EgressGuard, task: Task, reply: Any) -> None:
    """The encoding adds the task's id, a version, a kind, and numbers under known keys; nothing else."""
    content = json.loads(guard.release(task, reply)[0])
    state = content["configs"].pop("state")
    own = {"query": {"package", "approval"}, "query.deliver": {"arrays"}}
    assert set(state) == {"version", "task_id", "request", "kind"} | own.get(state["kind"], set())
    assert content["configs"] == {}
    allowed = ON_THE_WIRE[state["kind"]]
    for record, numbers in content["metrics"].items():
        known = allowed[re.sub(r"\d+$", "*", record)]
        assert {f"{key.split('/')[0]}/*" if "/" in key else key for key in numbers} <= known
        leaves = [leaf for value in numbers.values() for leaf in (value if isinstance(value, list) else [value])]
        assert all(type(leaf) in (int, float) for leaf in leaves)
    assert content["records"] == (["arrays"] if state["kind"] == "train" else [])


def test_a_refusal_on_the_wire_is_its_code(guard: EgressGuard) -> None:
    """Of an exception one fixed word leaves, with the task's id."""
    (frame,) = guard.refuse(DataError("too few images"), task_id="t")
    state = {"version": WIRE_VERSION, "task_id": "t", "request": "", "kind": "refusal", "code": "data_unusable"}
    assert json.loads(frame) == {"records": [], "arrays": [], "metrics": {}, "configs": {"state": state}}


def speaking_exceptions() -> list[Exception]:
    """Give exceptions of other libraries, and plain ones, whose text is a patient's name."""
    try:
        raise DataError("an image cannot be read") from ValueError(NAME)
    except DataError as fault:
        chained = fault
    noted = ValueError(NAME)
    noted.add_note(NAME)
    return [
        chained,
        noted,
        KeyError(NAME),
        FileNotFoundError(2, NAME, f"{NAME}.dcm"),
        UnicodeDecodeError("utf-8", NAME.encode(), 0, 1, NAME),
        MemoryError(NAME),
        RuntimeError(NAME),
        ExceptionGroup(NAME, [ValueError(NAME)]),
        TaskError(NAME, "a code that is none"),
    ]


@pytest.mark.parametrize("fault", speaking_exceptions(), ids=lambda fault: type(fault).__name__)
def test_no_exceptions_text_leaves_or_is_logged(
    guard: EgressGuard, audit: Path, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    """A patient's name in an exception is neither in the reply's bytes nor in the audit log nor in any log line."""
    with caplog.at_level(logging.DEBUG):
        frames = guard.refuse(fault, task_id="t")
    reply = read(frames)
    assert isinstance(reply, RefusalReply)
    assert reply.code in (Refusal.INTERNAL, Refusal.DATA, Refusal.STORAGE, Refusal.OUT_OF_MEMORY)
    assert NAME.encode() not in b"".join(frames)
    assert NAME not in audit.read_text()
    assert NAME not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


def subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_of_ours_has_a_fixed_code(guard: EgressGuard) -> None:
    """Errors that a site can meet have a code that says where to look; one that it cannot meet is internal."""
    for kind in (kind for kind in vars(errors).values() if isinstance(kind, type) and kind in CODES):
        assert read(guard.refuse(kind("what and where"), task_id="t")) == RefusalReply(code=CODES[kind])
    ours = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PolyclinicError)}
    elsewhere = {"PolyclinicError", "CoordinatorError", "FederationError", "MissingPartError", "TaskError"}
    assert {kind.__name__ for kind in ours - set(CODES)} == elsewhere
    assert read(guard.refuse(PolyclinicError("x"), task_id="t")) == RefusalReply(code=Refusal.INTERNAL)


@pytest.mark.parametrize("code", list(Refusal))
def test_a_task_error_leaves_with_its_own_code(guard: EgressGuard, code: Refusal) -> None:
    """A site that refuses says which of the fixed codes it is."""
    assert read(guard.refuse(TaskError(code, "why"), task_id="t")) == RefusalReply(code=code)


def test_what_our_errors_say_helps_the_hospital(guard: EgressGuard, caplog: pytest.LogCaptureFixture) -> None:
    """The site's own log has the message of our error, with the code and the task."""
    guard.refuse(StorageError("cache: no space left"), task_id="0123456789abcdef")
    assert "task 0123456789ab refused as storage: cache: no space left" in caplog.text


def departures(guard: EgressGuard) -> list[list[bytes]]:
    """Let one of each kind leave."""
    return [*(guard.release(task, reply) for task, reply in FULL), guard.refuse(DataError("x"), task_id="t")]


def test_each_departure_is_a_line_with_size_and_digest(guard: EgressGuard, audit: Path) -> None:
    """The log says of each departure what kind it is, what is in it, and size and SHA-256 of its very bytes."""
    sent = departures(guard)
    lines = list(verify(audit))
    assert [line["event"] for line in lines] == ["departure"] * 7
    assert [line["kind"] for line in lines] == [
        "query",
        "query.landmarks",
        "train",
        "evaluate",
        "query.describe",
        "query.deliver",
        "refusal",
    ]
    assert [line["task"] for line in lines] == [*(task.header.task_id for task, _ in FULL), "t"]
    assert [line["bytes"] for line in lines] == [len(b"".join(frames)) for frames in sent]
    assert [line["sha256"] for line in lines] == [hashlib.sha256(b"".join(frames)).hexdigest() for frames in sent]
    assert [line["what"] for line in lines] == [
        ["patient flow", "version", "approval"],
        ["landmarks"],
        ["trainable arrays", "loss by epoch", "update norm", "images per second", "seconds"],
        ["test: evidence", "test: withheld"],
        ["features", "intensity", "corners: withheld", "corners", "marks: withheld", "marks"],
        ["digest of the delivered arrays"],
        ["data_unusable"],
    ]


def test_a_changed_departure_is_seen(guard: EgressGuard, audit: Path) -> None:
    """The lines are chained: one that is altered or removed later breaks the chain."""
    departures(guard)
    text = audit.read_text()
    forgeries: list[Callable[[str], str]] = [
        lambda text: text.replace('"query"', '"train"', 1),
        lambda text: "".join(text.splitlines(keepends=True)[1:]),
    ]
    for forge in forgeries:
        audit.write_text(forge(text))
        with pytest.raises(StorageError, match="chain"):
            list(verify(audit))


def test_nothing_leaves_unrecorded(guard: EgressGuard, audit: Path) -> None:
    """Where the log cannot be written there are no frames, not even for a refusal."""
    audit.mkdir()
    with pytest.raises(StorageError):
        guard.release(*FULL[0])
    with pytest.raises(StorageError):
        guard.refuse(ValueError(NAME), task_id="t")
