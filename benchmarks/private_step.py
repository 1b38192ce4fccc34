"""A private step of ResNet-18 and of the head against the same steps without privacy, and Opacus' hooks beside them."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.record import Record, Target
from benchmarks.sides import ONE_THREAD, TIMED, Work, cpu_ratio, interleaved, median_of, side
from benchmarks.workload import Scale
from client.noise import SecretStreams
from client.per_sample import clipped_sums
from shared.loss import build_loss
from shared.model import Classifier, ModelSpec, build, set_trainable
from shared.row_gradient import build_row_gradient
from shared.views import AS_IT_IS

CLIP, NOISE = 0.3, 1.0
LOGICAL_BATCH = 256
TARGETS = {16: 1.8, 32: 1.6}
"""Batch size, and how many times a step without privacy a private one may take."""

HEAD_STEPS = 200
"""A sample of the head's sides has so many steps, because one takes less than a millisecond."""


def run(scale: Scale) -> Iterator[Record]:
    """Compare CPU seconds of whole steps with torch's noise and AdamW; then memory, the head, and our own noise."""
    for batch, limit in TARGETS.items():
        sides = [
            side(step, environment=TIMED, how=how, batch=batch, size=scale.size, start="stem", steps=1)
            for how in ("private", "plain", "opacus")
        ]
        private, plain, opacus = interleaved(sides, times=scale.pairs, warm_up=1)
        ratio = cpu_ratio(private, plain)
        yield Record(
            name=f"private_step_{batch}",
            value=ratio.value,
            unit="x CPU seconds",
            target=Target(limit=limit, side="at most"),
            against=f"the step without privacy, ResNet-18 folded, {scale.size} px, batch {batch}; {ratio}; "
            f"Opacus' hooks: {cpu_ratio(opacus, plain).value:.2f} x",
        )
    yield _memory(scale)
    yield _head(scale)
    yield _own_noise(scale)


def _memory(scale: Scale) -> Record:
    peaks = []
    for how in ("private", "plain"):
        one = side(step, environment=ONE_THREAD, how=how, batch=32, size=scale.size, start="stem", steps=1)
        peaks.append(interleaved([one], times=1, warm_up=1)[0][0].peak_bytes)
    return Record(
        name="private_step_memory",
        value=peaks[0] / peaks[1],
        unit="x peak memory",
        target=Target(limit=1.2, side="at most"),
        against=f"the step without privacy, batch 32, {scale.size} px: {peaks[1] / 2**20:.0f} MB with all imports",
    )


def _head(scale: Scale) -> Record:
    sides = [
        side(step, environment=TIMED, how=how, batch=LOGICAL_BATCH, size=scale.size, start="head", steps=HEAD_STEPS)
        for how in ("private with own noise", "plain")
    ]
    ratio = cpu_ratio(*interleaved(sides, times=scale.pairs, warm_up=1))
    return Record(
        name="private_step_head",
        value=ratio.value,
        unit="x CPU seconds",
        target=Target(limit=1.2, side="at most"),
        against=f"head on features in memory, batch {LOGICAL_BATCH}, our cryptographic noise included; {ratio}",
    )


def _own_noise(scale: Scale) -> Record:
    with side(own_noise, environment=TIMED) as ask:
        seconds = median_of([ask().cpu_seconds for _ in range(scale.few_pairs)]).value
    return Record(
        name="private_step_own_noise",
        value=seconds,
        unit="CPU seconds",
        against=f"drawn once a logical batch of {LOGICAL_BATCH}: four fp64 Gaussians for each weight of a ResNet-18",
    )


