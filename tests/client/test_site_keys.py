"""Each compartment has its own keys, in files that only it can read; what is shown is public."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from client.site_keys import SiteKeys, read_secret
from shared.errors import SiteError, StorageError
from shared.signing import SigningKey


@pytest.fixture
def keys(tmp_path: Path) -> SiteKeys:
    made = SiteKeys(tmp_path / "keys")
    made.create()
    return made


def test_keys_are_drawn_once(keys: SiteKeys) -> None:
    """The audit log says "keys drawn" of those that were, and a key that is there stays."""
    before = keys.signing.read_bytes()
    assert not keys.create()
    keys.link_secret.unlink()
    assert keys.create()
    assert keys.signing.read_bytes() == before
    assert keys.link_secret.read_bytes() == keys.courier_secret.read_bytes()


def test_only_its_owner_may_read_a_key(keys: SiteKeys) -> None:
    """Every file is 0600 in a folder that is 0700; the folder around them lets through, and lists nothing."""
    files = [path for path in keys.folder.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.folder.iterdir()}
    assert folders == {"link": 0o700, "agent": 0o700, "courier": 0o700}
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o711


def test_the_node_key_is_of_the_kind_that_the_supernode_takes(keys: SiteKeys) -> None:
    """ECDSA over P-384 in OpenSSH's format; the public half is its own."""
    private = load_ssh_private_key(keys.node.read_bytes(), password=None)
    assert isinstance(private, EllipticCurvePrivateKey)
    assert isinstance(private.curve, SECP384R1)
    public = keys.public("north")
    assert load_ssh_public_key(public.node.encode()) == private.public_key()
    assert public.signing == SigningKey.read(keys.signing).public


def test_link_and_courier_share_one_secret_and_nothing_else(keys: SiteKeys) -> None:
    """They know one another by it; no other file is twice there."""
    assert keys.link_secret.read_bytes() == keys.courier_secret.read_bytes()
    contents = [path.read_bytes() for path in keys.folder.rglob("*") if path.is_file()]
    assert len(set(contents)) == len(contents) - 1
    assert [path.name for path in (keys.folder / "courier").iterdir()] == ["superexec.secret"]


def test_keys_that_are_there_stay(keys: SiteKeys) -> None:
    """Making them again draws only what is missing."""
    before = {path: path.read_bytes() for path in keys.folder.rglob("*") if path.is_file()}
    keys.noise.unlink()
    keys.create()
    after = {path: path.read_bytes() for path in before}
    assert {path for path in before if before[path] != after[path]} == {keys.noise}


def test_rotation_changes_what_the_coordinator_knows_and_no_more(keys: SiteKeys) -> None:
    """The noise of a round that is resumed, and who has withdrawn, stay as they are."""
    before, noise, pseudonyms = keys.public("north"), keys.noise.read_bytes(), keys.pseudonyms.read_bytes()
    keys.rotate()
    after = keys.public("north")
    assert (after.node, after.signing) != (before.node, before.signing)
    assert after.node != before.node
    assert after.signing != before.signing
    assert (keys.noise.read_bytes(), keys.pseudonyms.read_bytes()) == (noise, pseudonyms)
    assert stat.S_IMODE(keys.node.stat().st_mode) == 0o600


def test_a_key_that_is_missing_or_open_to_others_is_not_used(keys: SiteKeys) -> None:
    """It says what to do."""
    assert len(read_secret(keys.noise)) == 32
    keys.noise.chmod(0o640)
    with pytest.raises(SiteError, match="0600"):
        read_secret(keys.noise)
    keys.pseudonyms.write_bytes(b"short")
    with pytest.raises(StorageError, match="32 bytes"):
        read_secret(keys.pseudonyms)
    keys.node.unlink()
    with pytest.raises(StorageError, match="site init"):
        keys.public("north")
    with pytest.raises(StorageError, match="site init"):
        keys.rotate()
    with pytest.raises(StorageError, match="site init"):
        read_secret(keys.node)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "keys").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        SiteKeys(tmp_path / "keys").create()
