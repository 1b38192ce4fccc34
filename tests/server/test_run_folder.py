"""A run's folder belongs to one study, and is begun once."""

from pathlib import Path
from typing import Any

import pytest

from server.run_folder import RunFolder, default_folder, open_lock, open_run
from shared.errors import StorageError
from shared.protocol import read_protocol


def test_a_new_folder_says_whose_it_is(tiny: Any, tmp_path: Path) -> None:
    """protocol.toml holds the study with every default; read again it is the same study."""
    protocol = tiny.protocol(federation={"strategy": "fedadam"}, model={"unfreeze": [{"round": 2, "from": "layer4"}]})
    run = open_run(tmp_path / "new" / "run", protocol, resume=False)
    assert read_protocol(run.protocol).digest() == protocol.digest()
    assert protocol.digest() in run.protocol.read_text()


def begun(tiny: Any, folder: Path) -> RunFolder:
    """Give a run that has left something behind."""
    run = open_run(folder, tiny.protocol(), resume=False)
    (folder / "rounds.jsonl").write_text("")
    return run


def test_a_run_is_not_begun_twice(tiny: Any, tmp_path: Path) -> None:
    """Without --resume a folder with a run is refused, and stays as it is."""
    run = begun(tiny, tmp_path)
    before = run.protocol.read_text()
    with pytest.raises(StorageError, match="Add --resume"):
        open_run(tmp_path, tiny.protocol(study={"seed": 1}), resume=False)
    assert run.protocol.read_text() == before


def test_a_study_that_did_nothing_leaves_its_folder_free(tiny: Any, tmp_path: Path) -> None:
    """Where a study was refused at once, a corrected one may take the same folder."""
    open_run(tmp_path, tiny.protocol(), resume=False)
    corrected = tiny.protocol(study={"seed": 1})
    assert read_protocol(open_run(tmp_path, corrected, resume=False).protocol).digest() == corrected.digest()


def test_a_run_is_resumed_by_its_own_study_alone(tiny: Any, tmp_path: Path) -> None:
    """The same study goes on; one with another seed is told how to resume the one that is there."""
    run = begun(tiny, tmp_path)
    assert open_run(tmp_path, tiny.protocol(), resume=True) == run
    with pytest.raises(StorageError, match="of another study") as fault:
        open_run(tmp_path, tiny.protocol(study={"seed": 1}), resume=True)
    assert f"polyclinic simulate {run.protocol} --resume" in str(fault.value)
    assert open_run(tmp_path, read_protocol(run.protocol), resume=True) == run


def test_there_must_be_a_run_to_resume(tiny: Any, tmp_path: Path) -> None:
    """--resume on an empty or missing folder is refused, and leaves nothing there."""
    with pytest.raises(StorageError, match="no run to resume"):
        open_run(tmp_path / "nowhere", tiny.protocol(), resume=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_declaration_is_another_study(tiny: Any, tmp_path: Path) -> None:
    """A protocol.toml that cannot be read is not gone on with."""
    run = begun(tiny, tmp_path)
    run.protocol.write_text("[study")
    with pytest.raises(StorageError, match="of another study"):
        open_run(tmp_path, tiny.protocol(), resume=True)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("Chest X-ray: pneumonia (2)", "runs/chest-x-ray-pneumonia-2"), ("A/B", "runs/a-b"), ("9", "runs/9")],
)
def test_a_folder_is_named_after_its_study(tiny: Any, name: str, folder: str) -> None:
    """Letters and digits of the name, so that no name leads out of runs/."""
    assert default_folder(tiny.protocol(study={"name": name})).as_posix() == folder


def test_every_file_has_its_place(tmp_path: Path) -> None:
    """The names that users and programs know."""
    run = RunFolder(path=tmp_path)
    places = (run.protocol, run.results, run.report, run.model, run.hospitals, run.baseline("local-north"))
    assert [place.relative_to(tmp_path).as_posix() for place in places] == [
        "protocol.toml",
        "results.json",
        "report.html",
        "model.safetensors",
        "hospitals",
        "baselines/local-north",
    ]


@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_a_runs_lock_is_its_users_alone(tmp_path: Path, before: int | None) -> None:
    """Who may open it may hold it, and the run up: also one that an earlier version has left open to all."""
    lock = tmp_path / "lock"
    if before is not None:
        lock.touch()
        lock.chmod(before)
    with open_lock(lock):
        assert lock.stat().st_mode & 0o777 == 0o600
