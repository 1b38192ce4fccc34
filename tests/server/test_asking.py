"""The desk outlives any one site: it asks again, keeps what comes before its turn, and drops what comes too late."""

from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.admission import Reason, Refused, open_reply
from server.asking import Desk
from shared.messages import (
    Answer,
    Header,
    Kind,
    ReadyReply,
    ReadyTask,
    RefusalReply,
    decode_task,
    encode_answer,
    encode_task,
)
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


class Careless(Network):
    """Site 1 answers after a minute, site 2 at once with what `bad` makes: it waits its turn, or is late."""

    def __init__(self, clock: Any, bad: Callable[[Message], Message], *, first: int = 1) -> None:
        super().__init__(clock, lambda node, _: 60 if node == first else 0)
        self.bad = bad

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message_id in message_ids:
            asked = self._due.get(message_id)
            replies = list(super().pull_messages([message_id]))
            yield from [self.bad(asked[0])] if replies and asked and asked[0].metadata.dst_node_id == 2 else replies


def content(**records: Any) -> Callable[[Message], Message]:
    return lambda asked: Message(RecordDict(records), reply_to=asked)


def broken_object(_: Message) -> Message:
    raise RuntimeError("Error parsing message: DOE^JOHN")


def of_another(attribute: str, value: Any) -> Callable[[Message], Message]:
    def reply(asked: Message) -> Message:
        made = Message(RecordDict(), reply_to=asked)
        made.metadata.__dict__[attribute] = value
        return made

    return reply


def one_array(data: bytes) -> ArrayRecord:
    record = ArrayRecord()
    record["a"] = Array(dtype="uint8", shape=(len(data),), stype="x", data=data)
    return record


UNREADABLE = {
    "a code that is a list": content(state=ConfigRecord({"kind": "refusal", "code": ["busy"]})),
    "a value of bytes": content(state=ConfigRecord({"kind": "train", "x": b"1"})),
    "an array without bytes": content(arrays=one_array(b"")),
    "an object that cannot be put together": broken_object,
    "another node's name": of_another("_src_node_id", 1),
    "a node that nobody knows": of_another("_src_node_id", 99),
    "another message's answer": of_another("_reply_to_message_id", "in-process-1"),
}


def opened(replies: Iterable[Message], task_id: str) -> dict[int, Any]:
    """Open them as the coordinator does."""
    return {
        reply.metadata.src_node_id: open_reply(reply, task_id=task_id, kind=ReadyReply, key="00" * 32)
        for reply in replies
    }


@pytest.mark.parametrize("bad", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("first", [1, 2], ids=["waits its turn", "comes in its turn"])
def test_a_reply_that_cannot_be_read_is_a_malformed_one_and_ends_no_run(
    clock: Any, bad: Callable[[Message], Message], first: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is handled before signature and form are looked at, and nothing of it may reach the other sites."""
    network = Careless(clock, bad, first=first)
    replies = list(Desk(network).ask(tasks(1, 2), 300))
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2]
    found = opened(replies, "t")
    assert found[2] == Refused(reason=Reason.MALFORMED)
    assert "DOE^JOHN" not in caplog.text


def test_the_log_names_the_node_of_a_reply_that_cannot_be_read(clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has to know whom to ask; the fault's own text stays out."""
    list(Desk(Careless(clock, broken_object)).ask(tasks(1, 2), 300))
    assert "node 2 cannot be read: RuntimeError" in caplog.text


def test_a_late_reply_that_cannot_be_read_is_dropped(clock: Any) -> None:
    """What comes after the deadline is taken in before the next question is asked."""

    class Late(Careless):
        def __init__(self) -> None:
            Network.__init__(self, clock, lambda node, attempt: 50 if (node, attempt) == (2, 0) else 1)

        def bad(self, asked: Message) -> Message:  # type: ignore[override]
            return broken_object(asked) if clock.now < 200 else Message(RecordDict(), reply_to=asked)

    desk = Desk(Late())
    assert [reply.metadata.src_node_id for reply in desk.ask(tasks(1, 2), 10)] == [1]
    clock.now = 100.0
    desk.count_late()
    clock.now = 200.0
    assert len(list(desk.ask(tasks(1, 2, number=2), 10))) == 2


@pytest.mark.parametrize("fault", [OSError("disk full"), httpx.ConnectError("gone")])
def test_what_is_no_nodes_fault_is_told(clock: Any, fault: Exception) -> None:
    """A lost connection or a full disk of the coordinator's is not laid at a hospital's door."""

    def lost(_: Message) -> Message:
        raise fault

    with pytest.raises(type(fault)):
        list(Desk(Careless(clock, lost)).ask(tasks(1, 2), 300))


CONFIGS = st.dictionaries(
    st.sampled_from(["version", "task_id", "kind", "code", "request", "signature", "x"]),
    st.sampled_from(["refusal", "train", "busy", "1"])
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.booleans()
    | st.lists(st.text(max_size=4), max_size=3)
    | st.lists(st.binary(max_size=4), max_size=3),
    max_size=5,
).map(ConfigRecord)
METRICS = st.dictionaries(
    st.text(max_size=6),
    st.integers(-(2**63), 2**63 - 1) | st.floats() | st.lists(st.floats(), max_size=3),
    max_size=3,
).map(MetricRecord)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.dictionaries(
        st.sampled_from(["state", "arrays", "metrics", "flow", "x", ""]),
        CONFIGS | METRICS | st.binary(max_size=4).map(one_array),
        max_size=4,
    ),
    first=st.sampled_from([1, 2]),
)
def test_whatever_a_node_sends_the_desk_yields_one_reply_a_site(clock: Any, records: Any, first: int) -> None:
    """Any records, in their turn or before it: both sites are heard, and the other one's reply is whole."""
    replies = list(Desk(Careless(clock, content(**records), first=first)).ask(tasks(1, 2), 300))
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2]
    assert codes(replies[:1]) == [(1, "data_unusable")]
    assert isinstance(opened(replies, "t")[2], Refused)
