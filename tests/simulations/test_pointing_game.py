"""The pointing game counts maxima on the finding, and knows where the finding is on the film that the model gets."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from server.bootstrap import compose
from server.checkpoint import save_tensors
from shared.cli import application
from shared.errors import DataError
from shared.model_facts import write_facts
from shared.pointing import read_pointing
from shared.preprocessing import contract_of
from shared.saved_model import open_model
from simulations import pointing_game, synthetic_site
from simulations.pointing_game import is_hit, phantom, play, pointing_lines, widened

pytestmark = pytest.mark.usefixtures("one_thread")


def model(tiny: Any, folder: Path, **sections: Any) -> Path:
    protocol = tiny.protocol(**sections)
    coordinator, _ = compose(protocol, weights_file=None)
    facts = write_facts(protocol, coordinator.initial, thresholds={}, number=1, standard=(), norm_layers="trained")
    save_tensors(folder / "model.safetensors", coordinator.initial, facts=facts)
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    "images", [{"size": 64}, {"size": 64, "fit": "crop"}, {"size": 64, "spacing_mm": 5.0}], ids=str
)
def test_the_finding_is_where_the_film_has_more_than_the_same_film_without_it(
    tiny: Any, images: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After reading and preparing, whatever the geometry: the difference lies inside, next to none of it outside."""
    contract = contract_of(tiny.protocol(images=images | {"size": 64, "window": [2047.5, 4095.0]}), standard=())
    monkeypatch.setattr(synthetic_site, "expose", _same_noise(synthetic_site.expose))
    with_it = [phantom(contract, number=0, seed=(7, film)) for film in range(4)]
    monkeypatch.setattr(pointing_game, "draw_finding", lambda *_, **__: ())
    for film, (image, region) in enumerate(with_it):
        without, _ = phantom(contract, number=0, seed=(7, film))
        added = image[0].astype(float) - without[0]
        assert 0.005 < region.mean() < 0.2
        assert added[region].mean() > 10 * abs(added[~widened(region, by=8)]).mean()


def _same_noise(expose: Any) -> Any:
    return lambda film, scanner, *, marked, **_: expose(film, scanner, marked=marked, rng=np.random.default_rng(1))


def test_a_map_of_the_finding_hits_and_one_of_nothing_or_elsewhere_misses() -> None:
    """The first of equal maxima counts; a map without a maximum is a miss."""
    region = np.zeros((8, 8), np.bool_)
    region[2:4, 5:7] = True
    assert is_hit(region.astype(np.float32), region)
    assert not is_hit((~region).astype(np.float32), region)
    assert not is_hit(np.zeros((8, 8), np.float32), np.ones((8, 8), np.bool_))


def test_a_tolerance_reaches_as_far_as_it_says() -> None:
    """So many rows and columns, and not one more, also at the film's edge."""
    mask = np.zeros((9, 9), np.bool_)
    mask[0, 4] = True
    wide = widened(mask, by=2)
    expected = np.zeros((9, 9), np.bool_)
    expected[0:3, 2:7] = True
    np.testing.assert_array_equal(wide, expected)


def test_a_model_that_looks_at_the_finding_wins_and_one_that_looks_at_a_corner_loses(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played to the end on real phantoms, each finding with films of its own; chance is what a random place reaches."""
    saved = open_model(model(tiny, tmp_path, task={"findings": ["opacity", "effusion"]}, images={"size": 64}))
    seen: list[int] = []

    def at_finding(_model: Any, images: torch.Tensor, *, target: int, stage: str) -> torch.Tensor:
        image = len(seen) % 3
        seen.append(target)
        _, region = phantom(saved.facts.contract, number=target, seed=(5, target, image))
        return torch.from_numpy(region.astype(np.float32))[None]

    monkeypatch.setattr(pointing_game, "METHODS", {"one": at_finding, "other": at_finding})
    assert [(one.finding, one.method, one.films, one.hits) for one in play(saved, films=3, seed=5)] == [
        ("opacity", "one", 3, 3),
        ("opacity", "other", 3, 3),
        ("effusion", "one", 3, 3),
        ("effusion", "other", 3, 3),
    ]
    assert seen == [0] * 6 + [1] * 6
    corner = torch.zeros(1, 64, 64)
    corner[0, -1, -1] = 1
    monkeypatch.setattr(pointing_game, "METHODS", {"corner": lambda *_, **__: corner})
    lost = list(play(saved, films=3, seed=5))
    assert [one.hits for one in lost] == [0, 0]
    assert all(0.01 < one.chance < 0.5 for one in lost)


def test_the_command_says_hits_interval_and_chance(tiny: Any, tmp_path: Path) -> None:
    """One line a finding, with what a random place would reach; classes are refused."""
    path = model(tiny, tmp_path, images={"size": 64})
    done = CliRunner().invoke(application(), ["study", "pointing", str(path), "--films", "4"])
    assert done.exit_code == 0, done.output
    for method in ("Grad-CAM", "HiResCAM"):
        assert re.search(rf"opacity, {method}: \d of 4 maxima lie on the finding", done.output)
    assert "a place at random would in" in done.output
    kept = read_pointing(path, open_model(path).facts.arrays_sha256)
    assert [(one.method, one.films) for one in kept] == [("Grad-CAM", 4), ("HiResCAM", 4)]
    (line,) = pointing_lines(kept, size=224)
    assert line.startswith("opacity, Grad-CAM and HiResCAM (the same map here): ")
    classes = open_model(model(tiny, tmp_path, task={"classes": ["clear", "opacity"]}))
    with pytest.raises(DataError, match="classes"):
        list(play(classes, films=1, seed=0))
