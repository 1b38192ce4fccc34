"""The local training loop for one round, on one page."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from client.features import Seed
from client.inputs import Inputs
from client.site_data import Rows
from client.workbench import Workbench
from shared.errors import TaskError
from shared.loss import Loss, balanced_weights
from shared.messages import Refusal
from shared.model import Classifier, parameter_groups, set_trainable
from shared.protocol import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a round of training went: the mean loss of each epoch, and how much was done in how long."""

    loss_by_epoch: tuple[float, ...]
    images: int
    seconds: float


def train_round(
    bench: Workbench,
    inputs: Inputs,
    *,
    rows: Rows,
    labels_NK: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    start: str,
    training: Training,
    proximal_mu: float,
    loss: Loss,
    seed: Seed,
) -> Outcome:
    """Train the stages from `start` on, over `rows`, for the study's epochs; the bench's model is changed in place.

    The result depends on `seed`, the data and the loaded model alone (same build, device and thread count). The head's
    rows of findings that no image of `rows` was assessed for end as they began: the decay of weights moves them not.

    Raises:
        TaskError: the loss is not finite; the model must not be used then.
    """
    model = bench.classifier
    set_trainable(model, start)
    model.train()
    optimiser = _optimiser(
        model_groups := parameter_groups(model, lr_head=training.lr_head, lr_backbone=training.lr_backbone), training
    )
    keep_unlabelled = _unlabelled_head(model, labels_NK[rows])
    anchors = [(weight, weight.detach().clone()) for group in model_groups for weight in group["params"] if proximal_mu]
    targets_NK = torch.from_numpy(labels_NK).to(bench.device)
    # Dropout alone draws from torch's global generator; it is keyed like all else, and put back afterwards.
    with torch.random.fork_rng(devices=[]), bench.precision():
        torch.manual_seed(seed("dropout"))
        began, losses = time.perf_counter(), []
        for epoch in range(training.local_epochs):
            generator = torch.Generator().manual_seed(seed("augment", epoch))
            total, count = 0.0, 0
            for batch in _batches(rows, labels_NK, training, seed=seed("order", epoch)):
                hidden = inputs.training(batch, start=start, generator=generator).to(bench.device)
                value = loss(model.rest(hidden, start=start).float(), targets_NK[torch.from_numpy(batch)])
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]  # torch's stubs
                for weight, anchor in anchors:  # FedProx, Li et al. 2020, eq. 2: the gradient of mu/2 |w - w_t|²
                    weight.grad.add_(weight.detach() - anchor, alpha=proximal_mu)
                optimiser.step()
                total, count = total + float(value.detach()) * len(batch), count + len(batch)
            losses.append(total / count)
            if not math.isfinite(total):
                raise TaskError(Refusal.DIVERGED, "the training loss is not finite; lower the study's learning rates")
    keep_unlabelled()
    model.eval()
    return Outcome(loss_by_epoch=tuple(losses), images=count * len(losses), seconds=time.perf_counter() - began)


def _unlabelled_head(
    model: Classifier, labels_NK: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> Callable[[], None]:
    """Remember the head's rows of findings without a label here; calling the result puts them back.

    What a site has not labelled gives these rows no gradient, and no other row or stage depends on them: put back at
    the end, they are as if the optimiser had never decayed them.
    """
    unlabelled_K = torch.from_numpy(np.isnan(labels_NK).all(axis=0))
    before = [(weight, weight.detach()[unlabelled_K].clone()) for weight in model.fc.parameters()]

    @torch.no_grad()
    def put_back() -> None:
        for weight, rows in before:
            weight[unlabelled_K] = rows

    return put_back


def _optimiser(groups: list[dict[str, object]], training: Training) -> torch.optim.Optimizer:
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum, weight_decay=training.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=training.weight_decay)


def _batches(
    rows: Rows, labels_NK: np.ndarray[tuple[int, ...], np.dtype[np.float32]], training: Training, *, seed: int
) -> Iterator[Rows]:
    """Order an epoch: each image once, or as many draws with replacement, each class equally likely."""
    generator = np.random.default_rng(seed)
    if training.sampler == "balanced":
        weights = balanced_weights(labels_NK[rows])
        order = generator.choice(rows, size=len(rows), p=weights / weights.sum())
    else:
        order = generator.permutation(rows)
    for first in range(0, len(order), training.batch_size):
        yield order[first : first + training.batch_size]
