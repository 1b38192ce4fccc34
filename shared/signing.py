"""Ed25519 signatures over tasks and replies: each side knows by them who asked, and who answered what.

The SuperLink compares a reply's node with the message's addressee only, and the link and the courier could write
anything: what the coordinator's key signed is the coordinator's, what the agent's key signed is the agent's. A reply
names in what is signed the digest of the task that it answers, arrays included: what was changed on the way to the site
has another.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ConfigRecord, RecordDict

from shared.errors import StorageError
from shared.wire import records_of, to_frames

RECORD = "signature"
"""The record that holds the signature; it signs everything else in the content."""


class Purpose(Enum):
    """What a signature is for: it stands before what is signed, so that no signature means anything else."""

    TASK = b"polyclinic task, version 3\x00"
    REPLY = b"polyclinic reply, version 3\x00"
    SUCCESSION = b"polyclinic coordinator's next key, version 3\x00"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private signing key: a site's, which never leaves its agent, or the coordinator's."""

    _key: Ed25519PrivateKey

    @classmethod
    def draw(cls) -> "SigningKey":
        """Draw a new key from the system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path, *, made_by: str = "`polyclinic site init` makes one.") -> "SigningKey":
        """Read a key that was written as PEM; `made_by` tells how one is made, where there is none.

        Raises:
            StorageError: there is none, or it is none of this kind.
        """
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise StorageError(f"{path}: no signing key can be read there. {made_by}")
        return cls(key)

    def pem(self) -> bytes:
        """Write the key as PEM (PKCS 8), for a file that only its owner may read."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public(self) -> str:
        """The public key in hexadecimal: what the other side pins."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, content: RecordDict, purpose: Purpose) -> str:
        """Add the signature to a content, over all that it holds, and give the content's digest."""
        digest = content_digest(content)
        content[RECORD] = ConfigRecord({"ed25519": self._key.sign(purpose.value + bytes.fromhex(digest)).hex()})
        return digest

    def endorse(self, successor: str) -> str:
        """Sign the public key that takes this one's place."""
        return self._key.sign(Purpose.SUCCESSION.value + bytes.fromhex(successor)).hex()


def fingerprint(public: str) -> str:
    """Shorten a public key to what two people compare by telephone: 80 bits of its SHA-256, in groups of four."""
    digits = hashlib.sha256(bytes.fromhex(public)).hexdigest()[:20]
    return " ".join(digits[place : place + 4] for place in range(0, len(digits), 4))


def signed_frames(content: RecordDict, key: SigningKey | None, purpose: Purpose) -> list[bytes]:
    """Give a content's frames with this key's signature and no other; without a key, with none."""
    content.pop(RECORD, None)
    if key is not None:
        key.sign(content, purpose)
    return list(to_frames(content))


def signed_digest(content: RecordDict, public: str, purpose: Purpose) -> str | None:
    """Give the digest of a content that was signed, as it arrived, with the key of which `public` is the public half.

    None for every other content.
    """
    try:
        signature = bytes.fromhex(str(records_of(content, ConfigRecord)[RECORD]["ed25519"]))
        digest = content_digest(content)
        _verify(public, signature, purpose.value + bytes.fromhex(digest))
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return None
    return digest


def is_endorsed(successor: str, *, by: str, signature: str) -> bool:
    """Tell whether the holder of the key `by` has named `successor` as the one that takes its place."""
    try:
        _verify(by, bytes.fromhex(signature), Purpose.SUCCESSION.value + bytes.fromhex(successor))
    except (ValueError, InvalidSignature):
        return False
    return True


def content_digest(content: RecordDict) -> str:
    """SHA-256 of all but the signature, the same however a transport orders the keys of a record."""
    frames = to_frames(RecordDict({name: record for name, record in content.items() if name != RECORD}))
    header = json.dumps(json.loads(next(frames)), sort_keys=True, separators=(",", ":"))
    total = hashlib.sha256(header.encode())
    for frame in frames:
        total.update(frame)
    return total.hexdigest()


def _verify(public: str, signature: bytes, statement: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, statement)
