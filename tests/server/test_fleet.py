"""The coordinator's questions to its SuperLink get their answer whenever they are asked."""

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.proto.control_pb2 import ListNodesResponse

from server.coordinator import make_folder
from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from server.fleet import fleet


class ClosesIdleConnections(BaseHTTPRequestHandler):
    """Answers one question on a connection; the next on the same one comes just as it is closed, and gets none."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:  # the name that http.server looks for
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
def place(tmp_path: Path) -> Iterator[tuple[CoordinatorFolder, CoordinatorConfig]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ClosesIdleConnections)
    folder = CoordinatorFolder(path=tmp_path / "coordinator")
    settings = {
        "address": {"host": "localhost", "port": 443},
        "sites": {"names": ["north"]},
        "superlink": {"port": server.server_address[1]},
    }
    config = make_folder(folder, settings, now=datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.server_certificate, folder.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield folder, config
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_question_is_sent_over_a_connection_that_may_just_be_closed(
    place: tuple[CoordinatorFolder, CoordinatorConfig],
) -> None:
    """The SuperLink closes idle connections; a coordinator that asks every 15 s does not fail over one."""
    with fleet(*place) as superlink:
        assert [superlink.nodes() for _ in range(3)] == [[], [], []]
