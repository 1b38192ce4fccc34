"""A hospital's web proxy hears of the link's call to the coordinator, and of nothing that stays on one machine."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from flwr.proto.control_pb2 import ListNodesResponse

from client.agent_service import AgentService
from client.courier import relay
from client.site_keys import SiteKeys
from client.site_status import agent_health
from server.coordinator import make_folder
from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from server.fleet import environment, fleet, superexec_command
from shared.direct import no_proxies, without_proxies
from shared.invitation import CA
from shared.messages import Header, Kind, ReadyTask, encode_task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a deployed site runs on Linux")

PATIENCE_SECONDS = 60.0

SITE = """
[site]
name = "north"
[data]
dicom = "dicom"
labels = "labels.csv"
join = "PatientID"
[data.findings]
pneumonia = "pneumonia"
"""


class Heard:
    """A port on loopback that notes the first line of whatever is sent to it, and answers nothing of use."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.port = int(self._server.getsockname()[1])

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(2)
                try:
                    self.lines.append(caller.recv(4096).split(b"\r\n")[0].decode("ascii", "replace"))
                    caller.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    self.lines.append("a connection without a word")

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def web_proxy() -> Iterator[Heard]:
    heard = Heard()
    yield heard
    heard.close()


@pytest.fixture
def own_port() -> Iterator[Heard]:
    heard = Heard()
    yield heard
    heard.close()


def hostile(proxy: Heard, scheme: str = "http") -> dict[str, str]:
    """Name the proxy in all ways at once, with exceptions that do not name loopback."""
    address = f"{scheme}://127.0.0.1:{proxy.port}"
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    exceptions = {"no_proxy": ".hospital.example", "no_grpc_proxy": ".hospital.example"}
    lower = dict.fromkeys(names, address) | exceptions
    return lower | {name.upper(): value for name, value in lower.items()}


ONE_EACH = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def clean() -> dict[str, str]:
    return without_proxies(os.environ)


