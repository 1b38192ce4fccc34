"""The papers between site and coordinator come back as they were written, and nothing else is taken for one."""

from pathlib import Path
from typing import Any

import pytest

from shared.errors import FederationError, SiteError
from shared.invitation import INVITATION, Invitation, PublicKeys, read_invitation, read_keys, write_paper
from shared.messages import WIRE_VERSION

INVITED: dict[str, Any] = {
    "site": "north",
    "coordinator": "Trial office, Example University",
    "address": "fl.example.org:443",
    "study": "Chest X-ray",
    "digest": "a" * 64,
    "initial": "b" * 64,
    "weights": "",
    "bundle": "c" * 64,
    "ca": "d" * 64,
    "encoding": WIRE_VERSION,
    "signing": "f" * 64,
}
KEYS = {"site": "north", "node": f"ecdsa-sha2-nistp384 {'A' * 184} north", "signing": "e" * 64}


def test_papers_come_back_as_they_were(tmp_path: Path) -> None:
    """Invitation and keys are TOML files that are read to equal values."""
    invitation, keys = Invitation(**INVITED), PublicKeys(**KEYS)
    write_paper(invitation, tmp_path / INVITATION)
    write_paper(keys, tmp_path / "north.keys.toml")
    assert read_invitation(tmp_path) == invitation
    assert read_keys(tmp_path / "north.keys.toml") == keys


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("digest", "a" * 63),
        ("address", "https://fl.example.org"),
        ("coordinator", "two\nlines"),
        ("bundle", ""),
        ("site", "../north"),
        ("more", "x"),
    ],
)
def test_an_invitation_of_another_form_is_refused(tmp_path: Path, key: str, value: str) -> None:
    """A shortened digest, an address with a scheme, a line break, a path for a name and an unknown key are named."""
    lines = [f"{name} = {text!r}" for name, text in (INVITED | {key: value}).items()]
    (tmp_path / INVITATION).write_text("\n".join(lines).replace("'", '"'))
    with pytest.raises(SiteError, match=key):
        read_invitation(tmp_path)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    """The node's key is one public line of OpenSSH; a missing file is the coordinator's error."""
    path = tmp_path / "keys.toml"
    path.write_text('site = "north"\nnode = "-----BEGIN OPENSSH PRIVATE KEY-----"\nsigning = "' + "e" * 64 + '"\n')
    with pytest.raises(FederationError, match="node"):
        read_keys(path)
    with pytest.raises(FederationError):
        read_keys(tmp_path / "none.toml")
    path.write_text("\n".join(f'{name} = "x"' for name in ("site", "coordinator", "digest")))
    with pytest.raises(FederationError, match=r"this is an invitation, and not a site's public keys"):
        read_keys(path)
