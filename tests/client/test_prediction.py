"""`polyclinic predict` gives the scores of the study's evaluation, and accounts for every file."""

import csv
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from typer.testing import CliRunner

from client import prediction, prediction_cli
from client.bootstrap import PreparedSite, prepare, site_inputs
from client.evaluation import evaluate_split
from client.evaluation import score as score_split
from client.image_index import index_images, printable
from client.prediction import Prediction, predict
from client.score_table import own_settings
from client.scorers import open_scorer
from client.site import read_site
from client.workbench import Workbench
from server.bootstrap import compose
from server.checkpoint import save_tensors
from shared.cli import application
from shared.errors import DataError, WeightsError
from shared.landmarks import Standard
from shared.model_facts import write_facts
from shared.own_settings import OwnSettings
from shared.protocol import StudyProtocol
from shared.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tiny: Any, tmp_path: Path) -> Callable[..., tuple[StudyProtocol, Path]]:
    """Give `model(threshold, sections)`: a study, and its untrained model as a file."""

    def write(threshold: float | None, sections: dict[str, Any], standard: Standard = ()) -> tuple[StudyProtocol, Path]:
        protocol = tiny.protocol(**sections)
        coordinator, _ = compose(protocol, weights_file=None)
        thresholds = {} if threshold is None else dict.fromkeys(protocol.task.targets, threshold)
        facts = write_facts(
            protocol, coordinator.initial, thresholds=thresholds, number=1, standard=standard, norm_layers="trained"
        )
        save_tensors(tmp_path / "model.safetensors", coordinator.initial, facts=facts)
        return protocol, tmp_path / "model.safetensors"

    return write


def run(folder: Path, path: Path, cache: Path) -> Prediction:
    facts, scorer = open_scorer(path, device="cpu")
    return predict(folder, facts, scorer, cache=cache, workers=1, progress=lambda *_: None)


def site_of(folder: Path, protocol: StudyProtocol, cache: Path) -> PreparedSite:
    config = read_site(folder / "site.toml")
    own = config.model_copy(update={"compute": config.compute.model_copy(update={"cache": cache, "workers": 1})})
    return prepare(own, protocol, progress=lambda *_: None)


@pytest.mark.parametrize(
    "sections",
    [
        {"task": {"findings": ["opacity"], "aggregate": "mean"}},
        {"task": {"findings": ["opacity"], "unit": "patient"}, "images": {"window": "dicom", "depth": "uint16"}},
        {"task": {"findings": ["opacity"], "unit": "image"}, "model": {"unfreeze": [{"round": 1, "from": "layer4"}]}},
    ],
    ids=str,
)
def test_scores_are_those_of_the_studys_evaluation(
    hospitals_on_disk: Path, tiny: Any, tmp_path: Path, model: Any, sections: Any
) -> None:
    """Image by image; and whoever adds up the calls on the test units gets the counts that the study reports."""
    protocol, _ = model(None, sections)
    site = site_of(hospitals_on_disk / "north", protocol, tmp_path / "cache")
    bench: Workbench = tiny.bench(protocol)
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    start = protocol.model.trains_from(1)
    rows = np.arange(len(site.records))
    tested = score_split(bench, inputs, rows, start=start, exclusive=False, targets=1)[:, 0]
    threshold = float(np.median(tested[site.records.rows(Split.TEST)]))
    _, path = model(threshold, sections)
    found = run(hospitals_on_disk / "north" / "dicom", path, tmp_path / "other")

    by_file = {one.file: one for one in found.images}
    files = [image.path.relative_to(site.cohort.folder).as_posix() for image in site.cohort.images]
    assert len(files) == len(by_file) == found.files
    # A pass's last bits depend on its batch, and a study's head runs on features that were cached in other batches.
    np.testing.assert_allclose([by_file[name].scores[0] for name in files], tested, rtol=0, atol=1e-6)

    (evidence,) = evaluate_split(
        bench,
        inputs,
        site.records,
        split=Split.TEST,
        start=start,
        task=protocol.task,
        evaluation=protocol.evaluation,
        thresholds=(threshold,),
    )
    counts = evidence.confusion
    places = site.records.rows(Split.TEST)
    owner = {"image": rows, "exam": site.records.exams_N, "patient": site.records.patients_N}[protocol.task.unit]
    calls = {int(owner[place]): by_file[files[place]].above[0] for place in places}
    assert sum(map(bool, calls.values())) == counts.tp + counts.fp
    assert 0 < counts.tp + counts.fp < len(calls) == evidence.units


