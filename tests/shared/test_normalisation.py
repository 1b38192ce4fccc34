"""Tests of shared/normalisation.py, against torch's own fusion and group statistics by hand."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from shared.normalisation import GatedBatchNorm2d, fold, normalisation_layers, regroup


@pytest.fixture
def network() -> Any:
    """Make two convolutions, each with a BatchNorm of its own statistics, one of them nested."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, bias=False),
        GatedBatchNorm2d(64),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(64, 32, 1, bias=False)),
    )
    network[3].append(GatedBatchNorm2d(32))
    with torch.no_grad():
        for _, layer in normalisation_layers(network):
            for array in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                array.copy_(torch.rand(len(array), generator=generator) + 0.5)
    return network


def images(seed: int = 1) -> torch.Tensor:
    """Draw a small batch."""
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_folding_keeps_the_function(network: Any) -> None:
    """The folded network gives the same outputs, has no BatchNorm left, and its new biases train."""
    before = network(images())
    fold(network)
    torch.testing.assert_close(network(images()), before, rtol=1e-4, atol=1e-4)
    assert not list(normalisation_layers(network))
    assert network[0].bias.requires_grad
    assert network[3][0].bias.requires_grad


def test_folding_is_torchs_fusion(network: Any) -> None:
    """Folded weights and biases equal those of torch.nn.utils.fusion."""
    norm = network[1]
    weight, bias = fuse_conv_bn_weights(
        network[0].weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    fold(network)
    torch.testing.assert_close(network[0].weight, weight)
    torch.testing.assert_close(network[0].bias, bias)


def test_groups_keep_scale_and_shift_alone(network: Any) -> None:
    """GroupNorm takes over the affine parameters, and normalises each image by its own group statistics."""
    scale, shift = network[1].weight.detach().clone(), network[1].bias.detach().clone()
    regroup(network)
    x = torch.randn(2, 64, 5, 5, generator=torch.Generator().manual_seed(2))
    groups = x.view(2, 32, -1)
    centred = groups - groups.mean(dim=2, keepdim=True)
    normal = (centred / (centred.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()).view_as(x)
    torch.testing.assert_close(
        network[1](x), normal * scale.view(-1, 1, 1) + shift.view(-1, 1, 1), rtol=1e-4, atol=1e-5
    )
    assert [type(layer) for _, layer in normalisation_layers(network)] == [nn.GroupNorm, nn.GroupNorm]


def test_a_closed_gate_keeps_its_statistics(network: Any) -> None:
    """train(), on the model or on the layer itself, neither mixes samples nor moves statistics."""
    alone = network(images())[:1]
    statistics = {name: array.clone() for name, array in network.named_buffers()}
    network.train()
    network[1].train()
    torch.testing.assert_close(network(images())[:1], alone)
    assert all(torch.equal(array, statistics[name]) for name, array in network.named_buffers())


def test_an_open_gate_is_a_batch_norm(network: Any) -> None:
    """A layer that may collect statistics does what torch's BatchNorm does, in training and in eval mode."""
    gated = GatedBatchNorm2d(3)
    gated.collects = True
    plain = nn.BatchNorm2d(3)
    torch.testing.assert_close(gated.train()(images()), plain.train()(images()))
    torch.testing.assert_close(gated.eval()(images()), plain.eval()(images()))
    torch.testing.assert_close(gated.running_var, plain.running_var)


def test_folding_needs_statistics(network: Any) -> None:
    """A BatchNorm without running statistics is refused, because it is no fixed function."""
    network[1].running_mean = None
    with pytest.raises(ValueError, match="without running statistics"):
        fold(network)
