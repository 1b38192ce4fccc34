"""Ed25519 signatures over replies: the coordinator knows by them which site's agent answered.

The SuperLink compares a reply's node with the message's addressee only, and the courier could write anything: what the
agent's own key signed is the agent's. The signature covers the task id, so that no reply can answer another task.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict

from shared.errors import StorageError
from shared.wire import records_of, to_frames

RECORD = "signature"
"""The record that holds the signature; it signs everything else in the content."""

PURPOSE = b"polyclinic reply, version 1\x00"
"""Stands before what is signed, so that no signature of this key means anything else."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A site's private signing key; it never leaves the agent."""

    _key: Ed25519PrivateKey

    @classmethod
    def draw(cls) -> "SigningKey":
        """Draw a new key from the system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Read a key that was written as PEM.

        Raises:
            StorageError: there is none, or it is none of this kind.
        """
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise StorageError(f"{path}: no signing key can be read there. `polyclinic site init` makes one.")
        return cls(key)

    def pem(self) -> bytes:
        """Write the key as PEM (PKCS 8), for a file that only the agent may read."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public(self) -> str:
        """The public key in hexadecimal: what the coordinator enrols."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, content: RecordDict) -> None:
        """Add the signature to a content, over all that it holds."""
        content[RECORD] = ConfigRecord({"ed25519": self._key.sign(_statement(content)).hex()})


def is_signed_by(content: RecordDict, public: str) -> bool:
    """Tell whether a content, as it arrived, was signed with the key of which `public` is the public half."""
    try:
        signature = records_of(content, ConfigRecord)[RECORD]["ed25519"]
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(str(signature)), _statement(content))
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return False
    return True


def _statement(content: RecordDict) -> bytes:
    """Say what is signed: a digest of the content, the same however a transport orders the keys of a record."""
    frames = to_frames(RecordDict({name: record for name, record in content.items() if name != RECORD}))
    header = json.dumps(json.loads(next(frames)), sort_keys=True, separators=(",", ":"))
    total = hashlib.sha256(header.encode())
    for frame in frames:
        total.update(frame)
    return PURPOSE + total.digest()
