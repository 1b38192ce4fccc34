"""A site's three compartments on this machine: each with a user and a network of its own, which root makes."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from client.site import SiteConfig
from client.site_keys import SiteKeys
from shared.errors import DeviceError

ROLES = ("link", "courier", "agent")

NETWORK = "198.18"
"""Addresses for trials of network equipment (RFC 2544, appendix C.2.2), which nothing else is reached by."""

LINK_INSIDE, COURIER_INSIDE = "198.19.0.1", "198.19.0.2"
"""Where link and courier meet: the same at each site, since nobody but these two is on that wire."""

FIRST_USER, USERS = 300_000, 500
"""Users of the compartments: numbers that no distribution gives out (systemd's "Users, Groups, UIDs and GIDs")."""

KEPT_APART = (
    "Each hospital's link, courier and agent has a user and a network of its own; the agent's has no interface, and "
    "the courier's leads to its link alone."
)

TOOLS = ("ip", "setpriv", "mount")
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def obstacle() -> str | None:
    """Say why compartments cannot be made here; None where they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root may make users' and networks' compartments"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (on Debian: iproute2, util-linux)"
    trial = subprocess.run(  # noqa: S603  # words of our own
        [_tool("unshare"), "--net", "--mount", "true"], check=False, capture_output=True
    )
    return None if trial.returncode == 0 else "this kernel or container lets nobody make a network"


class Namespaces:
    """Three compartments a site: what a path's mode and a network without a way keep from them, they don't reach.

    The link has one wire to the coordinator and one to its courier; the courier has that one alone; the agent has none.
    Where a folder above a needed one is closed to other users, as root's own is, the compartment has an empty one in
    its place, with what it needs and nothing else.
    """

    def __init__(self, host: str | None = None) -> None:
        """Take an address for the coordinator: `host`, that of an earlier start, or one that is free here.

        Raises:
            DeviceError: the system refuses, or there is no free one.
        """
        self._number = _take_number() if host is None else int(host.split(".")[2])
        self.host = self.listen = f"{NETWORK}.{self._number}.1"
        self._sites: list[str] = []
        self._needs: dict[tuple[str, str], list[Path]] = {}
        self._stash = Path(tempfile.mkdtemp(prefix="pc"))

    def make(self, names: Iterable[str]) -> None:
        """Make the wires: a bridge at which the coordinator listens, and what each site has of it.

        Raises:
            DeviceError: the system refuses.
        """
        self._sites = sorted(names)
        bridge = self._bridge
        self._remove_namespaces()  # what a start that was killed left
        if not self._has_bridge():
            _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "replace", f"{self.host}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for place, name in enumerate(self._sites):
            link, courier = self.namespace(name, "link"), self.namespace(name, "courier")
            for role in ROLES:
                _ip("netns", "add", self.namespace(name, role))
            outside = f"{bridge}l{place}"
            _ip("link", "add", outside, "type", "veth", "peer", "name", "out", "netns", link)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("link", "set", outside, "type", "bridge_slave", "isolated", "on")  # no site hears another
            _ip("-n", link, "address", "add", f"{NETWORK}.{self._number}.{10 + place}/24", "dev", "out")
            _ip("-n", link, "link", "add", "in", "type", "veth", "peer", "name", "in", "netns", courier)
            for namespace, address in ((link, LINK_INSIDE), (courier, COURIER_INSIDE)):
                _ip("-n", namespace, "address", "add", f"{address}/30", "dev", "in")
                for wire in ("in", "lo"):
                    _ip("-n", namespace, "link", "set", wire, "up")
            _ip("-n", link, "link", "set", "out", "up")

    def own(self, name: str, config: SiteConfig, home: Path) -> None:
        """Give each compartment its files, as deploy/client/own.sh does; the bundle stays root's."""
        keys, link = SiteKeys(config.link.keys), config.link
        folder, agent_files = link.keys.parent, [keys.signing.parent, link.state, config.compute.cache]
        for path in (link.state, config.compute.cache):
            path.mkdir(parents=True, exist_ok=True)
        for path in (folder.parent, folder, link.sockets.parent, _made(link.sockets)):
            path.chmod(0o711)
        os.chown(link.sockets, self.user(name, "agent"), self.group(name))
        _give(keys.node.parent, self.user(name, "link"))
        _give(keys.courier_secret.parent, self.user(name, "courier"))
        for path in (*agent_files, config.data.dicom, config.data.labels):
            _give(path, self.user(name, "agent"), self.group(name))
        programs = [
            Path(sys.base_prefix),
            Path(sys.prefix),
            Path(__file__).parents[1],
            *map(Path, filter(None, sys.path)),
        ]
        own_files = {
            "link": [keys.node.parent],
            "courier": [keys.courier_secret.parent, home, link.sockets],
            "agent": [folder / "site.toml", *agent_files, config.data.dicom, config.data.labels, link.sockets],
        }
        for role, files in own_files.items():
            self._needs[name, role] = [path.resolve() for path in (*programs, *files) if path.exists()]

    def inside(self, name: str, role: str, command: Sequence[str]) -> list[str]:
        """Say how a command is run in a compartment: the process that is started is the command itself."""
        group = str(self.user(name, "link") if role == "link" else self.group(name))
        user = ["setpriv", "--reuid", str(self.user(name, role)), "--regid", group, "--clear-groups"]
        rights = ["--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all"]
        become = shlex.join(["exec", *user, *rights, "env", "HOME=/", *command])
        script = "\n".join(["set -e", f"PATH=$PATH:{PATH}", *self._opened(self._needs[name, role]), become])
        return [_tool("ip"), "netns", "exec", self.namespace(name, role), "/bin/sh", "-c", script]

    def runtime(self, name: str) -> str:
        """Meet on the wire between link and courier."""
        return LINK_INSIDE

    def remove(self) -> None:
        """Remove the networks; files keep their owners, and root reads them all."""
        self._remove_namespaces()
        if self._has_bridge():
            _ip("link", "delete", self._bridge)
        shutil.rmtree(self._stash, ignore_errors=True)

    def namespace(self, name: str, role: str) -> str:
        """Name a compartment's network."""
        return f"{self._bridge}-{self._sites.index(name)}-{role}"

    def user(self, name: str, role: str) -> int:
        """Give the number of a compartment's user."""
        return FIRST_USER + USERS * self._number + 3 * self._sites.index(name) + ROLES.index(role)

    def group(self, name: str) -> int:
        """Give the number of the group in which a site's courier and agent are: it may open the agent's socket."""
        return self.user(name, "agent")

    @property
    def _bridge(self) -> str:
        return f"pc{self._number}"

    def _remove_namespaces(self) -> None:
        for wire in [name for name in self._wires() if name.startswith(f"{self._bridge}l")]:
            _ip("link", "delete", wire)  # a wire would go with its namespace too, but only some time later
        listed = json.loads(_ip("-j", "netns", "list") or "[]")
        for namespace in [entry["name"] for entry in listed if entry["name"].startswith(f"{self._bridge}-")]:
            _ip("netns", "delete", namespace)

    def _has_bridge(self) -> bool:
        return self._bridge in self._wires()

    def _wires(self) -> list[str]:
        return [entry["ifname"] for entry in json.loads(_ip("-j", "link", "show"))]

    def _opened(self, needs: Sequence[Path]) -> list[str]:
        """Say how needed files below closed folders are shown in place, in a view that ends with the process."""
        below: dict[Path, list[Path]] = {}
        for need in sorted(set(needs)):
            inner = any(need.is_relative_to(found) for found in below.get(_closed_above(need) or need, ()))
            if (closed := _closed_above(need)) and not inner:
                below.setdefault(closed, []).append(need)
        lines, places = [], {}
        for number, need in enumerate(need for found in below.values() for need in found):
            places[need] = self._stash / str(number)
            _made(places[need]) if need.is_dir() else places[need].touch()
            lines.append(shlex.join(["mount", "--bind", str(need), str(places[need])]))
        for closed, found in below.items():
            lines.append(shlex.join(["mount", "-t", "tmpfs", "-o", "mode=0711", "tmpfs", str(closed)]))
            for need in found:
                folder = need if need.is_dir() else need.parent
                lines.append(shlex.join(["mkdir", "-p", str(folder)]))
                lines += [] if need.is_dir() else [shlex.join(["touch", str(need)])]
                lines.append(shlex.join(["mount", "--bind", str(places[need]), str(need)]))
        return lines


def _closed_above(path: Path) -> Path | None:
    """Give the topmost folder above a path that other users cannot pass."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def _give(path: Path, user: int, group: int | None = None) -> None:
    """Give a file or folder to one user, and take it from everybody else."""
    for entry in [path, *path.rglob("*")]:
        os.chown(entry, user, user if group is None else group, follow_symlinks=False)
        if not entry.is_symlink():
            entry.chmod(0o700 if entry.is_dir() else 0o600)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _take_number() -> int:
    """Take the first number whose bridge nobody has, by making it: two who come at once get different ones."""
    for number in range(1, 255):
        taken = subprocess.run(  # noqa: S603  # words of our own
            [_tool("ip"), "link", "add", f"pc{number}", "type", "bridge"], check=False, capture_output=True, text=True
        )
        if taken.returncode == 0:
            return number
        if "File exists" not in taken.stderr:
            break
    raise DeviceError(
        f"no network for compartments can be made: {taken.stderr.strip()}. Run as another user than root."
    )


def _tool(name: str) -> str:
    return shutil.which(name, path=PATH) or name


def _ip(*words: str) -> str:
    done = subprocess.run([_tool("ip"), *words], check=False, capture_output=True, text=True)  # noqa: S603  # words of our own
    if done.returncode:
        raise DeviceError(f"ip {' '.join(words)}: {done.stderr.strip()}. Run as another user than root to do without.")
    return done.stdout
