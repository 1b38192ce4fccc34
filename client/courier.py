"""Flower's ClientApp at a site: relays frames between SuperNode and agent, and has no torch, no key and no data."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from shared.messages import Answer, RefusalReply, encode_answer
from shared.refusal_codes import Refusal
from shared.relay import AGENT_SOCKET, MOST_MESSAGE_BYTES, PATH, cut
from shared.wire import from_frames, records_of, to_frames

log = logging.getLogger("polyclinic.courier")

WAIT_SECONDS = 900.0
"""An agent that restarts is waited for so long; then the coordinator is told, and asks again when it sees fit."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 2.0
"""Between two tries; a socket at which nobody listens costs nothing to ask."""

PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})
"""Statuses of an agent that is restarting, was killed in the middle of a task, or cannot write its log."""

app = ClientApp()  # a plain assignment: Flower looks for it in the syntax tree, and does not see an annotated one


@app.query()
def query(message: Message, _: Context) -> Message:
    """Relay the question whether this site is ready."""
    return _answer(message)


@app.query("landmarks")
def landmarks(message: Message, _: Context) -> Message:
    """Relay the question where this site's intensity landmarks lie."""
    return _answer(message)


@app.query("describe")
def describe(message: Message, _: Context) -> Message:
    """Relay the question how this site's images look."""
    return _answer(message)


@app.query("deliver")
def deliver(message: Message, _: Context) -> Message:
    """Relay the finished model."""
    return _answer(message)


@app.train()
def train(message: Message, _: Context) -> Message:
    """Relay a round of training."""
    return _answer(message)


@app.evaluate()
def evaluate(message: Message, _: Context) -> Message:
    """Relay an evaluation."""
    return _answer(message)


def relay(content: RecordDict, *, socket: Path, wait_seconds: float) -> RecordDict:
    """Carry a task to the agent and its reply back; memory is that of the two payloads and a few pieces.

    The task is sent again, the same, to an agent that restarts; it knows it by its id. What the agent never answered
    becomes one of the unsigned codes of `refusal_codes.FROM_THE_COURIER`; an exception's text goes nowhere.
    """
    began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    while True:
        try:
            reply = _ask(content, socket)
            log.warning("relayed in %.2f s", time.monotonic() - began)  # the least level that superexec's log shows
            return reply
        except grpc.RpcError as fault:
            code = _code(fault)
        except ValueError:
            code = Refusal.MALFORMED
        if code not in (Refusal.UNREACHABLE, Refusal.BUSY) or time.monotonic() - began + pause > wait_seconds:
            log.error("no answer of the agent's: %s", code)
            return _refusal(content, code)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _answer(message: Message) -> Message:
    socket = Path(os.environ[AGENT_SOCKET])  # Flower starts this program, and hands on nothing else
    return Message(relay(message.content, socket=socket, wait_seconds=WAIT_SECONDS), reply_to=message)


def _ask(content: RecordDict, socket: Path) -> RecordDict:
    options = [("grpc.max_receive_message_length", MOST_MESSAGE_BYTES), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        pieces: Iterator[bytes] = channel.stream_stream(PATH)(cut(to_frames(content)))
        return from_frames(pieces)


def _code(fault: grpc.RpcError) -> Refusal:
    """Read a status as one of the codes; only the agent itself says "busy" when it has no place left."""
    status = fault.code()
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        busy = "busy" in str(fault.details()) or "Concurrent RPC limit" in str(fault.details())
        return Refusal.BUSY if busy else Refusal.TOO_LARGE
    return Refusal.UNREACHABLE if status in PASSING else Refusal.MALFORMED


def _refusal(content: RecordDict, code: Refusal) -> RecordDict:
    task = records_of(content, ConfigRecord).get("task", ConfigRecord())
    task_id = task.get("task_id", "")
    return encode_answer(Answer(task_id=task_id if isinstance(task_id, str) else "", reply=RefusalReply(code=code)))
