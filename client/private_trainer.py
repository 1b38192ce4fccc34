"""The local training loop for one round under differential privacy, on one page."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client.dp_engine import Patients, PrivateSteps
from client.inputs import Inputs
from client.noise import SecretStreams
from client.own_chance import OwnGenerators, own_dropout
from client.per_sample import clipped_sums
from client.trainer import Outcome, make_optimiser
from client.workbench import Workbench
from shared.errors import StudyError, TaskError
from shared.messages import Refusal
from shared.model import parameter_groups, set_centre_trainable, set_trainable, unit
from shared.privacy import PrivacyPlan
from shared.protocol import Training
from shared.row_gradient import RowGradient

VIRTUAL_BATCH: Final = 32
"""Images of a virtual batch through layers of the backbone; memory depends on it, nothing else does."""

VIRTUAL_BATCH_OF_FEATURES: Final = 4096
"""The same through the head alone, where an image is a row of some hundred numbers."""


def train_privately(
    bench: Workbench,
    inputs: Inputs,
    *,
    plan: PrivacyPlan,
    patients: Patients,
    labels_NK: npt.NDArray[np.float32],
    start: str,
    training: Training,
    gradient: RowGradient,
    streams: SecretStreams,
    noise: SecretStreams,
    centre_steps: int = 0,
) -> Outcome:
    """Take the plan's steps of one round over the stages from `start` on; the bench's model is changed in place.

    A step's gradient is (sum of clipped gradients + noise) / (clip × rate × public size), in units of the clip: SGD
    moves the weights by lr × that. The learning rates, momentum and weight decay are the study's; epochs and batch
    size are the plan's. Everything runs in fp32.

    With `centre_steps`, of which this round's are some, it is the features' centre that trains, and the head waits: a
    patient's gradient is then minus the unit features, and the sum of all steps is their mean.

    `streams` are the task's own, of which each patient's draws are made; `noise` is the task's over these very data.

    The outcome holds what may leave: the time taken, and the number of images that the plan expects, not how many
    took part. There is no loss.

    Raises:
        StudyError: the study asks for what breaks the guarantee.
        TaskError: the weights are no longer finite; the model must not be used then.
    """
    _refuse(training)
    model = bench.classifier
    centre = set_centre_trainable(model) if centre_steps else None
    if centre is not None:
        optimiser: torch.optim.Optimizer = _centre_optimiser(centre, plan, centre_steps)
    else:
        set_trainable(model, start)
        optimiser = make_optimiser(
            parameter_groups(model, lr_head=training.lr_head, lr_backbone=training.lr_backbone), training
        )
    model.train()
    targets_NK = torch.from_numpy(labels_NK).to(bench.device)
    steps = PrivateSteps(plan=plan, patients=patients, streams=streams, noise=noise)
    virtual = VIRTUAL_BATCH_OF_FEATURES if start == "head" else VIRTUAL_BATCH
    began = time.perf_counter()
    with _full_precision(), own_dropout(model) as dropout, clipped_sums(model, clip=plan.clip) as sums:
        for step in range(plan.steps_per_round):
            sums.reset()
            for part in steps.sample(step).virtual_batches(images=virtual):
                rows = part.rows_PK.ravel()
                # Augmentation and dropout protect nobody, so that torch may draw them; each image's from its own seed.
                own = OwnGenerators(part.seeds_PK.ravel())
                hidden = inputs.training(rows, start=start, generator=own).to(bench.device)
                dropout.begin(own)
                weights_PK = torch.from_numpy(part.weights_PK).to(bench.device)
                labels = targets_NK[torch.from_numpy(rows)]
                if centre is not None:
                    sums.add(partial(_centred, centre, hidden), _towards_mean, weights_PK)
                else:
                    sums.add(partial(model.rest, hidden, start=start), partial(gradient, labels), weights_PK)
            steps.release(sums.total_D, step)
            optimiser.step()
        finite = all(bool(weight.isfinite().all()) for weight in sums.parameters)
    model.eval()
    if not finite:
        raise TaskError(Refusal.DIVERGED, "the weights are no longer finite. Lower the learning rates in [training].")
    expected = plan.steps_per_round * plan.sample_rate * plan.expected_patients * plan.images_per_patient
    return Outcome(loss_by_epoch=(), images=round(expected), seconds=time.perf_counter() - began)


def _centre_optimiser(centre: nn.Linear, plan: PrivacyPlan, steps: int) -> torch.optim.Optimizer:
    """Give the rate by which `steps` equal steps end at the mean of unit features, each of length √D.

    A released step is the mean of min(1, clip/√D) times the features, in units of the clip.
    """
    return torch.optim.SGD(centre.parameters(), lr=max(plan.clip, math.sqrt(centre.in_features)) / steps)


def _centred(centre: nn.Linear, pooled_ND: torch.Tensor) -> torch.Tensor:
    outputs_N1: torch.Tensor = centre(unit(pooled_ND))
    return outputs_N1


def _towards_mean(outputs_N1: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
    """Give the gradient that makes an image's in the centre minus its unit features, wherever the centre is."""
    return -weights_N.view_as(outputs_N1)


def _refuse(training: Training) -> None:
    """Refuse by name what this loop cannot keep its promise with; the study's protocol refuses it earlier."""
    if training.sampler == "balanced":
        raise StudyError(
            "under privacy, [training] sampler = 'balanced' draws patients by their labels. Use 'shuffle': patients "
            "are drawn by independent coins."
        )
    if training.loss == "weighted_bce":
        raise StudyError("under privacy, [training] loss = 'weighted_bce' weighs by the site's labels. Use 'bce'.")


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply in fp32 on a GPU too: TF32 would round norms by more than the clipping allows for."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
