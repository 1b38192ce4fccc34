"""Faults on purpose: which process of a local federation a fault hits, and the moment that a seed draws for it."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulations.local_federation import LocalFederation

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
    parent, child = CHILDREN.get(fault.victim, (fault.victim, ""))
    running = federation.programs.running[f"{fault.site}-{parent}" if fault.site else parent]
    if running.poll() is not None:
        return None
    return next(iter(children(running.pid, child)), None) if child else running.pid


def kill(federation: LocalFederation, fault: Fault) -> bool:
    """Kill a program with what it started, as a container or a unit dies; False where it does not run just now.

    Nothing is told beforehand (SIGKILL), so that no file is closed and nobody is said goodbye to.
    """
    if (found := process(federation, fault)) is None:
        return False
    if fault.victim in CHILDREN:
        os.kill(found, signal.SIGKILL)
    else:
        os.killpg(found, signal.SIGKILL)
    return True


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
