"""How much of a reply is fetched from the SuperLink, and for how long: bounded before it is in memory."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from flwr.superlink.grid import http_grid

from shared.parameters import NamedArrays

log = logging.getLogger("polyclinic.server")

Pull = Callable[[str], bytes]

FETCH, PULL = "pull_objects", "pull_messages"
"""What Flower's grid (1.41) fetches the objects of a reply by, and what it gives replies by."""

ROOM_FOR_FIGURES = 16 << 20
"""Bytes that a reply may have beside as many as the whole model: counts, histograms, descriptions."""

MOST_OBJECTS = 10_000
"""Flower cuts a reply into objects of at most 5 MB; a ResNet-50's has about a hundred."""

STALL_SECONDS = 120.0
"""How long nothing of a reply may arrive that was announced. A piece of 5 MB then comes at .35 Mbit/s or more."""


def largest_reply(initial: NamedArrays) -> int:
    """Say how many bytes a reply may have in a study that starts from these arrays: an update has all, in fp32."""
    return sum(4 * array.size for array in initial.values()) + ROOM_FOR_FIGURES


@contextmanager
def bounded_replies(*, most_bytes: int, seconds: float, stall_seconds: float = STALL_SECONDS) -> Iterator[None]:
    """Let Flower's grid fetch no more than this of each reply, and give up on one that does not come.

    Flower 1.41 fetches all objects of a reply, however many and however large, and waits two hours for one that was
    announced and not sent. What is given up on becomes an error of Flower's in the place of that reply: its site is
    asked again until the round's deadline, and then is silent. The others' replies wait at the SuperLink meanwhile.
    """
    fetch_all: Callable[..., dict[str, bytes]] = getattr(http_grid, FETCH)

    def fetch(object_ids: list[str], pull_object_fn: Pull, **settings: Any) -> dict[str, bytes]:
        if len(object_ids) > MOST_OBJECTS:
            raise _given_up(object_ids[0], f"it has {len(object_ids):,} objects")
        bounded = _Bounded(pull_object_fn, most_bytes=most_bytes, stall_seconds=stall_seconds)
        return fetch_all(object_ids, bounded.pull, **{**settings, "max_time": seconds})

    pull_all = http_grid.HttpGrid.pull_messages

    def pull_each(grid: http_grid.HttpGrid, message_ids: Iterable[str]) -> Iterator[Message]:
        """Fetch the answers to several sendings of one task one after the other: none may be there but the first."""
        for message_id in message_ids:
            yield from pull_all(grid, [message_id])

    setattr(http_grid, FETCH, fetch)
    setattr(http_grid.HttpGrid, PULL, pull_each)
    try:
        yield
    finally:
        setattr(http_grid, FETCH, fetch_all)
        setattr(http_grid.HttpGrid, PULL, pull_all)


class _Bounded:
    """Fetches one reply's objects, several at a time."""

    def __init__(self, pull: Pull, *, most_bytes: int, stall_seconds: float) -> None:
        self._pull, self._most_bytes, self._stall_seconds = pull, most_bytes, stall_seconds
        self._bytes, self._came = 0, time.monotonic()
        self._lock = threading.Lock()

    def pull(self, object_id: str) -> bytes:
        """Fetch one object.

        Raises:
            ObjectUnavailableError: it has not come yet.
            ObjectPullError: nothing has come for too long, or too much has.
        """
        try:
            content = self._pull(object_id)
        except ObjectUnavailableError:
            if time.monotonic() - self._came > self._stall_seconds:
                raise _given_up(object_id, "it was announced, and did not come") from None
            raise
        with self._lock:
            self._bytes, self._came = self._bytes + len(content), time.monotonic()
            if self._bytes > self._most_bytes:
                most = f"{self._most_bytes:,} bytes"
                raise _given_up(object_id, f"it has more than {most}, and no reply of this study has")
        return content


def _given_up(object_id: str, why: str) -> Exception:
    log.warning("a reply is not fetched: %s; its site is asked again, and then counts as silent", why)
    return ObjectPullError(object_id, why)
