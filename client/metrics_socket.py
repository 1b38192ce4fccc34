"""The agent's metrics page over a unix socket: served by the agent, read by the exporter; GET /metrics and no more."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import BoundedSemaphore, Thread
from typing import Any

from shared.errors import StorageError

MODE = 0o660
"""The agent and the exporter's group may connect; nobody else."""

MOST_BYTES = 1 << 20
"""A page is a few kilobytes; a longer one is no page of ours."""

MOST_CONNECTIONS = 4
"""At once; one more is closed unheard. Each is an open file and a thread of the agent's, which needs them for tasks."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@contextmanager
def serve_page(path: Path, page: Callable[[], bytes]) -> Iterator[None]:
    """Serve the page at a unix socket from a thread of its own, for as long as the context is open.

    Raises:
        StorageError: the socket cannot be made.
    """
    try:
        path.unlink(missing_ok=True)
        server = _Server(str(path), _handler(page))
        path.chmod(MODE)
    except OSError as fault:
        raise StorageError(
            f"{path}: the metrics socket cannot be made ({fault.strerror or fault}). "
            "Check the folder's owner, and that the path has at most 107 bytes."
        ) from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


def read_page(path: Path, *, timeout_seconds: float) -> bytes:
    """Read the agent's page.

    Raises:
        OSError: nobody answers at the socket, or what answers is not the agent's page.
    """
    with closing(_UnixConnection(path, timeout_seconds)) as connection:
        try:
            connection.request("GET", "/metrics")
            reply = connection.getresponse()
            body = reply.read(MOST_BYTES + 1)
        except HTTPException as fault:
            raise OSError(f"not the agent's page ({type(fault).__name__})") from None
    if reply.status != 200 or len(body) > MOST_BYTES:
        raise OSError(f"not the agent's page (status {reply.status}, {len(body)} bytes)")
    return body


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("agent", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, handler: type[BaseHTTPRequestHandler]) -> None:
        self._places = BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(path, handler)

    def verify_request(self, *_: object) -> bool:
        """Take a place; where there is none, the connection is closed at once."""
        return self._places.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request(request, client_address)
        except Exception:  # no thread could be had
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, *_: object) -> None:
        """Say nothing: who breaks off a scrape is no event."""


def _handler(page: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body = page()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: a scrape every few seconds is no event."""

        def address_string(self) -> str:
            return "unix"

    return Handler
