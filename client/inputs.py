"""What the training part of the model sees: a site's images, augmented and run through the frozen part."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from client.features import FORWARD_BATCH, FeatureCache, Source, in_batches
from client.site_data import Pixels, Rows
from client.workbench import Workbench
from shared.augmentation import Augmentation, Generators, apply, draw
from shared.preprocessing import normalise


class Inputs(Protocol):
    """Gives batches as the stage `start`, the first that trains, takes them."""

    def training(self, rows: Rows, *, start: str, generator: Generators) -> torch.Tensor:
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

    def training(self, rows: Rows, *, start: str, generator: Generators) -> torch.Tensor:
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


class Live(Source, Protocol):
    """Makes inputs each time they are asked for, and has the images that they are made of."""

    def images(self, rows: Rows) -> torch.Tensor:
        """Give the prepared images themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSize:
    """Runs the frozen part on batches of one size, filled up: an image's last bits tell nothing of who comes with it.

    A product of matrices adds up in another order where there are more or fewer rows. Under [privacy] what one patient
    contributes may not depend on whether another is there, not even by so little.
    """

    live: Live

    def training(self, rows: Rows, *, start: str, generator: Generators) -> torch.Tensor:
        """Give augmented images behind the frozen part, each changed by its own generator."""
        own = [generator] * len(rows) if isinstance(generator, torch.Generator) else list(generator)
        # Copies draw from generators that nobody else has: an image's own goes on from where it alone has brought it.
        own += [torch.Generator() for _ in range(FORWARD_BATCH)]
        return self._parts(
            rows,
            lambda part, first: self.live.training(part, start=start, generator=own[first : first + FORWARD_BATCH]),
        )

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give the images behind the frozen part."""
        return self._parts(rows, lambda part, _: self.live.evaluation(part, start=start))

    def images(self, rows: Rows) -> torch.Tensor:
        """Give the prepared images themselves."""
        return self.live.images(rows)

    def _parts(self, rows: Rows, forward: Callable[[Rows, int], torch.Tensor]) -> torch.Tensor:
        """Run parts of FORWARD_BATCH images; the last is filled up with its last image, whose copies are dropped."""
        made = []
        for number, part in enumerate(in_batches(rows)):
            whole = np.pad(part, (0, FORWARD_BATCH - len(part)), mode="edge")
            made.append(forward(whole, number * FORWARD_BATCH)[: len(part)])
        return torch.cat(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyInputs:
    """Feeds a site as its study says: from cached outputs of the frozen part wherever these are constants.

    Behind the whole backbone that is so for images as they are, and for training images that are not augmented; with
    cached views (`feature_views`), for all training images and behind any stage.
    """

    live: Live
    cache: FeatureCache
    views: int
    augmentation_is_off: bool

    def training(self, rows: Rows, *, start: str, generator: Generators) -> torch.Tensor:
        """Give a training batch: one of each image's cached views, its cached output, or what is made now."""
        if self.views and start != "stem":
            return self.cache.views(rows, _picked(self.views, len(rows), generator), start=start)
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


def _picked(views: int, count: int, generator: Generators) -> Rows:
    """Pick a view for each image, each as likely."""
    if isinstance(generator, torch.Generator):
        return torch.randint(views, (count,), generator=generator).numpy()
    return np.array([int(torch.randint(views, (1,), generator=own)) for own in generator], dtype=np.int64)
