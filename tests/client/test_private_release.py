"""Under [privacy] every field of every reply has a class, and what touched a training patient is noised or stays."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.count_release import CountRelease
from client.egress import EgressGuard
from client.patient_flow import FILE_REASONS
from client.private_release import FIELDS, PrivateRelease, Release
from shared import evidence, messages, metrics, released_flow
from shared.audit import AuditLog
from shared.description import CornerTest, Description, MarkTest
from shared.errors import EgressError
from shared.evidence import Withheld
from shared.feature_summary import summarise
from shared.intensity import BINS, IntensitySummary
from shared.landmarks import CountedLandmarks
from shared.messages import Header, Kind, ReadyReply, ReadyTask, TrainReply, TrainTask, decode_answer
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.split import Split
from shared.wire import from_frames

BOXES = {
    "Evidence.called_as",
    "Answer.reply",
    "ReadyReply.flow",
    "ReleasedFlow.splits",
    "SplitCounts.classes",
    "EvaluateReply.evidence",
    "Evidence.histogram",
    "Evidence.confusion",
    "Evidence.auc",
    "Evidence.quality",
    "Evidence.subgroups",
    "GroupEvidence.confusion",
    "GroupEvidence.auc",
    "ScoreQuality.calibration",
    "LandmarksReply.landmarks",
    "DescribeReply.description",
    "Description.features",
    "Description.intensity",
    "Description.corners",
    "Description.marks",
    "CornerTest.effects",
}
"""Fields that hold another of these kinds; what is inside has its own class."""

SENT = {"fc.weight": np.zeros((1, 4), np.float32), "fc.bias": np.zeros(1, np.float32)}


def kinds() -> Iterator[type]:
    """Walk over all that a reply is made of, from the union of replies on."""
    waiting, seen = [messages.Answer, *typing.get_args(messages.Reply)], set()
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        yield kind
        for hint in typing.get_type_hints(kind).values():
            waiting.extend(one for one in _inside(hint) if dataclasses.is_dataclass(one))


def _inside(hint: typing.Any) -> Iterator[typing.Any]:
    yield hint
    for part in typing.get_args(hint):
        yield from _inside(part)


def unclassified(found: typing.Iterable[type]) -> set[str]:
    """Name the fields that have no class."""
    fields = {f"{kind.__name__}.{field.name}" for kind in found for field in dataclasses.fields(kind)}
    return fields - BOXES - set(FIELDS)


def test_every_field_of_every_reply_has_a_class() -> None:
    """A field that is new, or renamed, leaves no private study before somebody has said why it may."""
    found = list(kinds())
    assert {evidence.Evidence, evidence.Estimate, metrics.Confusion, released_flow.ClassCounts} <= set(found)
    assert unclassified(found) == set()
    assert set(FIELDS) <= {f"{kind.__name__}.{field.name}" for kind in found for field in dataclasses.fields(kind)}


def test_a_field_without_a_class_is_caught() -> None:
    """The check above is itself tried."""

    @dataclasses.dataclass
    class TrainReply:
        update: int
        gradient_norm: float

    assert unclassified([TrainReply]) == {"TrainReply.gradient_norm"}


@pytest.fixture
def guard(tmp_path: Path) -> EgressGuard:
    return EgressGuard(
        min_cell=10,
        audit=AuditLog(tmp_path / "audit.jsonl"),
        exclusive=False,
        wire="fp32",
        private=PrivateRelease(public_size=100, images_a_round=100.0),
        described=200,
    )


def head(kind: Kind) -> Header:
    return Header(protocol_digest="d", run_id="run", round=1, site="north", kind=kind)


def flow(patients: int) -> ReleasedFlow:
    target = ClassCounts(positive_patients=41, negative_patients=43, positive_exams=45, negative_exams=47)
    one = SplitCounts(patients=patients, exams=patients + 7, classes=(target,))
    return ReleasedFlow(
        found=307, excluded={next(iter(FILE_REASONS)): 11}, splits=dict.fromkeys(("train", "validation", "test"), one)
    )


def test_of_the_patient_flow_only_the_public_size_leaves(guard: EgressGuard) -> None:
    """What leaves is the same for any number of patients: nothing of the site's own counts is in it."""
    task, released = ReadyTask(header=head(Kind.READY)), []
    for patients in (84, 117):
        frames = guard.release(
            task, ReadyReply(flow=flow(patients), package="1.0", approval=messages.Approval.SIMULATED)
        )
        reply = decode_answer(from_frames(frames)).reply
        assert isinstance(reply, ReadyReply)
        released.append(reply.flow)
    assert released[0] == released[1]
    assert (released[0].found, released[0].excluded) == (None, {})
    assert released[0].splits["train"].patients == 100
    assert {split.exams for split in released[0].splits.values()} == {None}
    assert {count for split in released[0].splits.values() for count in split.classes[0].all} == {None}


