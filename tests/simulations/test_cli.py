"""The researcher's commands turn what was typed into a job, and end with the path of what was made."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from client.site import read_site
from shared.cli import application
from shared.errors import DataError, StudyError
from shared.protocol import read_protocol
from simulations import simulate
from simulations.simulate import Simulation


def polyclinic(*words: object) -> Result:
    return CliRunner().invoke(application(), [str(word) for word in words])


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Simulation]:
    """Keep the jobs instead of running them, in an empty working folder."""
    kept: list[Simulation] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulate, "simulate", lambda job, _: kept.append(job))
    return kept


def test_a_study_alone_is_enough(jobs: list[Simulation], tiny_study: Path) -> None:
    """Without options: the study as it stands, synthetic hospitals, no baseline, a folder named after the study."""
    result = polyclinic("simulate", tiny_study)
    (job,) = jobs
    assert result.exit_code == 0
    assert result.stdout == "runs/tiny/report.html\n"
    assert job.protocol == read_protocol(tiny_study)
    assert (job.run.path, job.sites, job.baselines) == (Path("runs/tiny"), None, [])
    assert (job.weights_file, job.device) == (None, "auto")
    assert job.run.protocol.exists()


def test_each_option_reaches_the_job(jobs: list[Simulation], tiny_study: Path) -> None:
    """Hospitals, folder, baselines (blanks and commas as people write them), weights and device."""
    result = polyclinic(
        *("simulate", tiny_study, "--sites", "hospitals", "--out", "here"),
        *("--baselines", " local, pooled,", "--weights", "w.pt", "--device", "cpu"),
    )
    (job,) = jobs
    assert result.exit_code == 0
    assert (job.sites, job.run.path, job.baselines) == (Path("hospitals"), Path("here"), ["local", "pooled"])
    assert (job.weights_file, job.device) == (Path("w.pt"), "cpu")


def test_settings_change_the_study_and_its_digest(jobs: list[Simulation], tiny_study: Path) -> None:
    """--set writes into the study that is run and kept, several at once; --seed is a --set of its own."""
    words = ("--set", "federation.rounds=7", "--set", "model.backbone=resnet34", "--seed", 5)
    assert polyclinic("simulate", tiny_study, *words).exit_code == 0
    (job,) = jobs
    protocol = job.protocol
    assert (protocol.federation.rounds, protocol.model.backbone, protocol.study.seed) == (7, "resnet34", 5)
    assert protocol.digest() != read_protocol(tiny_study).digest()
    assert read_protocol(job.run.protocol) == protocol
    polyclinic("simulate", tiny_study, "--set", "study.seed=5", "--out", "other")
    polyclinic("simulate", tiny_study, "--seed", "5", "--out", "another")
    assert jobs[1].protocol.digest() == jobs[2].protocol.digest()


def test_a_run_is_resumed_by_name(jobs: list[Simulation], tiny_study: Path) -> None:
    """--resume goes on in the folder, also with the protocol.toml that lies in it."""
    assert polyclinic("simulate", tiny_study, "--out", "here").exit_code == 0
    for study in (tiny_study, "here/protocol.toml"):
        assert polyclinic("simulate", study, "--out", "here", "--resume").exit_code == 0
    assert len({job.protocol.digest() for job in jobs}) == 1


def test_a_wrong_command_line_is_a_usage_error(jobs: list[Simulation], tiny_study: Path) -> None:
    """An unknown option, device or a missing study end with exit code 2 before anything is touched."""
    for words in (("--bassline", "x"), ("--device", "tpu"), ("--seed", "one")):
        assert polyclinic("simulate", tiny_study, *words).exit_code == 2
    assert polyclinic("simulate").exit_code == 2
    assert jobs == []


def test_a_wrong_setting_is_a_fault_of_the_study(jobs: list[Simulation], tiny_study: Path) -> None:
    """A misspelt key of --set names the nearest one, and no folder is made."""
    result = polyclinic("simulate", tiny_study, "--set", "federation.round=3")
    assert isinstance(result.exception, StudyError)
    assert "Did you mean 'rounds'?" in str(result.exception)
    assert not Path("runs").exists()


def test_help_is_for_people(jobs: list[Simulation]) -> None:
    """Each option and what the command leaves behind are explained."""
    text = polyclinic("simulate", "--help").stdout
    for word in ("--sites", "--resume", "--baselines", "--weights", "--set", "rounds.jsonl", "report.html"):
        assert word in text


def test_a_study_can_be_checked_alone(tiny_study: Path, tmp_path: Path) -> None:
    """`study check` prints every default and the digest, and what the augmentation does to left and right."""
    augmented = tmp_path / "augmented.toml"
    augmented.write_text(tiny_study.read_text().replace("rotation_degrees = 0.0", "rotation_degrees = 10.0"))
    picture = tmp_path / "sheet.png"
    result = polyclinic("study", "check", augmented, "--picture", picture)
    assert result.exit_code == 0, result.exception
    assert read_protocol(augmented).digest() in result.stdout
    assert "target_sensitivity = 0.95" in result.stdout
    assert "rotation_degrees" in result.stdout.split("draw nearest")[1]
    assert picture.stat().st_size > 0
    assert polyclinic("study", "check", tiny_study).exit_code == 0
    changed = polyclinic("study", "check", tiny_study, "--set", "study.seed=9")
    assert read_protocol(tiny_study, overrides=["study.seed=9"]).digest() in changed.stdout


def collection(folder: Path, rows: list[str]) -> Path:
    """Write six small images and a table about them."""
    folder.mkdir()
    for number in range(6):
        Image.new("L", (16, 16), 40 * number).save(folder / f"{number}.png")
    table = folder / "table.csv"
    table.write_text("\n".join(["image,patient_id,site,label,age", *rows]))
    return table


ROWS = [f"{number}.png,p{number},{'ab'[number % 2]},{number // 3},50" for number in range(6)]


def test_a_collection_becomes_hospitals(tmp_path: Path) -> None:
    """`partition` ends with the folder, and tells of each hospital and of every row that it left out."""
    table = collection(tmp_path / "images", [*ROWS, "missing.png,p9,a,0,50"])
    words = ("--images", tmp_path / "images", "--out", tmp_path / "sites", "--finding", "pneumonia=label")
    result = polyclinic("partition", table, *words, "--keep", "age")
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{tmp_path / 'sites'}\n"
    assert "a: 3 patients, 3 images" in result.stderr
    assert "1 of 7 rows left out" in result.stderr
    assert "Rows (1 is the header): 8" in result.stderr
    assert sorted(path.parent.name for path in (tmp_path / "sites").glob("*/site.toml")) == ["a", "b"]


def test_what_hospitals_would_withhold_is_told_with_the_way_out(tmp_path: Path) -> None:
    """Six films are too few to train and to test: who, what, how many are needed, and how public films are declared."""
    table = collection(tmp_path / "images", ROWS)
    words = ("partition", table, "--images", tmp_path / "images", "--out", tmp_path / "sites")
    told = polyclinic(*words).stderr
    for site in "ab":
        assert re.search(rf"{site}: training: \d patients?, 10 needed \(min_cell\)", told)
        for split in ("validation", "test"):
            assert re.search(rf"{site}: {split}, label: \d patients with it and \d without, 10 of each needed", told)
    assert 'polyclinic partition --public "REASON"' in told


def test_public_films_are_declared_with_their_reason(tmp_path: Path) -> None:
    """Also over hospitals that an earlier call made without it; the reason stands in the file, whatever is in it."""
    table = collection(tmp_path / "images", ROWS)
    words = ("partition", table, "--images", tmp_path / "images", "--out", tmp_path / "sites")
    assert polyclinic(*words).exit_code == 0
    assert read_site(tmp_path / "sites" / "a" / "site.toml").policy.min_cell == 10
    result = polyclinic(*words, "--public", 'CC BY 4.0, "Kermany" [2018] # é')
    assert result.exit_code == 0, result.exception
    assert "--public" not in result.stderr
    for site in "ab":
        file = tmp_path / "sites" / site / "site.toml"
        assert read_site(file).policy.min_cell == 1
        assert 'small to show: CC BY 4.0, "Kermany" [2018] # é\nmin_cell = 1\n' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", ["", "  ", "one\nmax_epsilon = 9", "bell\a"])
def test_a_reason_that_is_none_is_refused(tmp_path: Path, reason: str) -> None:
    """Nothing is written, and no line of site.toml is anybody's but ours."""
    table = collection(tmp_path / "images", ROWS)
    words = ("--images", tmp_path / "images", "--out", tmp_path / "sites", "--public", reason)
    result = polyclinic("partition", table, *words)
    assert isinstance(result.exception, DataError)
    assert str(result.exception).startswith("--public: ")
    assert not (tmp_path / "sites").exists()


