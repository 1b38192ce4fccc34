"""A coordinator has one key to sign tasks with; a new one has the old one's word, where that is at hand."""

from pathlib import Path

import pytest

from server.coordinator_folder import CoordinatorFolder
from server.coordinator_key import coordinator_key, draw_key, succession_of
from shared.errors import CoordinatorError, PolyclinicError
from shared.signing import SigningKey, is_endorsed


@pytest.fixture
def place(tmp_path: Path) -> CoordinatorFolder:
    return CoordinatorFolder(path=tmp_path / "coordinator")


def test_the_first_key_follows_none(place: CoordinatorFolder) -> None:
    """It is for its owner's eyes only, and its public half is what sites are told."""
    drawn = draw_key(place)
    assert (drawn.before, drawn.endorsement) == ("", "")
    assert coordinator_key(place).public == drawn.key == succession_of(place).key
    assert place.signing_key.stat().st_mode & 0o777 == 0o600
    assert place.private.stat().st_mode & 0o077 == 0


def test_a_new_key_has_the_word_of_the_one_before(place: CoordinatorFolder) -> None:
    """So that a site which approved the old one knows whose the new one is."""
    first, second = draw_key(place), draw_key(place)
    assert second.key != first.key == second.before
    assert is_endorsed(second.key, by=first.key, signature=second.endorsement)
    assert coordinator_key(place).public == second.key


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_lost_key_cannot_vouch_for_the_next(place: CoordinatorFolder, how: str) -> None:
    """Without it nothing is signed; what to do is said, and a new key is then drawn without its word."""
    first = draw_key(place)
    if how == "gone":
        place.signing_key.unlink()
    else:
        place.signing_key.write_bytes(b"scratched")
    with pytest.raises(PolyclinicError, match="coordinator key --new"):
        coordinator_key(place)
    second = draw_key(place)
    assert (second.before, second.endorsement) == ("", "")
    assert second.key != first.key
    assert coordinator_key(place).public == second.key


def test_a_key_that_sites_were_not_told_of_signs_nothing(place: CoordinatorFolder) -> None:
    """Another file in its place would be refused by every site: it is refused here, at once."""
    draw_key(place)
    place.signing_key.write_bytes(SigningKey.draw().pem())
    with pytest.raises(CoordinatorError, match=r"not the key that signing\.toml names"):
        coordinator_key(place)
