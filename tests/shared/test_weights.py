"""Tests of shared/weights.py: what is found is checked, what contradicts the study is refused."""

import copy
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from shared import vision, weights
from shared.errors import WeightsError
from shared.model import Classifier
from shared.views import AS_IT_IS

Arrays = dict[str, torch.Tensor]
Load = Callable[..., weights.WeightsProvenance]


@pytest.fixture(scope="module")
def fresh_network() -> nn.Module:
    """Draw a small backbone's weights once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(
            "resnet18", outputs=1, dropout=0, norm="frozen", features="pooled", views=AS_IT_IS, centred=False
        )


@pytest.fixture
def network(fresh_network: nn.Module) -> nn.Module:
    """Make a small backbone with weights of its own."""
    return copy.deepcopy(fresh_network)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Make the pretrained arrays of a resnet18 as torchvision would hold them, with the statistics of some training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        trained = vision.residual_network("resnet18", norm_layer=nn.BatchNorm2d).state_dict()
        for name, array in trained.items():
            if name.endswith(("running_mean", "running_var")):
                array.uniform_(0.5, 1.5)
    return trained


@pytest.fixture
def load(network: nn.Module) -> Load:
    """Load pretrained weights as a study with resnet18 and a file does, but for what a test says."""

    def load(**study: Any) -> weights.WeightsProvenance:
        defaults: dict[str, Any] = {"backbone": "resnet18", "weights": "file", "fallback": None, "file": None}
        return weights.load_pretrained(network, **(defaults | study))

    return load


def saved(folder: Path, arrays: Arrays, *, name: str = "weights.safetensors", arch: str | None = None) -> Path:
    """Write arrays in the format of the name's suffix."""
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(dict(arrays), path, metadata={"arch": arch} if arch else None)
    else:
        torch.save(dict(arrays), path)
    return path


def held(network: nn.Module, arrays: Arrays) -> bool:
    """Tell whether a network's backbone holds these arrays."""
    state = network.state_dict()
    return all(
        torch.equal(state[name], array.float())
        for name, array in arrays.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    )


