"""Backbone and head from the protocol alone: weights, normalisation layers, unfreezing schedule."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from shared import protocol
from shared.normalisation import GatedBatchNorm2d, fold, normalisation_layers, regroup
from shared.views import Views
from shared.vision import Backbone, residual_network
from shared.weights import WeightsProvenance, load_pretrained

Norm = Literal["batch", "frozen", "folded", "group"]

Features = Literal["pooled", "unit"]
"""What the head sees: pooled features as they are, or each image's minus their own mean and of variance 1."""

STAGES: Final = (*protocol.STAGES, "head")
"""Where training may start, in forward order; a stage ends where the next begins, and layer4 ends pooled."""

_PARTS: Final = {stage: (stage,) for stage in STAGES} | {"stem": ("conv1", "bn1"), "head": ("fc",)}
"""The layers of each stage, by torchvision's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a study says about its model; `outputs` is its number of findings or classes, `seed` the study's."""

    backbone: Backbone
    weights: str
    weights_fallback: Literal["none"] | None
    norm: Norm
    features: Features
    views: Views
    centred: bool
    dropout: float
    outputs: int
    seed: int


def model_spec(study: protocol.StudyProtocol) -> ModelSpec:
    """Say what the study's model is."""
    return ModelSpec(
        backbone=study.model.backbone,
        weights=study.model.weights,
        weights_fallback=study.model.weights_fallback,
        norm=study.model.norm,
        features=study.model.features,
        views=Views(mirrored=study.model.mirrored, zoomed=study.model.zoomed),
        centred=study.centre_rounds > 0,
        dropout=study.model.dropout,
        outputs=len(study.task.targets),
        seed=study.random_seed("model"),
    )


class Classifier(nn.Module):
    """A residual network in stages, with a linear head; parameter names are torchvision's.

    `features` says what the head makes of the pooled features: no statistic of a data set is in either. Of a model with
    several `views` the pooled features are their mean; trained it can be behind them alone.
    A `centred` model takes its `centre` off the unit features, which is 0 until private rounds have estimated it.
    Shapes: images (N, 3, H, W), pooled features (N, D) in fp32 with D = `fc.in_features`, logits (N, K).
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        outputs: int,
        dropout: float,
        norm: Norm,
        features: Features,
        views: Views,
        centred: bool,
    ) -> None:
        super().__init__()
        self.features: Features = features
        self.views = views
        network: Any = residual_network(backbone, norm_layer=GatedBatchNorm2d)
        self.norm: Norm = norm
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.avgpool = network.avgpool
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(network.fc.in_features, outputs)
        self.centre: nn.Linear | None = None
        if centred:  # a layer, so that it is clipped by the rule that the head is clipped by
            self.centre = nn.Linear(network.fc.in_features, 1, bias=False)
            nn.init.zeros_(self.centre.weight)

    def extra_repr(self) -> str:
        """Say what no layer shows: what is computed once and kept is kept under a digest of this."""
        return str(self.views)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Give logits (N, K)."""
        return self.rest(images_NCHW, start="stem")

    def trunk(self, images_NCHW: torch.Tensor, *, upto: str) -> torch.Tensor:
        """Run everything before the stage `upto`; for "head", this gives the pooled features (N, D) in fp32.

        `rest(trunk(images, upto=stage), start=stage)` equals `forward(images)` bit for bit in eval mode.
        """
        return self._run(images_NCHW, STAGES[: STAGES.index(upto)])

    def pooled(self, features: torch.Tensor, *, start: str) -> torch.Tensor:
        """Run the stages from `start` up to the head, on what `trunk(upto=start)` gave: the pooled features (N, D)."""
        return self._run(features, STAGES[STAGES.index(start) : -1]).float()

    def rest(self, features: torch.Tensor, *, start: str) -> torch.Tensor:
        """Run the stage `start` and all after it on what `trunk(upto=start)` gave, and leave that unchanged."""
        return self._run(features, STAGES[STAGES.index(start) :])

    def _run(self, features: torch.Tensor, stages: Sequence[str]) -> torch.Tensor:
        for stage in stages:
            features = self._run_stage(features, stage)
        return features

    def _run_stage(self, features: torch.Tensor, stage: str) -> torch.Tensor:
        match stage:
            case "stem":
                features = self.maxpool(self.relu(self.bn1(self.conv1(self.views.of(features)))))
            case "layer4":
                # Pooled in fp32 under bf16 too: cached features are trained on for many epochs.
                last = self.layer4(features)
                each_view = self.avgpool(last.to(torch.promote_types(last.dtype, torch.float32))).flatten(1)
                features = self.views.mean(each_view)
            case "head":
                features = self.fc(self.dropout(self._seen(features)))
            case _:
                features = self.get_submodule(stage)(features)
        return features

    def _seen(self, pooled_ND: torch.Tensor) -> torch.Tensor:
        """Give what the head sees of pooled features."""
        if self.features == "pooled":
            return pooled_ND
        unit_ND = unit(pooled_ND)
        return unit_ND if self.centre is None else _of_variance_one(unit_ND - self.centre.weight)


