"""Grad-CAM and HiResCAM: which places of an image raise a finding's score; for local review, they never leave.

Grad-CAM: Selvaraju et al., ICCV 2017 (doi 10.1109/ICCV.2017.74), equations 1 and 2. HiResCAM: Draelos and Carin 2020
(arXiv:2011.08891). Both are coarse, and show where, not why.
"""

from collections.abc import Mapping
from typing import Protocol

import torch

from shared.model import Classifier

STRIDES = {"layer4": 32, "layer3": 16, "layer2": 8, "layer1": 4}
"""Pixels of the image to one cell of each stage's map, the deepest first."""

LEAST_CELLS = 7
"""Cells across a map that is still worth looking at: what layer4 has at 224 pixels, for which it was made."""


class Method(Protocol):
    """A way to make maps."""

    def __call__(self, classifier: Classifier, images_NCHW: torch.Tensor, *, target: int, stage: str) -> torch.Tensor:
        """Give each image's map (N, H, W), not negative, stretched to the image's size."""


def map_stage(size: int) -> str:
    """Name the deepest stage whose map has cells enough at this image size; small images are read earlier."""
    return next((stage for stage, stride in STRIDES.items() if size // stride >= LEAST_CELLS), "layer1")


def grad_cam(classifier: Classifier, images_NCHW: torch.Tensor, *, target: int, stage: str) -> torch.Tensor:
    """Weigh each channel of `stage`'s output with the mean over places of the gradient of the target's logit.

    The map is the weighted sum without its negative part. The mean is right where the logit is linear in each channel's
    mean, as behind layer4; at an earlier stage, or where normalisation follows, it can point anywhere.
    """
    channels, gradients = _output_and_gradient(classifier, images_NCHW, target=target, stage=stage)
    return _stretched(classifier, gradients.mean(dim=(2, 3), keepdim=True) * channels, images_NCHW)


def hires_cam(classifier: Classifier, images_NCHW: torch.Tensor, *, target: int, stage: str) -> torch.Tensor:
    """Weigh each place of each channel with its own gradient; behind layer4 it is Grad-CAM for a linear head."""
    channels, gradients = _output_and_gradient(classifier, images_NCHW, target=target, stage=stage)
    return _stretched(classifier, gradients * channels, images_NCHW)


METHODS: Mapping[str, Method] = {"Grad-CAM": grad_cam, "HiResCAM": hires_cam}

SHOWN = "HiResCAM"
"""The map that a person is shown: of the two the one that never marks a place that did not raise the score (Draelos and
Carin 2020, section 3); where they are the same, the question does not arise."""


def all_the_same(stage: str) -> bool:
    """Tell whether both methods make one map.

    What follows `layer4` sees means over places alone, so that a channel's gradient is the same at each of them.
    """
    return stage == "layer4"


def _output_and_gradient(
    classifier: Classifier, images_NCHW: torch.Tensor, *, target: int, stage: str
) -> tuple[torch.Tensor, torch.Tensor]:
    kept: list[torch.Tensor] = []
    hook = classifier.get_submodule(stage).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        with torch.enable_grad():
            score = classifier(images_NCHW.detach().requires_grad_())[:, target].sum()
    finally:
        hook.remove()
    (channels,) = kept
    (gradients,) = torch.autograd.grad(score, channels)
    return channels.detach(), gradients


def _stretched(classifier: Classifier, weighted_NCHW: torch.Tensor, images_NCHW: torch.Tensor) -> torch.Tensor:
    _, _, height, width = images_NCHW.shape
    return classifier.views.laid_over(weighted_NCHW.sum(dim=1, keepdim=True), size=(height, width))[:, 0]
