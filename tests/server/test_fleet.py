"""The coordinator's questions to its SuperLink get their answer whenever they are asked."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import ClassVar

import pytest
from flwr.proto.control_pb2 import ListNodesResponse

from server.coordinator import make_folder
from server.coordinator_config import Address
from server.coordinator_folder import CoordinatorFolder
from server.fleet import fleet
from server.listening import open_doors, short_name
from simulations.local_federation import free_port


class ClosesIdleConnections(BaseHTTPRequestHandler):
    """Answers one question on a connection; the next on the same one comes just as it is closed, and gets none."""

    protocol_version = "HTTP/1.1"
    asked = 0
    shown: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:  # the name that http.server looks for
        self.shown.append(self.headers["authorization"])
        self.rfile.read(int(self.headers["content-length"]))
        self.asked += 1
        if self.asked > 1:
            self.close_connection = True
            return
        answer = ListNodesResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[CoordinatorFolder]:
    folder = CoordinatorFolder(path=tmp_path / "coordinator")
    settings = {"address": {"host": "localhost", "port": 443}, "sites": {"names": ["north"]}}
    make_folder(folder, settings, now=datetime.now(UTC))
    folder.own_socket.parent.mkdir()
    server = ThreadingUnixStreamServer(str(folder.own_socket), ClosesIdleConnections)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_question_is_sent_over_a_connection_that_may_just_be_closed(place: CoordinatorFolder) -> None:
    """The proxy may close idle connections; a coordinator that asks every 15 s does not fail over one."""
    with fleet(place) as superlink:
        assert [superlink.nodes() for _ in range(3)] == [[], [], []]


def test_each_question_shows_the_coordinators_secret(place: CoordinatorFolder) -> None:
    """Without it the SuperLink answers nobody (server/superlink.py)."""
    ClosesIdleConnections.shown.clear()
    with fleet(place) as superlink:
        superlink.nodes()
    assert ClosesIdleConnections.shown == [f"Bearer {place.control_secret.read_text()}"]


def test_a_folder_of_any_length_has_a_socket(tmp_path: Path) -> None:
    """A socket's name has 107 bytes at most, and a folder's path has more."""
    deep = tmp_path / ("a" * 80) / ("b" * 80) / "own.sock"
    doors = open_doors(Address(host="localhost", port=free_port(), listen="127.0.0.1"), deep, {})
    try:
        with short_name(deep) as name, socket.socket(socket.AF_UNIX) as caller:
            caller.connect(name)
    finally:
        doors.close()


def test_a_port_that_systemd_opened_must_be_the_coordinators(tmp_path: Path) -> None:
    """Else the sites would be told of one, and another would be open."""
    code = (
        "import os, socket, sys; from pathlib import Path; from server.listening import open_doors;"
        "from server.coordinator_config import Address; opened = socket.create_server(('127.0.0.1', 0));"
        "os.dup2(opened.fileno(), 3); given = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'};"
        "port = opened.getsockname()[1]; own = Path(sys.argv[1]);"
        "doors = open_doors(Address(host='localhost', port=port), own, given);"
        "assert doors.listen == f'127.0.0.1:{port}', doors.listen;"
        "open_doors(Address(host='localhost', port=port - 1), own, given)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "own.sock"], capture_output=True, text=True, timeout=60
    )
    assert "polyclinic-proxy.socket opened port" in done.stderr
