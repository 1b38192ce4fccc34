"""What a site's position reaches of a real coordinator: ten paths and no more, with an enrolled key and no other."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import flwr
import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from server import coordinator
from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from server.enrolment import Register
from server.fleet import Fleet, fleet
from server.programs import Programs
from server.proxy import FLEET_PATHS
from server.serving import Serving, prepare
from shared.errors import CoordinatorError, FederationError
from shared.invitation import PublicKeys
from shared.signing import SigningKey
from simulations.local_federation import await_superlink, free_port

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="nginx is not installed (on Debian: apt-get install nginx-light)",
)


@dataclass
class Door:
    """A running coordinator without ServerApps; `outside` is its address as a site has it."""

    place: CoordinatorFolder
    config: CoordinatorConfig
    programs: Programs
    serving: Serving

    @property
    def outside(self) -> str:
        return f"localhost:{self.config.address.port}"

    def answers(self, method: str, path: str) -> int:
        """Give the status with which a path answers an empty request."""
        context = ssl.create_default_context(cafile=str(self.place.ca))
        url = f"https://{self.outside}{path}"
        protobuf = {"Content-Type": PROTOBUF_MEDIA_TYPE}
        request = urllib.request.Request(url, method=method, data=b"", headers=protobuf)
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as fault:
            return fault.code

    def offered(self) -> dict[str, Any]:
        """List all paths of the SuperLink, each with its methods."""
        return dict(json.loads(self._inside("GET", ["/openapi.json"])["/openapi.json"][1])["paths"])

    def answers_inside(self, method: str, paths: list[str]) -> dict[str, int]:
        """Give the statuses with which the SuperLink itself answers empty requests on its own network."""
        return {path: status for path, (status, _) in self._inside(method, paths).items()}

    def _inside(self, method: str, paths: list[str]) -> dict[str, Any]:
        port, network = self.config.superlink.port, self.serving.network
        words = [sys.executable, "-c", ASK, str(self.place.ca), str(port), method, *paths]
        held = () if isinstance(network, str) else network.held
        command = words if isinstance(network, str) else network.inside(words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, pass_fds=held)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


ASK = """
import json, ssl, sys, urllib.error, urllib.request
ca, port, method, *paths = sys.argv[1:]
context, found = ssl.create_default_context(cafile=ca), {}
for path in paths:
    url = f"https://127.0.0.1:{port}{path.replace('{', 'x').replace('}', 'x')}"
    body = b"" if method == "POST" else None
    request = urllib.request.Request(url, method=method, data=body, headers={"Content-Type": "application/protobuf"})
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as reply:
            found[path] = reply.status, reply.read().decode(errors="replace")
    except urllib.error.HTTPError as fault:
        found[path] = fault.code, ""
print(json.dumps(found))
"""
"""Asks the SuperLink for some paths, from its own network."""


def outside_client(door: Door) -> ControlHttpClient:
    """Make the client that the coordinator uses, for the sites' address."""
    interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    return ControlHttpClient.from_server_address(door.outside, False, door.place.ca.read_bytes(), interceptors)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Start a SuperLink and its proxy on loopback."""
    place = CoordinatorFolder(path=tmp_path_factory.mktemp("door") / "coordinator")
    settings = {
        "address": {"host": "localhost", "port": free_port(), "listen": "127.0.0.1"},
        "sites": {"names": ["north", "south"]},
        "superlink": {"port": free_port()},
    }
    config = coordinator.make_folder(place, settings, now=datetime.now(UTC))
    programs, serving = Programs(place.logs, {}), prepare(place, config, os.environ)
    try:
        serving.start(programs, ("superlink", "proxy"))
        with fleet(place) as superlink:
            await_superlink(superlink)
        yield Door(place, config, programs, serving)
    finally:
        programs.stop()
        serving.close()


@pytest.fixture
def superlink(door: Door) -> Iterator[Fleet]:
    with fleet(door.place) as found:
        yield found


@dataclass
class Link:
    """What a SuperNode is to the SuperLink: a key."""

    key: ec.EllipticCurvePrivateKey

    @property
    def line(self) -> str:
        encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        return self.key.public_key().public_bytes(encoding, form).decode()

    def papers(self, site: str) -> PublicKeys:
        return PublicKeys(site=site, node=self.line, signing=SigningKey.draw().public)

    def activate(self, door: Door) -> int:
        """Do what a SuperNode does first."""
        with self.client(door) as client:
            public = public_key_to_bytes(self.key.public_key())
            return client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30)).node_id

    def pull(self, door: Door, node_id: int) -> int:
        """Ask for messages, and count them."""
        with self.client(door) as client:
            return len(client.PullMessages(PullMessagesRequest(node=Node(node_id=node_id))).messages_list)

    def client(self, door: Door) -> FleetHttpClient:
        return FleetHttpClient.from_server_address(
            door.outside,
            False,
            door.place.ca.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(self.key, self.key.public_key()),
            ],
        )


@pytest.fixture
def link() -> Link:
    return Link(ec.generate_private_key(ec.SECP384R1()))


def test_the_paths_are_those_that_flowers_link_calls() -> None:
    """Read in flwr's own source: what a SuperNode calls, less registering and unregistering itself."""
    folder = Path(flwr.__file__).parent / "supernode"
    paths = set(re.findall(r'"/v1/fleet/([a-z-]+)"', (folder / "fleet_http_client.py").read_text()))
    assert paths - {"register-node", "unregister-node"} == set(FLEET_PATHS)
    assert len(FLEET_PATHS) == 10


