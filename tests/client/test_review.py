"""A hospital's review page shows what the model got right and wrong there, to this hospital and nobody else."""

import ast
import base64
import json
import re
import stat
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from client.bootstrap import prepare
from client.explain import METHODS, all_the_same, map_stage
from client.review import KINDS, Case, Gallery, kinds, review
from client.review_page import film_HWC, overlay, write_page
from client.scorers import open_scorer
from client.site import SiteConfig, read_site
from client.site_keys import SiteKeys
from server.bootstrap import compose
from server.checkpoint import save_tensors
from shared.audit import verify
from shared.cli import application
from shared.model_facts import write_facts
from shared.pointing import Pointing, measured_at, write_pointing
from shared.saved_model import open_model
from shared.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]


def own_copy(hospitals: Path, folder: Path) -> SiteConfig:
    """Give a hospital whose images are shared, and all that it writes is under `folder`."""
    text = (hospitals / "north" / "site.toml").read_text(encoding="utf-8")
    for name in ("dicom", "labels"):
        text = re.sub(rf'^{name} = "', f'{name} = "{hospitals / "north"}/', text, flags=re.MULTILINE)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return read_site(folder / "site.toml")


def model_file(tiny: Any, folder: Path, *, threshold: float | None) -> Path:
    protocol = tiny.protocol(split={"train": 0.2, "validation": 0.2, "test": 0.6})
    coordinator, _ = compose(protocol, weights_file=None)
    thresholds = {} if threshold is None else {"opacity": threshold}
    facts = write_facts(
        protocol, coordinator.initial, thresholds=thresholds, number=1, standard=(), norm_layers="trained"
    )
    save_tensors(folder / "model.safetensors", coordinator.initial, facts=facts)
    return folder / "model.safetensors"


@pytest.fixture
def at_median(tiny: Any, hospitals_on_disk: Path, tmp_path: Path) -> tuple[SiteConfig, Path]:
    """Give a hospital, and a model whose threshold divides its test scores."""
    config = own_copy(hospitals_on_disk, tmp_path / "north")
    facts, scorer = open_scorer(model_file(tiny, tmp_path, threshold=None), device="cpu")
    site = prepare(config, facts.protocol, progress=lambda *_: None)
    scores = scorer(site.pixels)[site.records.rows(Split.TEST), 0]
    return config, model_file(tiny, tmp_path, threshold=float(np.median(scores)))


def test_kinds_are_those_of_the_confusion_matrix_mistakes_by_size() -> None:
    """A score on the threshold is a call; a mistake that is far off comes first, a right call that is near."""
    scores = np.array([0.9, 0.5, 0.1, 0.4, 0.95, 0.6, 0.2, 0.45])
    positive = np.array([True, True, True, True, False, False, False, False])
    found = {kind: places.tolist() for kind, places in kinds(scores, positive, threshold=0.5).items()}
    assert found == {
        "false negative": [2, 3],
        "false positive": [4, 5],
        "true positive": [1, 0],
        "true negative": [7, 6],
    }


def test_counts_are_those_of_the_study_and_images_those_of_the_unit(at_median: tuple[SiteConfig, Path]) -> None:
    """Each exam of the side is one of four kinds, by its label and its highest score; no other side's is shown."""
    config, path = at_median
    saved = open_model(path)
    site = prepare(config, saved.facts.protocol, progress=lambda *_: None)
    (gallery,) = review(site, saved, split=Split.TEST, most=3, device="cpu")
    rows = site.records.rows(Split.TEST)
    assert sum(gallery.counts.values()) == len(np.unique(site.records.exams_N[rows]))
    assert min(gallery.counts.values()) > 0
    positives = len(np.unique(site.records.exams_N[rows][site.records.labels_NK[rows, 0] == 1]))
    assert gallery.counts["false negative"] + gallery.counts["true positive"] == positives
    places = {
        image.path.relative_to(site.cohort.folder).as_posix(): row for row, image in enumerate(site.cohort.images)
    }
    for kind, cases in gallery.cases.items():
        assert len(cases) == min(3, gallery.counts[kind])
        for case in cases:
            row = places[case.file]
            assert row in rows
            assert (site.records.labels_NK[row, 0] == 1) == (kind in ("false negative", "true positive"))
            assert (case.score >= gallery.threshold) == kind.endswith("positive")
            np.testing.assert_array_equal(case.pixels_CHW, site.pixels.read(np.array([row])).numpy()[0])
            assert case.map_HW.shape == (32, 32)
            assert case.map_HW.min() >= 0
    files = [case.file.rsplit("_image", 1)[0] for cases in gallery.cases.values() for case in cases]
    assert len(files) == len(set(files))


