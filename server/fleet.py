"""SuperLink and its nodes: how they are started, which keys they know, and Flower's runs."""

import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext

from server.bundle import bundle_digest
from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import COORDINATOR_VARIABLE, CoordinatorFolder
from server.listening import short_name
from shared.direct import no_proxies, without_proxies
from shared.errors import CoordinatorError, FederationError

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Nothing is reported, looked up or installed by any program that the coordinator starts."""

NO_ANSWER = "the SuperLink does not answer ({fault}). Start it with `polyclinic coordinator serve`."

NOBODY_BEHIND = (502, 504)
"""What the proxy says where the SuperLink does not answer it (RFC 9110, 15.6.3 and 15.6.5)."""


class RefusedBySuperLinkError(FederationError):
    """The SuperLink, or a proxy before it, refused what was asked; `code` is Flower's own, None where it gave none."""

    def __init__(self, message: str, *, code: int | None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One key that the SuperLink knows; `online` means that its site's link was heard within the last minute."""

    node_id: int
    public_key: bytes
    online: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerRun:
    """Where one of Flower's runs stands; a study's run may need several, one after the other."""

    finished: bool
    completed: bool
    details: str


def environment(folder: CoordinatorFolder, inherited: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of the coordinator's programs, which call only one another; Flower finds its by PATH."""
    scripts = str(Path(sys.executable).parent)
    return {
        **without_proxies(inherited),
        **QUIET,
        "PATH": f"{scripts}:{inherited.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "FLWR_HOME": str(folder.flower_home.resolve()),
        COORDINATOR_VARIABLE: str(folder.path.resolve()),
    }


def superlink_command(folder: CoordinatorFolder, config: CoordinatorConfig) -> list[str]:
    """Say how the SuperLink is started: only enrolled keys, its state on disk, and no process of its own."""
    return [
        *(sys.executable, "-m", "server.superlink"),
        *("--ssl-ca-certfile", str(folder.ca.resolve())),
        *("--ssl-certfile", str(folder.server_certificate.resolve())),
        *("--ssl-keyfile", str(folder.server_key.resolve())),
        "--enable-supernode-auth",
        *("--database", str(folder.state.resolve())),
        *("--host", config.superlink.host),
        *("--port", str(config.superlink.port)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(folder.secret.resolve())),
        "--disable-runtime-dependency-installation",
    ]


def superexec_command(folder: CoordinatorFolder, config: CoordinatorConfig) -> list[str]:
    """Say how the process is started that starts ServerApps; its secret lets it, and nobody else, take a run."""
    return [
        str(Path(sys.executable).parent / "flower-superexec"),
        *("--runtime-api-address", f"{config.superlink.host}:{config.superlink.port}"),
        *("--root-certificates", str(folder.ca.resolve())),
        *("--superexec-auth-secret-file", str(folder.secret.resolve())),
    ]


def node_key(line: str) -> bytes:
    """Read a node's public key, a line of OpenSSH, as the SuperLink stores it.

    Raises:
        CoordinatorError: it is no key of the curve P-384.
    """
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CoordinatorError("the node's public key cannot be read. Ask the site for a new `polyclinic site keys`.")
    return bytes(public_key_to_bytes(key))


class Fleet:
    """Talks to the SuperLink's Control API, which only the coordinator's side of the proxy reaches.

    Every method raises FederationError where the SuperLink does not answer.
    """

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> list[Node]:
        """List the keys that are enrolled and not revoked."""
        with _spoken():
            response = self._client.ListNodes(ListNodesRequest())
        return [
            Node(node_id=node.node_id, public_key=bytes(node.public_key), online=node.status == "online")
            for node in response.nodes_info
            if node.status != "unregistered"
        ]

    def register(self, public_key: bytes, name: str) -> int:
        """Enrol a node's key and give its node id; a key that was ever revoked cannot come back."""
        try:
            with _spoken():
                response = self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))
        except RefusedBySuperLinkError as fault:
            raise CoordinatorError(f"{name}: {fault} A key that was revoked stays so: ask for new ones.") from None
        return response.node_id

    def unregister(self, node_id: int) -> None:
        """Revoke a node's key; its link is refused from its next request on."""
        with _spoken():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start(self, bundle: bytes, run: str) -> int:
        """Start one of Flower's runs for a study's run, and give its id."""
        fab = Fab(bundle_digest(bundle), bundle, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({"run": run}))
        with _spoken():
            response = self._client.StartRun(request)
        if not response.HasField("run_id"):
            raise FederationError("the SuperLink did not start the run. See logs/superlink.log.")
        return response.run_id

    def state(self, run_id: int) -> FlowerRun | None:
        """Say where a run stands; None where the SuperLink does not know it."""
        try:
            with _spoken():
                found = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        except RefusedBySuperLinkError as fault:
            if fault.code == ApiErrorCode.RUN_ID_NOT_FOUND:  # after a restore Flower's own state begins anew
                return None
            raise
        status = found[run_id].status
        return FlowerRun(
            finished=status.status == "finished",
            completed=status.sub_status == "completed",
            details=status.details,
        )

    def stop(self, run_id: int) -> None:
        """Stop a run; one that has ended already is left as it is."""
        state = self.state(run_id)
        if state and not state.finished:
            with _spoken():
                self._client.StopRun(StopRunRequest(run_id=run_id))


