"""A link whose clock is off is told so before it starts, with what to do; before, it ended without a fault."""

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client.coordinators_clock import check_clock
from client.site_keys import SiteKeys
from server.coordinator import make_folder
from server.coordinator_folder import CoordinatorFolder
from shared.errors import SiteError
from shared.invitation import CA

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


class Clock(BaseHTTPRequestHandler):
    """Answers 404, as the proxy does beside a link's own paths, with a time that is off."""

    off = timedelta()

    def do_HEAD(self) -> None:  # the name that http.server looks for
        self.send_response_only(404)
        self.send_header("Date", format_datetime(datetime.now(UTC) - self.off, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Give the address and the authority of a coordinator's proxy."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Clock)
    folder = CoordinatorFolder(path=tmp_path / "coordinator")
    settings = {"address": {"host": "localhost", "port": server.server_port}, "sites": {"names": ["north"]}}
    make_folder(folder, settings, now=datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.server_certificate, folder.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"localhost:{server.server_port}", folder.ca
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (timedelta(minutes=20), "20 minutes ahead of the coordinator's"),
        (timedelta(minutes=-20), "20 minutes behind the coordinator's"),
        (timedelta(hours=13), "13 hours ahead"),
    ],
)
def test_a_clock_that_is_off_is_told_with_its_direction(
    coordinator: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, off: timedelta, said: str
) -> None:
    """By how much, which way, and what to do."""
    monkeypatch.setattr(Clock, "off", off)
    with pytest.raises(SiteError, match=said) as told:
        check_clock(*coordinator, now=datetime.now(UTC))
    assert "NTP" in str(told.value)


def test_what_flower_lets_pass_passes(coordinator: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute is no fault, and neither is a coordinator that does not answer."""
    monkeypatch.setattr(Clock, "off", timedelta(seconds=30))
    assert check_clock(*coordinator, now=datetime.now(UTC)) is None
    assert "nobody answers at localhost:1:" in (check_clock("localhost:1", coordinator[1], now=datetime.now(UTC)) or "")


def _here(getaddrinfo: Callable[..., Any], host: Any, *more: Any, **named: Any) -> Any:
    """Let any name be this machine's."""
    return getaddrinfo("localhost" if str(host).endswith("example") else host, *more, **named)


def test_what_stands_in_the_way_of_the_link_is_told(
    coordinator: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name, another authority, a port without TLS, a proxy that refuses: the link says nothing of them."""
    address, ca = coordinator
    monkeypatch.setattr(socket, "getaddrinfo", partial(_here, socket.getaddrinfo))
    port = address.rpartition(":")[2]

    def told(where: str, by: Path = ca) -> str:
        return check_clock(where, by, now=datetime.now(UTC)) or ""

    assert "has a certificate for another name than elsewhere.example. " in told(f"elsewhere.example:{port}")
    other = CoordinatorFolder(path=tmp_path / "other")
    settings = {"address": {"host": "localhost", "port": 443}, "sites": {"names": ["north"]}}
    make_folder(other, settings, now=datetime.now(UTC))
    assert "the invitation's authority did not sign" in told(address, other.ca)
    with ThreadingHTTPServer(("127.0.0.1", 0), Clock) as plain:  # answers no CONNECT: 501
        thread = threading.Thread(target=plain.serve_forever, args=(0.05,))
        thread.start()
        try:
            assert "does not speak TLS" in told(f"localhost:{plain.server_port}")
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{plain.server_port}")
            monkeypatch.setenv("NO_PROXY", "")
            assert "the web proxy that HTTPS_PROXY names" in told("coordinator.example:443")
        finally:
            plain.shutdown()
            thread.join()


def test_the_link_does_not_start_with_such_a_clock(
    coordinator: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command ends with a site's exit code, so that its unit shows a fault, and not "gracefully" with 0."""
    monkeypatch.setattr(Clock, "off", timedelta(minutes=20))
    address, ca = coordinator
    (tmp_path / "site.toml").write_text(SITE, encoding="utf-8")
    SiteKeys(tmp_path / "keys").create()
    study = SiteKeys(tmp_path / "keys").node.parent / "0123456789ab"
    study.mkdir()
    (study / CA).write_bytes(ca.read_bytes())
    (study / "address").write_text(f"{address}\n", encoding="ascii")
    polyclinic = str(Path(sys.executable).with_name("polyclinic"))
    command = [polyclinic, "site", "link", str(tmp_path / "site.toml"), "--runtime", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == SiteError.exit_code
    assert "20 minutes ahead of the coordinator's" in " ".join((done.stdout + done.stderr).split())
