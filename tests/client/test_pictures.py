"""`polyclinic predict` reads pictures by the code of `partition`, and accounts for those that it cannot use."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from client import pictures
from client.pictures import read_either
from client.prediction import Prediction, predict
from client.scorers import open_scorer
from server.bootstrap import compose
from server.checkpoint import save_tensors
from shared.cli import application
from shared.errors import DataError
from shared.model_facts import write_facts

pytestmark = pytest.mark.usefixtures("one_thread")

NOISE = np.random.default_rng(3)


@pytest.fixture(params=[{}, {"window": "dicom", "depth": "uint16"}], ids=["study", "dicom"])
def model(request: Any, tiny: Any, tmp_path: Path) -> Path:
    """Write an untrained model of a study."""
    protocol = tiny.protocol(images=request.param)
    coordinator, _ = compose(protocol, weights_file=None)
    facts = write_facts(protocol, coordinator.initial, thresholds={}, number=1, standard=(), norm_layers="trained")
    save_tensors(tmp_path / "model.safetensors", coordinator.initial, facts=facts)
    return tmp_path / "model.safetensors"


def save_pictures(folder: Path) -> None:
    """Grey of 8 and 16 bits, colour, and what JPEG has lost of both."""
    folder.mkdir()
    Image.fromarray(NOISE.integers(0, 256, (40, 30)).astype(np.uint8)).save(folder / "grey.png")
    Image.fromarray(NOISE.integers(0, 60000, (40, 30)).astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray(NOISE.integers(0, 256, (40, 30, 3)).astype(np.uint8)).save(folder / "colour.tif")
    Image.fromarray(NOISE.integers(0, 256, (40, 30)).astype(np.uint8)).save(folder / "grey.jpg")
    Image.fromarray(NOISE.integers(0, 256, (40, 30, 3)).astype(np.uint8)).save(folder / "colour.jpeg")


def run(folder: Path, path: Path, cache: Path) -> Prediction:
    facts, scorer = open_scorer(path, device="cpu")
    return predict(folder, facts, scorer, cache=cache, workers=1, progress=lambda *_: None)


def test_a_pictures_score_is_that_of_its_dicom_file(model: Path, tmp_path: Path) -> None:
    """What `partition` writes of it holds the same frame, bit for bit."""
    folder = tmp_path / "pictures"
    save_pictures(folder)
    names = sorted(path.name for path in folder.iterdir())
    table = tmp_path / "table.csv"
    table.write_text("image,patient_id,site,label\n" + "".join(f"{name},p{name},a,1\n" for name in names))
    words = ["partition", table, "--images", folder, "--out", tmp_path / "hospitals", "--modality", "DX"]
    made = CliRunner().invoke(application(), list(map(str, words)))
    assert made.exit_code == 0, made.output
    dicom = tmp_path / "hospitals" / "a" / "dicom"
    assert frames_of(folder) == frames_of(dicom)
    assert len(set(frames_of(folder))) == len(names)
    pictured, written = run(folder, model, tmp_path / "one"), run(dicom, model, tmp_path / "two")
    assert [one.file for one in pictured.images] == names
    # A pass's last bits depend on the place in the batch.
    np.testing.assert_allclose(scores_of(pictured), scores_of(written), rtol=0, atol=1e-6)


def frames_of(folder: Path) -> list[tuple[Any, ...]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    frames = [frame for path in files for frame in read_either(path, lambda frame: frame, frames="first")]
    return sorted(
        (one.pixels_HWC.shape, one.pixels_HWC.tobytes(), one.spacing_mm, one.window, one.window_is_lost)
        for one in frames
    )


def scores_of(found: Prediction) -> list[tuple[float, ...]]:
    return sorted(one.scores for one in found.images)


def test_pictures_that_cannot_be_used_are_listed_with_their_reason(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken one, several frames, transparency, too many pixels, and text: none is scored, and none ends the rest."""
    folder = tmp_path / "pictures"
    save_pictures(folder)
    whole = (folder / "grey.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    grey = Image.new("L", (9, 9))
    grey.save(folder / "frames.tif", save_all=True, append_images=[grey])
    Image.fromarray(NOISE.integers(0, 256, (9, 9, 4)).astype(np.uint8)).save(folder / "clear.png")
    Image.new("L", (100, 100)).save(folder / "vast.png")
    (folder / "text.png").write_text("no picture")
    monkeypatch.setattr(pictures, "MAX_FRAME_VALUES", 9000)
    out = tmp_path / "scores.csv"
    done = CliRunner().invoke(application(), ["predict", str(model), str(folder), "--out", str(out), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "9 are pictures and no DICOM" in " ".join(done.stderr.split())
    with out.with_name("scores.excluded.csv").open(newline="") as file:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons == {
        "cut.png": "undecodable",
        "frames.tif": "unsupported_object",
        "clear.png": "unsupported_object",
        "vast.png": "too_large",
        "text.png": "not_dicom",
    }


def test_two_copies_of_a_picture_are_both_scored(model: Path, tmp_path: Path) -> None:
    """Nothing says of a picture whose it is: each counts for itself, whatever its name has in common with another's."""
    folder = tmp_path / "pictures"
    for name in ("a/x.png", "A/x.png", "a/x .png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), 7).save(folder / name)
    found = run(folder, model, tmp_path / "cache")
    assert len({one.unit for one in found.images}) == 3
    assert not found.excluded


def test_one_picture_instead_of_a_folder_is_told(model: Path, tmp_path: Path) -> None:
    """A file where a folder is needed."""
    Image.new("L", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="this is no folder"):
        run(tmp_path / "one.png", model, tmp_path / "cache")
