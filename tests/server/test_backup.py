"""A backup that is made while a run goes on holds whole files, the newest checkpoint among them, for one user only."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from server.backup import backup, restore
from server.coordinator_folder import CoordinatorFolder
from shared.errors import CoordinatorError, StorageError
from shared.storage import atomic_file


@pytest.fixture
def place(tmp_path: Path) -> CoordinatorFolder:
    """Give a coordinator's folder with one run under way."""
    contents = {
        "coordinator.toml": "[sites]",
        "private/ca.key": "key",
        "runs/a/rounds.jsonl": "1\n",
        "runs/a/lock": "",
        "runs/a/status.json.part": "half",
        "runs/a/checkpoints/round-00001.safetensors": "first",
        "runs/a/checkpoints/round-00002.safetensors": "second",
        "state/flower.db": "Flower's own",
    }
    for name, text in contents.items():
        path = tmp_path / "place" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "place" / "private" / "link").symlink_to("/etc/hostname")
    return CoordinatorFolder(path=tmp_path / "place")


def restored(place: CoordinatorFolder, target: Path) -> dict[str, str]:
    """Give what a restored coordinator has, by name."""
    again = CoordinatorFolder(path=target.parent / "again")
    restore(target, again)
    return {str(path.relative_to(again.path)): path.read_text() for path in again.path.rglob("*") if path.is_file()}


def test_all_that_is_needed_to_go_on_comes_back(place: CoordinatorFolder, tmp_path: Path) -> None:
    """Without scratch files, links, and what Flower makes anew; only the owner may read it."""
    target = tmp_path / "backup.tar.gz"
    backup(place, target)
    assert target.stat().st_mode & 0o077 == 0
    assert restored(place, target) == {
        "coordinator.toml": "[sites]",
        "private/ca.key": "key",
        "runs/a/rounds.jsonl": "1\n",
        "runs/a/checkpoints/round-00001.safetensors": "first",
        "runs/a/checkpoints/round-00002.safetensors": "second",
    }


def test_a_run_goes_on_while_it_is_backed_up(
    place: CoordinatorFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced while it is read is whole; an older checkpoint may be gone by its turn."""
    checkpoints, describe = place.runs / "a" / "checkpoints", tarfile.TarFile.gettarinfo

    def round_ends(archive: tarfile.TarFile, *names: Any, **more: Any) -> tarfile.TarInfo:
        entry = describe(archive, *names, **more)
        if entry.name == "runs/a/rounds.jsonl":
            with atomic_file(place.runs / "a" / "rounds.jsonl") as part:
                part.write_text("another first line\n2\n")
        if entry.name.endswith("00002.safetensors"):
            (checkpoints / "round-00001.safetensors").unlink()
        return entry

    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", round_ends)
    backup(place, tmp_path / "backup.tar.gz")
    found = restored(place, tmp_path / "backup.tar.gz")
    assert found["runs/a/rounds.jsonl"] == "1\n"
    assert [name for name in found if "checkpoints" in name] == ["runs/a/checkpoints/round-00002.safetensors"]


def test_what_is_no_coordinator_or_no_backup_is_said(place: CoordinatorFolder, tmp_path: Path) -> None:
    """Nothing is written then, and nothing that is there is touched."""
    with pytest.raises(CoordinatorError, match="no coordinator"):
        backup(CoordinatorFolder(path=tmp_path / "nowhere"), tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        backup(place, tmp_path / "file" / "b")
    with pytest.raises(CoordinatorError, match="not empty"):
        restore(tmp_path / "file", place)
    with pytest.raises(CoordinatorError, match="not a backup"):
        restore(tmp_path / "file", CoordinatorFolder(path=tmp_path / "new"))
