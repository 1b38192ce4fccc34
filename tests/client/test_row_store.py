"""Rows on disk survive whatever interrupts their writer."""

import json
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.row_store import ENTRIES_A_COMMIT, RowStore
from shared.errors import StorageError

SHAPE, DTYPE = (1, 4, 4), np.dtype(np.uint16)
ROW_BYTES = 32
KEYS = [f"key{number}" for number in range(40)]


def rows_of(key: str) -> np.ndarray:
    """Give each key one or two rows that are its own."""
    number = int(key[3:])
    return np.random.default_rng(number).integers(0, 2**16, (1 + number % 2, *SHAPE), dtype=DTYPE)


def fill(folder: Path, keys: list[str] = KEYS) -> int:
    """Add what is missing; say how much that was."""
    with RowStore.open(folder, shape=SHAPE, dtype=DTYPE) as store:
        missing = [key for key in keys if key not in store.finished]
        for key in missing:
            store.add(key, rows_of(key))
    return len(missing)


def assert_true(folder: Path, *, complete: bool) -> None:
    """Check that all that the store says is so."""
    with RowStore.open(folder, shape=SHAPE, dtype=DTYPE) as store:
        array = store.read()
        assert set(store.finished) == set(KEYS) if complete else set(store.finished) <= set(KEYS)
        for key, span in store.finished.items():
            assert np.array_equal(array[span.start : span.stop], rows_of(key))


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    """A second opening finds everything, and has nothing to do."""
    assert fill(tmp_path / "a" / "b") == len(KEYS)
    assert fill(tmp_path / "a" / "b") == 0
    assert_true(tmp_path / "a" / "b", complete=True)


def test_an_empty_store_can_be_read(tmp_path: Path) -> None:
    """No row at all is an array of no rows."""
    with RowStore.open(tmp_path, shape=SHAPE, dtype=DTYPE) as store:
        assert store.read().shape == (0, *SHAPE)


def test_rows_are_read_only_and_nobody_elses(tmp_path: Path) -> None:
    """Training cannot change the cache, and other users of the machine cannot read it."""
    fill(tmp_path / "store")
    with RowStore.open(tmp_path / "store", shape=SHAPE, dtype=DTYPE) as store:
        array = store.read()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()} == {0o600}


def test_an_exception_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    """A writer that fails has finished all but its last few entries."""
    with pytest.raises(ValueError, match="invalid literal"):
        fill(tmp_path, [*KEYS[: 2 * ENTRIES_A_COMMIT + 3], "keyless"])
    assert_true(tmp_path, complete=False)
    assert fill(tmp_path) == len(KEYS) - 2 * ENTRIES_A_COMMIT
    assert_true(tmp_path, complete=True)


@given(journal_bytes=st.integers(0, 700), extra=st.binary(max_size=3 * ROW_BYTES))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_writer_killed_at_any_byte_goes_on(tmp_path: Path, journal_bytes: int, extra: bytes) -> None:
    """Cut anywhere in the journal, with any rubbish behind the finished rows, the end is the same as undisturbed."""
    for path in tmp_path.iterdir():
        path.unlink()
    fill(tmp_path)
    journal, rows = tmp_path / "finished.jsonl", tmp_path / "rows.raw"
    journal.write_bytes(journal.read_bytes()[:journal_bytes])
    rows.write_bytes(rows.read_bytes() + extra)
    assert_true(tmp_path, complete=False)
    whole_lines = journal.read_bytes().count(b"\n")
    assert rows.stat().st_size == sum(len(rows_of(key)) for key in KEYS[:whole_lines]) * ROW_BYTES
    assert fill(tmp_path) == len(KEYS) - whole_lines
    assert_true(tmp_path, complete=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "rows.raw").write_bytes((folder / "rows.raw").read_bytes()[:-1]),
        lambda folder: (folder / "rows.raw").unlink(),
        lambda folder: (folder / "finished.jsonl").unlink(),
        lambda folder: (folder / "finished.jsonl").write_bytes(b"\x00" * 50 + b"\n"),
        lambda folder: (folder / "finished.jsonl").write_text('["key0", 0, 1]\n["key2", 5, 1]\n'),
        lambda folder: (folder / "finished.jsonl").write_text('["key0", 0, -1]\n'),
        lambda folder: (folder / "finished.jsonl").write_text('["key0", 0]\n'),
        lambda folder: (folder / "finished.jsonl").write_text("7\n"),
    ],
)
def test_a_store_that_does_not_hold_is_made_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """Truncated rows and a damaged journal are never served."""
    fill(tmp_path)
    damage(tmp_path)
    assert fill(tmp_path) == len(KEYS)
    assert_true(tmp_path, complete=True)


def test_who_reads_is_not_disturbed_by_a_new_start(tmp_path: Path) -> None:
    """A study that trains on the old rows keeps them, whatever another process makes of the store."""
    fill(tmp_path)
    with RowStore.open(tmp_path, shape=SHAPE, dtype=DTYPE) as store:
        reader = store.read()
    before = reader.copy()
    (tmp_path / "finished.jsonl").unlink()
    fill(tmp_path, KEYS[::-1])
    assert np.array_equal(reader, before)


def test_a_second_writer_waits(tmp_path: Path) -> None:
    """Two studies that start together on one cache do not write over each other: the second finds all done."""
    counts: list[int] = []
    second = threading.Thread(target=lambda: counts.append(fill(tmp_path)))
    with RowStore.open(tmp_path, shape=SHAPE, dtype=DTYPE) as store:
        second.start()
        second.join(0.2)
        for key in KEYS:
            store.add(key, rows_of(key))
    second.join()
    assert counts == [0]
    assert_true(tmp_path, complete=True)


def test_the_journal_is_written_after_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every sync of the journal, the rows that it names have been synced before."""
    synced = []
    monkeypatch.setattr(
        "os.fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
    )
    fill(tmp_path)
    assert synced == ["rows.raw", "finished.jsonl"] * 3
    lines = [json.loads(line) for line in (tmp_path / "finished.jsonl").read_text().splitlines()]
    assert [key for key, _, _ in lines] == KEYS


def test_a_disk_that_fills_up_keeps_what_is_finished(tmp_path: Path) -> None:
    """The write is refused in one clear sentence; with space again, the rest is added."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30 * ROW_BYTES + 5, hard))
    try:
        with pytest.raises(
            StorageError, match=r"cannot be written \(File too large\).*What was finished is kept"
        ) as fault:
            fill(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "key" not in str(fault.value)
    assert_true(tmp_path, complete=False)
    assert fill(tmp_path) == len(KEYS) - ENTRIES_A_COMMIT
    assert_true(tmp_path, complete=True)


def test_space_is_asked_for_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits an hour to learn that the disk is too small; the message has both numbers."""
    monkeypatch.setattr("client.row_store._free", lambda _: 10 * ROW_BYTES)
    with RowStore.open(tmp_path, shape=SHAPE, dtype=DTYPE) as store:
        store.reserve(10)
        with pytest.raises(StorageError, match="352 bytes are needed for 11 images and 320 are free"):
            store.reserve(11)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A file where the folder should be, or no permission, is a sentence and no traceback."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match="cannot be written"),
        RowStore.open(tmp_path / "file" / "store", shape=SHAPE, dtype=DTYPE),
    ):
        pass
