"""Messages that are not of this form are refused, part by part, and never raise anything but MalformedError."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from shared.evidence import Withheld
from shared.landmarks import Landmarks
from shared.messages import (
    WIRE_VERSION,
    Answer,
    DeliverTask,
    DescribeTask,
    EvaluateTask,
    Header,
    Kind,
    LandmarksReply,
    LandmarksTask,
    MalformedError,
    ReadyTask,
    Refusal,
    RefusalReply,
    TrainReply,
    TrainTask,
    decode_answer,
    decode_task,
    encode_answer,
    encode_task,
)
from shared.split import Split
from shared.wire import arrays_from_record, from_frames, to_frames


def header(kind: Kind, **changes: object) -> Header:
    return Header(**({"protocol_digest": "d", "run_id": "r", "round": 2, "site": "north", "kind": kind} | changes))  # type: ignore[arg-type]


SCALE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_every_kind_of_task_comes_back() -> None:
    """Ready, evaluate and describe tasks are decoded to equal tasks."""
    ready = ReadyTask(header=header(Kind.READY))
    assert decode_task(encode_task(ready)) == ready
    task = EvaluateTask(
        header=header(Kind.EVALUATE, detail="test+counts"), arrays={}, split=Split.TEST, thresholds=(0.25, 0.5)
    )
    assert decode_task(encode_task(task)) == task
    own = DeliverTask(header=header(Kind.DELIVER), arrays={}, thresholds=(), documents={}, own=(0.25, -0.5, 1.25))
    assert decode_task(encode_task(own)) == own
    landmarks = LandmarksTask(header=header(Kind.LANDMARKS))
    assert decode_task(encode_task(landmarks)) == landmarks
    describe = DescribeTask(header=header(Kind.DESCRIBE, standard=SCALE), arrays={})
    assert decode_task(encode_task(describe)) == describe


def test_the_task_id_depends_on_each_part_and_not_on_the_arrays() -> None:
    """A re-sent task has the same id; another round, site, run, kind, protocol or split has another."""
    base = header(Kind.TRAIN)
    others = [
        header(Kind.EVALUATE),
        header(Kind.TRAIN, round=3),
        header(Kind.TRAIN, site="south"),
        header(Kind.TRAIN, run_id="s"),
        header(Kind.TRAIN, protocol_digest="e"),
        header(Kind.TRAIN, detail="test"),
    ]
    assert base.task_id == header(Kind.TRAIN).task_id
    assert len({base.task_id, *(other.task_id for other in others)}) == 7


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", "0"),
        ("task_id", "other"),
        ("round", "two"),
        ("kind", "delete"),
        ("site", 5),
        ("split", "everything"),
        ("thresholds", ["a"]),
        ("standard", [0.5]),
        ("standard", [*SCALE[:-1], float("nan")]),
        ("standard", "bright"),
    ],
)
def test_a_task_with_a_wrong_field_is_malformed(key: str, value: object) -> None:
    """Each wrong field is found, also a task id that is not that of the header."""
    content = encode_task(
        EvaluateTask(header=header(Kind.EVALUATE), arrays=ARRAYS, split=Split.TEST, thresholds=(0.5,))
    )
    content.config_records["task"][key] = value  # type: ignore[assignment]
    with pytest.raises(MalformedError):
        decode_task(content)


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"task": ConfigRecord({"version": WIRE_VERSION})})])
def test_an_empty_task_is_malformed(content: RecordDict) -> None:
    """What is missing is malformed too."""
    with pytest.raises(MalformedError):
        decode_task(content)


def test_a_task_without_its_arrays_is_malformed() -> None:
    """A train task needs arrays."""
    content = encode_task(TrainTask(header=header(Kind.TRAIN), arrays=ARRAYS))
    del content["arrays"]
    with pytest.raises(MalformedError):
        decode_task(content)


def test_landmarks_come_back_and_must_rise() -> None:
    """Landmarks and their absence come back equal; too few or falling ones are malformed."""
    for said in (Landmarks(positions=SCALE), Withheld()):
        answer = Answer(task_id="t", reply=LandmarksReply(landmarks=said))
        assert decode_answer(encode_answer(answer)) == answer
    for positions in ((), SCALE[:3], SCALE[::-1]):
        bad = LandmarksReply(landmarks=Landmarks(positions=positions))
        with pytest.raises(MalformedError):
            decode_answer(encode_answer(Answer(task_id="t", reply=bad)))


def test_a_refusal_carries_one_of_the_fixed_codes() -> None:
    """A refusal comes back as its code; a code of its own invention does not."""
    answer = Answer(task_id="t", reply=RefusalReply(code=Refusal.STORAGE))
    content = encode_answer(answer)
    assert decode_answer(content) == answer
    content.config_records["state"]["code"] = "patient DOE^JOHN"
    with pytest.raises(MalformedError):
        decode_answer(content)


@pytest.mark.parametrize("change", ["version", "kind", "metrics", "evidence"])
def test_a_reply_with_a_wrong_part_is_malformed(change: str) -> None:
    """Another version, an unknown kind, missing metrics and contradictory evidence are found."""
    reply = TrainReply(update=ARRAYS, loss_by_epoch=(1.0,), update_norm=1.0, images_per_second=1.0, seconds=1.0)
    content = encode_answer(Answer(task_id="t", reply=reply))
    match change:
        case "version" | "kind":
            content.config_records["state"][change] = "9"
        case "metrics":
            del content["metrics"]
        case _:
            content.config_records["state"]["kind"] = "evaluate"
            content["evidence0"] = MetricRecord(
                {"units": 5, "patients": [5, 2, 3], "positives": [1, 1], "negatives": [1, 1]}
            )
    with pytest.raises(MalformedError):
        decode_answer(content)


@pytest.mark.parametrize(
    "array",
    [
        Array(dtype="float64", shape=(1,), stype="numpy.ndarray", data=Array(np.zeros(1)).data),
        Array(dtype="float32", shape=(1,), stype="pickle", data=b"x"),
        Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=b"\x93NUMPY\x03\x00rest"),
        Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=Array(np.zeros(1, np.float32)).data),
        Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=Array(np.zeros(1, np.float32)).data + b"more"),
        Array(dtype="float16", shape=(1,), stype="numpy.ndarray", data=Array(np.zeros(1, np.float32)).data),
    ],
)
def test_an_array_that_lies_about_itself_is_refused(array: Array) -> None:
    """Another dtype, serialisation, version, shape or length than announced is a ValueError, before any use."""
    with pytest.raises(ValueError, match="array"):
        arrays_from_record(ArrayRecord({'[["w",[1]]]': array}))


def frames_of_a_task() -> list[bytes]:
    return list(to_frames(encode_task(TrainTask(header=header(Kind.TRAIN), arrays=ARRAYS))))


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"not json"],
        [b"[]"],
        [b'{"records": [], "arrays": [["a", "b"]], "metrics": {}, "configs": {}}'],
        [b'{"records": [], "arrays": [], "metrics": {"m": {"k": {}}}, "configs": {}}'],
        [b'{"records": [], "arrays": [["a", "w", "float32", [1], "npy", 9999999999]], "metrics": {}, "configs": {}}'],
        [b'{"records": [], "arrays": [["a", "w", "float32", [1], "numpy.ndarray", -1]], "metrics": {}, "configs": {}}'],
        frames_of_a_task()[:1],
        [frames_of_a_task()[0], frames_of_a_task()[1][:-3]],
        [frames_of_a_task()[0], frames_of_a_task()[1] + b"more"],
        [*frames_of_a_task(), b"more"],
    ],
)
def test_frames_that_are_no_content_are_refused(frames: list[bytes]) -> None:
    """Nothing, noise, wrong values, announced terabytes, and frames that end early or go on: each a ValueError."""
    with pytest.raises(ValueError, match=r"frame|header|content|size"):
        from_frames(frames)