def test_files_of_one_exam_share_a_unit_and_its_highest_score(
    hospitals_on_disk: Path, tmp_path: Path, model: Any
) -> None:
    """The threshold is for exams: an image below it is above if another of its exam is, and no exam is split."""
    _, path = model(0.5, {})
    found = run(hospitals_on_disk / "north" / "dicom", path, tmp_path / "cache")
    exams: dict[str, list[Any]] = {}
    for one in found.images:
        exams.setdefault(one.file.rsplit("_image", 1)[0], []).append(one)
    assert max(map(len, exams.values())) == 2
    for images in exams.values():
        assert {one.unit for one in images} == {images[0].unit}
        assert {one.unit_scores for one in images} == {(max(one.scores[0] for one in images),)}
        assert {one.above for one in images} == {(images[0].unit_scores[0] >= 0.5,)}
    assert len({images[0].unit for images in exams.values()}) == len(exams)


def test_a_harmonised_studys_model_scores_harmonised_images(
    hospitals_on_disk: Path, tiny: Any, tmp_path: Path, model: Any
) -> None:
    """The scale that the study averaged is in the model's file: scores are those of images that were brought to it."""
    scale = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9)
    protocol, path = model(0.5, {"images": {"harmonise": "landmarks"}}, scale)
    site = site_of(hospitals_on_disk / "north", protocol, tmp_path / "cache")
    bench: Workbench = tiny.bench(protocol)
    rows = np.arange(len(site.records))
    scores = {}
    for standard in ((), scale):
        moved = replace(site, pixels=site.pixels.harmonised(standard))
        inputs = site_inputs(moved, protocol, bench, progress=lambda *_: None)
        scores[standard] = score_split(bench, inputs, rows, start="head", exclusive=False, targets=1)[:, 0]
    by_file = {one.file: one for one in run(hospitals_on_disk / "north" / "dicom", path, tmp_path / "other").images}
    files = [image.path.relative_to(site.cohort.folder).as_posix() for image in site.cohort.images]
    found = [by_file[name].scores[0] for name in files]
    np.testing.assert_allclose(found, scores[scale], rtol=0, atol=1e-6)
    assert np.abs(scores[scale] - scores[()]).max() > 1e-3


def test_every_file_is_scored_or_left_out_for_a_reason(hospital: Any, tmp_path: Path, model: Any) -> None:
    """What the study would leave out is left out: other modality, no patient, a copy, no DICOM, a broken image."""
    hospital.image("a.dcm", patient="P1", exam="1")
    hospital.image("b/copy.dcm", patient="P1", exam="1", SOPInstanceUID="1.9")
    hospital.image("b/original.dcm", patient="P1", exam="1", SOPInstanceUID="1.9")
    hospital.image("ct.dcm", patient="P2", exam="2", Modality="CT")
    hospital.image("nobody.dcm", patient="", exam="3")
    cut = hospital.image("cut.dcm", patient="P4", exam="4")
    cut.write_bytes(cut.read_bytes()[:-40])
    (hospital.dicom / "notes.txt").write_text("no image")
    _, path = model(0.5, {"images": {"modality": "DX"}})
    found = run(hospital.dicom, path, tmp_path / "cache")
    assert [one.file for one in found.images] == ["a.dcm", "b/copy.dcm"]
    assert {file: str(reason) for file, reason in found.excluded} == {
        "b/original.dcm": "duplicate_image",
        "ct.dcm": "wrong_modality",
        "cut.dcm": "truncated",
        "nobody.dcm": "no_patient",
        "notes.txt": "not_dicom",
    }
    assert found.files == len(found.images) + len(found.excluded)


