"""What the training part of the model sees: a site's images, augmented and run through the frozen part."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from client.features import FeatureCache
from client.site_data import Pixels, Rows
from client.workbench import Workbench
from shared.augmentation import Augmentation, apply, draw
from shared.preprocessing import normalise


class Inputs(Protocol):
    """Gives batches as the stage `start`, the first that trains, takes them."""

    def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
        """Give a training batch: augmented as the study says, with what `generator` draws."""

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give a batch as it is."""

    def images(self, rows: Rows) -> torch.Tensor:
        """Give the prepared images themselves, (len(rows), C, H, W), as they are cached."""


class LiveInputs:
    """Reads, augments and forwards the images each time they are asked for."""

    def __init__(self, bench: Workbench, pixels: Pixels, augmentation: Augmentation) -> None:
        self._bench = bench
        self._pixels = pixels
        self._augmentation = augmentation

    @cached_property
    def _resident(self) -> torch.Tensor:
        """Keep all of the site's images on a GPU, as they are cached: one or two bytes a pixel."""
        every = np.arange(len(self._pixels) if self._bench.device.type == "cuda" else 0)
        return self._pixels.read(every).to(self._bench.device)

    def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
        """Give augmented images behind the frozen part."""
        images = self.images(rows)
        draws = draw(self._augmentation, batch=len(rows), size=images.shape[-1], generator=generator)
        return self._forward(apply(images, draws), start)

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give the images behind the frozen part."""
        if self._bench.device.type == "cpu":
            return self._trunk(self._pixels.normalised(rows), start)
        return self._forward(self.images(rows), start)

    def images(self, rows: Rows) -> torch.Tensor:
        """Give the prepared images themselves."""
        return self._resident[torch.from_numpy(rows)] if len(self._resident) else self._pixels.read(rows)

    def _forward(self, images_NCHW: torch.Tensor, start: str) -> torch.Tensor:
        return self._trunk(normalise(images_NCHW, dtype=torch.float32), start)

    @torch.no_grad()
    def _trunk(self, normalised_NCHW: torch.Tensor, start: str) -> torch.Tensor:
        with self._bench.precision():
            hidden: torch.Tensor = self._bench.classifier.trunk(normalised_NCHW, upto=start)
        return hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyInputs:
    """Feeds a site as its study says: from cached outputs of the frozen part wherever these are constants.

    Behind the whole backbone that is so for images as they are, and for training images that are not augmented; with
    cached views (`feature_views`), for all training images and behind any stage.
    """

    live: LiveInputs
    cache: FeatureCache
    views: int
    augmentation_is_off: bool

    def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
        """Give a training batch: one of each image's cached views, its cached output, or what is made now."""
        if self.views and start != "stem":
            picked = torch.randint(self.views, (len(rows),), generator=generator).numpy()
            return self.cache.views(rows, picked, start=start)
        if self.augmentation_is_off:
            return self.evaluation(rows, start=start)
        return self.live.training(rows, start=start, generator=generator)

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give a batch as it is."""
        if start == "head" or (self.views and start != "stem"):
            return self.cache.plain(rows, start=start)
        return self.live.evaluation(rows, start=start)

    def images(self, rows: Rows) -> torch.Tensor:
        """Give the prepared images themselves."""
        return self.live.images(rows)