def test_the_page_lies_in_the_sites_folder_for_this_user_alone(at_median: tuple[SiteConfig, Path]) -> None:
    """Mode 0600 in a folder of mode 0700 under the cache; that it was made is a decision, and no departure."""
    config, path = at_median
    arguments = ["site", "review", str(config.compute.cache.parent / "site.toml"), "--model", str(path), "--most", "2"]
    done = CliRunner().invoke(application(), arguments)
    assert done.exit_code == 0, done.output
    (page,) = config.compute.cache.glob("review/*/test.html")
    assert str(page) in done.output.replace("\n", "")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    decisions = list(verify(config.link.state / "decisions.jsonl"))
    assert [line["event"] for line in decisions] == ["review written"]
    assert not (config.link.state / "audit.jsonl").exists()
    text = page.read_text(encoding="utf-8")
    assert "This page stays here" in text
    assert not re.search(r'(?:src|href)="(?!data:image/png;base64,)', text)
    assert "<script" not in text
    assert text.count('<label class="film"><input type="checkbox"><img') == text.count("<img")  # each can be enlarged
    assert "was not measured" in text
    assert all(f"<h3>{kind}s</h3>" in text for kind in KINDS)


def test_nothing_that_leaves_can_hold_a_map() -> None:
    """Neither what answers tasks nor the guard nor the encoding reaches the code that makes maps or pages."""
    local = {"client.explain", "client.review", "client.review_page", "client.site_review"}
    todo, seen = ["client.agent", "client.deployment", "client.egress", "client.courier", "shared.messages"], set()
    while todo:
        module = todo.pop()
        path = ROOT / (module.replace(".", "/") + ".py")
        if module in seen or not path.exists():
            continue
        seen.add(module)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                todo += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Import):
                todo += [name.name for name in node.names]
    assert {"client.evaluation", "shared.wire"} <= seen
    assert not local & seen
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## What may leave a hospital")[2].partition("\n## ")[0]
    assert "`Evidence.units`" in table
    assert not re.search(r"(?i)grad-?cam|overlay|\bmap\b", table)


def test_a_withdrawn_patient_is_not_shown(at_median: tuple[SiteConfig, Path]) -> None:
    """Whoever was withdrawn is on no page, whatever the model makes of the images."""
    config, path = at_median
    site_file = config.compute.cache.parent / "site.toml"

    def shown() -> str:
        arguments = ["site", "review", str(site_file), "--model", str(path), "--most", "100"]
        done = CliRunner().invoke(application(), arguments)
        assert done.exit_code == 0, done.output
        (page,) = config.compute.cache.glob("review/*/test.html")
        return page.read_text(encoding="utf-8")

    patient = re.search(r"SYN\d+", shown()).group()
    SiteKeys(config.link.keys).create()
    done = CliRunner().invoke(application(), ["site", "withdraw", str(site_file), patient])
    assert done.exit_code == 0, done.output
    after = shown()
    assert patient not in after
    assert re.search(r"SYN\d+", after)


def test_what_cannot_be_reviewed_is_told(at_median: tuple[SiteConfig, Path]) -> None:
    """An unknown side, and a hospital to which no study is approved, are errors that say what to do."""
    config, path = at_median
    site_file = str(config.compute.cache.parent / "site.toml")
    for arguments, words in (
        (["--model", str(path), "--side", "best"], "Known: train, validation, test"),
        (["--side", "test"], "approve"),
    ):
        done = CliRunner().invoke(application(), ["site", "review", site_file, *arguments])
        assert words in str(done.exception)


def picture(text: str, place: int) -> Any:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    return imagecodecs.png_decode(base64.b64decode(found[place]))


