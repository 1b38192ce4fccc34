"""The property that privacy rests on: no patient moves the sum of all gradients by more than the clip."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from client.per_sample import clipped_sums
from shared.loss import build_loss
from shared.normalisation import GatedBatchNorm2d, fold
from shared.row_gradient import build_row_gradient

CLIP = 0.7

ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.0, 1e-30, 1e18, -1e18, 3e38, float("nan"), float("inf")]
)


class Small(nn.Module):
    """A network with every kind of layer that a study's model has, in its order: small kernels and ghost norms both."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, bias=False), GatedBatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 32, 3, stride=2, bias=False), GatedBatchNorm2d(32)
        self.fc = nn.Linear(32, 2)
        self.bn1.running_mean.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1]))
        if norm == "folded":
            fold(self)
        if norm == "group":
            self.bn1, self.bn2 = nn.GroupNorm(2, 4), nn.GroupNorm(4, 32)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu_(self.bn1(self.conv1(images)))
        hidden = torch.relu_(self.bn2(self.conv2(hidden)))
        return self.fc(hidden.mean((2, 3)))


MODELS = {norm: Small(norm) for norm in ("folded", "frozen", "group")}
SETTINGS: dict[str, Any] = {"exclusive": False, "gamma": 0.0, "alpha": 0.5}
LOSS = build_loss("bce", positive_weights_K=None, **SETTINGS)
GRADIENT = build_row_gradient("bce", **SETTINGS)

PATIENTS = st.integers(1, 2).flatmap(
    lambda images: st.tuples(
        hnp.arrays(np.float32, (3, images, 1, 7, 7), elements=ANY_FLOAT),
        hnp.arrays(np.float32, (3, images, 2), elements=st.sampled_from([0.0, 1.0, float("nan")])),
    )
)
"""Three patients of one or two images each."""


def total(model: nn.Module, images: Any, labels: Any) -> torch.Tensor:
    """Sum the patients' clipped gradients over all parameters, in fp64."""
    weights = torch.full(images.shape[:2], 1 / images.shape[1])
    with clipped_sums(model, clip=CLIP) as sums:
        sums.reset()
        gradient = partial(GRADIENT, torch.from_numpy(labels).flatten(0, 1))
        sums.add(lambda: model(torch.from_numpy(images).flatten(0, 1)), gradient, weights)
        return sums.total_D.double()


@pytest.mark.parametrize("norm", MODELS)
@given(PATIENTS)
@settings(max_examples=20)
def test_one_patient_moves_the_sum_by_at_most_the_clip(norm: str, case: tuple[Any, Any]) -> None:
    """Whatever a patient's images and labels are, with them and without them the sums differ by at most the clip."""
    images, labels = case
    everyone = total(MODELS[norm], images, labels)
    others = total(MODELS[norm], images[1:], labels[1:])
    alone = total(MODELS[norm], images[:1], labels[:1])
    assert everyone.isfinite().all()
    assert float(alone.norm()) <= CLIP  # exactly: norms are rounded up
    # Sums of patients round, each in its last bits, whoever they are.
    assert float((everyone - others).norm()) <= CLIP * (1 + 1e-5)


@pytest.mark.parametrize("norm", MODELS)
@given(st.floats(1e-3, 1e15), st.integers(0, 2**32 - 1))
@settings(max_examples=12)
def test_large_gradients_reach_the_clip(norm: str, scale: float, seed: int) -> None:
    """The bound is not kept by throwing patients away: a finite gradient above the clip has the clip's norm."""
    images = (np.random.default_rng(seed).standard_normal((1, 1, 1, 7, 7)) * scale).astype(np.float32)
    labels = np.array([[[1.0, 0.0]]], np.float32)
    model = MODELS[norm]
    loss = LOSS(model(torch.from_numpy(images[0])), torch.from_numpy(labels[0])).sum()
    own = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    found = float(total(model, images, labels).norm())
    assert found == pytest.approx(min(CLIP, float(own.double().norm())), rel=1e-3)