def untouched(network: nn.Module, load: Load, **study: Any) -> str:
    """Load what must be refused, check that the network was left as it was, and give the message."""
    before = {name: array.clone() for name, array in network.state_dict().items()}
    with pytest.raises(WeightsError) as refusal:
        load(**study)
    assert all(torch.equal(array, before[name]) for name, array in network.state_dict().items())
    return str(refusal.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pt", "weights.bin"])
def test_a_file_is_loaded_and_its_digest_told(
    tmp_path: Path, network: nn.Module, arrays: Arrays, load: Load, name: str
) -> None:
    """Both formats are read, the head stays the study's own, and the provenance names the file's SHA-256."""
    head = network.get_parameter("fc.weight").clone()
    path = saved(tmp_path, arrays, name=name)
    provenance = load(file=path)
    assert held(network, arrays)
    assert torch.equal(network.get_parameter("fc.weight"), head)
    assert provenance.source == "file"
    assert provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert provenance.sha256 in provenance.sentence
    assert "does not say its architecture" in provenance.sentence


def test_an_old_pickle_of_arrays_is_read(tmp_path: Path, network: nn.Module, arrays: Arrays, load: Load) -> None:
    """PyTorch's format before 1.6 holds plain arrays too."""
    path = tmp_path / "old.pth"
    torch.save(arrays, path, _use_new_zipfile_serialization=False)
    load(file=path)
    assert held(network, arrays)


def test_half_precision_is_widened(tmp_path: Path, network: nn.Module, arrays: Arrays, load: Load) -> None:
    """An fp16 file gives the fp32 values of its halves."""
    halves = {name: array.half() if array.is_floating_point() else array for name, array in arrays.items()}
    load(file=saved(tmp_path, halves))
    assert held(network, halves)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_a_file_by_digest(tmp_path: Path, network: nn.Module, arrays: Arrays, load: Load) -> None:
    """A study that names a digest takes that file and no other."""
    path = saved(tmp_path, arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    message = untouched(network, load, file=path, weights="sha256:" + "0" * 64)
    assert digest in message
    assert load(file=path, weights=f"sha256:{digest}").sha256 == digest
    assert held(network, arrays)


@pytest.mark.parametrize("declared", ["file", "sha256:" + "0" * 64])
def test_a_file_that_was_not_given_is_missing(network: nn.Module, load: Load, declared: str) -> None:
    """Without a file, the message says how to give one, unless the study declares a fallback."""
    assert "--weights FILE" in untouched(network, load, weights=declared)
    assert load(weights=declared, fallback="none").source == "fallback"


def test_random_weights_need_no_file(network: nn.Module, load: Load, tmp_path: Path, arrays: Arrays) -> None:
    """A study without pretrained weights keeps the network's own weights, and a file beside it is a contradiction."""
    provenance = load(weights="none")
    assert (provenance.source, provenance.sha256) == ("none", None)
    assert "weights = 'none'" in untouched(network, load, weights="none", file=saved(tmp_path, arrays))


@pytest.mark.parametrize(
    ("arch", "backbone"),
    [
        ("ResNet-50 v1 (stride in FIRST 1x1 conv of each stage, not torchvision v1.5)", "resnet50_v1"),
        ("ResNet-18 torchvision layout, no fc", "resnet18"),
        ("ResNet-34 v1", "resnet34"),
        ("resnet50", "resnet50"),
        ("ResNet50 v1.5", "resnet50"),
        ("resnet50_v1", "resnet50_v1"),
        ("resnet50_v2", "resnet50_v2"),
        ("ResNet-101", "resnet101"),
        ("DenseNet-121", "another architecture"),
    ],
)
def test_an_architecture_is_read(arch: str, backbone: str) -> None:
    """What people write in a file's metadata names one backbone."""
    assert weights._backbone_named(arch) == backbone


@pytest.mark.parametrize("arch", ["ResNet-34 v1", "ResNet-50 v1 (not torchvision v1.5)", "DenseNet-121"])
def test_a_file_for_another_backbone_is_refused(
    tmp_path: Path, network: nn.Module, arrays: Arrays, load: Load, arch: str
) -> None:
    """Metadata that contradict the study are refused, although the arrays would fit, and no fallback hides it."""
    path = saved(tmp_path, arrays, arch=arch)
    assert "the study's backbone is resnet18" in untouched(network, load, file=path, fallback="none")


def test_the_provenance_says_the_architecture(tmp_path: Path, arrays: Arrays, load: Load) -> None:
    """A file that says what it is made for is quoted."""
    path = saved(tmp_path, arrays, arch="ResNet-18 torchvision layout")
    assert "'ResNet-18 torchvision layout'" in load(file=path).sentence


def test_arrays_that_do_not_fit_are_listed(tmp_path: Path, network: nn.Module, arrays: Arrays, load: Load) -> None:
    """Missing, unexpected, misshapen, broken and non-numeric arrays are named, the first five in full."""
    wrong = dict(arrays)
    del wrong["layer1.0.conv1.weight"]
    wrong["layer5.conv.weight"] = torch.zeros(1)
    wrong["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    wrong["bn1.weight"] = torch.full((64,), torch.nan)
    wrong["bn1.running_var"] = torch.full((64,), -1.0)
    wrong["bn1.bias"] = torch.zeros(64, dtype=torch.int64)
    message = untouched(network, load, file=saved(tmp_path, wrong))
    for words in (
        "layer1.0.conv1.weight is missing",
        "layer5.conv.weight is not part of the backbone",
        "conv1.weight has shape (64, 1, 7, 7) and not (64, 3, 7, 7)",
        "bn1.weight holds values that are no finite numbers",
        "bn1.bias holds values that are no finite numbers",
        "and 1 more",
    ):
        assert words in message
    message = untouched(network, load, file=saved(tmp_path, arrays | {"bn1.running_var": wrong["bn1.running_var"]}))
    assert "bn1.running_var holds a negative variance" in message


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["POLYCLINIC_TRAP"],)


def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, network: nn.Module, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state dict that holds code is refused before any of it runs."""
    sprung = tmp_path / "sprung"
    monkeypatch.setenv("POLYCLINIC_TRAP", str(sprung))
    path = tmp_path / "trap.pth"
    torch.save({"conv1.weight": Trap()}, path)
    assert "is never run" in untouched(network, load, file=path)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("kept", [0, 1, 5, 1000, -1000])
def test_a_truncated_file_is_refused(
    tmp_path: Path, network: nn.Module, arrays: Arrays, load: Load, name: str, kept: int
) -> None:
    """A file cut short anywhere is refused, in either format."""
    path = saved(tmp_path, arrays, name=name)
    path.write_bytes(path.read_bytes()[:kept])
    assert "cut short" in untouched(network, load, file=path)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"conv1.weight": 1}])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, network: nn.Module, load: Load, content: Any) -> None:
    """Only a dictionary of arrays is a state dict."""
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert "no PyTorch state dict" in untouched(network, load, file=path)


@pytest.mark.parametrize("place", ["absent.safetensors", "."])
def test_a_path_without_a_file_is_refused(tmp_path: Path, network: nn.Module, load: Load, place: str) -> None:
    """A wrong path and a folder are told as such; neither is excused by the fallback."""
    assert "--weights" in untouched(network, load, file=tmp_path / place, fallback="none")


@pytest.fixture
def published(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish weights under a local address whose name holds their digest, and use an empty download folder."""
    path = saved(tmp_path, arrays, name="published.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path = path.rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setattr(weights, "imagenet_address", lambda _: path.as_uri())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return path


def test_imagenet_weights_are_downloaded_once(published: Path, network: nn.Module, arrays: Arrays, load: Load) -> None:
    """The download is checked, kept, and not repeated."""
    provenance = load(weights="imagenet")
    assert held(network, arrays)
    assert provenance.source == "torchvision"
    assert "torchvision's ImageNet weights for resnet18" in provenance.sentence
    published.unlink()
    assert load(weights="imagenet") == provenance


def test_imagenet_weights_may_come_as_a_file(published: Path, network: nn.Module, arrays: Arrays, load: Load) -> None:
    """Torchvision's own file, fetched elsewhere, is what the study means; any other file is refused."""
    assert load(weights="imagenet", file=published).source == "torchvision"
    other = saved(published.parent, arrays, name="other.safetensors")
    assert "declare weights = 'sha256:" in untouched(network, load, weights="imagenet", file=other, fallback="none")


def test_without_a_network_there_are_no_imagenet_weights(published: Path, network: nn.Module, load: Load) -> None:
    """Offline, the message says both ways out; the study's own fallback is taken and told."""
    published.unlink()
    message = untouched(network, load, weights="imagenet")
    assert "--weights FILE" in message
    assert "weights_fallback" in message
    provenance = load(weights="imagenet", fallback="none")
    assert (provenance.source, provenance.sha256) == ("fallback", None)
    assert "weights_fallback was used" in provenance.sentence


def test_a_damaged_download_is_not_used(published: Path, network: nn.Module, load: Load) -> None:
    """A download with another digest is not kept; one that was damaged on disk later is refused."""
    whole = published.read_bytes()
    published.write_bytes(whole[:-1])
    assert "could not be downloaded" in untouched(network, load, weights="imagenet")
    published.write_bytes(whole)
    load(weights="imagenet")
    kept = next(published.parent.joinpath("hub", "checkpoints").iterdir())
    kept.write_bytes(whole[:-1])
    assert "fetched again once it is deleted" in untouched(network, load, weights="imagenet", fallback="none")


def test_torchvision_has_no_v1_weights(network: nn.Module, load: Load) -> None:
    """ImageNet weights for resnet50_v1 are a contradiction in the study, which no fallback excuses."""
    message = untouched(network, load, backbone="resnet50_v1", weights="imagenet", fallback="none")
    assert "no ImageNet weights for resnet50_v1" in message


REAL_V1 = "resnet50_v1_keras_imagenet_fp16.safetensors"
REAL_18 = "resnet18_imagenet_finetuned_omniart_fp16.safetensors"


@pytest.mark.parametrize("name", [REAL_V1, REAL_18])
def test_real_files_are_refused_by_resnet50(shared_data: Path, name: str) -> None:
    """The v1 file, whose arrays fit, and the resnet18 file are refused by what their metadata say."""
    with torch.device("meta"):
        network = Classifier(
            "resnet50", outputs=1, dropout=0, norm="frozen", features="pooled", views=AS_IT_IS, centred=False
        )
    with pytest.raises(WeightsError, match="the study's backbone is resnet50"):
        weights.load_pretrained(
            network, backbone="resnet50", weights="file", fallback=None, file=shared_data / "weights" / name
        )


@pytest.mark.parametrize(("name", "backbone"), [(REAL_V1, "resnet50_v1"), (REAL_18, "resnet18")])
def test_real_files_are_loaded_by_their_backbones(shared_data: Path, name: str, backbone: Any) -> None:
    """Both real files load into the backbone that they were made for."""
    network = Classifier(
        backbone, outputs=1, dropout=0, norm="frozen", features="pooled", views=AS_IT_IS, centred=False
    )
    provenance = weights.load_pretrained(
        network, backbone=backbone, weights="file", fallback=None, file=shared_data / "weights" / name
    )
    assert provenance.source == "file"
    assert network.bn1.running_var.std() > 0