@needs_nginx
def test_only_the_ten_paths_answer_from_outside(door: Door) -> None:
    """Of all that the SuperLink offers, ten paths reach it, by POST alone; each of the others is not there."""
    offered = door.offered()
    assert len(offered) > 50
    reached = set()
    for path, methods in offered.items():
        for method in (*(name.upper() for name in methods), "GET", "PUT", "DELETE"):
            status = door.answers(method, path.replace("{", "x").replace("}", "x"))
            if status not in (403, 404, 405):
                reached.add((method, path))
    assert reached == {("POST", f"/v1/fleet/{name}") for name in FLEET_PATHS}
    for trick in (
        "/v1/fleet/../control/start-run",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1/fleet/%2e%2e/control/start-run",
        "//v1/control/start-run",
        "/v1/fleet/pull-messages%2f..%2f..%2fcontrol%2flist-runs",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/",
        "/docs",
        "/openapi.json",
        "/health",
    ):
        assert door.answers("POST", trick) == 404, trick


@needs_nginx
def test_a_run_can_neither_be_started_nor_stopped_nor_listed_from_outside(door: Door) -> None:
    """The very client that the coordinator uses, with the right certificate, finds nothing at the sites' address."""
    with outside_client(door) as client:
        found = Fleet(client)
        for attempt in (
            lambda: found.start(door.place.bundle.read_bytes(), "x"),
            lambda: found.stop(1),
            lambda: found.nodes(),
            lambda: found.register(b"key", "rogue"),
            lambda: found.unregister(1),
        ):
            with pytest.raises((FederationError, CoordinatorError), match="404"):
                attempt()


@needs_nginx
def test_who_starts_server_apps_must_know_the_secret(door: Door) -> None:
    """Even beside the SuperLink, behind the proxy, nobody takes a run's task without the superexec's secret."""
    assert door.answers_inside("POST", ["/v1/runtime/acquire-task"]) == {"/v1/runtime/acquire-task": 401}
    assert door.answers("POST", "/v1/runtime/acquire-task") == 404


@needs_nginx
def test_behind_the_proxy_no_path_is_open_without_a_key_or_a_secret(door: Door) -> None:
    """Beside the SuperLink, too, one is asked who one is: only its health and its manual answer anybody."""
    answered = door.answers_inside("POST", list(door.offered())) | door.answers_inside("GET", ["/health", "/docs"])
    assert {path for path, status in answered.items() if status < 400} == {"/health", "/docs"}
    control = {path: status for path, status in answered.items() if path.startswith("/v1/control/")}
    assert len(control) > 20
    assert {status for path, status in control.items() if "auth" not in path and "login" not in path} == {401}


@needs_nginx
def test_an_enrolled_key_enters_and_no_other_does(door: Door, superlink: Fleet, link: Link) -> None:
    """Unknown: refused. Enrolled: admitted. Revoked: refused at once, also in the middle of its session, for ever."""
    with pytest.raises(httpx.HTTPStatusError) as unknown:
        link.activate(door)
    assert unknown.value.response.status_code == 412  # "precondition failed": no such node
    papers = link.papers("north")
    assert coordinator.enroll(door.place, papers, superlink) == "enrolled"
    node = link.activate(door)
    assert link.pull(door, node) == 0
    coordinator.revoke(door.place, "north", superlink)
    with pytest.raises(httpx.HTTPStatusError) as revoked:
        link.pull(door, node)
    assert revoked.value.response.status_code in (401, 403, 404)
    with pytest.raises(httpx.HTTPStatusError):
        link.activate(door)
    with pytest.raises(CoordinatorError, match="revoked stays so"):
        coordinator.enroll(door.place, papers, superlink)
    with pytest.raises(CoordinatorError, match="not enrolled: north"):
        Register(door.place.sites).of(["north"])