def test_of_a_round_the_noised_update_leaves_and_what_follows_from_it(guard: EgressGuard) -> None:
    """No loss; the norm is the released update's, the time is in whole seconds, the rate follows from public sizes."""
    task = TrainTask(header=head(Kind.TRAIN), arrays=SENT)
    update = {name: np.full_like(array, 2.0) for name, array in SENT.items()}
    reply = TrainReply(update=update, loss_by_epoch=(0.3, 0.2), update_norm=77.0, images_per_second=913.7, seconds=3.2)
    left = decode_answer(from_frames(guard.release(task, reply))).reply
    assert isinstance(left, TrainReply)
    assert left.loss_by_epoch == ()
    assert left.update_norm == pytest.approx(np.sqrt(5 * 4.0))
    assert (left.seconds, left.images_per_second) == (4.0, 25.0)


def test_what_never_leaves_is_gone_from_the_rebuilt_reply(guard: EgressGuard) -> None:
    """Each field of the class NEVER is empty in what the guard made; the table is not only words."""
    task = ReadyTask(header=head(Kind.READY))
    frames = guard.release(task, ReadyReply(flow=flow(90), package="1.0", approval=messages.Approval.SIMULATED))
    ready = decode_answer(from_frames(frames)).reply
    update = guard.release(
        TrainTask(header=head(Kind.TRAIN), arrays=SENT),
        TrainReply(update=SENT, loss_by_epoch=(0.3,), update_norm=1.0, images_per_second=1.0, seconds=1.0),
    )
    trained = decode_answer(from_frames(update)).reply
    assert isinstance(ready, ReadyReply)
    split = ready.flow.splits["train"]
    task = messages.DescribeTask(header=head(Kind.DESCRIBE), arrays=SENT)
    left = decode_answer(from_frames(guard.release(task, described(Split.VALIDATION)))).reply
    assert isinstance(left, messages.DescribeReply)
    mean = messages.LandmarksReply(landmarks=CountedLandmarks(patients=90, positions=(0.5,) * 9))
    landmarks = guard.release(messages.LandmarksTask(header=head(Kind.LANDMARKS)), mean)
    asked = decode_answer(from_frames(landmarks)).reply
    assert isinstance(asked, messages.LandmarksReply)
    by_kind = {
        "IntensitySummary": left.description.intensity,
        "Landmarks": asked.landmarks,
        "TrainReply": trained,
        "ReleasedFlow": ready.flow,
        "SplitCounts": split,
        "ClassCounts": split.classes[0],
    }
    never = [name.split(".") for name, why in FIELDS.items() if why is Release.NEVER]
    assert never
    for kind, field in never:
        assert not getattr(by_kind[kind], field, None), f"{kind}.{field}"


def described(split: Split) -> messages.DescribeReply:
    """Describe 100 patients of one side."""
    drawn = np.random.default_rng(0)
    return messages.DescribeReply(
        description=Description(
            features=summarise(drawn.standard_normal((100, 32)), split=split, seed=0),
            intensity=IntensitySummary(patients=100, shares=(1 / BINS,) * BINS, split_null=0.01),
            corners=(),
            marks=(),
        )
    )


def test_of_images_only_validation_patients_features_leave(guard: EgressGuard) -> None:
    """Under [privacy] no intensity histogram leaves, and features of training patients are refused, not cut."""
    task = messages.DescribeTask(header=head(Kind.DESCRIBE), arrays=SENT)
    left = decode_answer(from_frames(guard.release(task, described(Split.VALIDATION)))).reply
    assert isinstance(left, messages.DescribeReply)
    assert left.description.intensity == Withheld()
    assert left.description.features == described(Split.VALIDATION).description.features
    with pytest.raises(EgressError):
        guard.release(task, described(Split.TRAIN))


def marks_of(split: Split) -> Description:
    mark = MarkTest(split=split, positive_patients=50, negative_patients=50, areas=(0.9, 0.5, 0.5, 0.5))
    return dataclasses.replace(described(Split.VALIDATION).description, marks=(mark,))


@pytest.mark.parametrize("split", list(Split))
def test_of_marks_only_those_of_validation_patients_leave(guard: EgressGuard, split: Split) -> None:
    """Under [privacy] what stands out in training patients' corners is refused: it was not noised."""
    task = messages.DescribeTask(header=head(Kind.DESCRIBE), arrays=SENT)
    reply = messages.DescribeReply(description=marks_of(split))
    if split is Split.VALIDATION:
        left = decode_answer(from_frames(guard.release(task, reply))).reply
        assert isinstance(left, messages.DescribeReply)
        assert left.description.marks == marks_of(split).marks
    else:
        with pytest.raises(EgressError, match="marks"):
            guard.release(task, reply)


def test_where_counts_are_noised_no_sum_of_images_leaves(guard: EgressGuard) -> None:
    """There is no noise for these sums: with count_noise_epsilon the whole description is withheld."""
    assert guard.private is not None
    noising = dataclasses.replace(guard.private, counts=typing.cast(CountRelease, object()))
    corner = CornerTest(positive_patients=50, negative_patients=50, effects=())
    full = dataclasses.replace(marks_of(Split.VALIDATION), corners=(corner,))
    assert guard.private.description(full).corners == (corner,)
    assert noising.description(full) == Description(
        features=Withheld(), intensity=Withheld(), corners=(Withheld(),), marks=(Withheld(),)
    )
