"""The local training loop for one round, on one page."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from client.features import Seed
from client.inputs import Inputs
from client.round_checkpoint import RoundCheckpoint
from client.site_data import Rows
from client.workbench import Workbench
from shared.errors import TaskError
from shared.loss import Loss, balanced_weights
from shared.messages import Refusal
from shared.model import Classifier, exchanged, parameter_groups, set_trainable
from shared.normalisation import collects_statistics
from shared.protocol import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a round of training went: the mean loss of each epoch, and how much was done in how long."""

    loss_by_epoch: tuple[float, ...]
    images: int
    seconds: float


@dataclass(slots=True)
class Position:
    """How far a round of training has come: the next batch, and what the batches before it summed up to."""

    epoch: int = 0
    batch: int = 0
    total: float = 0.0
    count: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


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
    checkpoint: RoundCheckpoint | None = None,
) -> Outcome:
    """Train the stages from `start` on, over `rows`, for the study's epochs; the bench's model is changed in place.

    The result depends on `seed`, the data and the loaded model alone (same build, device and thread count), and not on
    how often the round was cut off and gone on with from its checkpoint. The head's rows of findings that no image of
    `rows` was assessed for end as they began: the decay of weights moves them not.

    Raises:
        TaskError: the loss is not finite, and the model must not be used then; or batch statistics are to be taken of
            a single image.
        StorageError: the checkpoint cannot be written.
    """
    model = bench.classifier
    set_trainable(model, start)
    model.train()
    optimiser = make_optimiser(
        model_groups := parameter_groups(model, lr_head=training.lr_head, lr_backbone=training.lr_backbone), training
    )
    keep_unlabelled = _unlabelled_head(model, labels_NK[rows])
    anchors = [(weight, weight.detach().clone()) for group in model_groups for weight in group["params"] if proximal_mu]
    targets_NK = torch.from_numpy(labels_NK).to(bench.device)
    # Dropout alone draws from torch's global generator; it is keyed like all else, and put back afterwards.
    with torch.random.fork_rng(devices=[]), bench.precision():
        torch.manual_seed(seed("dropout"))
        augmenting = torch.Generator()
        at = _resume(checkpoint, bench, optimiser, augmenting) or Position()
        began = time.perf_counter() - at.seconds
        for epoch in range(at.epoch, training.local_epochs):
            if at.batch == 0:
                augmenting.manual_seed(seed("augment", epoch))
            batches = list(_batches(rows, labels_NK, training, seed=seed("order", epoch)))
            _refuse_single(batches, model)
            for batch in batches[at.batch :]:
                hidden = inputs.training(batch, start=start, generator=augmenting).to(bench.device)
                value = loss(model.rest(hidden, start=start).float(), targets_NK[torch.from_numpy(batch)])
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]  # torch's stubs
                for weight, anchor in anchors:  # FedProx, Li et al. 2020, eq. 2: the gradient of mu/2 |w - w_t|²
                    weight.grad.add_(weight.detach() - anchor, alpha=proximal_mu)
                optimiser.step()
                at.total, at.count = at.total + float(value.detach()) * len(batch), at.count + len(batch)
                at.batch, at.seconds = at.batch + 1, time.perf_counter() - began
                if checkpoint:
                    checkpoint.save_if_due(partial(_state, at, bench, start, optimiser, augmenting))
            at.losses.append(at.total / at.count)
            if not math.isfinite(at.total):
                raise TaskError(Refusal.DIVERGED, "the training loss is not finite; lower the study's learning rates")
            images, at.epoch, at.batch, at.total, at.count = at.count, epoch + 1, 0, 0.0, 0
    keep_unlabelled()
    model.eval()
    return Outcome(loss_by_epoch=tuple(at.losses), images=images * len(at.losses), seconds=time.perf_counter() - began)


def _state(
    at: Position, bench: Workbench, start: str, optimiser: torch.optim.Optimizer, augmenting: torch.Generator
) -> dict[str, Any]:
    """Collect all that the rest of a round depends on; the FedProx anchors are the arrays that the task brings again.

    A CUDA device draws its dropout from a generator of its own.
    """
    arrays, moving = bench.classifier.state_dict(), exchanged(bench.classifier, start, local_norm=False)
    return {
        "at": asdict(at),
        "model": {name: arrays[name] for name in moving},
        "optimiser": optimiser.state_dict(),
        "augmenting": augmenting.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state(bench.device) if bench.device.type == "cuda" else None,
    }


def _resume(
    checkpoint: RoundCheckpoint | None, bench: Workbench, optimiser: torch.optim.Optimizer, augmenting: torch.Generator
) -> Position | None:
    if checkpoint is None or (state := checkpoint.load()) is None:
        return None
    bench.classifier.load_state_dict(state["model"], strict=False)  # what is frozen is there already
    optimiser.load_state_dict(state["optimiser"])
    augmenting.set_state(state["augmenting"])
    torch.set_rng_state(state["dropout"])
    if state["dropout_cuda"] is not None:
        torch.cuda.set_rng_state(state["dropout_cuda"], bench.device)
    return Position(**state["at"])


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


def make_optimiser(groups: list[dict[str, object]], training: Training) -> torch.optim.Optimizer:
    """Give a study's optimiser, without memory of earlier rounds."""
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum, weight_decay=training.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=training.weight_decay)


def _refuse_single(batches: Sequence[Rows], model: Classifier) -> None:
    """Refuse to normalise by the statistics of a batch that has one image."""
    if collects_statistics(model) and min(map(len, batches)) < 2:
        raise TaskError(
            Refusal.TOO_FEW_IMAGES,
            "this site has a single training image, and norm = 'batch' takes statistics over several.",
        )


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
    # A last image alone joins the batch before it: batch statistics need two, and its step would weigh as a batch's.
    alone = len(order) % training.batch_size == 1 and len(order) > training.batch_size > 1
    starts = range(0, len(order) - alone, training.batch_size)
    for first in starts:
        yield order[first:] if first == starts[-1] else order[first : first + training.batch_size]
