"""How contents are kept in memory; that they come back as they were is tests/properties/test_encoding_properties.py."""

import gc
import weakref

import numpy as np
import pytest
from flwr.app import Array

from shared.messages import (
    Answer,
    Header,
    Kind,
    TrainReply,
    TrainTask,
    decode_answer,
    decode_task,
    encode_answer,
    encode_task,
)
from shared.wire import NUMPY_STYPE, arrays_from_record, from_frames, record_of, to_frames, write_array

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_a_message_is_freed_when_it_is_dropped() -> None:
    """A task and a reply that were sent, received and decoded leave memory at once, not when the collector runs."""
    reply = TrainReply(update=ARRAYS, loss_by_epoch=(1.0,), update_norm=1.0, images_per_second=1.0, seconds=1.0)
    header = Header(protocol_digest="d", run_id="r", round=1, site="north", kind=Kind.TRAIN)
    gc.disable()
    try:
        sent = encode_answer(Answer(task_id="t", reply=reply)), encode_task(TrainTask(header=header, arrays=ARRAYS))
        received = [from_frames(to_frames(content)) for content in sent]
        decode_answer(received[0])
        decode_task(received[1])
        alive = [weakref.ref(content) for content in (*sent, *received)]
        del sent, received
        assert [reference() for reference in alive] == [None] * 4
    finally:
        gc.enable()


def test_what_is_decoded_shares_the_bytes() -> None:
    """Decoding copies nothing, and what it gives cannot be written to: it may be in use at several sites."""
    record = record_of(ARRAYS)
    decoded = arrays_from_record(record)["w"]
    assert not decoded.flags.writeable
    assert np.shares_memory(decoded, np.frombuffer(record["w"].data, np.uint8))


def test_what_was_decoded_is_encoded_without_a_copy() -> None:
    """The bytes of an array that came in, and goes on as it is, are passed on."""
    record = record_of(ARRAYS)
    assert record_of(arrays_from_record(record))["w"].data is record["w"].data


@pytest.mark.parametrize(
    "other",
    [
        lambda view: view[::-1, ::-1],
        lambda view: view.T,
        lambda view: view[:1],
        lambda view: view.reshape(3, 2),
        lambda view: view.view(np.int32),
        lambda view: np.frombuffer(view.base.base, np.float32, count=6).reshape(2, 3),
    ],
    ids=["reversed", "transposed", "a part", "another shape", "another dtype", "the header as numbers"],
)
def test_an_array_that_shows_its_bytes_otherwise_is_copied(other) -> None:  # type: ignore[no-untyped-def]
    """Only the very elements, in their order, stand for the bytes they lie in; anything else is written anew."""
    shown = other(arrays_from_record(record_of(ARRAYS))["w"])
    np.testing.assert_array_equal(record_of({"w": shown})["w"].numpy(), shown, strict=True)


def test_who_writes_an_array_cannot_keep_it() -> None:
    """What could still be changed after it was sealed is refused."""
    kept = []
    with pytest.raises(BufferError):
        write_array((2,), "float32", kept.append)


def test_arrays_are_flowers_own() -> None:
    """An Array that was made past Flower's constructor is one: equal, with the same id, and decoded by Flower."""
    array = record_of(ARRAYS)["w"]
    theirs = Array(dtype="float32", shape=(2, 3), stype=NUMPY_STYPE, data=array.data)
    assert array == theirs
    assert array.object_id == theirs.object_id
    np.testing.assert_array_equal(array.numpy(), ARRAYS["w"])
