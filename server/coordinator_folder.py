"""The coordinator's folder: where its keys, its records of sites and its runs lie."""

from dataclasses import dataclass
from pathlib import Path

from shared.invitation import BUNDLE

COORDINATOR_VARIABLE = "POLYCLINIC_COORDINATOR"
"""Tells the programs that are started from elsewhere, as ServerApps by Flower, where the coordinator's folder is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorFolder:
    """Names the files of one coordinator.

    `private` holds what must never be copied elsewhere but by `backup`: the authority's key, the server's key, and the
    secrets of the process that runs the rounds and of the coordinator's commands. `state` is Flower's, and can be made
    again from `sites`.
    """

    path: Path

    @property
    def config(self) -> Path:
        """What a person sets: addresses, deadlines, sites."""
        return self.path / "coordinator.toml"

    @property
    def private(self) -> Path:
        """Keys and secrets, for the coordinator's own user only."""
        return self.path / "private"

    @property
    def ca_key(self) -> Path:
        """The authority's key."""
        return self.private / "ca.key"

    @property
    def ca(self) -> Path:
        """The authority's certificate; every site gets it."""
        return self.path / "ca.crt"

    @property
    def server_key(self) -> Path:
        """The server's key."""
        return self.private / "server.key"

    @property
    def signing_key(self) -> Path:
        """The key that signs each task; its public half is in each invitation."""
        return self.private / "signing.key"

    @property
    def succession(self) -> Path:
        """The signing key's public half, and the word of the key before it, where that was not lost."""
        return self.path / "signing.toml"

    @property
    def server_certificate(self) -> Path:
        """The server's certificate."""
        return self.path / "server.pem"

    @property
    def secret(self) -> Path:
        """What the process that starts ServerApps shows to the SuperLink."""
        return self.private / "superexec.secret"

    @property
    def control_secret(self) -> Path:
        """What the coordinator's own commands show to the SuperLink."""
        return self.private / "control.secret"

    @property
    def bundle(self) -> Path:
        """The manifest that travels to the sites (a FAB without code)."""
        return self.path / BUNDLE

    @property
    def sites(self) -> Path:
        """One record a site: its public keys, and whether they were revoked."""
        return self.path / "sites"

    @property
    def studies(self) -> Path:
        """Each study that somebody was invited to, as its digest's protocol."""
        return self.path / "studies"

    @property
    def weights(self) -> Path:
        """The pretrained weights that studies start from, by SHA-256, and which study starts from which."""
        return self.path / "weights"

    @property
    def runs(self) -> Path:
        """One folder a study's run."""
        return self.path / "runs"

    @property
    def flower_home(self) -> Path:
        """Flower's own folder."""
        return self.path / "flower"

    @property
    def state(self) -> Path:
        """The SuperLink's database."""
        return self.path / "state" / "superlink.db"

    @property
    def own_socket(self) -> Path:
        """Where the coordinator's own commands reach the SuperLink, through the proxy."""
        return self.state.parent / "own.sock"

    @property
    def proxy(self) -> Path:
        """The proxy's configuration and scratch files."""
        return self.path / "proxy"

    @property
    def logs(self) -> Path:
        """What the long-lived programs say."""
        return self.path / "logs"

    @property
    def audit(self) -> Path:
        """Who was enrolled, revoked, invited and asked, hash-chained."""
        return self.path / "audit.jsonl"
