"""A site's keys: what the link, the agent and the courier each hold, in folders of their own, and what may be shown."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import SiteError, StorageError
from shared.invitation import PublicKeys
from shared.storage import private_file

FOLDER_MODE, GATE_MODE = 0o700, 0o711
"""Each compartment reads its own folder; the folder around them only lets through."""

ADDRESS = "address"
"""The file in which an approval tells the link where the coordinator is."""

NOISE_BYTES = 32

# `shared.signing` is imported where a key is drawn or read: flwr comes with it and takes half a second to load, and
# link and courier only need to know where their keys lie.


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """The keys below one folder: `link/` for the SuperNode, `agent/` for the agent, `courier/` for the superexec.

    No key is in two compartments but the secret that link and courier share to know one another.
    """

    folder: Path

    @property
    def node(self) -> Path:
        """The SuperNode's private key: ECDSA P-384 in OpenSSH's format, as flower-supernode takes it."""
        return self.folder / "link" / "node.key"

    @property
    def signing(self) -> Path:
        """The agent's private Ed25519 key, with which replies are signed."""
        return self.folder / "agent" / "signing.key"

    @property
    def noise(self) -> Path:
        """The agent's 32 secret bytes from which the noise of private studies is drawn."""
        return self.folder / "agent" / "noise.key"

    @property
    def pseudonyms(self) -> Path:
        """The agent's 32 secret bytes under which withdrawn patients are listed."""
        return self.folder / "agent" / "pseudonyms.key"

    @property
    def link_secret(self) -> Path:
        """The link's copy of the secret by which link and courier know one another."""
        return self.folder / "link" / "superexec.secret"

    @property
    def courier_secret(self) -> Path:
        """The courier's copy of the same."""
        return self.folder / "courier" / "superexec.secret"

    def create(self) -> bool:
        """Draw every key that is not there yet, and tell whether any was drawn; a key that is there stays.

        Raises:
            StorageError: the folder cannot be written.
        """
        from shared.signing import SigningKey

        _make_folder(self.folder, GATE_MODE)
        for compartment in ("link", "agent", "courier"):
            _make_folder(self.folder / compartment, FOLDER_MODE)
        shared_secret = secrets.token_hex(32).encode()
        drawn = {
            self.node: _new_node_key(),
            self.signing: SigningKey.draw().pem(),
            self.noise: secrets.token_bytes(NOISE_BYTES),
            self.pseudonyms: secrets.token_bytes(NOISE_BYTES),
        }
        missing = {path: secret for path, secret in drawn.items() if not path.exists()}
        if not (self.link_secret.exists() and self.courier_secret.exists()):
            missing |= dict.fromkeys((self.link_secret, self.courier_secret), shared_secret)
        for path, secret in missing.items():
            _write_secret(path, secret)
        return bool(missing)

    def rotate(self) -> None:
        """Draw a new node key and a new signing key in the place of the old ones.

        The coordinator knows nothing of them until they are enrolled. The noise key and the one of the pseudonyms stay:
        a round that is resumed must draw the same noise, and who withdrew must stay out.
        """
        from shared.signing import SigningKey

        self.public("x")
        _write_secret(self.node, _new_node_key())
        _write_secret(self.signing, SigningKey.draw().pem())

    def public(self, site: str) -> PublicKeys:
        """Give the public halves, which the coordinator enrols.

        Raises:
            StorageError: a key is missing or cannot be read.
        """
        from shared.signing import SigningKey

        try:
            node = serialization.load_ssh_private_key(self.node.read_bytes(), password=None)
        except (OSError, ValueError):
            raise StorageError(f"{self.node}: no key can be read there. `polyclinic site init` makes one.") from None
        line = node.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return PublicKeys(site=site, node=line.decode(), signing=SigningKey.read(self.signing).public)


def read_secret(path: Path) -> bytes:
    """Read one of the agent's secrets of 32 bytes.

    Raises:
        StorageError: it is missing or of another length.
        SiteError: others than its owner may read it.
    """
    try:
        secret, mode = path.read_bytes(), path.stat().st_mode
    except OSError as fault:
        raise StorageError(f"{path}: cannot be read ({fault.strerror}). `polyclinic site init` makes it.") from None
    if mode & 0o077:
        raise SiteError(f"{path}: others than its owner may read this key. Let its mode be 0600.")
    if len(secret) != NOISE_BYTES:
        raise StorageError(f"{path}: is no key of {NOISE_BYTES} bytes. Ask what happened to it before you replace it.")
    return secret


def _new_node_key() -> bytes:
    """Draw a key as flower-supernode takes it; it refuses other curves and formats."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _make_folder(path: Path, mode: int) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    except OSError as fault:
        raise StorageError(f"{path}: cannot be made ({fault.strerror}). Choose another [link] keys.") from None


def _write_secret(path: Path, secret: bytes) -> None:
    with private_file(path) as part:
        part.write_bytes(secret)
