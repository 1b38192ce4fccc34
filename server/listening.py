"""The coordinator's two ways in: the one port that sites reach, and a socket that its own commands use."""

import errno
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from server.coordinator_config import Address
from shared.errors import CoordinatorError

BACKLOG = 511
"""nginx's own."""

FIRST_PASSED = 3
"""The first file that systemd passes on (sd_listen_fds(3))."""

LONGEST_NAME = 100
"""A socket's name has 107 bytes on Linux, and 103 elsewhere (unix(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """The two sockets, open: nginx takes them over, so that it may run where it could open no port to the world."""

    port: socket.socket
    own: socket.socket

    @property
    def held(self) -> tuple[int, ...]:
        """The open files that the proxy needs."""
        return (self.port.fileno(), self.own.fileno())

    @property
    def variables(self) -> dict[str, str]:
        """What tells nginx to take them over; it does so by this variable when it replaces itself."""
        return {"NGINX": "".join(f"{file};" for file in self.held)}

    @property
    def listen(self) -> str:
        """The port as nginx writes it."""
        host, port = self.port.getsockname()[:2]
        return f"{_bracketed(host)}:{port}"

    @property
    def own_name(self) -> str:
        """The commands' socket as it was bound."""
        return str(self.own.getsockname())

    def close(self) -> None:
        """Close both."""
        self.port.close()
        self.own.close()


def open_doors(address: Address, own: Path, variables: Mapping[str, str]) -> Doors:
    """Open both; the port may have been opened by systemd, and passed on.

    Raises:
        CoordinatorError: the port is taken, may not be opened, or is another one than systemd opened.
    """
    port = _passed_on(address, variables) or _open_port(address)
    try:
        return Doors(port=port, own=_open_own(own))
    except BaseException:
        port.close()
        raise


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Give a name of a socket that is short enough for the system, however long the path is."""
    if len(os.fsencode(path)) <= LONGEST_NAME or not hasattr(os, "O_PATH"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _passed_on(address: Address, variables: Mapping[str, str]) -> socket.socket | None:
    if variables.get("LISTEN_PID") != str(os.getpid()) or variables.get("LISTEN_FDS") != "1":
        return None
    port = socket.socket(fileno=FIRST_PASSED)
    if (opened := port.getsockname()[1]) != address.port:
        raise CoordinatorError(
            f"polyclinic-proxy.socket opened port {opened}, and [address] port is {address.port}. Write the same into "
            "both, and restart the socket."
        )
    return port


def _open_port(address: Address) -> socket.socket:
    where = f"port {address.port} of {address.listen}"
    try:
        family, kind, _, _, name = socket.getaddrinfo(address.listen, address.port, type=socket.SOCK_STREAM)[0]
    except OSError as fault:
        raise CoordinatorError(f"[address] listen: {address.listen} is no address here ({fault.strerror}).") from None
    port = socket.socket(family, kind)
    try:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(name)
        port.listen(BACKLOG)
    except OSError as fault:
        port.close()
        raise CoordinatorError(_why(fault, where)) from None
    return port


def _why(fault: OSError, where: str) -> str:
    match fault.errno:
        case errno.EADDRINUSE:
            return f"{where} is taken by another program: another `serve`? End it, or choose another [address] port."
        case errno.EACCES:
            return f"{where} may not be opened by this user: ports below 1024 are root's. See the runbook, part 2."
        case errno.EADDRNOTAVAIL:
            return f"{where} cannot be opened: this machine has no such address. Correct [address] listen."
    return f"{where} cannot be opened ({fault.strerror})."


def _open_own(path: Path) -> socket.socket:
    """Open the commands' socket: in a folder of its owner's alone, in place of what an earlier program left there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    own = socket.socket(socket.AF_UNIX)
    try:
        with short_name(path) as name:
            own.bind(name)
            path.chmod(0o600)
        own.listen(BACKLOG)
    except OSError as fault:
        own.close()
        raise CoordinatorError(f"{path}: cannot be made ({fault}). Choose another --folder.") from None
    return own


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
