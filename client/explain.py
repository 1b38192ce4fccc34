"""Grad-CAM: which places of an image raise a finding's score; for local review, it never leaves.

Selvaraju et al., ICCV 2017 (doi 10.1109/ICCV.2017.74), equations 1 and 2. It is coarse, and it shows where, not why.
"""

import torch
from torch.nn import functional

from shared.model import Classifier

STRIDES = {"layer4": 32, "layer3": 16, "layer2": 8, "layer1": 4}
"""Pixels of the image to one cell of each stage's map, the deepest first."""

LEAST_CELLS = 7
"""Cells across a map that is still worth looking at: what layer4 has at 224 pixels, for which it was made."""


def map_stage(size: int) -> str:
    """Name the deepest stage whose map has cells enough at this image size; small images are read earlier."""
    return next((stage for stage, stride in STRIDES.items() if size // stride >= LEAST_CELLS), "layer1")


def grad_cam(classifier: Classifier, images_NCHW: torch.Tensor, *, target: int, stage: str) -> torch.Tensor:
    """Give each image's map (N, H, W), not negative, stretched to the image's size.

    The weight of a channel is the mean over places of the gradient of the target's logit (equation 1); the map is the
    weighted sum of the channels of `stage`'s output, without its negative part (equation 2).
    """
    kept: list[torch.Tensor] = []
    hook = classifier.get_submodule(stage).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            score = classifier(images_NCHW.detach().requires_grad_())[:, target].sum()
    finally:
        hook.remove()
    (channels,) = kept
    (gradients,) = torch.autograd.grad(score, channels)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    maps = (weights * channels).sum(dim=1, keepdim=True).relu().detach()
    return functional.interpolate(maps, size=images_NCHW.shape[2:], mode="bilinear", align_corners=False)[:, 0]
