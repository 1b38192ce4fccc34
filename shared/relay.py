"""How frames travel between courier and agent: the gRPC method, and the size of a piece."""

from collections.abc import Iterable, Iterator

SERVICE = "polyclinic.Agent"
METHOD = "Handle"
PATH = f"/{SERVICE}/{METHOD}"
"""One stream of frames in, one stream of frames out; the messages are plain bytes, without protobuf."""

AGENT_SOCKET = "POLYCLINIC_AGENT_SOCKET"
"""The environment variable that tells the courier where the agent's socket is."""

PIECE_BYTES = 2 << 20
"""Largest piece of an array. Both ends then hold the payload and a few pieces, whatever the model's size."""

MOST_MESSAGE_BYTES = 4 << 20
"""What either end accepts of one gRPC message: gRPC's own default, and room for a header that is never cut."""


def cut(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Cut all frames but the header into pieces that one gRPC message can carry; `wire.from_frames` joins them."""
    stream = iter(frames)
    yield from (header for header in (next(stream, None),) if header is not None)
    for frame in stream:
        if len(frame) <= PIECE_BYTES:
            yield frame
        else:
            view = memoryview(frame)
            yield from (bytes(view[start : start + PIECE_BYTES]) for start in range(0, len(view), PIECE_BYTES))
