"""Normalisation layers for federated training: gated BatchNorm, and its folding into convolutions or into groups."""

import itertools
from collections.abc import Iterator
from typing import Final, Self

import torch
from torch import nn

GROUPS: Final = 32
"""Groups per GroupNorm layer, the default of Wu and He 2018; every ResNet width is a multiple of it."""


class GatedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalises by its stored statistics, whatever `train()` asks, unless `collects` is set.

    PyTorch's own layer mixes the samples of a batch, and changes its statistics, as soon as anyone calls `train()`
    on the model, even where its parameters are frozen.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.collects = False
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Enter training mode only if this layer may collect statistics."""
        return super().train(mode and self.collects)


def normalisation_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Walk over the layers that normalise, by name."""
    for name, layer in network.named_modules():
        if isinstance(layer, GatedBatchNorm2d | nn.GroupNorm):
            yield name, layer


def collects_statistics(network: nn.Module) -> bool:
    """Tell whether a layer normalises by its batch's own statistics as the network stands."""
    return any(isinstance(layer, GatedBatchNorm2d) and layer.training for layer in network.modules())


def fold(network: nn.Module) -> None:
    """Fold each BatchNorm, in place, into the convolution before it, which gets a trainable bias.

    The function in eval mode stays the same. Computed in fp64 by sums, products, quotients and square roots alone,
    which IEEE 754 rounds correctly: every site folds the same file into the same bits.
    """
    with torch.no_grad():
        for parent, convolution, name, norm in _normalised_convolutions(network):
            gain = norm.weight.double() / (_statistic(norm.running_var) + norm.eps).sqrt()
            bias = norm.bias.double() - _statistic(norm.running_mean) * gain
            convolution.weight.copy_(convolution.weight.double() * gain.view(-1, 1, 1, 1))
            convolution.bias = nn.Parameter(bias.float())
            parent.register_module(name, nn.Identity())


def regroup(network: nn.Module) -> None:
    """Replace each BatchNorm, in place, by a GroupNorm that keeps scale and shift; the statistics are given up."""
    with torch.no_grad():
        for parent, _, name, norm in _normalised_convolutions(network):
            group_norm = nn.GroupNorm(GROUPS, norm.num_features, eps=norm.eps)
            group_norm.weight.copy_(norm.weight)
            group_norm.bias.copy_(norm.bias)
            parent.register_module(name, group_norm)


def _normalised_convolutions(
    network: nn.Module,
) -> Iterator[tuple[nn.Module, nn.Conv2d, str, GatedBatchNorm2d]]:
    """Find each BatchNorm with its parent, its name there, and the convolution that precedes it."""
    for parent in list(network.modules()):
        for (_, layer), (name, following) in itertools.pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(following, GatedBatchNorm2d):
                yield parent, layer, name, following


def _statistic(buffer: torch.Tensor | None) -> torch.Tensor:
    if buffer is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    return buffer.double()
