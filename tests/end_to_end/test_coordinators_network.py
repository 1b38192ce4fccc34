"""What another user of the coordinator's machine reaches of a coordinator that serves: no way to start a run.

Flower's Control API asks for no password of its own. Whoever reaches the SuperLink's port can start a bundle, and the
superexec runs what is in it, as the user who may read the coordinator's keys.
"""

import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from server import own_network, serving
from server.bundle import bundle_digest
from server.coordinator_config import CoordinatorConfig, read_coordinator
from server.coordinator_folder import CoordinatorFolder
from server.fleet import fleet
from server.programs import Programs
from shared.errors import CoordinatorError, FederationError
from simulations.local_federation import await_superlink, free_port

NOBODY, MONITOR = 65534, 10102
"""Another user of the machine; and the monitor's, who may read the runs (deploy/server/Dockerfile)."""

POLYCLINIC = Path(sys.executable).with_name("polyclinic")
PATIENCE_SECONDS = 120.0
TIME_TO_STRIKE_SECONDS = 10.0
"""More than the superexec takes to start what it is given (a second or two, here)."""

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="only root can try what another user reaches"
    ),
]

HOSTILE = """
from pathlib import Path
from flwr.serverapp import ServerApp

app = ServerApp()
MARK

@app.main()
def main(grid, context):
    pass
"""

MANIFEST = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "foreign"
version = "1.0.0"
description = "Code that nobody approved."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "somebody"
fab-format-version = 0
fab-include = ["*.py"]

[tool.flwr.app.components]
serverapp = "hostile:app"
clientapp = "hostile:app"

