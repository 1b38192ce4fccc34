"""How a local federation keeps its programs apart; where it does not, it says what is missing."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from client.site import SiteConfig

MISSING = (
    "All programs run as this user in one network ({reason}). Missing is the isolation of a real site, where link, "
    "courier and agent each have a user and a network of their own (deploy/client has the units and containers that "
    "make it)."
)


class Compartments(Protocol):
    """Where each program of a site runs, and at which addresses they meet."""

    host: str
    listen: str

    def make(self, names: Iterable[str]) -> None:
        """Make what the sites of these names need."""

    def own(self, name: str, config: SiteConfig, home: Path) -> None:
        """Give each compartment its files, and no other's."""

    def inside(self, name: str, role: str, command: Sequence[str]) -> list[str]:
        """Say how a command is run in a site's compartment."""

    def runtime(self, name: str) -> str:
        """Say at which address a site's courier reaches its link."""

    def remove(self) -> None:
        """Remove what was made."""


class OneUser:
    """No compartments: everything on loopback, as the user who runs it."""

    host = "localhost"
    listen = "127.0.0.1"

    def make(self, names: Iterable[str]) -> None:
        """Make nothing."""

    def own(self, name: str, config: SiteConfig, home: Path) -> None:
        """Leave all files as they are."""

    def inside(self, name: str, role: str, command: Sequence[str]) -> list[str]:
        """Run a command as it is."""
        return list(command)

    def runtime(self, name: str) -> str:
        """Meet on loopback."""
        return "127.0.0.1"

    def remove(self) -> None:
        """Remove nothing."""