def first_words(command: Sequence[str], variables: Mapping[str, str], *ears: Heard) -> str:
    """Start a program and stop it once one of the ears has heard something; give what the program said."""
    with subprocess.Popen(
        [*command], env={**clean(), **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as program:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up and program.poll() is None and not any(ear.lines for ear in ears):
            time.sleep(0.1)
        time.sleep(0.5)
        program.kill()
        return program.communicate()[0]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text(SITE, encoding="utf-8")
    SiteKeys(tmp_path / "keys").create()
    return tmp_path / "site.toml"


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[tuple[CoordinatorFolder, CoordinatorConfig]]:
    """Give a coordinator's folder, and something that answers at the socket of its commands."""

    class Empty(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server looks for
            self.rfile.read(int(self.headers["content-length"]))
            answer = ListNodesResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    folder = CoordinatorFolder(path=tmp_path / "coordinator")
    settings = {"address": {"host": "localhost", "port": 443}, "sites": {"names": ["north"]}}
    config = make_folder(folder, settings, now=datetime.now(UTC))
    folder.own_socket.parent.mkdir()
    server = ThreadingUnixStreamServer(str(folder.own_socket), Empty)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield folder, config
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", ["all at once", "http_proxy", "ALL_PROXY"])
def test_the_courier_speaks_to_its_link_directly(site: Path, web_proxy: Heard, own_port: Heard, kind: str) -> None:
    """However the proxy is named, the link's runtime port hears of the courier, and the proxy does not."""
    variables = hostile(web_proxy) if kind == "all at once" else {kind: f"http://127.0.0.1:{web_proxy.port}"}
    polyclinic = str(Path(sys.executable).with_name("polyclinic"))
    command = [polyclinic, "site", "courier", str(site), "--runtime", f"127.0.0.1:{own_port.port}"]
    said = first_words(command, variables, own_port, web_proxy)
    assert own_port.lines, said
    assert own_port.lines[0].startswith("POST /v1/runtime/")
    assert web_proxy.lines == []


def test_the_link_calls_the_coordinator_through_the_proxy(site: Path, web_proxy: Heard, own_port: Heard) -> None:
    """HTTPS_PROXY keeps its meaning for the one program that has a way out."""
    node = SiteKeys(site.parent / "keys").node.parent / "0123456789ab"
    node.mkdir()
    folder = CoordinatorFolder(path=site.parent / "coordinator")
    settings = {"address": {"host": "localhost", "port": own_port.port}, "sites": {"names": ["north"]}}
    make_folder(folder, settings, now=datetime.now(UTC))
    (node / CA).write_bytes(folder.ca.read_bytes())
    (node / "address").write_text("coordinator.example:443\n", encoding="ascii")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        runtime = f"127.0.0.1:{probe.getsockname()[1]}"
    polyclinic = str(Path(sys.executable).with_name("polyclinic"))
    command = [polyclinic, "site", "link", str(site), "--runtime", runtime]
    said = first_words(command, {"HTTPS_PROXY": f"http://127.0.0.1:{web_proxy.port}"}, own_port, web_proxy)
    assert web_proxy.lines, said
    assert set(web_proxy.lines) == {"CONNECT coordinator.example:443 HTTP/1.1"}
    assert own_port.lines == []


@pytest.mark.parametrize("scheme", ["http", "socks5", "nonsense"])
def test_the_coordinator_asks_its_superlink_directly(
    superlink: Any, web_proxy: Heard, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """`status`, `enroll`, `run` and the rest: the answer is the SuperLink's, and the environment stays as it was."""
    for name, value in hostile(web_proxy, scheme).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with fleet(superlink[0]) as asked:
        assert asked.nodes() == []
    assert web_proxy.lines == []
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ONE_EACH)
def test_no_variable_alone_moves_the_coordinators_question(
    superlink: Any, web_proxy: Heard, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each of them for itself, in either case."""
    monkeypatch.setenv(name, f"http://127.0.0.1:{web_proxy.port}")
    with fleet(superlink[0]) as asked:
        assert asked.nodes() == []
    assert web_proxy.lines == []


def test_the_coordinators_own_programs_speak_directly(
    superlink: Any, web_proxy: Heard, own_port: Heard, tmp_path: Path
) -> None:
    """Flower's superexec, started as `coordinator serve` starts it, calls the SuperLink's port and no proxy."""
    folder, config = superlink
    here = config.model_copy(update={"superlink": config.superlink.model_copy(update={"port": own_port.port})})
    variables = environment(folder, {**clean(), **hostile(web_proxy)})
    said = first_words(superexec_command(folder, here), variables, own_port, web_proxy)
    assert own_port.lines, said
    assert web_proxy.lines == []
    assert [name for name in variables if name.lower().endswith("_proxy")] == []


def test_a_unix_socket_is_reached_whatever_proxy_there_is(
    web_proxy: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The courier's message to the agent, and the question whether it is ready, which gRPC carries."""
    for name, value in hostile(web_proxy).items():
        monkeypatch.setenv(name, value)
    service = AgentService(tmp_path / "a.sock", lambda frames: iter(list(frames)))
    service.start()
    try:
        service.ready(lambda frames: iter(list(frames)))
        task = encode_task(
            ReadyTask(header=Header(protocol_digest="d", run_id="r", round=0, site="n", kind=Kind.READY))
        )
        assert relay(task, socket=tmp_path / "a.sock", wait_seconds=5).keys() == task.keys()
        assert agent_health(tmp_path / "a.sock") == "is ready"
    finally:
        service.stop()
    assert web_proxy.lines == []


def test_the_environment_comes_back_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rest of the process is told of a proxy is not lost."""
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    seen: list[bool] = []

    def fail() -> None:
        with no_proxies():
            seen.append("https_proxy" in os.environ)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [False]
    assert os.environ["https_proxy"] == "http://proxy:3128"