[tool.flwr.app.config]
run = ""
"""


def as_user(user: int, attempt: Callable[[], Any]) -> Any:
    """Let a process of another user, without groups or rights, try something; give what it got, or how it failed."""
    here, there = multiprocessing.get_context("fork").Pipe()

    def tries() -> None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        try:
            there.send(("done", str(attempt())))
        except BaseException as fault:
            there.send((type(fault).__name__, str(fault)))

    process = multiprocessing.get_context("fork").Process(target=tries)
    process.start()
    said = here.recv() if here.poll(60) else ("silence", "")
    process.join()
    return said


@dataclass
class Served:
    """A coordinator that serves, and what somebody may know of it: its port, its certificate, a bundle of his own."""

    place: CoordinatorFolder
    config: CoordinatorConfig
    mark: Path

    def foreign(self) -> bytes:
        """Make a bundle whose code leaves a mark as soon as it is imported."""
        code = HOSTILE.replace("MARK", f"Path({str(self.mark)!r}).write_text('ran')")
        return build_fab_from_files({"pyproject.toml": MANIFEST.encode(), "hostile.py": code.encode()})[0]

    def attempts(self) -> dict[str, Callable[[], Any]]:
        """List what another user tries; he brings all that is not secret."""
        ca, port, bundle = self.place.ca.read_bytes(), self.config.superlink.port, self.foreign()
        start = StartRunRequest(fab=fab_to_proto(Fab(bundle_digest(bundle), bundle, {})))

        def client() -> ControlHttpClient:
            version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
            return ControlHttpClient.from_server_address(f"127.0.0.1:{port}", False, ca, [version])

        def opened() -> None:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.connect(str(self.place.state.parent / "own.sock"))

        return {
            "list the sites' keys": lambda: client().ListNodes(ListNodesRequest()),
            "register a key": lambda: client().RegisterNode(RegisterNodeRequest(public_key=b"key", name="rogue")),
            "start a bundle of his own": lambda: client().StartRun(start),
            "dial the port": lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close(),
            "open the commands' socket": opened,
            "read the SuperLink's database": lambda: self.place.state.read_bytes(),
            "read the authority's key": lambda: self.place.ca_key.read_bytes(),
        }


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Give a folder that every user may pass, as a coordinator's under /var/lib is."""
    made = Path(tempfile.mkdtemp(prefix="served"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def init(place: CoordinatorFolder) -> CoordinatorConfig:
    words = ["--host", "localhost", "--listen", "127.0.0.1", "--site", "north"]
    ports = ["--port", str(free_port()), "--superlink-port", str(free_port())]
    subprocess.run([POLYCLINIC, "coordinator", "init", *words, *ports, "--folder", place.path], check=True)
    return read_coordinator(place.config)


def await_answer(place: CoordinatorFolder) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "does not answer" in (said := status(place)):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)


def status(place: CoordinatorFolder) -> str:
    return subprocess.run(
        [POLYCLINIC, "coordinator", "status", "--folder", place.path], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """Serve as an operator does, all three programs at once."""
    place = CoordinatorFolder(path=folder / "coordinator")
    config = init(place)
    mark = folder / "open" / "mark"
    mark.parent.mkdir()
    mark.parent.chmod(0o777)
    with subprocess.Popen([POLYCLINIC, "coordinator", "serve", "--folder", place.path]) as server:
        try:
            await_answer(place)
            yield Served(place, config, mark)
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("user", [NOBODY, MONITOR], ids=["nobody", "monitor"])
def test_another_user_starts_nothing(served: Served, user: int) -> None:
    """Nobody listens where he dials, and what lies on the disk is not his: so no line of his bundle runs."""
    said = {name: as_user(user, attempt) for name, attempt in served.attempts().items()}
    assert "done" not in {outcome for outcome, _ in said.values()}, said
    assert said["dial the port"][0] == "ConnectionRefusedError", said
    assert said["open the commands' socket"][0] == "PermissionError", said
    time.sleep(TIME_TO_STRIKE_SECONDS)
    assert not served.mark.exists()


def test_what_the_coordinators_own_user_needs_it_reaches(served: Served) -> None:
    """The same bundle, started with the coordinator's secret, runs: so that the attempts before could have."""
    assert "does not answer" not in status(served.place)
    with fleet(served.place) as superlink:
        started = superlink.start(served.foreign(), "own")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not served.mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        served.mark.unlink()
        superlink.stop(started)


def test_the_folders_of_state_and_keys_are_their_users_alone(served: Served) -> None:
    """Flower's database holds tokens of running tasks, and the socket beside it obeys whoever opens it."""
    for path in (served.place.state.parent, served.place.private):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((served.place.state.parent / "own.sock").stat().st_mode) == 0o600


def test_another_users_command_says_whose_it_is(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` by the wrong user is told so, and not to start what runs already."""

    def ask() -> None:
        with fleet(served.place) as superlink:
            superlink.nodes()

    kind, said = as_user(NOBODY, ask)
    assert kind == CoordinatorError.__name__
    assert "the coordinator's own user" in said


@pytest.fixture
def shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, serving.Serving]]:
    """Serve where the system lets nobody make a network."""
    place = CoordinatorFolder(path=folder / "shared")
    config = init(place)
    monkeypatch.setattr(serving, "make_network", lambda: "not here")
    station, programs = serving.prepare(place, config, os.environ), Programs(place.logs, {})
    try:
        station.start(programs)
        with fleet(place) as superlink:
            await_superlink(superlink)
        yield Served(place, config, folder / "open" / "shared"), station
    finally:
        programs.stop()
        station.close()


def test_without_a_network_of_its_own_there_is_a_password(shared: tuple[Served, serving.Serving]) -> None:
    """Another user reaches the port then, which is said, and is asked for a secret that he cannot read."""
    served, station = shared
    assert "not here" in station.words()
    assert "every user of this machine" in station.words()
    said = {name: as_user(NOBODY, attempt) for name, attempt in served.attempts().items()}
    assert said.pop("dial the port")[0] == "done"
    for name in ("list the sites' keys", "register a key", "start a bundle of his own"):
        assert "401" in said[name][1], said
    assert "done" not in {outcome for outcome, _ in said.values()}, said
    time.sleep(TIME_TO_STRIKE_SECONDS)
    assert not served.mark.exists()
    with fleet(served.place) as superlink:
        assert superlink.nodes() == []


def test_a_user_who_is_not_root_can_have_a_network_too(folder: Path) -> None:
    """By a user namespace, where the system allows it; it has loopback, and no way out."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("another user may not run the Python of this environment, and there is no other")
    program = folder / "own_network.py"
    shutil.copy(Path(own_network.__file__), program)
    program.chmod(0o644)
    code = (
        f"import sys; sys.path.insert(0, {str(program.parent)!r}); import own_network as own, os, subprocess\n"
        "made = own.make_network()\n"
        "sys.exit(made) if isinstance(made, str) else None\n"
        "ask = 'import os, socket; print(os.geteuid(), [name for _, name in socket.if_nameindex()]); "
        'at = socket.create_server(("127.0.0.1", 0)); socket.create_connection(at.getsockname()); print("loopback")\'\n'
        "print(subprocess.run(made.inside([sys.executable, '-c', ask]), pass_fds=made.held, check=True, text=True,"
        " capture_output=True).stdout)"
    )
    done = subprocess.run([python, "-c", code], user=NOBODY, group=NOBODY, capture_output=True, text=True, timeout=60)
    if "lets this user make none" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.split("\n")[:2] == [f"{NOBODY} ['lo']", "loopback"], done.stderr


def test_a_taken_port_ends_serve_at_once_with_the_reason(folder: Path) -> None:
    """Before, the proxy was started again for ever, and why stood in a log."""
    place = CoordinatorFolder(path=folder / "taken")
    config = init(place)
    with socket.create_server(("127.0.0.1", config.address.port)):
        for words in (["serve"], ["serve", "proxy"]):
            command = [POLYCLINIC, "coordinator", *words, "--folder", place.path]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            assert done.returncode == CoordinatorError.exit_code
            assert f"port {config.address.port} of 127.0.0.1 is taken" in " ".join((done.stdout + done.stderr).split())


def test_without_a_server_the_commands_say_so(folder: Path) -> None:
    """Also where a socket is left from a server that was killed."""
    place = CoordinatorFolder(path=folder / "gone")
    init(place)
    place.state.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.own_socket))
    with fleet(place) as superlink, pytest.raises(FederationError, match="does not answer"):
        superlink.nodes()