def test_patients_of_two_hospitals_are_told(tmp_path: Path) -> None:
    """A patient with images at both counts as two, which the user must know."""
    table = collection(tmp_path / "images", [row.replace(",p1,", ",p0,") for row in ROWS])
    result = polyclinic("partition", table, "--images", tmp_path / "images", "--out", tmp_path / "sites")
    assert result.exit_code == 0, result.exception
    assert "1 patients are at several sites" in result.stderr


def test_labels_that_no_study_reads_are_told_at_once(tmp_path: Path) -> None:
    """A column of diagnoses is no finding: without a word about it the hospitals would look ready, with no positive."""
    rows = [row.replace(",0,50", ",Effusion|Mass,50").replace(",1,50", ",pneumonia,50") for row in ROWS]
    table = collection(tmp_path / "images", rows)
    words: Any = ("--images", tmp_path / "images", "--out", tmp_path / "sites", "--finding", "pneumonia=label")
    result = polyclinic("partition", table, *words)
    assert result.exit_code == 0, result.exception
    assert "a: the label of 2 images for pneumonia is neither 0/1" in result.stderr
    assert "b: the label of 1 images for pneumonia is neither 0/1" in result.stderr
    assert "Effusion" not in result.stderr


@pytest.mark.parametrize("text", ["pneumonia", "=label", "pneumonia="])
def test_a_finding_is_a_name_and_a_column(tmp_path: Path, text: str) -> None:
    """Anything else is refused, with an example."""
    table = collection(tmp_path / "images", ROWS)
    words: Any = ("--images", tmp_path / "images", "--out", tmp_path / "sites", "--finding", text)
    result = polyclinic("partition", table, *words)
    assert isinstance(result.exception, DataError)
    assert "name=column" in str(result.exception)
