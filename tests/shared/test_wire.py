"""How contents are kept in memory; that they come back as they were is tests/properties/test_encoding_properties.py."""

import gc
import weakref

import numpy as np
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
from shared.wire import NUMPY_STYPE, from_frames, record_of, to_frames

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


def test_arrays_are_flowers_own() -> None:
    """An Array that was made past Flower's constructor is one: equal, with the same id, and decoded by Flower."""
    (array,) = record_of(ARRAYS).values()
    theirs = Array(dtype="float32", shape=(6,), stype=NUMPY_STYPE, data=array.data)
    assert array == theirs
    assert array.object_id == theirs.object_id
    np.testing.assert_array_equal(array.numpy(), ARRAYS["w"].reshape(-1))
