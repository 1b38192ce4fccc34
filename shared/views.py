"""The views of an image that a frozen backbone sees in its place: itself, its middle enlarged, and their mirror images.

Features averaged over views have less in them that is chance: where in the image something lies, and how large it is
(as scores were over ten crops by Krizhevsky et al. 2012, section 4.1).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

MIDDLE: Final = 7 / 9
"""Share of height and width that a zoomed view shows: at 288 pixels to a side it is the middle 224."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Which views there are beside the image itself; the batch of each follows that of the one before."""

    mirrored: bool
    zoomed: bool

    def __len__(self) -> int:
        return (1 + self.zoomed) * (1 + self.mirrored)

    def __str__(self) -> str:
        return ", ".join(name for name in ("mirrored", "zoomed") if getattr(self, name))

    def of(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Give every view of N images, (len × N, C, H, W)."""
        views = images_NCHW
        if self.zoomed:
            views = torch.cat((views, _enlarged(views)))
        return torch.cat((views, views.flip(-1))) if self.mirrored else views

    def mean(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Average the features (len × N, D) of all views of each of N images."""
        return features_ND.view(len(self), -1, features_ND.shape[1]).mean(0) if len(self) > 1 else features_ND

    def laid_over(self, maps_N1HW: torch.Tensor, *, size: tuple[int, int]) -> torch.Tensor:
        """Add up the maps of all views where they lie in the image, without what is negative: (N, 1, *size).

        The map of a view counts as much as that of any other: the middle's is as much brighter as it is smaller.
        """
        maps = maps_N1HW
        if self.mirrored:
            as_is, mirrored = maps.chunk(2)
            maps = as_is + mirrored.flip(-1)
        maps = maps.relu()
        if not self.zoomed:
            return _stretched(maps, size)
        whole, middle = maps.chunk(2)
        (top, height), (left, width) = _middle(size[0]), _middle(size[1])
        brighter = size[0] * size[1] / (height * width)
        placed = functional.pad(_stretched(middle, (height, width)) * brighter, (left, left, top, top))
        return _stretched(whole, size) + placed


AS_IT_IS: Final = Views(mirrored=False, zoomed=False)
"""The image itself alone."""


def _enlarged(images_NCHW: torch.Tensor) -> torch.Tensor:
    (top, height), (left, width) = _middle(images_NCHW.shape[2]), _middle(images_NCHW.shape[3])
    middle = images_NCHW[..., top : top + height, left : left + width]
    return _stretched(middle, (images_NCHW.shape[2], images_NCHW.shape[3]))


def _middle(length: int) -> tuple[int, int]:
    """Give where the middle begins, and its length; what is left out is the same on both sides."""
    margin = round(length * (1 - MIDDLE) / 2)
    return margin, length - 2 * margin


def _stretched(images_NCHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return functional.interpolate(images_NCHW, size=size, mode="bilinear", align_corners=False)