@pytest.mark.parametrize(("depth", "channels"), [("uint8", 1), ("uint16", 3)])
def test_the_pictures_are_the_film_and_the_film_under_its_map(
    tmp_path: Path, tiny: Any, depth: str, channels: int
) -> None:
    """Left the prepared image (its upper eight bits), right coloured where the map is, and there alone."""
    protocol = tiny.protocol(study={"name": "A (test)"})
    top = np.iinfo(depth).max
    pixels = np.random.default_rng(1).integers(0, top, (channels, 32, 32), dtype=depth)
    raised = np.zeros((32, 32), np.float32)
    raised[4:8, 20:24] = 3.0
    case = Case(file="<b>.dcm", frame=1, score=0.75, pixels_CHW=pixels, map_HW=raised)
    none = Case(file="n.dcm", frame=0, score=0.1, pixels_CHW=pixels, map_HW=np.zeros((32, 32), np.float32))
    full = Gallery(
        finding="opacity",
        threshold=0.5,
        counts=dict.fromkeys(KINDS, 0) | {"false positive": 9, "true negative": 1},
        cases=dict.fromkeys(KINDS, ()) | {"false positive": (case,), "true negative": (none,)},
    )
    empty = Gallery(finding="effusion", threshold=None, counts={}, cases={})
    write_page(tmp_path / "review" / "p.html", [full, empty], protocol, site="north", side="test")
    text = (tmp_path / "review" / "p.html").read_text(encoding="utf-8")
    film, shown = picture(text, 0), picture(text, 1)
    eight = (pixels >> 8 if depth == "uint16" else pixels).astype(np.uint8)
    np.testing.assert_array_equal(film[..., 0], eight[0])
    np.testing.assert_array_equal(film, film_HWC(pixels))
    changed = (film != shown).any(axis=2)
    assert changed[4:8, 20:24].all()
    changed[4:8, 20:24] = False
    assert not changed.any()
    np.testing.assert_array_equal(shown, overlay(pixels, raised))
    np.testing.assert_array_equal(picture(text, 3), picture(text, 2))
    assert text.count("data:image/png") == 4  # a film and its one map, twice
    assert "9 exams, 1 shown, farthest from the threshold first" in text
    assert "frame 2" in text
    assert text.count("Nothing raised the score.") == 1
    assert "false positive 1 of 9" in text
    assert "Called opacity, and not labelled so: a false alarm." in text
    assert "&lt;b&gt;.dcm" in text
    assert "could choose no threshold" in text


def test_the_page_claims_what_was_measured_of_this_model_alone(at_median: tuple[SiteConfig, Path]) -> None:
    """Beside the model lies what the pointing game found of it; of another model's it makes no claim, and says so."""
    config, path = at_median
    found = [
        Pointing(finding="opacity", method="Grad-CAM", films=200, hits=18, chance=0.13),
        Pointing(finding="opacity", method="HiResCAM", films=200, hits=57, chance=0.16),
    ]
    arguments = ["site", "review", str(config.compute.cache.parent / "site.toml"), "--model", str(path), "--most", "1"]
    write_pointing(path, open_model(path).facts.arrays_sha256, found)
    done = CliRunner().invoke(application(), arguments)
    assert done.exit_code == 0, done.output
    (page,) = config.compute.cache.glob("review/*/test.html")
    text = page.read_text(encoding="utf-8")
    assert "lay on the finding in 57 of 200 for opacity (23 to 35 %), where a place at random would in 16 %" in text
    assert "18 of 200" not in text
    assert "far more often" not in text
    for broken, words in (({"arrays_sha256": "0" * 64}, "measured of another model"), ({"found": [1]}, "not what the")):
        said = json.loads(measured_at(path).read_text()) | broken
        measured_at(path).write_text(json.dumps(said))
        assert words in str(CliRunner().invoke(application(), arguments).exception)
        write_pointing(path, open_model(path).facts.arrays_sha256, found)


@pytest.mark.parametrize("size", [64, 224])
def test_two_maps_that_are_one_are_shown_as_one(tiny: Any, size: int) -> None:
    """Behind layer4 Grad-CAM and HiResCAM are the same map, to rounding; at an earlier stage they are not."""
    _, model = compose(tiny.protocol(images={"size": size, "channels": 1}), weights_file=None)
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    stage = map_stage(size)
    one, other = (make(model.eval(), images, target=0, stage=stage) for make in METHODS.values())
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-6) == all_the_same(stage)
