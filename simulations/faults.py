"""Faults on purpose: which process of a local federation a fault hits, and the moment that a seed draws for it."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import DeviceError
from simulations.local_federation import LocalFederation
from simulations.namespaces import Namespaces

COORDINATOR = ("superlink", "superexec", "ServerApp", "proxy")
SITE = ("link", "courier", "agent")
NETWORK = "network"

CHILDREN = {"ServerApp": ("superexec", "flwr-serverapp")}
"""What is not a long-lived program itself, but started by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is hit, at which site ("" at the coordinator), how many seconds after the moment that it waits for."""

    victim: str
    site: str
    after_seconds: float

    def __str__(self) -> str:
        return f"{self.site} {self.victim}".strip()


def draw(seed: int, sites: Sequence[str], *, faults: int, longest_seconds: float) -> list[Fault]:
    """Draw faults over all programs and the network: each is hit as often as any other, in an order of chance."""
    rng = np.random.default_rng(seed)
    victims = (*COORDINATOR, *SITE, NETWORK)
    order = [str(victim) for _ in range(-(-faults // len(victims))) for victim in rng.permutation(victims)][:faults]
    return [
        Fault(
            victim=victim,
            site="" if victim in COORDINATOR else str(rng.choice(sorted(sites))),
            after_seconds=float(rng.uniform(0.0, longest_seconds)),
        )
        for victim in order
    ]


def process(federation: LocalFederation, fault: Fault) -> int | None:
    """Find the process that a fault hits; None where it does not run just now."""
    if fault.victim == NETWORK:
        return None
    parent, child = CHILDREN.get(fault.victim, (fault.victim, ""))
    running = federation.programs.running[f"{fault.site}-{parent}" if fault.site else parent]
    if running.poll() is not None:
        return None
    return next(iter(children(running.pid, child)), None) if child else running.pid


def courier_at_work(federation: LocalFederation, site: str) -> bool:
    """Tell whether a site's courier has a task in hand: Flower starts a process for each."""
    return bool(children(federation.programs.running[f"{site}-courier"].pid, "flwr-clientapp"))


def kill(federation: LocalFederation, fault: Fault) -> bool:
    """Kill one process without a word to it (SIGKILL); what it started goes on. False where it does not run now."""
    if (found := process(federation, fault)) is None:
        return False
    os.kill(found, signal.SIGKILL)
    return True


def cut(wires: Namespaces, site: str) -> None:
    """Take the way between a site's link and the coordinator down; nobody at either end is told.

    Raises:
        DeviceError: the system refuses.
    """
    _set_wire(wires, site, "down")


def mend(wires: Namespaces, site: str) -> None:
    """Bring it up again.

    Raises:
        DeviceError: the system refuses.
    """
    _set_wire(wires, site, "up")


def started_seconds(pid: int) -> float:
    """Tell when a process began, by CLOCK_BOOTTIME (proc_pid_stat(5), field 22, in clock ticks)."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(after_name[22 - 3]) / os.sysconf("SC_CLK_TCK")


def children(parent: int, name: str) -> list[int]:
    """List the processes that another one started, by a word of their command."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if above == parent and name.encode() in command:
            found.append(int(entry.name))
    return found


def _set_wire(wires: Namespaces, site: str, state: str) -> None:
    command = ["ip", "-n", wires.namespace(site, "link"), "link", "set", "out", state]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # words of our own
    if done.returncode:
        raise DeviceError(f"{' '.join(command)}: {done.stderr.strip()}. Only root may do so.")
