"""The coordinator's commands as its operator types them: serve in one window, and the others beside it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from server.coordinator_cli import app
from shared.errors import CoordinatorError
from shared.fingerprints import keys_line
from shared.invitation import PublicKeys, read_keys, write_paper
from shared.signing import SigningKey
from simulations.local_federation import free_port

pytestmark = pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="nginx is not installed (on Debian: apt-get install nginx-light)",
)

PATIENCE_SECONDS = 120
POLYCLINIC = Path(sys.executable).with_name("polyclinic")


class Operator:
    """Types `polyclinic coordinator ...` over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.windows: list[subprocess.Popen[str]] = []

    def types(self, *words: object) -> str:
        """Run a command to its end, and give what it prints."""
        result = CliRunner().invoke(app, [*map(str, words), "--folder", str(self.folder)])
        assert result.exit_code == 0, result.output
        return result.output

    def is_refused(self, *words: object) -> str:
        """Run a command that the coordinator's records do not allow, and give what it says."""
        result = CliRunner().invoke(app, [*map(str, words), "--folder", str(self.folder)])
        assert isinstance(result.exception, CoordinatorError), result.output
        return str(result.exception)

    def opens(self, *words: object) -> tuple[subprocess.Popen[str], str]:
        """Start a command that goes on, and give its first line."""
        command = [POLYCLINIC, "coordinator", *map(str, words), "--folder", self.folder]
        window = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        self.windows.append(window)
        assert window.stdout is not None
        return window, window.stdout.readline()

    def sees(self, sought: str) -> None:
        """Ask for the status until it says so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while sought not in (said := self.types("status")):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    person = Operator(tmp_path / "coordinator")
    yield person
    for window in person.windows:
        with window:  # waits, and closes the pipe
            window.terminate()


def keys_of(site: str, folder: Path) -> Path:
    """Write the file of public keys that a site sends."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    node = ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*form).decode()
    write_paper(PublicKeys(site=site, node=node, signing=SigningKey.draw().public), folder / f"{site}.keys.toml")
    return folder / f"{site}.keys.toml"


def test_a_site_is_enrolled_and_revoked_while_the_coordinator_serves(operator: Operator, tmp_path: Path) -> None:
    """From `init` to the end of `serve`: the status tells each step, and nothing runs on after a signal to stop."""
    ports = ("--port", free_port(), "--superlink-port", free_port())
    operator.types("init", "--host", "localhost", "--site", "north", "--listen", "127.0.0.1", *ports)
    server, first = operator.opens("serve")
    assert "Serving at port" in first
    keys = keys_of("north", tmp_path)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "does not answer" in operator.types("status"):
        assert time.monotonic() < deadline
    told = operator.types("enroll", keys)
    assert told.startswith("north: ")
    assert keys_line(read_keys(keys)) in told.splitlines()
    assert "north: not reachable" in operator.types("status")
    other = keys_of("north", tmp_path)
    assert keys_line(read_keys(other)) in operator.is_refused("enroll", other)
    assert "enrolled with new keys" in operator.types("enroll", other, "--replace", "north")
    assert "north: revoked." in operator.types("revoke", "north")
    operator.sees("north: revoked")
    served = subprocess.run(
        ["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    assert len(served) == 4, "three programs, and what ends them should their owner be killed"
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_SECONDS) == 0
    assert not any(Path(f"/proc/{process}").exists() for process in served)


def test_the_monitor_serves_until_it_is_stopped(operator: Operator) -> None:
    """The addresses that it prints answer: a page, and figures for Prometheus."""
    operator.types("init", "--host", "localhost", "--site", "north", "--superlink-port", free_port())
    window, first = operator.opens("monitor", "--port", free_port())
    page, figures = re.findall(r"http://\S+", first)
    assert b"<html" in urllib.request.urlopen(page, timeout=20).read()
    assert urllib.request.urlopen(figures, timeout=20).status == 200
    window.send_signal(signal.SIGTERM)
    assert window.wait(PATIENCE_SECONDS) == 0
