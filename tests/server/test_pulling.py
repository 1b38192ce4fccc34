"""A reply that is too large, or is announced and never sent, is given up on before it is in memory.

Messages pass through Flower's own grid; the SuperLink behind it is played, and gives the objects of what a node sent.
"""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid

from server.asking import Desk
from server.pulling import MOST_OBJECTS, ROOM_FOR_FIGURES, bounded_replies, largest_reply

MODEL = {"w": np.zeros(1000, np.float32)}
MIB = 1 << 20

Content = Callable[[], RecordDict]


class Played(http_grid.HttpGrid):
    """Flower's grid before a SuperLink that has each node's reply at once; of those in `missing` no object comes.

    `pulled` counts the bytes of each node's objects that were fetched.
    """

    def __init__(self, replies: dict[int, Content], *, missing: frozenset[int] = frozenset()) -> None:
        super().__init__(token="played")  # nobody asks for it
        self._client = self  # type: ignore[assignment]  # it answers for the SuperLink
        self._run = type("Run", (), {"run_id": 1})()
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self._replies, self._missing = replies, missing
        self._objects: dict[str, tuple[int, bytes]] = {}
        self._waiting: dict[str, Message] = {}
        self._lock = threading.Lock()
        self.pulled: dict[int, int] = {}
        self.asked: list[int] = []

    def _try_push_messages(self, run_id: int, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            ids.append(message.metadata.message_id)
            self._waiting[ids[-1]] = message
            self.asked.append(message.metadata.dst_node_id)
        return ids

    def PullMessages(self, request: Any) -> Any:  # Flower's name
        said, trees = [], []
        for message_id in request.message_ids:
            if (asked := self._waiting.pop(message_id, None)) is None:
                continue
            node = asked.metadata.dst_node_id
            reply = Message(self._replies[node](), reply_to=asked)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self._objects |= {name: (node, one.deflate()) for name, one in get_all_nested_objects(reply).items()}
            trees.append(get_object_tree(reply))
            del reply.__dict__["_content"]
            said.append(message_to_proto(Message(RecordDict(), reply_to=asked)))
            said[-1].metadata.message_id = trees[-1].object_id
        return PullAppMessagesResponse(messages_list=said, message_object_trees=trees)

    def PullObject(self, request: Any) -> Any:
        node, content = self._objects[request.object_id]
        if node in self._missing:
            return PullObjectResponse(object_found=True, object_available=False)
        with self._lock:
            self.pulled[node] = self.pulled.get(node, 0) + len(content)
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:
        """Take note of nothing."""


def arrays(*sizes: int) -> RecordDict:
    parts = {
        f"a{number}": Array(dtype="uint8", shape=(size,), stype="x", data=np.random.default_rng(number).bytes(size))
        for number, size in enumerate(sizes)
    }
    return RecordDict({"arrays": ArrayRecord(parts), "state": ConfigRecord({"kind": "train"})})


def asked(*nodes: int) -> list[Message]:
    return [Message(arrays(8), node, "train") for node in nodes]


def sizes(replies: Iterable[Message]) -> list[tuple[int, int]]:
    return [
        (reply.metadata.src_node_id, sum(len(one.data) for one in reply.content["arrays"].values()))
        for reply in replies
    ]


def test_a_reply_that_is_too_large_is_not_fetched(caplog: pytest.LogCaptureFixture) -> None:
    """Of 200 MiB that node 1 has pushed, a model's worth and an object or two are fetched; node 2 is heard."""
    grid = Played({1: lambda: arrays(*[4 * MIB] * 50), 2: lambda: arrays(4000)})
    most = largest_reply(MODEL)
    with bounded_replies(most_bytes=most, seconds=60):
        assert sizes(Desk(grid, poll_seconds=0.01).ask(asked(1, 2), 1.0)) == [(2, 4000)]
    attempts = grid.asked.count(1)
    assert grid.pulled[1] <= attempts * (most + 3 * 5 * MIB)
    assert "more than 16,781,216 bytes" in caplog.text
    assert most == 4000 + ROOM_FOR_FIGURES


def test_a_reply_of_too_many_objects_is_not_fetched() -> None:
    """However small they are."""
    many = {
        f"a{number}": Array(dtype="uint8", shape=(1,), stype="x", data=number.to_bytes(4)) for number in range(6000)
    }
    grid = Played({1: lambda: RecordDict({"arrays": ArrayRecord(many)}), 2: lambda: arrays(10)})
    assert 2 * len(many) > MOST_OBJECTS
    with bounded_replies(most_bytes=largest_reply(MODEL), seconds=60):
        assert sizes(Desk(grid, poll_seconds=0.01).ask(asked(1, 2), 0.5)) == [(2, 10)]
    assert 1 not in grid.pulled


def test_a_reply_that_is_announced_and_never_sent_loses_its_site_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Flower alone would wait two hours for it; the other site's reply is heard, and the round goes on."""
    grid = Played({1: lambda: arrays(4000), 2: lambda: arrays(4000)}, missing=frozenset({1}))
    started = time.monotonic()
    with bounded_replies(most_bytes=largest_reply(MODEL), seconds=60, stall_seconds=0.5):
        assert sizes(Desk(grid, poll_seconds=0.01).ask(asked(1, 2), 1.0)) == [(2, 4000)]
    assert time.monotonic() - started < 30
    assert "announced, and did not come" in caplog.text


def test_a_reply_that_comes_slowly_is_waited_for() -> None:
    """What comes piece by piece is no stall, up to the round's deadline."""
    grid = Played({1: lambda: arrays(4000)}, missing=frozenset({1}))
    threading.Timer(1.5, lambda: setattr(grid, "_missing", frozenset())).start()
    with bounded_replies(most_bytes=largest_reply(MODEL), seconds=60):
        assert sizes(Desk(grid, poll_seconds=0.01).ask(asked(1), 30.0)) == [(1, 4000)]


def test_flowers_own_is_put_back() -> None:
    """The bound is this run's alone, and Flower fetches by the function that is replaced."""
    assert http_grid.pull_objects is pull_objects
    with bounded_replies(most_bytes=1, seconds=1.0):
        assert http_grid.pull_objects is not pull_objects
    assert http_grid.pull_objects is pull_objects