def test_what_is_found_broken_only_when_read_is_left_out_too(hospital: Any, tmp_path: Path, model: Any) -> None:
    """An image without the spacing that the study asks for, and every frame of a file, are accounted for."""
    hospital.image("flat.dcm", patient="P1", exam="1")
    hospital.image("spaced.dcm", patient="P2", exam="2", NumberOfFrames=3, PixelSpacing=[1, 1])
    _, path = model(0.5, {"images": {"spacing_mm": 1.0, "frames": "all"}})
    found = run(hospital.dicom, path, tmp_path / "cache")
    assert [(one.file, one.frame) for one in found.images] == [("spaced.dcm", frame) for frame in range(3)]
    assert [(file, str(reason)) for file, reason in found.excluded] == [("flat.dcm", "no_spacing")]


def test_a_folder_without_a_usable_file_is_told_with_the_reasons(hospital: Any, tmp_path: Path, model: Any) -> None:
    """Nothing to score is an error that counts why; so is a folder that is not there."""
    _, path = model(0.5, {})
    (hospital.dicom / "secret-name.txt").write_text("no image")
    with pytest.raises(DataError, match=r"none of its 1 files can be scored.\n1 files: A file is not DICOM") as fault:
        run(hospital.dicom, path, tmp_path / "cache")
    assert "secret-name" not in str(fault.value)
    with pytest.raises(DataError, match="no such folder"):
        run(hospital.folder / "none", path, tmp_path / "cache")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_both_tables_for_this_user_alone(hospital: Any, tmp_path: Path, model: Any) -> None:
    """Scores to the last digit, a call for each finding, the list of what was left out; the cache is gone after."""
    hospital.image("a.dcm", patient="P1", exam="1", seed=1)
    (hospital.dicom / "notes.txt").write_text("no image")
    _, path = model(0.0, {"task": {"findings": ["opacity", "effusion"]}})
    out = tmp_path / "out" / "scores.csv"
    done = CliRunner().invoke(application(), ["predict", str(path), str(hospital.dicom), "--out", str(out)])
    assert done.exit_code == 0, done.output
    (row,) = rows_of(out)
    found = run(hospital.dicom, path, tmp_path / "cache").images[0]
    assert row == {
        "file": "a.dcm",
        "exam": "0",
        "opacity_score": repr(found.scores[0]),
        "opacity_exam_score": repr(found.unit_scores[0]),
        "opacity_above": "yes",
        "effusion_score": repr(found.scores[1]),
        "effusion_exam_score": repr(found.unit_scores[1]),
        "effusion_above": "yes",
    }
    listing = out.with_name("scores.excluded.csv")
    assert rows_of(listing) == [{"file": "notes.txt", "reason": "not_dicom"}]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, listing)} == {0o600}
    assert "1 left out: A file is not DICOM" in done.output
    assert "opacity: 1 of 1 exams reach the study's threshold" in done.output
    assert "not a diagnosis" in done.output


@pytest.mark.parametrize("name", ["=HYPERLINK(0)", "+1", "-1", "@SUM(1)", "\tx", "\r=1"])
def test_no_files_name_is_computed_by_a_spreadsheet(hospital: Any, name: str) -> None:
    """A path that begins like a formula is written as the same path from here."""
    hospital.image(f"{name}.dcm", patient="P", exam="1")
    (found,) = index_images(hospital.dicom, workers=1, progress=lambda *_: None)
    assert printable(found.relative) == f"./{name}.dcm"


