"""Starts the two stock Flower programs of a site, link and courier, with the flags that keep them apart."""

import errno
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from client.site import SiteConfig
from client.site_keys import ADDRESS, SiteKeys
from shared.audit import now
from shared.direct import without_proxies
from shared.errors import MissingPartError, SiteError
from shared.invitation import CA
from shared.relay import AGENT_SOCKET

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONSAFEPATH": "1",
}
"""Nothing is reported, looked for or installed, and no module is taken from the folder that a program starts in."""


def run_courier(config: SiteConfig, *, runtime: str, home: Path | None) -> None:
    """Become flower-superexec: it starts the pre-installed bundle's ClientApp for each message.

    It calls the link and the agent, on this machine, and nobody else: of a web proxy it is told nothing.

    Raises:
        MissingPartError: flower-superexec is not installed here.
    """
    keys = SiteKeys(config.link.keys)
    where = {"FLWR_HOME": str(home.resolve())} if home else {}
    own = {AGENT_SOCKET: str(config.link.agent_socket.resolve()), **where}
    _become(courier_command(keys, runtime=runtime), without_proxies(os.environ) | own)


def run_link(config: SiteConfig, *, runtime: str, study: str | None) -> None:
    """Become flower-supernode, stock: it holds the node key and never runs what was shipped.

    It calls the coordinator, through the hospital's web proxy where HTTPS_PROXY names one. After Flower's own words
    for a fault come ours. A coordinator that does not answer is asked again, without a word: here that is told first.

    Raises:
        SiteError: no approved study is here, or studies of several coordinators are; or the runtime port is taken.
        MissingPartError: flower-supernode is not installed here.
    """
    from client.coordinators_clock import check_clock  # a courier has no use for it, and starts without
    from client.link_words import listen

    command = link_command(SiteKeys(config.link.keys), runtime=runtime, study=study)
    refuse_taken(runtime)
    address, ca = (command[command.index(word) + 1] for word in ("--superlink", "--root-certificates"))
    if unreached := check_clock(address, Path(ca), now=now()):
        print(f"polyclinic: {unreached}", file=sys.stderr, flush=True)
    _become(command, os.environ, begin=listen)


def refuse_taken(runtime: str) -> None:
    """Refuse a runtime address that another program has: Flower would end in a traceback.

    Raises:
        SiteError: it is taken, or cannot be opened here.
    """
    host, _, port = runtime.rpartition(":")
    try:
        number = int(port) if port.isdecimal() and int(port) < 1 << 16 else None
        if number is None:
            raise OSError(errno.EINVAL, "it is no HOST:PORT")
        with socket.create_server((host.strip("[]"), number), family=_family(host)):
            pass
    except OSError as fault:
        why = fault.strerror
        raise SiteError(
            f"the runtime address {runtime} cannot be opened ({why}). Does another link run here? Stop it, or give "
            "link and courier another --runtime."
        ) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def courier_command(keys: SiteKeys, *, runtime: str) -> list[str]:
    """Write the courier's command; the runtime port is this site's own, and not TLS."""
    return [
        "flower-superexec",
        *("--runtime-api-address", runtime, "--insecure"),
        *("--superexec-auth-secret-file", str(keys.courier_secret)),
    ]


def link_command(keys: SiteKeys, *, runtime: str, study: str | None) -> list[str]:
    """Write the link's command, from what an approval left in the link's own folder.

    Raises:
        SiteError: it holds no approved study of this digest, or studies of several coordinators.
    """
    found = _coordinator(keys, study)
    host, _, port = runtime.rpartition(":")
    return [
        "flower-supernode",
        *("--superlink", _address(found)),
        *("--root-certificates", str(found / CA)),
        *("--auth-supernode-private-key", str(keys.node)),
        *("--host", host, "--port", port, "--isolation", "process"),
        *("--superexec-auth-secret-file", str(keys.link_secret)),
    ]


def _coordinator(keys: SiteKeys, study: str | None) -> Path:
    """Find whom to call, as long as all approved studies are of one coordinator, which is known by its address.

    Each has the authority of that coordinator's last invitation (client/approving.py).
    """
    found = sorted(path.parent for path in keys.node.parent.glob(f"{study or ''}*/{ADDRESS}"))
    if not found:
        which = f"no approved study's digest begins with {study!r}" if study else "no study is approved"
        raise SiteError(f"{which} here. See `polyclinic site status`, or `approve` an invitation.")
    if len({_address(folder) for folder in found}) > 1:
        names = ", ".join(f"{folder.name} at {_address(folder)}" for folder in found)
        raise SiteError(
            f"approved studies are of several coordinators ({names}), and a link calls one. Start one link and one "
            "courier for each, with a --runtime port of its own; name the link's study by --study and its digest's "
            "beginning."
        )
    return found[0]


def _address(folder: Path) -> str:
    return (folder / ADDRESS).read_text(encoding="ascii").strip()


def _become(command: list[str], environment: Mapping[str, str], *, begin: Callable[[], None] = lambda: None) -> None:
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else shutil.which(command[0])
    if program is None:
        raise MissingPartError(f"{command[0]} is not installed here. pip install polyclinic")
    begin()
    os.execve(program, command, {**environment, **QUIET})  # noqa: S606  # no shell, and no word from outside
