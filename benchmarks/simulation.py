"""Whole rounds of a simulation against a plain PyTorch loop that ends with the same weights."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.federated_rounds import FederatedRounds, compose_rounds
from benchmarks.plain_loop import PlainLoop
from benchmarks.record import Record, Target
from benchmarks.sides import Sample, Work, cpu_ratio, interleaved, side, wall_ratio
from benchmarks.workload import Scale, device, hospitals, study
from shared.parameters import NamedArrays

TARGET = Target(limit=1.05, side="at most")


def run(scale: Scale) -> Iterator[Record]:
    """Compare CPU seconds; on a GPU, where there is one, wall-clock seconds."""
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = _samples(scale, Path(folder), "cpu")
        ratio = cpu_ratio(ours, plain)
        yield Record(
            name="simulation",
            value=ratio.value,
            unit="x CPU seconds",
            target=TARGET,
            against=f"plain PyTorch loop, 1 thread, {_work(scale)}, {_how_alike(ours, plain)}; {ratio}",
        )
        yield Record(
            name="simulation_cpu_seconds",
            value=ours[-1].cpu_seconds,
            unit="s",
            against=f"plain PyTorch loop: {plain[-1].cpu_seconds:.2f} s (the last pair)",
        )
        if not torch.cuda.is_available():
            yield Record(name="simulation_cuda", value=None, unit="x wall seconds", against="no CUDA device here")
            return
        ours, plain = _samples(scale, Path(folder), "cuda")
        ratio = wall_ratio(ours, plain)
        yield Record(
            name="simulation_cuda",
            value=ratio.value,
            unit="x wall seconds",
            target=TARGET,
            against=f"plain PyTorch loop on the GPU, bf16, {_work(scale)}, {_how_alike(ours, plain)}; {ratio}",
        )


def _samples(scale: Scale, folder: Path, where: str) -> tuple[list[Sample], list[Sample]]:
    sides = [side(make, scale=scale, folder=folder, where=where) for make in (ours, plain)]
    return tuple(interleaved(sides, times=scale.pairs, warm_up=scale.warm_up))  # type: ignore[return-value]  # two


def ours(*, scale: Scale, folder: Path, where: str) -> Work:
    """Prepare our side; its work is a run of all rounds, and gives the last model."""
    return rounds(scale, folder / "ours", where).run


def rounds(scale: Scale, folder: Path, where: str) -> FederatedRounds:
    """Compose our rounds."""
    folder.mkdir(exist_ok=True)
    sites = hospitals(scale.sites, images=scale.images, size=scale.size, channels=3, folder=folder)
    return compose_rounds(_study(scale, where), sites, folder=folder, device=device(where))


def plain(*, scale: Scale, folder: Path, where: str) -> Work:
    """Prepare the plain side."""
    return partial(_run_plain, loop(scale, folder / "plain", where), scale.rounds)


def loop(scale: Scale, folder: Path, where: str) -> PlainLoop:
    """Compose the plain loop."""
    folder.mkdir(exist_ok=True)
    sites = hospitals(scale.sites, images=scale.images, size=scale.size, channels=3, folder=folder)
    return PlainLoop(_study(scale, where), sites, device=device(where))


def _study(scale: Scale, where: str):  # type: ignore[no-untyped-def]
    return study(rounds=scale.rounds, training={"precision": "bf16" if where == "cuda" else "fp32"})


def _run_plain(loop: PlainLoop, rounds: int) -> NamedArrays:
    return {name: value.cpu().numpy() for name, value in loop.run(rounds).items()}


def _work(scale: Scale) -> str:
    return f"ResNet-18, {scale.size} px, {scale.sites} sites of {scale.images} images, {scale.rounds} rounds"


def _how_alike(ours: list[Sample], plain: list[Sample]) -> str:
    """Check that both sides did the same work, and say how equal their last weights are.

    Raises:
        RuntimeError: they are not; then their costs must not be compared.
    """
    ours_last, plain_last = ours[-1].result, plain[-1].result
    if all(np.array_equal(value, plain_last[name]) for name, value in ours_last.items()):
        return "weights equal bit for bit"
    if all(np.allclose(value, plain_last[name], rtol=1e-2, atol=1e-3) for name, value in ours_last.items()):
        return "weights equal within 1 %"
    raise RuntimeError("the two sides ended with different weights: they did not do the same work")