def test_a_sites_own_settings_are_used_when_asked(hospital: Any, tmp_path: Path, tiny: Any) -> None:
    """Its threshold in the place of the study's, its probabilities in a column; another site is refused."""
    for number in range(6):
        hospital.image(f"{number}.dcm", patient=f"P{number}", exam=f"{number + 1}", seed=number)
    protocol = tiny.protocol(evaluation={"own_settings": ["threshold", "calibration"]})
    coordinator, _ = compose(protocol, weights_file=None)
    path = tmp_path / "model.safetensors"

    def table(own: OwnSettings, *wish: str) -> tuple[str, list[dict[str, str]]]:
        facts = write_facts(
            protocol,
            coordinator.initial,
            thresholds={"opacity": 0.0},
            number=1,
            standard=(),
            norm_layers="trained",
            own={"south": {"opacity": own}},
        )
        save_tensors(path, coordinator.initial, facts=facts)
        command = ["predict", str(path), str(hospital.dicom), "--out", str(tmp_path / "s.csv"), *wish]
        done = CliRunner().invoke(application(), command)
        assert done.exit_code == 0, done.output
        return done.output, list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))

    said, shared = table(OwnSettings(threshold=1.0, calibration=(-0.5, 2.0)))
    assert {row["opacity_above"] for row in shared} == {"yes"}
    assert "opacity_calibrated" not in shared[0]
    assert "reach the study's threshold, 0" in said
    said, own = table(OwnSettings(threshold=1.0, calibration=(-0.5, 2.0)), "--site", "south")
    assert {row["opacity_above"] for row in own} == {"no"}
    assert "reach south's own threshold, 1" in said
    scores = np.array([float(row["opacity_exam_score"]) for row in own])
    expected = expit(-0.5 + 2.0 * logit(scores))
    np.testing.assert_allclose([float(row["opacity_calibrated"]) for row in own], expected)
    said, half = table(OwnSettings(threshold=None, calibration=(-0.5, 2.0)), "--site", "south")
    assert {row["opacity_above"] for row in half} == {"yes"}
    with pytest.raises(WeightsError, match="It has: south"):
        own_settings(open_scorer(path, device="cpu")[0], "north", where="m")


def test_a_unit_that_is_the_image_has_no_columns_of_its_own(hospital: Any, tmp_path: Path, model: Any) -> None:
    """Each frame has its row; a finding without a threshold has no call, and the command says so."""
    hospital.image("a.dcm", patient="P1", exam="1", NumberOfFrames=2)
    sections = {"task": {"findings": ["opacity"], "unit": "image"}, "images": {"frames": "all"}}
    _, path = model(None, sections)
    out = tmp_path / "scores.csv"
    done = CliRunner().invoke(application(), ["predict", str(path), str(hospital.dicom), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert [list(row) for row in rows_of(out)] == [["file", "frame", "opacity_score", "opacity_above"]] * 2
    assert [(row["frame"], row["opacity_above"]) for row in rows_of(out)] == [("0", ""), ("1", "")]
    assert "the study could choose no threshold" in done.output


def test_prepared_images_do_not_stay(
    hospital: Any, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in a folder of this user's alone while scores are made, and nothing of it is left after, or a fault."""
    _, path = model(0.5, {})
    hospital.image("a.dcm", patient="P1", exam="1")
    seen: list[tuple[Path, int]] = []

    def watched(*parts: Any, cache: Path, **rest: Any) -> Prediction:
        seen.append((cache, stat.S_IMODE(cache.stat().st_mode)))
        return predict(*parts, cache=cache, **rest)

    monkeypatch.setattr(prediction, "predict", watched)
    prediction_cli.predict(path, hospital.dicom, out=tmp_path / "s.csv", workers=1, device="cpu")
    with pytest.raises(DataError):
        prediction_cli.predict(path, tmp_path / "none", out=tmp_path / "s.csv", workers=1, device="cpu")
    assert [mode for _, mode in seen] == [0o700] * 2
    assert not any(folder.exists() for folder, _ in seen)


def test_a_model_that_no_site_tested_is_not_used(tiny: Any, tmp_path: Path) -> None:
    """The coordinator's file of a study whose sites keep their normalisation layers is refused."""
    protocol = tiny.protocol(federation={"local_norm": True})
    coordinator, _ = compose(protocol, weights_file=None)
    facts = write_facts(protocol, coordinator.initial, thresholds={}, number=1, standard=(), norm_layers="initial")
    save_tensors(tmp_path / "m.safetensors", coordinator.initial, facts=facts)
    with pytest.raises(WeightsError, match="local_norm"):
        open_scorer(tmp_path / "m.safetensors", device="cpu")
