"""Both sides of a telephone line read the same words and digits, and whoever changed a paper reads others."""

import re

import pytest
from typer.testing import CliRunner

from client.site_keys import SiteKeys
from shared.cli import application
from shared.fingerprints import coordinator_line, invitation_line, keys_line
from shared.invitation import Invitation, PublicKeys, read_keys
from shared.signing import SigningKey


@pytest.fixture
def public(tmp_path) -> PublicKeys:
    keys = SiteKeys(tmp_path / "keys")
    keys.create()
    return keys.public("north")


def test_a_sites_line_covers_both_keys_and_its_name(public: PublicKeys, tmp_path) -> None:
    """Groups of four; another node key, another signing key or another name gives another line."""
    line = keys_line(public)
    assert re.fullmatch(r"Fingerprint of north's keys: ([0-9a-f]{4} ){5}[0-9a-f]{4}", line)
    other = SiteKeys(tmp_path / "others")
    other.create()
    changes = [{"node": other.public("x").node}, {"signing": other.public("x").signing}, {"site": "south"}]
    digits = {keys_line(public.model_copy(update=change)).split(": ")[1] for change in changes}
    assert len(digits | {line.split(": ")[1]}) == 4


def test_a_comment_behind_the_node_key_changes_nothing(public: PublicKeys) -> None:
    """OpenSSH's line may carry one, which is no part of the key."""
    assert keys_line(public.model_copy(update={"node": f"{public.node.strip()} it@north"})) == keys_line(public)


def test_init_and_keys_say_what_the_file_says(tmp_path) -> None:
    """What the site reads out is what whoever has the file computes from it."""
    (tmp_path / "site.toml").write_text(
        '[site]\nname = "north"\n[data]\ndicom = "dicom"\nlabels = "l.csv"\njoin = "PatientID"\n'
        '[data.findings]\npneumonia = "p"\n'
    )
    said = [
        CliRunner().invoke(application(), ["site", *words]).output
        for words in (
            ("init", str(tmp_path / "site.toml")),
            ("keys", str(tmp_path / "site.toml"), "--out", str(tmp_path / "north.keys.toml")),
        )
    ]
    line = keys_line(read_keys(tmp_path / "north.keys.toml"))
    assert all(line in text.splitlines() for text in said), said


def test_an_invitations_line_covers_every_field() -> None:
    """Also the address, the certificate, the weights and the key that signs tasks."""
    digest = "ab" * 32
    fields = {
        "site": "north",
        "coordinator": "Trial office",
        "address": "fl.example.org:443",
        "study": "Chest",
        "digest": digest,
        "initial": digest,
        "weights": digest,
        "bundle": digest,
        "ca": digest,
        "signing": SigningKey.draw().public,
    }
    one = Invitation(**{name: value for name, value in fields.items() if name in Invitation.model_fields}, **wire())
    lines = {invitation_line(one)}
    for name in ("address", "ca", "weights", "signing", "bundle", "initial", "digest", "study", "coordinator"):
        changed = "cd" * 32 if len(str(getattr(one, name))) == 64 else f"{getattr(one, name)}1"
        lines.add(invitation_line(one.model_copy(update={name: changed})))
    assert len(lines) == 10


def wire() -> dict[str, str]:
    from shared.tasks import WIRE_VERSION

    return {"encoding": WIRE_VERSION}


def test_a_coordinators_line_is_of_its_key() -> None:
    """Five groups, another for another key."""
    one, other = SigningKey.draw().public, SigningKey.draw().public
    assert re.fullmatch(r"Fingerprint of the coordinator's key: ([0-9a-f]{4} ){4}[0-9a-f]{4}", coordinator_line(one))
    assert coordinator_line(one) != coordinator_line(other)
