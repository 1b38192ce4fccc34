"""A coordinator's records of its sites: no key is two sites' key, none comes back, and no paper unregisters another."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.enrolment import Register, SiteRecord
from server.fleet import Node, node_key
from shared.errors import CoordinatorError, FederationError
from shared.fingerprints import keys_line
from shared.invitation import PublicKeys
from shared.signing import SigningKey


@dataclass
class SuperLink:
    """Knows keys as Flower's does: one that was unregistered is never registered again."""

    keys: dict[bytes, int] = field(default_factory=dict)
    ever: set[bytes] = field(default_factory=set)
    answers: bool = True

    def nodes(self) -> list[Node]:
        if not self.answers:
            raise FederationError("the SuperLink does not answer")
        return [Node(node_id=number, public_key=key, online=False) for key, number in self.keys.items()]

    def register(self, public_key: bytes, name: str) -> int:
        if public_key in self.ever:
            raise CoordinatorError(f"{name}: Flower refuses this key")
        self.ever.add(public_key)
        self.keys[public_key] = len(self.ever)
        return self.keys[public_key]

    def unregister(self, node_id: int) -> None:
        self.keys = {key: number for key, number in self.keys.items() if number != node_id}


def node_line(comment: str = "") -> str:
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return (ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*form).decode() + f" {comment}").strip()


def papers(site: str, **known: str) -> PublicKeys:
    return PublicKeys(**{"site": site, "node": node_line(), "signing": SigningKey.draw().public} | known)


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path / "sites")


@pytest.fixture
def superlink() -> SuperLink:
    return SuperLink()


def enrolled(superlink: SuperLink, keys: PublicKeys) -> bool:
    return node_key(keys.node) in superlink.keys


@pytest.mark.parametrize("kind", ["node", "signing"])
@pytest.mark.parametrize("first", ["enrolled", "revoked", "replaced"])
def test_no_site_brings_a_key_that_another_has_or_had(
    register: Register, superlink: SuperLink, kind: str, first: str
) -> None:
    """Neither of its two keys, whether its site is enrolled, was revoked, or has newer ones."""
    north = papers("north")
    register.enroll(north, superlink)
    if first == "revoked":
        register.revoke("north", superlink)
    elif first == "replaced":
        register.enroll(papers("north"), superlink, replace="north")
    before = dict(superlink.keys)
    with pytest.raises(CoordinatorError, match="north"):
        register.enroll(papers("south", **{kind: getattr(north, kind)}), superlink)
    assert superlink.keys == before
    assert "south" not in register.records()


def test_the_comment_on_a_keys_line_makes_it_no_other_key(register: Register, superlink: SuperLink) -> None:
    """The key is compared, and not the text."""
    north = papers("north", node=node_line("north@hospital"))
    register.enroll(north, superlink)
    renamed = " ".join(north.node.split()[:2]) + " south@clinic"
    with pytest.raises(CoordinatorError, match="this node key is north's"):
        register.enroll(papers("south", node=renamed), superlink)


def test_nobodys_node_is_unregistered_through_anothers_papers(register: Register, superlink: SuperLink) -> None:
    """South brings north's node key, and then one of its own: north's link stays as it was."""
    north, south = papers("north"), papers("south")
    register.enroll(north, superlink)
    with pytest.raises(CoordinatorError):
        register.enroll(papers("south", node=north.node), superlink)
    register.enroll(south, superlink)
    register.enroll(papers("south"), superlink, replace="south")
    assert enrolled(superlink, north)
    assert not enrolled(superlink, south)


def test_a_record_of_an_older_version_with_anothers_node_key_takes_nothing_away(
    register: Register, superlink: SuperLink, tmp_path: Path
) -> None:
    """Such a record may lie there: revoking its site, or its new keys, leave the other site's node alone."""
    north = papers("north")
    register.enroll(north, superlink)
    register._write(SiteRecord(keys=papers("south", node=north.node), node_id=1))
    register.revoke("south", superlink)
    assert enrolled(superlink, north)
    assert register.of(["north"])["north"].keys == north


@pytest.mark.parametrize("kind", ["node", "signing"])
def test_a_key_that_was_revoked_is_never_enrolled_again(register: Register, superlink: SuperLink, kind: str) -> None:
    """Also years, new keys, and a new database of Flower's later; and not by the site that had it."""
    north = papers("north")
    register.enroll(north, superlink)
    register.revoke("north", superlink)
    register.enroll(papers("north"), superlink)
    register.enroll(papers("north"), superlink, replace="north")
    forgetful = SuperLink()  # after a restore Flower's own state begins anew, and would take the key
    with pytest.raises(CoordinatorError, match="revoked stays so"):
        register.enroll(papers("north", **{kind: getattr(north, kind)}), forgetful)
    assert not enrolled(forgetful, north)