@contextmanager
def fleet(folder: CoordinatorFolder) -> Iterator[Fleet]:
    """Connect to the coordinator's SuperLink, by the socket that only the coordinator's own user may open.

    Raises:
        CoordinatorError: this user may not.
    """
    if not os.access(folder.private, os.X_OK):
        raise CoordinatorError(f"{folder.private} is another user's. Run this command as the coordinator's own user.")
    secret = folder.control_secret.read_text(encoding="ascii") if folder.control_secret.exists() else ""
    with short_name(folder.own_socket) as name:
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        client = _BySocket(name, [version, _Secret(secret), _OneAnswer(), _Knock(name)])
        try:
            yield Fleet(client)
        finally:
            client.close()


class _BySocket(ControlHttpClient):
    """Flower's client over a unix socket, which no web proxy of the environment is asked for."""

    def __init__(self, name: str, interceptors: Sequence[ProtobufClientInterceptor]) -> None:
        with no_proxies():
            super().__init__("http://superlink", interceptors=interceptors)
            self._client.close()
            self._client = httpx.Client(transport=httpx.HTTPTransport(uds=name), timeout=30.0)


class _Knock:
    """Finds out whether anybody listens before httpx does, which leaves a socket open if not (httpcore 1.0)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        with socket.socket(socket.AF_UNIX) as knock:
            try:
                knock.connect(self._name)
            except OSError as fault:
                raise httpx.ConnectError(str(fault), request=context.request) from None
        return call_next(context)


class _Secret:
    """Shows the coordinator's secret with each request."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["authorization"] = f"Bearer {self._secret}"
        return call_next(context)


class _OneAnswer:
    """Asks for a connection that ends with its answer.

    The SuperLink closes one that was idle for 5 s (uvicorn's default), and a request that is sent just then gets no
    answer: a run that is asked after every 15 s would fail some day without a fault of anybody's.
    """

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["connection"] = "close"
        return call_next(context)


@contextmanager
def _spoken() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as fault:
        if fault.response.status_code in NOBODY_BEHIND:
            raise FederationError(NO_ANSWER.format(fault=f"the proxy says {fault.response.status_code}")) from None
        said = fault.response.text[:200]
        told = FlowerError.from_json(fault.response.text)
        raise RefusedBySuperLinkError(
            f"the SuperLink refused ({fault.response.status_code}: {said}).", code=told.code if told else None
        ) from None
    except httpx.HTTPError as fault:
        raise FederationError(NO_ANSWER.format(fault=type(fault).__name__)) from None
