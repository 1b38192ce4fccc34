"""Asks sites until a deadline: silence is no reply, and what comes too late is counted and dropped."""

import logging
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from server.patience import Patience
from shared.errors import PolyclinicError
from shared.refusal_codes import ASK_AGAIN
from shared.wire import from_frames, records_of, to_frames

log = logging.getLogger("polyclinic.server")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""How long after a failed attempt a task is sent again; the pause doubles with each failure."""

_NO_NODES_FAULT = (OSError, httpx.HTTPError, PolyclinicError)
"""What the disk, the connection or this program says of itself. Any other exception is laid to the reply."""

Tell = Callable[[int, str], None]
"""Told of a node and what happened to its task: asked, asked again, answered, silent, late."""


def tell_nobody(node: int, what: str) -> None:
    """Tell nobody."""


def nobody() -> Collection[int]:
    """Pass over nobody."""
    return ()


@dataclass(slots=True)
class _Waiting:
    """One task on its way: the sendings that may still be answered, with their times; and what came before its turn."""

    message: Message
    sent_at: dict[str, float] = field(default_factory=dict)
    sendings: int = 0
    resend_at: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    refusal: Message | None = None
    kept: IO[bytes] | None = None

    @property
    def node(self) -> int:
        return self.message.metadata.dst_node_id

    @property
    def kind(self) -> str:
        return self.message.metadata.message_type


class Desk:
    """Sends tasks and yields one reply a site, in the order of asking, one in memory at a time.

    A reply that comes before its turn waits on disk (a file without a name). The same task is sent again after an error
    of Flower's, after a refusal that passes by itself, and after a silence that is too long for this site
    (`server/patience.py`). A node in `passed_over()` is not waited for. A reply that cannot even be read counts as one
    without content, which admission refuses as malformed: it ends nobody's run.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        poll_seconds: float = 0.5,
        tell: Tell = tell_nobody,
        passed_over: Callable[[], Collection[int]] = nobody,
    ) -> None:
        self.grid = grid
        self.late: dict[int, int] = {}
        self._poll_seconds = poll_seconds
        self._tell = tell
        self._passed_over = passed_over
        self._unanswered: dict[str, tuple[int, bool]] = {}
        self._patience = Patience()

    def ask(self, messages: Iterable[Message], deadline_seconds: float) -> Iterator[Message]:
        """Yield each site's reply; one that is silent at the deadline is passed over."""
        self.count_late()
        deadline = time.monotonic() + deadline_seconds
        passed_over = self._passed_over()
        queue = [_Waiting(message) for message in messages if message.metadata.dst_node_id not in passed_over]
        self._push(queue)
        while queue:
            first = queue[0]
            if (reply := self._reply(first)) is not None:
                self._leave(queue.pop(0), counted=False)
                yield reply
                del reply
                continue
            for waiting in queue[1:]:
                self._look(waiting)
            if time.monotonic() >= deadline or first.node in self._passed_over():
                self._leave(queue.pop(0), counted=True)
                if first.refusal is not None:
                    yield first.refusal
                else:
                    self._tell(first.node, "silent")
                continue
            self._push([one for one in queue if one.kept is None and time.monotonic() >= one.resend_at])
            time.sleep(self._poll_seconds)

    def count_late(self) -> None:
        """Take in what was answered after its deadline, count it by node, and drop it."""
        for message_id, (node, counted) in list(self._unanswered.items()):
            try:
                replies = list(self.grid.pull_messages([message_id]))
            except _NO_NODES_FAULT:
                raise
            except Exception as fault:  # whatever a node sent
                _log_unreadable(node, fault)
                del self._unanswered[message_id]
                continue
            if replies:
                del self._unanswered[message_id]
                if counted and replies[0].has_content():
                    self.late[node] = self.late.get(node, 0) + 1
                    self._tell(node, "late")

    def _reply(self, waiting: _Waiting) -> Message | None:
        return self._read(waiting, self._pull if waiting.kept is None else _unspool)

    def _look(self, waiting: _Waiting) -> None:
        """Notice before its turn that a sending failed; a reply is put on disk."""
        if waiting.kept is None and (unreadable := self._read(waiting, self._put_on_disk)) is not None:
            waiting.kept = _spool(unreadable)

    def _put_on_disk(self, waiting: _Waiting) -> None:
        if (reply := self._pull(waiting)) is not None:
            waiting.kept = _spool(reply)

    def _read(self, waiting: _Waiting, read: Callable[[_Waiting], Message | None]) -> Message | None:
        """Read a node's reply, which nobody has looked at yet; in the place of one that raises comes an empty one."""
        try:
            return read(waiting)
        except _NO_NODES_FAULT:
            raise
        except Exception as fault:  # whatever a node sent
            _log_unreadable(waiting.node, fault)
            return Message(RecordDict(), reply_to=waiting.message)

    def _pull(self, waiting: _Waiting) -> Message | None:
        for reply in self.grid.pull_messages(sorted(waiting.sent_at)) if waiting.sent_at else ():
            sent_at = waiting.sent_at.pop(reply.metadata.reply_to_message_id)
            if reply.has_content() and reply.metadata.src_node_id != waiting.node:
                raise ValueError("a reply names another node")
            if reply.has_content() and not _passes_by_itself(reply):
                self._patience.note(waiting.node, waiting.kind, time.monotonic() - sent_at)
                self._tell(waiting.node, "answered")
                return reply
            if reply.has_content():
                waiting.refusal = reply
            if not waiting.sent_at:
                waiting.resend_at = time.monotonic() + waiting.pause
                waiting.pause = min(2 * waiting.pause, LONGEST_PAUSE_SECONDS)
        return None

    def _push(self, queue: list[_Waiting]) -> None:
        if not queue:
            return
        messages = [_again(one.message) if one.resend_at else one.message for one in queue]
        for waiting, message_id in zip(queue, self.grid.push_messages(messages), strict=True):
            self._tell(waiting.node, "asked again" if waiting.resend_at else "asked")
            now = time.monotonic()
            if not message_id:  # the SuperLink takes no message for a node that it does not know
                waiting.resend_at = now + waiting.pause
                continue
            waiting.sent_at[message_id] = now
            waiting.sendings += 1
            waiting.resend_at = now + self._patience.seconds(waiting.node, waiting.kind, sent=waiting.sendings)

    def _leave(self, waiting: _Waiting, *, counted: bool) -> None:
        self._unanswered |= dict.fromkeys(waiting.sent_at, (waiting.node, counted))


def _passes_by_itself(reply: Message) -> bool:
    state = records_of(reply.content, ConfigRecord).get("state", ConfigRecord())
    code = state.get("code")
    return state.get("kind") == "refusal" and isinstance(code, str) and code in set(map(str, ASK_AGAIN))


def _log_unreadable(node: int, fault: Exception) -> None:
    """Name the node and the kind of fault; its text may hold what the node sent."""
    log.warning("a reply of node %d cannot be read: %s", node, type(fault).__name__)


def _again(message: Message) -> Message:
    told = message.metadata
    return Message(message.content, told.dst_node_id, told.message_type, group_id=told.group_id)


def _spool(reply: Message) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115  # closed, and so gone, when its turn comes
    try:
        for frame in to_frames(reply.content):
            file.write(len(frame).to_bytes(8, "big"))
            file.write(frame)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _unspool(waiting: _Waiting) -> Message:
    def frames(file: IO[bytes]) -> Iterator[bytes]:
        while head := file.read(8):
            yield file.read(int.from_bytes(head, "big"))

    if waiting.kept is None:
        raise ValueError("nothing was put on disk")
    with waiting.kept as file:
        return Message(from_frames(frames(file)), reply_to=waiting.message)