def step(*, how: str, batch: int, size: int, start: str, steps: int) -> Work:
    """Prepare one side; its work is some steps of gradient, noise and optimiser on the same batch."""
    spec = ModelSpec(
        backbone="resnet18", weights="none", weights_fallback=None, norm="folded", features="pooled", dropout=0.0,
        outputs=1, seed=0, views=AS_IT_IS, centred=False,
    )  # fmt: skip
    model, _ = build(spec, weights_file=None)
    set_trainable(model, start)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *((512,) if start == "head" else (3, size, size)), generator=generator)
    labels = torch.randint(0, 2, (batch, 1), generator=generator).float()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    make = {"plain": _plain, "opacus": _opacus}.get(how, partial(_private, own_noise=how.endswith("own noise")))
    once = make(model, trained, images, labels, start)

    def work() -> None:
        for number in range(steps):
            once(number)
            optimiser.step()

    return work


def _plain(
    model: Classifier, trained: list[nn.Parameter], images: torch.Tensor, labels: torch.Tensor, start: str
) -> Callable[[int], None]:
    loss = build_loss("bce", exclusive=False, gamma=0.0, alpha=0.5, positive_weights_K=None)

    def once(_: int) -> None:
        for parameter in trained:
            parameter.grad = None
        torch.autograd.backward(loss(model.rest(images, start=start), labels))

    return once


def _private(
    model: Classifier,
    _: list[nn.Parameter],
    images: torch.Tensor,
    labels: torch.Tensor,
    start: str,
    *,
    own_noise: bool,
) -> Callable[[int], None]:
    gradient = build_row_gradient("bce", exclusive=False, gamma=0.0, alpha=0.5)
    kept = ExitStack()  # as long as the step is
    sums = kept.enter_context(clipped_sums(model, clip=CLIP))
    streams = SecretStreams(key=bytes(32), task_id="benchmark", arrays_digest="")
    weights, noise = torch.ones(len(images), 1), torch.empty_like(sums.total_D)

    def once(number: int) -> None:
        sums.reset()
        sums.add(partial(model.rest, images, start=start), partial(gradient, labels), weights)
        if own_noise:
            streams.perturb(sums.total_D, scale=NOISE * CLIP, step=number, purpose="noise")
        else:
            sums.total_D.add_(noise.normal_(), alpha=NOISE * CLIP)
        sums.total_D /= CLIP * len(images)

    once.__dict__["kept"] = kept
    return once


def _opacus(
    model: Classifier, trained: list[nn.Parameter], images: torch.Tensor, labels: torch.Tensor, _: str
) -> Callable[[int], None]:
    from opacus import GradSampleModule

    loss = build_loss("bce", exclusive=False, gamma=0.0, alpha=0.5, positive_weights_K=None)
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # nothing behind Opacus' hooks may be changed in place
        if type(layer).__name__ == "BasicBlock":
            layer.__dict__["forward"] = partial(_block, layer)
    hooked = GradSampleModule(model, loss_reduction="sum").train()  # its hooks do nothing in evaluation mode

    def once(_number: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # the images need no gradient: meant so
            torch.autograd.backward(loss(hooked(images), labels) * len(images))  # the mean, back to a sum
        own = [parameter.grad_sample for parameter in trained]  # type: ignore[attr-defined]  # Opacus put it there
        norms = torch.stack([part.flatten(1).norm(dim=1) for part in own]).norm(dim=0)
        factors = (CLIP / norms).clamp(max=1)
        for parameter, part in zip(trained, own, strict=True):
            total = torch.tensordot(factors, part, dims=1)
            parameter.grad = total.add_(torch.randn_like(total), alpha=NOISE * CLIP) / (CLIP * len(images))
            parameter.grad_sample = None  # type: ignore[attr-defined]  # Opacus put it there

    return once


def _block(block: Any, images: torch.Tensor) -> torch.Tensor:
    """Run a residual block as torchvision does, but for the sum, which is not in place."""
    beside = images if block.downsample is None else block.downsample(images)
    output = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(images)))))
    added: torch.Tensor = block.relu(output + beside)
    return added


def own_noise() -> Work:
    """Prepare our own noise for a whole ResNet-18."""
    sums = torch.zeros(11_177_025)
    streams = SecretStreams(key=bytes(32), task_id="benchmark", arrays_digest="")
    return partial(streams.perturb, sums, scale=1.0, step=0, purpose="noise")
