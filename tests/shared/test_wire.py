"""How contents are kept in memory; that they come back as they were is tests/properties/test_encoding_properties.py."""

import gc
import weakref

import numpy as np

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
from shared.wire import arrays_from_record, from_frames, record_of, to_frames

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
