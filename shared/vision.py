"""The one door to torchvision: its residual networks, and the address of their ImageNet weights."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Literal, cast

import torch
from torch import nn

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet50_v1"]

# Lives as long as the program: what a Library declared disappears with it.
_OPERATORS: Final = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch says no types


def _import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators don't load (built for CUDA, and this torch is not).

    There the import fails, because torchvision describes `nms` and `qnms` and nobody declared them. A study calls
    neither, so that it is enough to declare them and to import again.
    """
    try:
        import torchvision
    except RuntimeError as fault:
        if "torchvision::nms does not exist" not in str(fault):
            raise
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _OPERATORS.define(schema)  # type: ignore[no-untyped-call]  # torch says no types
        import torchvision
    return cast(ModuleType, torchvision)


torchvision: Final = _import_torchvision()


def residual_network(backbone: Backbone, *, norm_layer: Callable[[int], nn.Module]) -> nn.Module:
    """Make torchvision's ResNet with weights drawn from torch's global generator.

    `resnet50_v1` is ResNet-50 as He et al. 2016 published it: a stage halves its input in the first 1x1 convolution,
    where torchvision's layout ("v1.5") does so in the 3x3. Names and shapes are the same, the function is another.
    """
    builder = getattr(torchvision.models, backbone.removesuffix("_v1"))
    network: Any = builder(weights=None, norm_layer=norm_layer)
    if backbone == "resnet50_v1":
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return cast(nn.Module, network)


def imagenet_address(backbone: Backbone) -> str | None:
    """Give the URL of torchvision's ImageNet weights, whose file name ends in its digest's first 8 digits.

    Always the first published set: the second of ResNet-50 is trained with label smoothing, which is better on
    ImageNet and makes features that transfer worse (Kornblith et al. 2021, "Why Do Better Loss Functions Lead to
    Less Transferable Features?"). None for `resnet50_v1`, for which torchvision has no weights.
    """
    if backbone == "resnet50_v1":
        return None
    return str(torchvision.models.get_model_weights(backbone).IMAGENET1K_V1.url)
