"""The agent's door: gRPC on a unix socket, one task at a time, and gRPC's own health service beside it."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore, Lock, Timer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from shared.errors import StorageError
from shared.relay import METHOD, MOST_MESSAGE_BYTES, SERVICE, cut

log = logging.getLogger("polyclinic.site")

Handler = Callable[[Iterable[bytes]], Iterator[bytes]]
"""`Agent.handle`: the one seam between simulation and deployment."""

SOCKET_MODE, FOLDER_MODE = 0o660, 0o750
"""The agent and the courier's group may connect; nobody else."""

WAITING = 4
"""Tasks that may wait for their turn. A coordinator has one at a time under way; what comes again waits with it."""

HEALTH_CHECKS = 4
"""Threads beside those of the tasks, so that a long training never looks like an agent that hangs."""

MOST_CONNECTIONS = 16
"""At once, gRPC closes one more. Each is an open file of the agent's; a courier has one for each message under way."""

RECEIVE_SECONDS = 300.0
"""A task that is not here after so long is given up, so that who sends slowly does not keep the turn."""

LONGEST_SOCKET_PATH = 107
"""sockaddr_un has 108 bytes, one of them the end (unix(7))."""

GRACE_SECONDS = 2.0
"""What is under way when the agent is told to stop; longer work goes on from its checkpoint."""


class AgentService:
    """Serves one handler at a unix socket; frames come and go in pieces, so that memory is bounded by one payload."""

    def __init__(self, socket: Path, handler: Handler, *, receive_seconds: float = RECEIVE_SECONDS) -> None:
        self._socket = socket
        self._handler = handler
        self._receive_seconds = receive_seconds
        self._turn = Lock()
        self._places = BoundedSemaphore(1 + WAITING)
        self._health = health.HealthServicer()
        self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server = grpc.server(
            ThreadPoolExecutor(1 + WAITING + HEALTH_CHECKS),
            options=[
                ("grpc.max_receive_message_length", MOST_MESSAGE_BYTES),
                ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
            ],
            maximum_concurrent_rpcs=1 + WAITING + HEALTH_CHECKS,
        )
        method = grpc.stream_stream_rpc_method_handler(self._relay)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self) -> None:
        """Open the socket. Until `ready` the health service says NOT_SERVING.

        Raises:
            StorageError: the socket cannot be made.
        """
        path = self._socket.resolve()
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            raise StorageError(
                f"{path}: a socket's path has at most {LONGEST_SOCKET_PATH} bytes. Choose a shorter [link] sockets."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(FOLDER_MODE)
            path.unlink(missing_ok=True)
            before = os.umask(0o777 & ~SOCKET_MODE)
            try:
                self._server.add_insecure_port(f"unix:{path}")
            finally:
                os.umask(before)
        except (OSError, RuntimeError) as fault:
            raise StorageError(
                f"{path}: the agent's socket cannot be made ({fault}). Check the folder's owner."
            ) from None
        self._server.start()

    @property
    def turn(self) -> Lock:
        """Held by whoever works on a task; nothing else that could disturb one happens at the same time."""
        return self._turn

    def ready(self, handler: Handler) -> None:
        """Let another handler answer from the next task on, and be healthy."""
        self._handler = handler
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Take no more tasks, and break off what is under way after a moment's grace."""
        self._server.stop(GRACE_SECONDS).wait(2 * GRACE_SECONDS)
        self._socket.unlink(missing_ok=True)

    def _relay(self, request: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        try:
            if self._take_turn(context):
                try:
                    yield from cut(self._handler(_in_time(request, context, self._receive_seconds)))
                finally:
                    self._turn.release()
        except StorageError as fault:
            log.error("nothing leaves: %s", fault)  # without an audit log not even a refusal does
            context.abort(grpc.StatusCode.UNAVAILABLE, "storage")
        except Exception as fault:  # gRPC would send its text
            log.error("a task failed outside of the guard: %s", type(fault).__name__)
            context.abort(grpc.StatusCode.INTERNAL, "internal")
        finally:
            self._places.release()

    def _take_turn(self, context: grpc.ServicerContext) -> bool:
        """Wait until no other task is worked on; give up with whoever asked."""
        while context.is_active():
            if self._turn.acquire(timeout=0.5):
                return True
        return False


def _in_time(request: Iterator[bytes], context: grpc.ServicerContext, seconds: float) -> Iterator[bytes]:
    """Pass on the pieces of a request, and break the call off if they are not all here in time."""
    watch = Timer(seconds, context.cancel)
    watch.daemon = True
    watch.start()

    try:
        yield from request
    finally:
        watch.cancel()
