"""Tests of shared/vision.py."""

import builtins
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from shared import vision


@pytest.fixture
def torchvision_import(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Exception]], list[str]]:
    """Let `import torchvision` raise the given faults, one an attempt, and record what is declared."""

    def prepare(faults: list[Exception]) -> list[str]:
        real_import = builtins.__import__
        remaining: Iterator[Exception] = iter(faults)

        def fake_import(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "torchvision" and (fault := next(remaining, None)) is not None:
                raise fault
            return real_import(name, *args, **kwargs)

        declared: list[str] = []
        monkeypatch.setattr(builtins, "__import__", fake_import)
        monkeypatch.setattr(vision._OPERATORS, "define", declared.append)
        return declared

    return prepare


def test_missing_operators_are_declared_and_the_import_repeated(torchvision_import: Any) -> None:
    """A torchvision whose compiled operators do not load here is imported all the same."""
    declared = torchvision_import([RuntimeError("operator torchvision::nms does not exist")])
    assert vision._import_torchvision() is vision.torchvision
    assert [schema.split("(")[0] for schema in declared] == ["nms", "qnms"]


def test_a_whole_torchvision_is_left_alone(torchvision_import: Any) -> None:
    """Nothing is declared where torchvision imports by itself."""
    declared = torchvision_import([])
    vision._import_torchvision()
    assert declared == []


def test_another_fault_of_torchvision_is_not_hidden(torchvision_import: Any) -> None:
    """An import that fails for another reason fails."""
    torchvision_import([RuntimeError("something else")])
    with pytest.raises(RuntimeError, match="something else"):
        vision._import_torchvision()


@pytest.mark.parametrize(
    ("backbone", "strides_1x1_and_3x3"), [("resnet50", ((1, 1), (2, 2))), ("resnet50_v1", ((2, 2), (1, 1)))]
)
def test_v1_halves_in_the_first_1x1_convolution(backbone: Any, strides_1x1_and_3x3: tuple[Any, Any]) -> None:
    """resnet50_v1 strides in the first convolution of stages 2 to 4, torchvision's layout in the second."""
    with torch.device("meta"):
        network: Any = vision.residual_network(backbone, norm_layer=nn.BatchNorm2d)
    for stage in (network.layer2, network.layer3, network.layer4):
        assert (stage[0].conv1.stride, stage[0].conv2.stride) == strides_1x1_and_3x3
        assert all(block.conv1.stride == block.conv2.stride == (1, 1) for block in stage[1:])
    assert all(block.conv1.stride == block.conv2.stride == (1, 1) for block in network.layer1)


def test_v1_block_computes_the_published_function() -> None:
    """A v1 block equals He et al. 2016's bottleneck, written out by hand."""
    torch.manual_seed(0)
    network: Any = vision.residual_network("resnet50_v1", norm_layer=nn.BatchNorm2d)
    block = network.layer2[0].eval()
    x = torch.randn(2, 256, 14, 14)

    def conv(layer: nn.Conv2d, x: torch.Tensor, stride: int) -> torch.Tensor:
        return functional.conv2d(x, layer.weight, stride=stride, padding=layer.kernel_size[0] // 2)

    # Fresh BatchNorm in eval mode divides by sqrt(1 + 1e-5).
    scale = (1 + 1e-5) ** -0.5
    out = functional.relu(conv(block.conv1, x, 2) * scale)
    out = functional.relu(conv(block.conv2, out, 1) * scale)
    out = conv(block.conv3, out, 1) * scale
    shortcut = conv(block.downsample[0], x, 2) * scale
    torch.testing.assert_close(block(x.clone()), functional.relu(out + shortcut))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_imagenet_weights_have_an_address_with_a_digest(backbone: Any) -> None:
    """The weights in torchvision are named by backbone and by the first 8 digits of their SHA-256."""
    address = vision.imagenet_address(backbone)
    assert address is not None
    assert re.fullmatch(rf"https://download\.pytorch\.org/models/{backbone}-[0-9a-f]{{8}}\.pth", address)


def test_v1_has_no_weights_in_torchvision() -> None:
    """resnet50_v1 has no address, so that nobody loads v1.5 weights into it."""
    assert vision.imagenet_address("resnet50_v1") is None
