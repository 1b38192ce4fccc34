"""A network of their own for the coordinator's programs, with loopback and nothing else; a small program of its own.

Flower's Control API has no password (flwr 1.41: only its paid edition does): whoever reaches the SuperLink's port can
start a run, with code of his own. So nobody else's process may be on that loopback: Linux keeps each network's apart
(network_namespaces(7)), and lets in only who may (setns(2)): root, or the user who made it.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NEW_USER, NEW_NETWORK = 0x1000_0000, 0x4000_0000
"""CLONE_NEWUSER and CLONE_NEWNET (linux/sched.h)."""

READ_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1
"""SIOCGIFFLAGS, SIOCSIFFLAGS (linux/sockios.h) and IFF_UP (linux/if.h): see netdevice(7)."""

READY = "made\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNetwork:
    """One network, there as long as this process holds it or another one runs in it; `held` are open files of it."""

    held: tuple[int, ...]

    def inside(self, command: Sequence[str]) -> list[str]:
        """Say how a command is run in it, by a process that was given `held`; it becomes the command itself."""
        return [sys.executable, "-I", "-S", __file__, *map(str, self.held), "--", *command]

    def close(self) -> None:
        """Let it go."""
        for file in self.held:
            os.close(file)


def make_network() -> OwnNetwork | str:
    """Make a network, or say why none can be made here."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has none"
    with subprocess.Popen(  # noqa: S603  # words of our own
        [sys.executable, "-I", "-S", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as maker:
        if maker.stdout is None or maker.stderr is None:
            raise AssertionError("both are pipes")
        if (said := maker.stdout.readline()) != READY:
            return said.strip() or maker.stderr.read().strip().rpartition("\n")[2]
        held: list[int] = []
        for kind in ("user", "net"):
            there, here = (Path(f"/proc/{process}/ns/{kind}") for process in (maker.pid, "self"))
            if there.readlink() != here.readlink():
                held.append(os.open(there, os.O_RDONLY))
    return OwnNetwork(held=tuple(held))


def _make() -> None:
    """Move this process into a new network, tell so, and stay until its files are open."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(NEW_NETWORK):
        if libc.unshare(NEW_USER | NEW_NETWORK):  # what a user may who is not root, where the system allows it
            sys.exit(f"the system lets this user make none ({os.strerror(ctypes.get_errno())})")
        with suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        wire = struct.pack("16sh", b"lo", 0).ljust(40, b"\0")
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, READ_FLAGS, wire), 16)
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh", b"lo", flags | UP).ljust(40, b"\0"))
    sys.stdout.write(READY)
    sys.stdout.flush()
    sys.stdin.read()


def _join(held: Sequence[str], command: list[str]) -> None:
    """Move this process into a network, and become a command there."""
    libc = ctypes.CDLL(None, use_errno=True)
    for file in map(int, held):
        if libc.setns(file, 0):
            sys.exit(f"the coordinator's network cannot be entered ({os.strerror(ctypes.get_errno())})")
        os.close(file)
    os.execvp(command[0], command)  # noqa: S606  # words of our own


if __name__ == "__main__":
    if len(sys.argv) == 1:
        _make()
    else:
        _join(sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :])
