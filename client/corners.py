"""The corners of prepared images: one painted over, and how far the brightest of each stands out."""

import torch

from shared.description import CORNERS
from shared.scores import Floats

PATCH = 3 / 16
"""Side of a corner, in image sides: letters and lead markers lie there, lungs do not."""

BRIGHTEST = 0.98
"""A letter of a marker covers a few hundredths of its corner; a single pixel of noise far less."""


def blank(images_NCHW: torch.Tensor, corner: str) -> torch.Tensor:
    """Paint a corner of each image with its own median, by channel: what is small in it goes, its background stays."""
    painted = images_NCHW.clone()
    patch = _patch(painted, corner)
    values = patch.to(torch.int32).flatten(2).median(dim=2).values
    patch[:] = values[:, :, None, None].to(painted.dtype)
    return painted


def standing_out(images_NCHW: torch.Tensor) -> Floats:
    """Give how far the brightest fiftieth of each corner lies above its median, (N, 4) in the order of CORNERS.

    A difference within the corner: how bright its background is, which follows from the patient's size and from the
    window of the whole film, falls out.
    """
    found = []
    for corner in CORNERS:
        pixels = _patch(images_NCHW, corner).to(torch.float32).mean(dim=1).flatten(1)
        found.append(pixels.quantile(BRIGHTEST, dim=1) - pixels.median(dim=1).values)
    values: Floats = torch.stack(found, dim=1).double().cpu().numpy()
    return values


def _patch(images_NCHW: torch.Tensor, corner: str) -> torch.Tensor:
    side = round(PATCH * images_NCHW.shape[-1])
    down = slice(0, side) if corner.startswith("upper") else slice(-side, None)
    right = slice(0, side) if corner.endswith("left") else slice(-side, None)
    return images_NCHW[:, :, down, right]
