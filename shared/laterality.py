"""Which augmentations keep left on the left, shown on an asymmetric phantom."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch.nn import functional

from shared.augmentation import Augmentation, apply, draw

ALL_TOGETHER: Final = "all together"


@dataclass(frozen=True, slots=True, kw_only=True)
class LateralityScore:
    """What one setting of the augmentation does to the phantom, in the draw that comes closest to mirroring it."""

    name: str
    """The key in the study's [augmentation], or "all together"."""
    correlation: float
    """Pearson correlation of the augmented phantom with the phantom."""
    mirrored_correlation: float
    """The same with the phantom's mirror image."""

    @property
    def keeps_left_on_left(self) -> bool:
        """True when every draw is more like the phantom than like its mirror image."""
        return self.correlation > self.mirrored_correlation


def laterality_scores(augmentation: Augmentation, *, size: int, seed: int, draws: int = 64) -> list[LateralityScore]:
    """Score each setting that is on, by itself, and then all of them together; an empty list when all are off.

    A statement about these draws of this seed, not about all that could be drawn.
    """
    return [_score(name, setting, size, seed, draws) for name, setting in one_at_a_time(augmentation)]


def laterality_rows(scores: list[LateralityScore]) -> list[tuple[str, str, str, str]]:
    """Write scores as rows of a table: setting, correlation, mirrored correlation, verdict."""
    return [
        (
            score.name,
            f"{score.correlation:.2f}",
            f"{score.mirrored_correlation:.2f}",
            "left stays left" if score.keeps_left_on_left else "LEFT MAY BECOME RIGHT",
        )
        for score in scores
    ]


def phantom(size: int) -> torch.Tensor:
    """Draw the left and right of a chest film (1, size, size): symmetric lungs, a heart to one side, a side marker.

    As films are displayed: the patient's left, and so the heart, is on the image's right. Edges are soft, because a
    small shift of sharp ones looks to a correlation as strange as a mirror image.
    """
    x = (2 * torch.arange(size) + 1) / size - 1
    y = x.unsqueeze(1)
    image = torch.zeros(size, size)
    for level, centre_x, centre_y, radius_x, radius_y in (
        (0.5, 0.0, 0.1, 0.9, 0.9),  # body
        (-0.3, -0.4, 0.0, 0.3, 0.6),  # right lung
        (-0.3, 0.4, 0.0, 0.3, 0.6),  # left lung
        (0.6, 0.35, 0.2, 0.4, 0.4),  # heart
        (0.5, 0.75, -0.75, 0.15, 0.15),  # marker
    ):
        image += level * torch.exp(-((((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2) ** 2))
    return image.clamp(0, 1).unsqueeze(0)


def one_at_a_time(augmentation: Augmentation) -> Iterator[tuple[str, Augmentation]]:
    """Yield each setting that is on, by its name and by itself, then all together if they are several."""
    settings = {field.name: getattr(augmentation, field.name) for field in fields(Augmentation)}
    on = [name for name, value in settings.items() if value]
    for name in on:
        others = {other: type(value)(0) for other, value in settings.items() if other != name}
        yield name, replace(augmentation, **others)
    if len(on) > 1:
        yield ALL_TOGETHER, augmentation


def _score(name: str, augmentation: Augmentation, size: int, seed: int, draws: int) -> LateralityScore:
    original = phantom(size)
    generator = torch.Generator().manual_seed(seed)
    decided = draw(augmentation, batch=draws, size=size, generator=generator)
    augmented = apply(original.expand(draws, -1, -1, -1), decided)
    same_N = _correlation(augmented, original)
    mirrored_N = _correlation(augmented, original.flip(-1))
    worst = int((same_N - mirrored_N).argmin())
    return LateralityScore(name=name, correlation=float(same_N[worst]), mirrored_correlation=float(mirrored_N[worst]))


def _correlation(images_NCHW: torch.Tensor, reference_CHW: torch.Tensor) -> torch.Tensor:
    """Pearson correlation (N,) of each image with the reference."""
    images = images_NCHW.flatten(1)
    reference = reference_CHW.flatten()
    images = images - images.mean(dim=1, keepdim=True)
    reference = reference - reference.mean()
    return functional.cosine_similarity(images, reference.unsqueeze(0), dim=1)