def test_a_record_that_an_older_version_revoked_counts(register: Register, superlink: SuperLink) -> None:
    """It has no list beside it: its mark alone says that its keys are spent."""
    north = papers("north")
    register._write(SiteRecord(keys=north, node_id=1, revoked=True))
    for site in ("north", "south"):
        with pytest.raises(CoordinatorError, match="revoked stays so"):
            register.enroll(papers(site, signing=north.signing), superlink)
    register.enroll(papers("north"), superlink)  # its mark is gone now, and its keys stay spent
    with pytest.raises(CoordinatorError, match="as a key of north"):
        register.enroll(papers("south", signing=north.signing), superlink)


def test_a_paper_with_anothers_name_takes_no_keys_away(register: Register, superlink: SuperLink) -> None:
    """West writes `site = "north"` above its own keys: nothing is replaced, registered or spent, and both are shown."""
    north, forged = papers("north"), papers("north")
    for known in (north, papers("south"), papers("west")):
        register.enroll(known, superlink)
    before = dict(superlink.keys)
    with pytest.raises(CoordinatorError, match="north is enrolled with others") as refused:
        register.enroll(forged, superlink)
    lines = str(refused.value).splitlines()
    assert [f"In the file: {keys_line(forged)}", f"Enrolled: {keys_line(north)}"] == lines[1:3]
    assert "--replace north" in lines[3]
    assert superlink.keys == before
    assert superlink.ever == set(before)
    assert register.of(["north"])["north"].keys == north
    register.enroll(north, superlink)  # not spent: the same keys again are the same site
    assert register.enroll(forged, superlink, replace="north") == "enrolled with new keys"
    assert enrolled(superlink, forged)
    assert not enrolled(superlink, north)


@pytest.mark.parametrize("known", [True, False])
def test_another_name_than_the_papers_replaces_nothing(register: Register, superlink: SuperLink, known: bool) -> None:
    """Whoever means west, and got a file with north's name, is told so: whether north is enrolled or not."""
    for site in ("north", "west")[not known :]:
        register.enroll(papers(site), superlink)
    before, records = dict(superlink.keys), register.records()
    with pytest.raises(CoordinatorError, match="--replace names west, and the file says that it holds north's"):
        register.enroll(papers("north"), superlink, replace="west")
    assert superlink.keys == before
    assert register.records() == records


def test_the_same_keys_again_change_nothing(register: Register, superlink: SuperLink) -> None:
    """Whoever enrols twice by mistake has the same site, with the same node, and no key of it is spent."""
    north = papers("north")
    assert register.enroll(north, superlink) == "enrolled"
    assert register.enroll(north, superlink) == "these keys are enrolled already"
    assert len(superlink.keys) == 1
    assert register.of(["north"])["north"].keys == north
    register.enroll(papers("north", node=f"{north.node} north@hospital", signing=north.signing), superlink)
    assert len(superlink.keys) == 1, "a comment makes no other key, which somebody would have to name"


def test_half_of_the_keys_may_stay(register: Register, superlink: SuperLink) -> None:
    """A site that draws a new signing key and keeps its node key goes on with both."""
    north = papers("north")
    register.enroll(north, superlink)
    half = papers("north", node=north.node)
    with pytest.raises(CoordinatorError, match="--replace north"):
        register.enroll(half, superlink)
    register.enroll(half, superlink, replace="north")
    assert register.of(["north"])["north"].keys == half
    assert enrolled(superlink, half)
    with pytest.raises(CoordinatorError, match="signing key was replaced"):
        register.enroll(north, superlink)


def test_what_is_revoked_while_the_superlink_is_away_is_out_when_it_comes_back(
    register: Register, superlink: SuperLink
) -> None:
    """The record is written first; the SuperLink is made to agree with it before the next run."""
    north = papers("north")
    register.enroll(north, superlink)
    superlink.answers = False
    with pytest.raises(FederationError):
        register.revoke("north", superlink)
    superlink.answers = True
    with pytest.raises(CoordinatorError, match="not enrolled: north"):
        register.of(["north"])
    register.reconcile(superlink)
    assert not enrolled(superlink, north)


def test_a_list_that_cannot_be_read_lets_nobody_in(register: Register, superlink: SuperLink, tmp_path: Path) -> None:
    """Before it is restored no key is taken in: one of the spent ones might be."""
    register.enroll(papers("north"), superlink)
    register.revoke("north", superlink)
    (tmp_path / "sites" / "spent_keys.jsonl").write_text("{half a line")
    with pytest.raises(CoordinatorError, match="damaged"):
        register.enroll(papers("south"), superlink)
