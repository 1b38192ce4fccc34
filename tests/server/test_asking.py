"""The desk outlives any one site: it asks again, keeps what comes before its turn, and drops what comes too late."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import Error, Message

from server.asking import Desk
from shared.messages import Answer, Header, Kind, ReadyTask, RefusalReply, decode_task, encode_answer, encode_task
from shared.refusal_codes import Refusal
from simulations.in_process_grid import InProcessGrid


class Network(InProcessGrid):
    """`fate(node, attempt)` says how each sending ends: seconds until its reply, a refusal's code, "error" or None."""

    def __init__(self, clock: Any, fate: Callable[[int, int], Any]) -> None:
        super().__init__(dict.fromkeys(range(1, 9), iter))
        self.clock, self.fate = clock, fate
        self.attempts: dict[int, list[float]] = {}
        self._due: dict[str, tuple[Message, Any, float]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for message_id, message in zip(ids, messages, strict=True):
            node = message.metadata.dst_node_id
            tries = self.attempts.setdefault(node, [])
            self._due[message_id] = (message, self.fate(node, len(tries)), self.clock.now)
            tries.append(self.clock.now)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message_id in message_ids:
            if message_id not in self._due:
                continue
            message, fate, sent = self._due[message_id]
            if fate is None or (isinstance(fate, int | float) and sent + fate > self.clock.now):
                continue
            del self._due[message_id]
            if fate == "error":
                yield Message(Error(0, "lost"), reply_to=message)
            else:
                code = fate if isinstance(fate, Refusal) else Refusal.DATA  # any reply that is final
                task_id = decode_task(message.content).header.task_id
                content = encode_answer(Answer(task_id=task_id, reply=RefusalReply(code=code)))
                yield Message(content, reply_to=message)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    made = Clock()
    monkeypatch.setattr("server.asking.time", made)
    return made


def tasks(*nodes: int, number: int = 1) -> list[Message]:
    headers = [
        Header(protocol_digest="d", run_id="r", round=number, site=f"site{node}", kind=Kind.READY) for node in nodes
    ]
    return [
        Message(encode_task(ReadyTask(header=header)), node, "query")
        for node, header in zip(nodes, headers, strict=True)
    ]


def codes(replies: Iterable[Message]) -> list[tuple[int, str]]:
    return [(reply.metadata.src_node_id, str(reply.content["state"]["code"])) for reply in replies]


def test_a_later_site_is_asked_again_while_an_earlier_one_is_silent(clock: Any) -> None:
    """Site 1 is gone for good; site 2's courier died once: it is asked again long before site 1's deadline."""
    network = Network(clock, lambda node, attempt: None if node == 1 else ("error" if attempt == 0 else 5))
    assert codes(Desk(network).ask(tasks(1, 2), 120)) == [(2, "data_unusable")]
    assert len(network.attempts[2]) == 2
    assert network.attempts[2][1] < 10


def test_a_reply_before_its_turn_keeps_its_content(clock: Any) -> None:
    """Sites 2 and 3 answer while site 1 works; what they said waits on disk, and comes in the order of asking."""
    network = Network(clock, lambda node, _: 30 if node == 1 else 0)
    assert codes(Desk(network).ask(tasks(1, 2, 3), 100)) == [(node, "data_unusable") for node in (1, 2, 3)]
    assert all(len(tries) == 1 for tries in network.attempts.values())


def test_a_refusal_that_passes_by_itself_is_asked_again_and_told_at_the_deadline(clock: Any) -> None:
    """A site that prepares its images is asked until it is ready; one that never is, is refused with its word."""
    network = Network(clock, lambda node, attempt: Refusal.PREPARING if node == 2 or attempt < 3 else 0)
    assert codes(Desk(network).ask(tasks(1, 2), 100)) == [(1, "data_unusable"), (2, "preparing")]
    pauses = [after - before for before, after in zip(network.attempts[2], network.attempts[2][1:], strict=False)]
    assert pauses == sorted(pauses)
    assert max(pauses) <= 32


def test_a_late_reply_is_counted_and_dropped(clock: Any) -> None:
    """What site 1 says of round 1 in round 2 is no reply to round 2, and shows as one late reply."""
    told: list[tuple[int, str]] = []
    network = Network(clock, lambda node, attempt: 50 if (node, attempt) == (1, 0) else 1)
    desk = Desk(network, tell=lambda node, what: told.append((node, what)))
    assert codes(desk.ask(tasks(1, 2), 10)) == [(2, "data_unusable")]
    clock.now = 100.0
    replies = list(desk.ask(tasks(1, 2, number=2), 10))
    assert [str(reply.content["state"]["task_id"]) for reply in replies] == [
        decode_task(message.content).header.task_id for message in tasks(1, 2, number=2)
    ]
    assert desk.late == {1: 1}
    assert (1, "silent") in told
    assert (1, "late") in told


def test_the_second_answer_to_a_task_asked_twice_is_not_late(clock: Any) -> None:
    """A site that was asked again and answers both times was in time once; the other answer is dropped unnoticed."""
    network = Network(clock, lambda _, attempt: 700 if attempt == 0 else 10)
    desk = Desk(network)
    assert len(codes(desk.ask(tasks(1), 10_000))) == 1
    clock.now += 1000
    assert len(codes(desk.ask(tasks(1, number=2), 10_000))) == 1
    assert desk.late == {}


def test_a_site_that_is_known_to_be_quick_is_asked_again_soon(clock: Any) -> None:
    """Of a site that takes 30 s, silence means after 90 s that a message was lost; the next wait is twice as long."""
    network = Network(clock, lambda _, attempt: 30 if attempt in (0, 3) else None)
    desk = Desk(network)
    assert len(codes(desk.ask(tasks(1), 10_000))) == 1
    began = clock.now
    assert len(codes(desk.ask(tasks(1, number=2), 10_000))) == 1
    assert [after - began for after in network.attempts[1][1:]] == pytest.approx([0, 90, 270], abs=2)
    assert clock.now - began == pytest.approx(300, abs=2)


def test_a_site_is_not_thought_quick_because_its_answer_was_stored(clock: Any) -> None:
    """The second sending is answered at once, from the site's store; the longest time is what counts."""
    network = Network(clock, lambda _, attempt: (200, None, 1, None, 1)[attempt])
    desk = Desk(network)
    for number in (1, 2, 3):
        assert len(codes(desk.ask(tasks(1, number=number), 10_000))) == 1
    gaps = [after - before for before, after in zip(network.attempts[1], network.attempts[1][1:], strict=False)]
    assert (gaps[1], gaps[3]) == pytest.approx((600, 600), abs=2)


def test_a_dropped_site_is_not_waited_for(clock: Any) -> None:
    """Dropped while it is asked, it is left at once; dropped before, it is not asked."""
    gone: set[int] = set()
    network = Network(clock, lambda node, _: None if node == 1 else 3)
    desk = Desk(network, passed_over=lambda: gone)
    asked = desk.ask(tasks(1, 2), 1000)
    gone.add(1)
    assert codes(asked) == [(2, "data_unusable")]
    assert codes(desk.ask(tasks(1, 2, number=2), 1000)) == [(2, "data_unusable")]
    assert clock.now < 20
    assert 1 not in network.attempts


def test_a_node_that_the_superlink_does_not_know_is_asked_again(clock: Any) -> None:
    """The SuperLink takes no message for a node that is not registered, and gives no id; later it does."""

    class Forgetful(Network):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return list(super().push_messages(messages)) if clock.now > 20 else [None for _ in messages]

    network = Forgetful(clock, lambda *_: 1)
    assert codes(Desk(network).ask(tasks(1), 100)) == [(1, "data_unusable")]