def unit(features_ND: torch.Tensor) -> torch.Tensor:
    """Subtract each row's own mean and scale the row to variance 1, length √D; a constant row becomes zeros.

    A private head's gradients are then of like size for all patients, and no statistic of theirs is needed for it. With
    length 1 the head's bias would have as large a gradient as all weights together, and take up half of the clip.
    """
    return _of_variance_one(features_ND - features_ND.mean(dim=1, keepdim=True))


def _of_variance_one(centred_ND: torch.Tensor) -> torch.Tensor:
    return functional.normalize(centred_ND, dim=1) * math.sqrt(centred_ND.shape[1])


def build(spec: ModelSpec, *, weights_file: Path | None) -> tuple[Classifier, WeightsProvenance]:
    """Build a study's model, in eval mode and with every parameter trainable, and say where its weights came from.

    Random weights (the head, and the backbone where it is not pretrained) depend on the seed alone: torch's global
    generator is neither used nor moved.

    Raises:
        WeightsError: the pretrained weights are missing, broken, or contradict the study.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        model = Classifier(
            spec.backbone,
            outputs=spec.outputs,
            dropout=spec.dropout,
            norm=spec.norm,
            features=spec.features,
            views=spec.views,
            centred=spec.centred,
        )
    provenance = load_pretrained(
        model, backbone=spec.backbone, weights=spec.weights, fallback=spec.weights_fallback, file=weights_file
    )
    if spec.norm == "folded":
        fold(model)
    elif spec.norm == "group":
        regroup(model)
    return model.eval(), provenance


def set_trainable(model: Classifier, start: str) -> None:
    """Let the stage `start` and all after it train, and freeze what is before.

    BatchNorm normalises by its batch only under norm = "batch", in stages that train, while the model is in training
    mode; everywhere else it keeps its statistics, whatever is called on the model.
    """
    for stage in STAGES:
        trains = STAGES.index(stage) >= STAGES.index(start)
        for part in _PARTS[stage]:
            model.get_submodule(part).requires_grad_(trains)
            _let_collect(model.get_submodule(part), collects=trains and model.norm == "batch")
    if model.centre is not None:
        model.centre.requires_grad_(False)
    model.train(model.training)


def set_centre_trainable(model: Classifier) -> nn.Linear:
    """Let the centre train and nothing else, and give it.

    Raises:
        ValueError: the model has no centre.
    """
    if model.centre is None:
        raise ValueError("a model that is not centred has no centre to train")
    set_trainable(model, "head")
    model.fc.requires_grad_(False)
    model.centre.requires_grad_(True)
    return model.centre


def exchanged(model: Classifier, start: str, *, local_norm: bool) -> list[str]:
    """Name the arrays that travel while training starts at `start`, in the model's own order.

    They are the parameters that train, the centre of a centred model and, under norm = "batch", the running means and
    variances of the layers that collect them; never a count of batches. With `local_norm`, a site keeps its
    normalisation layers to itself.
    """
    local = {name for name, _ in normalisation_layers(model)} if local_norm else set()
    parts = {part for stage in STAGES[STAGES.index(start) :] for part in _PARTS[stage]} | {"centre"}
    return [
        name for name in _learned_arrays(model) if name.split(".")[0] in parts and name.rpartition(".")[0] not in local
    ]


def parameter_groups(model: Classifier, *, lr_head: float, lr_backbone: float) -> list[dict[str, Any]]:
    """Give an optimiser the parameters that train, the backbone's and the head's each at their own learning rate."""
    head = list(model.fc.parameters())
    backbone = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith("fc.")
    ]
    groups = [{"params": backbone, "lr": lr_backbone}, {"params": head, "lr": lr_head}]
    return [group for group in groups if group["params"]]


def _let_collect(part: nn.Module, *, collects: bool) -> None:
    for layer in part.modules():
        if isinstance(layer, GatedBatchNorm2d):
            layer.collects = collects


def _learned_arrays(model: Classifier) -> Iterator[str]:
    """Walk over parameters and, under norm = "batch", over running statistics, in the state dict's order."""
    parameters = {name for name, _ in model.named_parameters()}
    for name in model.state_dict():
        statistic = name.endswith((".running_mean", ".running_var"))
        if name in parameters or (statistic and model.norm == "batch"):
            yield name
