"""Checkpoints are whole or not there, belong to one study, and give back every bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from server.checkpoint import CheckpointFolder, RunState, save_tensors
from server.round_records import read_rounds, write_rounds
from shared.errors import StorageError
from shared.landmarks import Landmarks, standard_scale

RNG = np.random.default_rng(3)


def state(number: int, *, best: tuple[int, float] | None = None) -> RunState:
    return RunState(
        round=number,
        model={"z": RNG.standard_normal((3, 2)).astype(np.float32), "a": np.full((), number, np.float32)},
        optimiser={"m/z": RNG.standard_normal((3, 2)).astype(np.float32)},
        history=[{"round": n} for n in range(1, number + 1)],
        best=best,
    )


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    """Model (in its order), moments, history and best round come back as they were."""
    folder, saved = CheckpointFolder(tmp_path, fingerprint="study"), state(4, best=(2, 0.75))
    folder.save(saved)
    loaded = folder.latest()
    assert loaded is not None
    assert list(loaded.model) == ["z", "a"]
    assert all(np.array_equal(loaded.model[name], saved.model[name]) for name in saved.model)
    assert np.array_equal(loaded.optimiser["m/z"], saved.optimiser["m/z"])
    assert (loaded.round, loaded.history, loaded.best) == (4, saved.history, (2, 0.75))


def test_the_sites_landmarks_and_their_mean_come_back(tmp_path: Path) -> None:
    """A scale that was sent once stays, whoever answers after a restart; a site that withheld its own has no part."""
    folder, saved = CheckpointFolder(tmp_path, fingerprint="study"), state(0)
    assert saved.standard == ()
    own = [Landmarks(positions=tuple(tenth / 10 / n for tenth in range(1, 10))) for n in (1, 3)]
    saved.landmarks = {"south": own[1], "east": None, "north": own[0]}
    saved.no_landmarks = {"east": "too_few_patients"}
    folder.save(saved)
    loaded = folder.latest()
    assert loaded is not None
    assert (loaded.landmarks, loaded.no_landmarks) == (saved.landmarks, saved.no_landmarks)
    assert loaded.standard == saved.standard == standard_scale(own)


def test_nothing_saved_is_nothing_to_resume(tmp_path: Path) -> None:
    """A folder without a checkpoint gives None, not an error."""
    assert CheckpointFolder(tmp_path / "new", fingerprint="study").latest() is None


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    """Old checkpoints go, but never the best round's."""
    folder = CheckpointFolder(tmp_path, fingerprint="study")
    for number in range(1, 7):
        folder.save(state(number, best=(2, 0.9) if number >= 2 else (1, 0.5)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"round-0000{n}.safetensors" for n in (2, 5, 6)]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    """A truncated file is passed over; the run goes on from the round before."""
    folder = CheckpointFolder(tmp_path, fingerprint="study")
    folder.save(state(1))
    folder.save(state(2))
    newest = tmp_path / "round-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    loaded = folder.latest()
    assert loaded is not None
    assert loaded.round == 1


def test_only_damaged_checkpoints_are_an_error_not_a_silent_restart(tmp_path: Path) -> None:
    """Starting from round 1 without a word would lose what the user believes is safe."""
    CheckpointFolder(tmp_path, fingerprint="study").save(state(1))
    (tmp_path / "round-00001.safetensors").write_bytes(b"half")
    with pytest.raises(StorageError, match="damaged"):
        CheckpointFolder(tmp_path, fingerprint="study").latest()


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(path.read_bytes()[:-5]), Path.unlink], ids=["cut", "gone"]
)
def test_a_damaged_best_round_is_told(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """The chosen round's model cannot be made up: the message names the file and says what to do."""
    folder = CheckpointFolder(tmp_path, fingerprint="study")
    for number in (1, 2, 3):
        folder.save(state(number, best=(1, 0.9)))
    spoil(tmp_path / "round-00001.safetensors")
    with pytest.raises(StorageError, match=r"round-00001.safetensors: the checkpoint .* is damaged or gone"):
        folder.load(1)
    assert folder.load(3).round == 3


def test_another_studys_checkpoint_is_refused(tmp_path: Path) -> None:
    """Another protocol or other initial weights cannot go on with this run."""
    CheckpointFolder(tmp_path, fingerprint="study").save(state(1))
    with pytest.raises(StorageError, match="belongs to another study"):
        CheckpointFolder(tmp_path, fingerprint="other").latest()


def test_a_full_disk_is_told_and_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails the message says what to do, no half file stays, and the last round is safe."""
    folder = CheckpointFolder(tmp_path, fingerprint="study")
    folder.save(state(1))

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.checkpoint.save_file", no_space)
    with pytest.raises(StorageError, match="No space left on device"):
        folder.save(state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["round-00001.safetensors"]


def test_safetensors_own_error_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reports a full disk as an error of its own kind; it is told in the same words."""

    def no_space(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("server.checkpoint.save_file", no_space)
    with pytest.raises(StorageError, match="cannot be written"):
        save_tensors(tmp_path / "model.safetensors", {"a": np.zeros(3, np.float32)}, facts={})


def test_rounds_are_one_line_each(tmp_path: Path) -> None:
    """rounds.jsonl holds one JSON record a finished round."""
    write_rounds(tmp_path, state(3).history)
    assert [record["round"] for record in read_rounds(tmp_path)] == [1, 2, 3]
    assert (tmp_path / "rounds.jsonl").read_text().splitlines() == ['{"round": 1}', '{"round": 2}', '{"round": 3}']
