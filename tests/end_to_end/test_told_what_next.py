"""A wrong or early command is told what was found, where, and what to do next."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from server.run_folder import open_run
from shared.cli import application
from shared.errors import FederationError, PolyclinicError, SiteError, StorageError, WeightsError


def polyclinic(*words: object) -> Result:
    return CliRunner().invoke(application(), [str(word) for word in words])


def test_a_report_of_an_unfinished_run_says_how_it_goes_on(tiny: Any, tmp_path: Path) -> None:
    """A simulated one is resumed, a deployed one looked at; a folder that is no run is told as such."""
    run = open_run(tmp_path / "run", tiny.protocol(), resume=False)
    said = polyclinic("report", run.path).exception
    assert isinstance(said, StorageError)
    assert "not finished" in str(said)
    assert f"--resume --out {run.path}" in str(said)
    run.order.write_text("{}")
    assert "polyclinic coordinator status" in str(polyclinic("report", run.path).exception)
    nothing = polyclinic("report", tmp_path / "nowhere").exception
    assert isinstance(nothing, StorageError)
    assert "Name the folder of a run" in str(nothing)


def test_predict_with_a_runs_folder_names_the_file(tmp_path: Path) -> None:
    """The model lies in it, or the run has none yet."""
    (tmp_path / "dicom").mkdir()
    said = polyclinic("predict", tmp_path, tmp_path / "dicom").exception
    assert isinstance(said, WeightsError)
    assert "is a folder" in str(said)
    assert "is its run finished?" in str(said)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert f"Name {tmp_path / 'model.safetensors'}" in str(
        polyclinic("predict", tmp_path, tmp_path / "dicom").exception
    )


@pytest.mark.parametrize("command", ["simulate", "federation"])
@pytest.mark.parametrize("exists", [True, False])
def test_wrong_sites_are_told_before_weights(command: str, exists: bool, tiny: Any, tmp_path: Path) -> None:
    """A study whose weights are missing too: what was typed wrongly comes first."""
    study = tmp_path / "study.toml"
    study.write_text(tiny.protocol(model={"weights": "file"}).to_toml())
    sites = tmp_path / "sites"
    if exists:
        sites.mkdir()
    said = polyclinic(command, study, "--sites", sites, "--out", tmp_path / "run").exception
    assert isinstance(said, FederationError)
    assert str(said).startswith(f"{sites}: ")


def test_ctrl_c_in_a_simulation_says_how_to_go_on(tiny: Any, tmp_path: Path) -> None:
    """The command that it prints does go on."""
    study = tmp_path / "study.toml"
    study.write_text(tiny.protocol(federation={"rounds": 50}).to_toml())
    command = [
        Path(sys.executable).with_name("polyclinic"),
        "simulate",
        study,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
    ]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs do not hear Ctrl-C
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if "round 1:" in line:
                program.send_signal(signal.SIGINT)
                break
        said = program.stderr.read()
        assert program.wait(60) == 130, said
    assert f"--resume --out {tmp_path / 'run'}" in said
    assert "Traceback" not in said


SITE = """[site]
name = "north"
[data]
dicom = "dicom"
labels = "labels.csv"
join = "PatientID"
{line}
[data.findings]
opacity = "{finding}"
{subgroups}
"""


@pytest.mark.parametrize(
    ("line", "finding", "subgroups", "near"),
    [
        ('key = "PatientIDs"', "opacity", "", "patientid"),
        ('key = "patientid"\npatient_column = "persn"', "opacity", "", "person"),
        ('key = "patientid"', "opacty", "", "opacity"),
        ('key = "patientid"', "opacity", '[data.subgroups]\nsex = "Gendr"', "gender"),
    ],
    ids=["key", "patient_column", "findings", "subgroups"],
)
def test_a_wrong_column_of_site_toml_gets_the_near_one(
    line: str, finding: str, subgroups: str, near: str, tmp_path: Path
) -> None:
    """Whichever key of site.toml names it."""
    (tmp_path / "dicom").mkdir()
    (tmp_path / "labels.csv").write_text("patientid,person,opacity,gender\n1,1,0,F\n")
    (tmp_path / "site.toml").write_text(SITE.format(line=line, finding=finding, subgroups=subgroups))
    said = polyclinic("site", "check", tmp_path / "site.toml").exception
    assert isinstance(said, SiteError)
    assert f"Did you mean '{near}'?" in str(said)


@pytest.mark.parametrize(
    "words",
    [
        ("site", "check", "FILE/site.toml"),
        ("study", "check", "FILE/study.toml"),
        ("coordinator", "init", "--host", "localhost", "--site", "north", "--folder", "FILE"),
        ("coordinator", "init", "--host", "localhost", "--site", "north", "--folder", "FILE/inside"),
        ("coordinator", "monitor", "--folder", "FILE"),
        ("coordinator", "monitor", "--folder", "NOWHERE"),
        ("simulate", "STUDY", "--sites", "FILE", "--out", "OUT"),
        ("report", "FILE"),
        ("partition", "FOLDER", "--images", "FOLDER", "--out", "OUT"),
        ("partition", "TABLE", "--images", "FOLDER", "--out", "FILE/inside"),
    ],
    ids=" ".join,
)
def test_a_file_for_a_folder_and_a_folder_for_a_file_are_told(
    words: tuple[str, ...], tiny: Any, tmp_path: Path
) -> None:
    """An error of ours with a next step, and neither a traceback nor an errno's text alone."""
    (tmp_path / "FILE").write_bytes(bytes(range(256)))
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "TABLE").write_text("image,patient_id,site,label\na.png,p,a,1\n")
    (tmp_path / "STUDY").write_text(tiny.protocol().to_toml())
    places = {"FILE", "FOLDER", "TABLE", "STUDY", "OUT", "NOWHERE"}
    said = polyclinic(*(tmp_path / word if word.split("/")[0] in places else word for word in words)).exception
    assert isinstance(said, PolyclinicError), repr(said)
    assert any(step in str(said) for step in ("Check", "Choose", "Name", "Correct", "Run the study again")), said
    assert "Errno" not in str(said)


def test_a_state_folder_that_is_a_file_is_told_at_init(tmp_path: Path) -> None:
    """Where the site keeps what it remembers."""
    (tmp_path / "state").touch()
    (tmp_path / "site.toml").write_text(SITE.format(line="", finding="opacity", subgroups=""))
    said = polyclinic("site", "init", tmp_path / "site.toml").exception
    assert isinstance(said, StorageError)
    assert "a file stands where a folder is needed" in str(said)
