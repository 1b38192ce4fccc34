"""What is encoded is decoded to the same value, however its frames are cut."""

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from shared.estimates import Calibration, Coefficient, Estimate, ScoreQuality
from shared.evidence import Evidence, Withheld, evidence_from_numbers, evidence_to_numbers
from shared.messages import (
    Answer,
    EvaluateReply,
    Header,
    Kind,
    TrainReply,
    TrainTask,
    decode_answer,
    decode_task,
    encode_answer,
    encode_task,
)
from shared.metrics import Confusion, ScoreHistogram
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.wire import arrays_from_record, from_frames, record_of, to_frames

names = st.text(st.characters(codec="ascii", exclude_characters="\x00"), min_size=1, max_size=12)
arrays = st.dictionaries(
    names,
    st.sampled_from([np.float32, np.float16]).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, max_side=5))
    ),
    max_size=4,
)
finite = st.floats(0, 1)


def recut(frames: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Cut every frame but the header into pieces, as a transport would."""
    yield next(frames)
    for frame in frames:
        yield from (frame[first : first + size] for first in range(0, len(frame), size))


@given(arrays)
def test_arrays_survive_encoding_bit_for_bit(given_arrays: dict[str, np.ndarray]) -> None:
    """Names, order, dtype, shape and every bit (NaN payloads too) come back."""
    decoded = arrays_from_record(record_of(given_arrays))
    assert list(decoded) == list(given_arrays)
    for name, array in given_arrays.items():
        assert decoded[name].dtype == array.dtype
        assert decoded[name].shape == array.shape
        assert decoded[name].tobytes() == array.tobytes()


@given(arrays, st.integers(1, 300))
def test_frames_may_be_cut_anywhere(given_arrays: dict[str, np.ndarray], size: int) -> None:
    """A content put together from small frames equals the one that was taken apart."""
    header = Header(protocol_digest="d", run_id="r", round=3, site="north", kind=Kind.TRAIN)
    content = encode_task(TrainTask(header=header, arrays=given_arrays))
    task = decode_task(from_frames(recut(to_frames(content), size)))
    assert isinstance(task, TrainTask)
    assert task.header == header
    assert {name: array.tobytes() for name, array in task.arrays.items()} == {
        name: array.tobytes() for name, array in given_arrays.items()
    }


@given(arrays, st.lists(finite, max_size=5), finite)
def test_a_training_reply_survives_the_wire(update: dict[str, np.ndarray], losses: list[float], norm: float) -> None:
    """Update, losses and figures come back as they were."""
    reply = TrainReply(
        update=update, loss_by_epoch=tuple(losses), update_norm=norm, images_per_second=2.5, seconds=norm
    )
    answer = decode_answer(from_frames(to_frames(encode_answer(Answer(task_id="t", reply=reply)))))
    assert isinstance(answer.reply, TrainReply)
    assert (answer.task_id, answer.reply.loss_by_epoch, answer.reply.update_norm) == ("t", tuple(losses), norm)
    assert list(answer.reply.update) == list(update)


counts = st.lists(st.integers(0, 50), min_size=4, max_size=4)


estimates = st.none() | st.just(Estimate(value=0.5, low=0.25, high=0.75))
coefficients = st.tuples(*[st.floats(-1e6, 1e6)] * 3).map(
    lambda three: Coefficient(low=min(three), value=sorted(three)[1], high=max(three))
)
qualities = st.builds(
    ScoreQuality,
    average_precision=estimates,
    brier=estimates,
    calibration=st.none() | st.builds(Calibration, slope=coefficients, intercept=coefficients),
    called_design_effect=st.floats(1, 5),
    cleared_design_effect=st.floats(1, 5),
)


@st.composite
def evidence(draw: st.DrawFn) -> Evidence | Withheld:
    """Draw evidence whose counts agree with its histogram, or withheld evidence."""
    positives, negatives = draw(counts), draw(counts)
    if draw(st.booleans()):
        return Withheld()
    tp, tn = draw(st.integers(0, sum(positives))), draw(st.integers(0, sum(negatives)))
    at = Confusion(
        tp=tp,
        fn=sum(positives) - tp,
        tn=tn,
        fp=sum(negatives) - tn,
        positives_design_effect=draw(st.floats(1, max(1, 4 * sum(positives)))),
        negatives_design_effect=draw(st.floats(1, max(1, 4 * sum(negatives)))),
    )
    n_pos, n_neg = sum(positives), sum(negatives)
    positive = draw(st.integers(min(1, n_pos), n_pos))
    negative = draw(st.integers(min(1, n_neg), n_neg))
    return Evidence(
        units=n_pos + n_neg,
        patients=draw(st.integers(max(positive, negative), positive + negative)),
        positive_patients=positive,
        negative_patients=negative,
        histogram=ScoreHistogram(positives=tuple(positives), negatives=tuple(negatives)),
        confusion=draw(st.sampled_from([None, at])),
        auc=Estimate(value=0.9, low=0.8, high=0.95) if n_pos and n_neg else None,
        brier=0.1 if n_pos + n_neg else None,
        quality=draw(st.none() | qualities) if n_pos + n_neg > 1 else None,
    )


@settings(max_examples=50)
@given(st.lists(evidence(), max_size=3))
def test_evidence_survives_the_wire(items: list[Evidence | Withheld]) -> None:
    """Evidence comes back equal, and withheld evidence comes back withheld, not zero."""
    answer = Answer(task_id="t", reply=EvaluateReply(evidence=tuple(items)))
    decoded = decode_answer(from_frames(to_frames(encode_answer(answer))))
    assert decoded == answer
    assert [evidence_from_numbers(evidence_to_numbers(item)) for item in items] == items


count = st.none() | st.integers(0, 10_000)
class_counts = st.builds(
    ClassCounts, positive_patients=count, negative_patients=count, positive_exams=count, negative_exams=count
)
split_counts = st.builds(
    SplitCounts, patients=count, exams=count, classes=st.lists(class_counts, max_size=3).map(tuple)
)
flows = st.builds(
    ReleasedFlow,
    found=count,
    excluded=st.dictionaries(st.sampled_from(["truncated", "no_pixels", "not_dicom"]), count),
    splits=st.dictionaries(st.sampled_from(["train", "validation", "test"]), split_counts),
)


@given(flows)
def test_a_flow_survives_the_wire(flow: ReleasedFlow) -> None:
    """Suppressed stays suppressed and zero stays zero."""
    assert ReleasedFlow.from_numbers(flow.to_numbers()) == flow
