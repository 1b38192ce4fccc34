"""Frames are cut into pieces that gRPC carries, and joined to what they were."""

import numpy as np

from shared.messages import Header, Kind, TrainTask, decode_task, encode_task
from shared.relay import MOST_MESSAGE_BYTES, PIECE_BYTES, cut
from shared.wire import from_frames, to_frames


def test_pieces_are_small_and_become_the_same_content() -> None:
    """An array of two and a half pieces, and one of none, come back; no piece is larger than gRPC accepts."""
    arrays = {
        "w": np.random.default_rng(1).random(5 * PIECE_BYTES // 8, dtype=np.float32),
        "b": np.zeros(1, np.float32),
    }
    header = Header(protocol_digest="d", run_id="r", round=1, site="north", kind=Kind.TRAIN)
    pieces = list(cut(to_frames(encode_task(TrainTask(header=header, arrays=arrays)))))
    assert len(pieces) == 1 + 3 + 1
    assert max(map(len, pieces[1:])) <= PIECE_BYTES < MOST_MESSAGE_BYTES
    task = decode_task(from_frames(pieces))
    assert isinstance(task, TrainTask)
    np.testing.assert_array_equal(task.arrays["w"], arrays["w"])


def test_nothing_is_made_of_nothing() -> None:
    """No frames are no pieces."""
    assert list(cut([])) == []
