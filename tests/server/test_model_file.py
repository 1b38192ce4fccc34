"""The model file holds the whole model, and all that one must know to use it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from server.bootstrap import compose
from server.checkpoint import RunState
from server.model_file import write_model
from server.study_run import Conclusion
from shared.errors import StorageError
from shared.metrics import Proportion
from shared.operating_point import OperatingPoint


def conclusion(coordinator: Any, *, add: float) -> Conclusion:
    trained = {name: coordinator.initial[name] + np.float32(add) for name in coordinator.trained_names(2)}
    point = OperatingPoint(
        threshold=0.1 + 0.2,
        target=0.95,
        claim="point",
        reached=Proportion(value=1.0, low=0.5, high=1.0, k=3, n=3),
    )
    return Conclusion(
        state=RunState(round=2, model=trained),
        chosen=2,
        model=trained,
        operating_point={"opacity": point},
        validation={},
        test={},
        own={},
    )


@pytest.mark.parametrize("norm", ["frozen", "folded"])
def test_the_file_is_the_model_that_was_tested(tiny: Any, tmp_path: Path, norm: str) -> None:
    """It loads into the study's model without a missing or surplus name: what trained is new, the rest as it was."""
    protocol = tiny.protocol(model={"norm": norm, "unfreeze": [{"round": 2, "from": "layer4"}]})
    coordinator, model = compose(protocol, weights_file=None)
    write_model(tmp_path / "model.safetensors", coordinator, conclusion(coordinator, add=0.5))
    loaded = load_file(tmp_path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        trained = name in coordinator.trained_names(2)
        np.testing.assert_array_equal(loaded[name], tensor + 0.5 if trained else tensor, err_msg=name)
    model.load_state_dict(loaded)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1)


@pytest.mark.parametrize("kind", ["findings", "classes"])
def test_it_says_how_to_use_it(tiny: Any, tmp_path: Path, kind: str) -> None:
    """Architecture, targets, activation, thresholds to the last bit, intended use, protocol and its digest, round."""
    protocol = tiny.protocol(task={kind: ["opacity", "effusion"]})
    coordinator, _ = compose(protocol, weights_file=None)
    write_model(tmp_path / "model.safetensors", coordinator, conclusion(coordinator, add=0.0))
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        facts = file.metadata()
    assert (facts["format"], facts["arch"], facts["norm"]) == ("polyclinic-model-1", "resnet18", "frozen")
    assert facts["features"] == "pooled"
    assert json.loads(facts["targets"]) == ["opacity", "effusion"]
    assert facts["activation"] == {"findings": "sigmoid", "classes": "softmax"}[kind]
    assert json.loads(facts["thresholds"]) == {"opacity": 0.1 + 0.2}
    assert facts["intended_use"] == protocol.study.intended_use
    assert (facts["protocol"], facts["protocol_sha256"]) == (protocol.canonical(), protocol.digest())
    assert (facts["round"], facts["weights"]) == ("2", coordinator.provenance.sentence)


def test_equal_models_are_equal_files(tiny: Any, tmp_path: Path) -> None:
    """Written twice, it is the same bytes, so that a digest of the file says whether it is the same model."""
    protocol = tiny.protocol(study={"intended_use": 'Für Tests "only" \\ \n ✓'})
    coordinator, _ = compose(protocol, weights_file=None)
    for number in range(2):
        write_model(tmp_path / f"{number}.safetensors", coordinator, conclusion(coordinator, add=0.0))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0.safetensors", framework="numpy") as file:
        assert file.metadata()["intended_use"] == protocol.study.intended_use
        np.testing.assert_array_equal(file.get_tensor("fc.bias"), coordinator.initial["fc.bias"])


def test_it_can_be_the_start_of_another_study(tiny: Any, tmp_path: Path) -> None:
    """The file is one of those that `weights = "file"` takes."""
    coordinator, _ = compose(tiny.protocol(), weights_file=None)
    path = tmp_path / "model.safetensors"
    write_model(path, coordinator, conclusion(coordinator, add=0.0))
    other = tiny.protocol(model={"weights": "file"}, study={"seed": 5})
    started, _ = compose(other, weights_file=path)
    assert started.provenance.source == "file"
    np.testing.assert_array_equal(started.initial["conv1.weight"], coordinator.initial["conv1.weight"])


def test_a_disk_that_cannot_be_written_is_told(tiny: Any, tmp_path: Path) -> None:
    """A folder in the way gives a message of ours."""
    coordinator, _ = compose(tiny.protocol(), weights_file=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_model(tmp_path / "file" / "model.safetensors", coordinator, conclusion(coordinator, add=0.0))
