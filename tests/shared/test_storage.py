"""Tests of shared/storage.py: files and lines are whole or not there; what was there before survives a failure."""

import errno
import os
import stat
from pathlib import Path

import pytest

from shared.errors import StorageError
from shared.storage import append_line, atomic_file, private_file


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    """While it is written nothing is at its place; afterwards it is, and nothing else is left."""
    path = tmp_path / "runs" / "a" / "results.json"
    with atomic_file(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def write_half(path, fault):
    """Write a file half, and fail."""
    with atomic_file(path) as part:
        part.write_text("half")
        raise fault


def test_an_exception_leaves_what_was_there(tmp_path):
    """A failure in the middle of writing changes nothing, leaves no half, and is the caller's own."""
    path = tmp_path / "results.json"
    path.write_text("before")
    with pytest.raises(KeyError):
        write_half(path, KeyError())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_in_one_sentence(tmp_path):
    """The message names the file and says what to do; what was there before is untouched."""
    path = tmp_path / "model.safetensors"
    path.write_text("before")
    with pytest.raises(StorageError, match=r"model.safetensors: cannot be written \(No space left on device\)\. Free"):
        write_half(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fails_late_is_seen(tmp_path, monkeypatch):
    """A disk may say only at the sync that it could not take the data; the file is then not replaced."""
    path = tmp_path / "a"
    path.write_text("before")

    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="Input/output error"), atomic_file(path) as part:
        part.write_text("after")
    assert path.read_text() == "before"


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    """A file where a folder should be gives the same kind of message."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"), atomic_file(tmp_path / "file" / "x" / "a"):
        pass


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    """An empty result is not taken for a whole one."""
    with pytest.raises(StorageError, match="cannot be written"), atomic_file(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [atomic_file, private_file])
@pytest.mark.parametrize("plant", [os.symlink, os.link, lambda _, to: os.mkfifo(to)], ids=["link", "hard link", "pipe"])
def test_what_others_have_planted_leads_nowhere(tmp_path, write, plant):
    """Who can write the folder puts a link to a key where the part will be: the key stays, no link takes the place."""
    key, path = tmp_path / "signing.key", tmp_path / "exchange" / "study.toml"
    key.write_text("secret")
    path.parent.mkdir()
    plant(key, path.parent / "study.toml.part")
    with write(path) as part:
        part.write_text("whole")
    assert (key.read_text(), path.read_text()) == ("secret", "whole")
    assert not path.is_symlink()
    assert path.stat().st_ino != key.stat().st_ino
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("write", [atomic_file, private_file])
def test_what_others_put_in_its_place_meanwhile_is_not_written_to(tmp_path, write):
    """Neither is it what is there in the end: that is told, and what was there before is untouched."""
    key, path = tmp_path / "signing.key", tmp_path / "a"
    key.write_text("secret")
    path.write_text("before")

    def meanwhile():
        with write(path) as part:
            (tmp_path / "a.part").unlink(missing_ok=True)
            (tmp_path / "a.part").symlink_to(key)
            part.write_text("whole")

    with pytest.raises(StorageError, match="somebody else has put another file in its place"):
        meanwhile()
    assert (key.read_text(), path.read_text()) == ("secret", "before")


def test_a_private_file_is_nobody_elses_from_its_first_byte(tmp_path):
    """Nor can one that others have made and hold open take it in."""
    (tmp_path / "key.part").touch(mode=0o666)
    with (tmp_path / "key.part").open() as held, private_file(tmp_path / "key") as part:
        part.write_text("secret")
        assert stat.S_IMODE((tmp_path / "key.part").stat().st_mode) == 0o600
        assert held.read() == ""
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_the_data_are_synced_before_the_name(tmp_path, monkeypatch):
    """After a power cut the name never leads to data that are not there: file first, then its folder."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with atomic_file(tmp_path / "a") as part:
        part.write_text("x")
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize("torn", [b"", b"thi", b"third without its end", b"\0\0"])
def test_a_line_never_joins_what_is_left_of_another(tmp_path, torn):
    """Half a line, as a full disk or a power loss leaves it, is cut off before the next one."""
    path = tmp_path / "state" / "lines"
    append_line(path, b"first\n")
    append_line(path, b"second\n")
    path.write_bytes(path.read_bytes() + torn)
    append_line(path, b"third\n")
    assert path.read_bytes() == b"first\nsecond\nthird\n"
    path.write_bytes(torn)
    append_line(path, b"first\n")
    assert path.read_bytes() == b"first\n"


def test_a_line_is_on_the_disk_before_anybody_goes_on(tmp_path, monkeypatch):
    """The file is synced each time, its folder when the file is new; where that fails, the line was not added."""
    path, synced, inode = tmp_path / "lines", [], lambda name: name.stat().st_ino
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    append_line(path, b"first\n")
    append_line(path, b"second\n")
    assert synced == [inode(path), inode(tmp_path), inode(path)]

    def full(_descriptor):
        path.write_bytes(path.read_bytes()[:-4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"lines: cannot be written \(No space left on device\)\. Free"):
            append_line(path, b"third\n")
    append_line(path, b"fourth\n")
    assert path.read_bytes() == b"first\nsecond\nfourth\n"


def test_where_there_is_no_proc_a_file_is_whole_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation runs on macOS, too, which gives no file by its descriptor in /proc."""
    there = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: not str(path).startswith("/proc/") and there(path))
    with atomic_file(tmp_path / "model") as part:
        assert part.parent == tmp_path
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").read_text() == "whole"