@needs_nginx
def test_an_enrolled_key_speaks_for_its_own_site_alone(door: Door, superlink: Fleet, link: Link) -> None:
    """With another site's node number it gets nothing: no task of that site, no answer in its name, no farewell."""
    other = Link(ec.generate_private_key(ec.SECP384R1()))
    coordinator.enroll(door.place, link.papers("north"), superlink, replace="north")  # an earlier test's, at this door
    coordinator.enroll(door.place, other.papers("south"), superlink, replace="south")
    own, foreign = link.activate(door), other.activate(door)
    with link.client(door) as client:
        for attempt in (
            lambda: client.PullMessages(PullMessagesRequest(node=Node(node_id=foreign))),
            lambda: client.PushMessages(PushMessagesRequest(node=Node(node_id=foreign))),
            lambda: client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=Node(node_id=foreign))),
            lambda: client.PullObject(PullObjectRequest(node=Node(node_id=foreign))),
            lambda: client.PushObject(PushObjectRequest(node=Node(node_id=foreign))),
            lambda: client.DeactivateNode(DeactivateNodeRequest(node_id=foreign)),
        ):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                attempt()
            assert refused.value.response.status_code == 401
    assert (link.pull(door, own), other.pull(door, foreign)) == (0, 0)


@needs_nginx
def test_rotated_keys_take_the_place_of_the_old_ones(door: Door, superlink: Fleet, link: Link) -> None:
    """Once somebody named the site, and not before, the new link enters and the old one is out; it has one record."""
    new = Link(ec.generate_private_key(ec.SECP384R1()))
    coordinator.enroll(door.place, link.papers("south"), superlink, replace="south")  # an earlier test's, at this door
    old_node = link.activate(door)
    with pytest.raises(CoordinatorError, match="--replace south"):
        coordinator.enroll(door.place, new.papers("south"), superlink)
    assert link.pull(door, old_node) == 0
    replaced = coordinator.enroll(door.place, new.papers("south"), superlink, replace="south")
    assert replaced == "enrolled with new keys"
    with pytest.raises(httpx.HTTPStatusError):
        link.pull(door, old_node)
    node = new.activate(door)
    assert node != old_node
    assert Register(door.place.sites).of(["south"])["south"].node_id == node


@needs_nginx
def test_a_site_that_nobody_named_is_not_enrolled(door: Door, superlink: Fleet, link: Link) -> None:
    """A run goes to the sites in coordinator.toml; keys of others are not even taken in."""
    with pytest.raises(CoordinatorError, match=r"\[sites\] names"):
        coordinator.enroll(door.place, link.papers("east"), superlink)


@needs_nginx
def test_reconciling_makes_the_superlink_agree_with_the_records(door: Door, superlink: Fleet, link: Link) -> None:
    """A key that stands in no record is thrown out; a record whose key is unknown is registered again."""
    stranger = Link(ec.generate_private_key(ec.SECP384R1()))
    superlink.register(public_key_to_bytes(stranger.key.public_key()), "stranger")
    assert stranger.activate(door)
    Register(door.place.sites).reconcile(superlink)
    with pytest.raises(httpx.HTTPStatusError):
        stranger.activate(door)
    known = {node.node_id for node in superlink.nodes()}
    wanted = {record.node_id for record in Register(door.place.sites).records().values() if not record.revoked}
    assert known == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of a process in /proc")
@needs_nginx
def test_nothing_is_reported_or_installed(door: Door) -> None:
    """Telemetry, update checks and the installation of what a bundle asks for are off in Flower's programs.

    (nginx writes its title over its environment, and looks for nothing.)
    """
    for name, process in door.programs.running.items():
        if name == "proxy":
            continue
        own = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        assert b"FLWR_TELEMETRY_ENABLED=0" in own, name
        assert b"FLWR_DISABLE_UPDATE_CHECK=1" in own, name
        assert b"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in own, name


@needs_nginx
def test_a_run_that_flower_has_forgotten_is_told_from_a_refusal(door: Door, superlink: Fleet) -> None:
    """After a restore Flower knows no run: that is an answer, and stopping such a run does nothing."""
    assert superlink.state(12345) is None
    superlink.stop(12345)
