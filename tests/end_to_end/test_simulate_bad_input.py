"""What is wrong with a simulation is told in a sentence, with an exit code of its own and no patient in it."""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shared.audit import AuditLog
from shared.cli import main

WROTE_FOR_PATIENTS = re.compile(r"SYN\d{5}|SYNTHETIC\^|DOE\^|2\.25\.\d+")
"""Patient numbers and names, accession numbers and UIDs of the synthetic hospitals, and the name planted here."""

Polyclinic = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[None]:
    """Put back what the main job switches on for the whole process; draw no report, which is none of these tests'."""
    before = torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr("server.finish.write_report", lambda result, path: path.write_text(result.study.name))
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def polyclinic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Polyclinic:
    """Give `polyclinic(*words)`: run the command in an empty folder; give its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["polyclinic", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = "".join(capsys.readouterr())
        assert "Traceback" not in said
        assert not WROTE_FOR_PATIENTS.search(said)
        return int(end.value.code or 0), said

    return run


@pytest.fixture
def study(tiny_study: Path, tmp_path: Path) -> Path:
    """Give a study file that a test may spoil."""
    return Path(shutil.copy(tiny_study, tmp_path / "study.toml"))


@pytest.fixture
def sites(hospitals_on_disk: Path, tmp_path: Path) -> Path:
    """Give hospitals that a test may spoil."""
    return Path(shutil.copytree(hospitals_on_disk, tmp_path / "sites"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_privacy_that_cannot_be_kept_is_refused_by_name(polyclinic: Polyclinic, study: Path) -> None:
    """A study that asks for more privacy than there is, or breaks its own, never runs in silence."""
    study.write_text(study.read_text() + "\n[privacy]\nepsilon = 3.0\ncount_noise_epsilon = 1.0\n")
    code, said = polyclinic("simulate", study)
    assert code == 10
    assert "Under [privacy]: [privacy] count_noise_epsilon noises counts in which a patient counts once" in said
    assert not Path("runs").exists()


def test_a_misspelt_key_names_the_nearest(polyclinic: Polyclinic, study: Path) -> None:
    """In the study and on the command line alike."""
    edit(study, "local_epochs", "local_epoch")
    code, said = polyclinic("simulate", study)
    assert (code, "study.toml [training] local_epoch: there is no such key. Did you mean 'local_epochs'?" in said) == (
        10,
        True,
    )
    code, said = polyclinic("simulate", study, "--set", "training.local_epoch=", "--set", "x=1")
    assert code == 10


def test_a_study_that_is_not_there(polyclinic: Polyclinic) -> None:
    """The path is named, and what to check."""
    code, said = polyclinic("simulate", "nowhere.toml")
    assert (code, "nowhere.toml: there is no such file" in said) == (10, True)


def test_a_finding_that_no_hospital_has_is_refused_with_the_nearest(
    polyclinic: Polyclinic, study: Path, sites: Path
) -> None:
    """A misspelt finding trained in silence, and ended with 0: it is told before an image is read."""
    known = tomllib.loads(study.read_text())["task"]["findings"][0]
    code, said = polyclinic(
        "simulate", study, "--sites", sites, "--out", "run", "--set", f"task.findings=['{known[:-1]}']"
    )
    assert code == 10
    assert f"Did you mean '{known}'?" in " ".join(said.split())


def test_a_finding_without_a_label_anywhere_is_refused(polyclinic: Polyclinic, study: Path, sites: Path) -> None:
    """A column of empty cells at every hospital teaches nothing."""
    for table in sites.glob("*/labels.csv"):
        header, *rows = table.read_text().splitlines()
        place = header.split(",").index(_column(table.parent / "site.toml"))
        cells = [row.split(",") for row in rows]
        emptied = [",".join([*one[:place], "", *one[place + 1 :]]) for one in cells]
        table.write_text("\n".join([header, *emptied]) + "\n")
    code, said = polyclinic("simulate", study, "--sites", sites, "--out", "run")
    assert code in (10, 12)
    assert "label" in said


def _column(site: Path) -> str:
    return str(next(iter(tomllib.loads(site.read_text())["data"]["findings"].values())))


def test_an_unknown_baseline_leaves_the_folder_free(polyclinic: Polyclinic, study: Path, sites: Path) -> None:
    """After the correction the same command works, without --resume and without another folder."""
    code, said = polyclinic("simulate", study, "--sites", sites, "--out", "run", "--baselines", "lokal")
    assert (code, "there is no such baseline. Known: local, pooled" in said) == (10, True)
    code, said = polyclinic("simulate", study, "--sites", sites, "--out", "run", "--set", "federation.rounds=1")
    assert (code, said.splitlines()[0]) == (0, "run/report.html")
    assert Path("run/report.html").exists()


def test_no_hospital_where_one_was_said_to_be(polyclinic: Polyclinic, study: Path, tmp_path: Path) -> None:
    """A missing folder, a file, and a folder without hospitals say what is needed."""
    (tmp_path / "empty").mkdir()
    for folder, told in {
        "nowhere": "there is no such folder. Name the one that has a folder for each hospital",
        "empty": "no hospital is there. It needs one folder a hospital",
        "study.toml": "this is no folder. Name the one that has a folder for each hospital",
    }.items():
        code, said = polyclinic("simulate", study, "--sites", folder)
        assert (code, f"{folder}: {told}" in said) == (16, True)


def test_two_hospitals_of_one_name(polyclinic: Polyclinic, study: Path, sites: Path) -> None:
    """The name is said, and what to do."""
    edit(sites / "south" / "site.toml", '"south"', '"north"')
    code, said = polyclinic("simulate", study, "--sites", sites)
    assert (code, "two hospitals are called 'north'. Give each its own [site] name." in said) == (16, True)


def test_fewer_hospitals_than_the_study_needs(polyclinic: Polyclinic, study: Path, sites: Path) -> None:
    """Missing sites and small ones are counted, the small ones named with the reason."""
    edit(sites / "south" / "site.toml", "min_cell = 1", "min_cell = 99")
    code, said = polyclinic("simulate", study, "--sites", sites)
    assert code == 16
    assert "1 of 2 sites can take part, and the study needs 2 (south: fewer training patients" in said


def spoil_key(sites: Path) -> None:
    edit(sites / "south" / "site.toml", "labels =", "lables =")


def spoil_column(sites: Path) -> None:
    edit(sites / "south" / "site.toml", 'opacity" = "opacity"', 'opacity" = "opacitty"')


def spoil_images(sites: Path) -> None:
    for path in (sites / "south" / "dicom").rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:200])


def remove_images(sites: Path) -> None:
    shutil.rmtree(sites / "south" / "dicom")
    (sites / "south" / "dicom").mkdir()


def remove_folder(sites: Path) -> None:
    shutil.rmtree(sites / "south" / "dicom")


def spoil_pixels(sites: Path) -> None:
    for path in (sites / "south" / "dicom").rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-3000])


def spoil_encoding(sites: Path) -> None:
    table = sites / "south" / "labels.csv"
    table.write_bytes(table.read_text(encoding="utf-8").encode("utf-32"))


def spoil_labels(sites: Path) -> None:
    table = sites / "south" / "labels.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *(row.split(",")[0] + ",DOE^JOHN" for row in rows), ""]))


def remove_labels(sites: Path) -> None:
    (sites / "south" / "labels.csv").unlink()


SPOILT: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "a misspelt key of site.toml": (spoil_key, 11, "Did you mean 'labels'?"),
    "a column that the table has not": (spoil_column, 11, "opacitty"),
    "a folder without images": (remove_images, 12, "the folder holds no file"),
    "a folder that is not there": (remove_folder, 12, "dicom"),
    "unreadable images": (spoil_images, 12, "has no image that the study can use"),
    "images without pixels": (spoil_pixels, 12, "has no image that the study can use"),
    "a table in another encoding": (spoil_encoding, 12, "UTF-8"),
    "labels that are none": (spoil_labels, 12, "has no image that the study can use"),
    "a table that is not there": (remove_labels, 12, "labels"),
}


@pytest.mark.parametrize(("spoil", "code", "sentence"), SPOILT.values(), ids=SPOILT)
def test_one_spoilt_hospital_is_named(
    polyclinic: Polyclinic, study: Path, sites: Path, spoil: Callable[[Path], None], code: int, sentence: str
) -> None:
    """The message says which hospital it is, what is wrong there, and nothing about a patient."""
    spoil(sites)
    found, said = polyclinic("simulate", study, "--sites", sites)
    assert found == code
    assert f"{sites / 'south'}: " in said
    assert sentence in said


def test_weights_that_are_not_there(polyclinic: Polyclinic, study: Path, sites: Path) -> None:
    """A study that starts from a file says that it needs one."""
    code, said = polyclinic("simulate", study, "--sites", sites, "--set", "model.weights=file")
    assert (code, "--weights" in said) == (13, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that the test wants to miss")
def test_a_device_that_is_not_there(polyclinic: Polyclinic, study: Path, sites: Path) -> None:
    """CUDA is never replaced by the CPU in silence."""
    code, said = polyclinic("simulate", study, "--sites", sites, "--device", "cuda")
    assert (code, "device 'cuda' was asked for" in said) == (14, True)


def test_a_folder_that_is_taken(polyclinic: Polyclinic, study: Path, sites: Path, tmp_path: Path) -> None:
    """A run is neither overwritten, nor gone on with by another study, nor resumed where there is none."""
    code, said = polyclinic("simulate", study, "--resume", "--out", "run")
    assert (code, "holds no run to resume" in said) == (15, True)
    (tmp_path / "run").mkdir()
    shutil.copy(study, tmp_path / "run" / "protocol.toml")
    (tmp_path / "run" / "rounds.jsonl").write_text("")
    code, said = polyclinic("simulate", study, "--out", "run")
    assert (code, "run holds a run already. Add --resume" in said) == (15, True)
    code, said = polyclinic("simulate", study, "--out", "run", "--resume", "--seed", "9")
    assert (code, "run holds a run of another study" in said) == (15, True)


def test_a_full_disk(polyclinic: Polyclinic, study: Path, sites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that could not be written is named; once there is room, the run goes on with --resume."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    settings = ("--sites", sites, "--out", "run", "--set", "federation.rounds=1")
    with monkeypatch.context() as patched:
        patched.setattr("server.checkpoint.save_file", full)
        code, said = polyclinic("simulate", study, *settings)
    assert code == 15
    assert "round-00001.safetensors: cannot be written (No space left on device). Free space" in said
    assert not list(Path("run").rglob("*.part"))
    assert polyclinic("simulate", study, *settings, "--resume")[0] == 0


def test_an_audit_log_that_was_changed(polyclinic: Polyclinic, study: Path, sites: Path, tmp_path: Path) -> None:
    """A hospital's log that no longer holds together stops the run, and is kept."""
    log = tmp_path / "run" / "sites" / "south" / "federated" / "audit.jsonl"
    AuditLog(log).append("departure", kind="train")
    shutil.copy(study, tmp_path / "run" / "protocol.toml")
    edit(log, '"train"', '"query"')
    code, said = polyclinic("simulate", study, "--sites", sites, "--out", "run", "--resume")
    assert (code, "the audit log's chain breaks at line 1" in said) == (15, True)
    assert '"query"' in log.read_text()
