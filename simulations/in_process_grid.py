"""A Flower Grid that calls agents in this process through the real encoding; no Ray, no SuperLink."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from shared.wire import from_frames, to_frames

Handler = Callable[[Iterable[bytes]], Iterator[bytes]]
"""`Agent.handle`: the one seam between simulation and deployment."""


class InProcessGrid(Grid):
    """Answers each message by calling the addressed agent when its reply is pulled: one site works at a time.

    Payloads cross as the same immutable bytes on both sides, so no site can change what another one or the server sees.
    Three names here are not in Flower's public interface (Run, TaskIdentity, the message id); a test holds them to
    flwr 1.41.
    """

    def __init__(self, agents: Mapping[int, Handler], *, run_id: int = 1) -> None:
        self._agents = dict(agents)
        self._run = Run.create_empty(run_id)
        self._waiting: dict[str, Message] = {}
        self._ids = itertools.count(1)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1

    def set_run(self, run: Run) -> None:
        """Take over a Flower run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The Flower run that this grid plays."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message, as Flower's own grids do."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Name the nodes, in the order in which they were given."""
        return list(self._agents)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep messages until their replies are pulled."""
        pushed = []
        for message in messages:
            message_id = f"in-process-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message
            pushed.append(message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the addressed agents answer, one after the other; each message is answered once."""
        for message_id in message_ids:
            if (message := self._waiting.pop(message_id, None)) is not None:
                yield self._answer(message)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Yield the replies one by one, so that a strategy may add each up and drop it."""
        yield from self.pull_messages(list(self.push_messages(messages)))

    def _answer(self, message: Message) -> Message:
        handle = self._agents[message.metadata.dst_node_id]
        return Message(from_frames(handle(to_frames(message.content))), reply_to=message)
