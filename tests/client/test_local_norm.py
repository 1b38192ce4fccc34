"""Each site keeps its own normalisation layers, by round, and nothing of them travels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.local_norm import LocalNorm
from client.workbench import Workbench
from shared.model import exchanged
from shared.normalisation import normalisation_layers
from shared.parameters import digest


@pytest.fixture(scope="module")
def bench(tiny: Any) -> Workbench:
    return tiny.bench(tiny.protocol(model={"norm": "batch"}, federation={"local_norm": True}))


def names(bench: Workbench) -> list[str]:
    """Name the arrays of normalisation layers, without the counts of batches."""
    own = ("weight", "bias", "running_mean", "running_var")
    return [f"{layer}.{name}" for layer, _ in normalisation_layers(bench.classifier) for name in own]


def shift(bench: Workbench, by: float) -> None:
    """Change every normalisation layer, as training does."""
    with torch.no_grad():
        for name in names(bench):
            bench.classifier.state_dict()[name].add_(by)


def layers(bench: Workbench) -> str:
    return digest({name: bench.arrays([name])[name].copy() for name in names(bench)})


def test_no_normalisation_layer_travels(bench: Workbench) -> None:
    """None of the arrays that travel belongs to a normalisation layer; all others do travel."""
    travelling = set(exchanged(bench.classifier, "stem", local_norm=True))
    assert not travelling & set(names(bench))
    assert travelling | set(names(bench)) == set(exchanged(bench.classifier, "stem", local_norm=False))


def test_a_round_goes_on_from_this_sites_last_one(bench: Workbench, tmp_path: Path) -> None:
    """Before round 1 the layers are the initial ones; later those of the last round before."""
    local, initial = LocalNorm(bench, tmp_path), layers(bench)
    after = {}
    for number in (1, 3):
        shift(bench, number)
        local.save("run", after=number)
        after[number] = layers(bench)
    for before, expected in ((1, initial), (2, after[1]), (3, after[1]), (4, after[3]), (9, after[3])):
        shift(bench, 10.0)
        local.load("run", before=before)
        assert layers(bench) == expected
    local.load("run", before=1)
    assert layers(bench) == initial


def test_a_run_that_an_earlier_version_simulated_goes_on(bench: Workbench, tmp_path: Path) -> None:
    """Its layers lie one folder higher; those of rounds since then are newer."""
    earlier, local = LocalNorm(bench, tmp_path), LocalNorm(bench, tmp_path / "local_norm")
    after = {}
    for number, place in ((1, earlier), (2, earlier), (2, local), (3, local)):
        shift(bench, 1.0)
        place.save("run", after=number)
        after[number] = layers(bench)
    for before in (2, 3, 4):
        shift(bench, 10.0)
        local.load("run", before=before)
        assert layers(bench) == after[before - 1]


def test_sites_and_runs_do_not_mix(bench: Workbench, tmp_path: Path) -> None:
    """On a bench that sites share, each gets its own layers back; another run begins from the initial ones."""
    initial = layers(bench)
    sites = {name: LocalNorm(bench, tmp_path / name) for name in ("north", "south")}
    kept = {}
    for by, (name, local) in enumerate(sites.items(), start=1):
        local.load("run", before=1)
        shift(bench, float(by))
        local.save("run", after=1)
        kept[name] = layers(bench)
    assert kept["north"] != kept["south"]
    for name, local in sites.items():
        local.load("run", before=2)
        assert layers(bench) == kept[name]
        local.load("another run", before=2)
        assert layers(bench) == initial


def test_a_half_written_file_is_no_round(bench: Workbench, tmp_path: Path) -> None:
    """Killed while it wrote, a site goes on from the round before, as if this one had not been."""
    local = LocalNorm(bench, tmp_path)
    local.save("run", after=1)
    kept = layers(bench)
    (tmp_path / "run" / "norm-00002.safetensors.part").write_bytes(b"half")
    shift(bench, 1.0)
    local.load("run", before=3)
    assert layers(bench) == kept


def test_other_layers_are_left_alone(bench: Workbench, tmp_path: Path) -> None:
    """Loading normalisation layers changes neither convolutions nor the head."""
    local = LocalNorm(bench, tmp_path)
    weight = bench.classifier.fc.weight.detach().clone()
    with torch.no_grad():
        bench.classifier.fc.weight.add_(1)
    local.load("run", before=1)
    np.testing.assert_array_equal(bench.classifier.fc.weight.detach(), weight + 1)
