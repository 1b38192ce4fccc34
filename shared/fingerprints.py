"""What two people compare by telephone after papers were exchanged: the same words and digits on both sides."""

import hashlib
import json

from shared.invitation import Invitation, PublicKeys
from shared.signing import fingerprint

GROUPS, DIGITS = 6, 4
"""96 bits of a SHA-256: nobody finds another paper with the same, and they are read out in ten seconds."""


def keys_line(keys: PublicKeys) -> str:
    """Name the fingerprint of a site's keys: of both, and of whose they are; a key's comment counts for nothing.

    `site init` and `site keys` print it, and `coordinator enroll`.
    """
    kind, node = keys.node.split()[:2]
    return f"Fingerprint of {keys.site}'s keys: {_grouped([keys.site, kind, node, keys.signing])}"


def invitation_line(invitation: Invitation) -> str:
    """Name the fingerprint of an invitation: of all that stands in it, and so of every file that it names.

    `coordinator invite` and `site approve` print it.
    """
    said = sorted(invitation.model_dump(mode="json").items())
    return f"Fingerprint of the invitation of {invitation.site}: {_grouped([json.dumps(said)])}"


def coordinator_line(public: str) -> str:
    """Name the fingerprint of the key that signs a coordinator's tasks.

    `coordinator key` and `invite` print it, and `site approve`.
    """
    return f"Fingerprint of the coordinator's key: {fingerprint(public)}"


def _grouped(parts: list[str]) -> str:
    digits = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return " ".join(digits[place : place + DIGITS] for place in range(0, GROUPS * DIGITS, DIGITS))
