"""What chance decides for each image under [privacy], drawn by a generator of the image's own: nobody else moves it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


class OwnGenerators(Sequence[torch.Generator]):
    """A generator for each image of a batch, each from a seed of its own; made when the first of them is asked for."""

    def __init__(self, seeds_N: npt.NDArray[np.int64]) -> None:
        self._seeds = seeds_N.tolist()

    @cached_property
    def _made(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in self._seeds]

    def __len__(self) -> int:
        return len(self._seeds)

    @overload
    def __getitem__(self, place: int) -> torch.Generator: ...
    @overload
    def __getitem__(self, place: slice) -> list[torch.Generator]: ...
    def __getitem__(self, place: int | slice) -> torch.Generator | list[torch.Generator]:
        """Give the generator at one place, or those of a part."""
        return self._made[place]


class OwnDropout:
    """Draws each image's dropout by its own generator, that of the batch which was begun last."""

    def __init__(self) -> None:
        self._generators: Sequence[torch.Generator] = ()

    def begin(self, generators: Sequence[torch.Generator]) -> None:
        """Take the generators of the batch that comes next."""
        self._generators = generators

    def run(self, layer: nn.Dropout, inputs: torch.Tensor) -> torch.Tensor:
        """Run the layer as torch does (inverted dropout), but for whose chance it is."""
        if not (layer.training and layer.p):
            return inputs
        drawn = torch.stack([torch.rand(inputs.shape[1:], generator=own) for own in self._generators])
        return inputs * (drawn >= layer.p).to(inputs) / (1 - layer.p)


@contextmanager
def own_dropout(model: nn.Module) -> Iterator[OwnDropout]:
    """Let every dropout layer draw for each image alone while inside."""
    dropout = OwnDropout()
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
    try:
        for layer in layers:
            layer.forward = partial(dropout.run, layer)  # on the object, over the class's own
        yield dropout
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
