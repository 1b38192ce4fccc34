"""Whole rounds of a simulation against a plain PyTorch loop that ends with the same weights."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.federated_rounds import FederatedRounds, compose_rounds
from benchmarks.plain_loop import PlainLoop
from benchmarks.record import Record, Target
from benchmarks.sides import TIMED, Median, Sample, Work, cpu_ratio, interleaved, median_of, side, wall_ratio
from benchmarks.workload import Hospital, Scale, device, hospitals, study
from shared.parameters import NamedArrays
from shared.protocol import StudyProtocol

TARGET = Target(limit=1.05, side="at most")


def run(scale: Scale) -> Iterator[Record]:
    """Compare CPU seconds; on a GPU, where there is one, wall-clock seconds."""
    with tempfile.TemporaryDirectory() as folder:
        ours, plain = _samples(scale, Path(folder), "cpu")
        yield _record("simulation", "x CPU seconds", cpu_ratio(ours, plain), "1 thread", scale, _how_alike(ours, plain))
        yield Record(
            name="simulation_cpu_seconds",
            value=median_of([sample.cpu_seconds for sample in ours]).value,
            unit="s",
            against=f"plain PyTorch loop: {median_of([sample.cpu_seconds for sample in plain]).value:.2f} s",
        )
        if not torch.cuda.is_available():
            yield Record(name="simulation_cuda", value=None, unit="x wall seconds", against="no CUDA device here")
            return
        ours, plain = _samples(scale, Path(folder), "cuda")
        alike = _how_alike(ours, plain)
        yield _record("simulation_cuda", "x wall seconds", wall_ratio(ours, plain), "on the GPU, bf16", scale, alike)


def ours(*, scale: Scale, folder: Path, where: str) -> Work:
    """Prepare our side; its work is a run of all rounds, and gives the last model."""
    return rounds(scale, folder / "ours", where).run


def plain(*, scale: Scale, folder: Path, where: str) -> Work:
    """Prepare the plain side; its work is the same."""
    plain = loop(scale, folder / "plain", where)

    def run() -> NamedArrays:
        weights = plain.run(scale.rounds, folder / "plain" / "weights.pt")
        return {name: value.cpu().numpy() for name, value in weights.items()}

    return run


def rounds(scale: Scale, folder: Path, where: str) -> FederatedRounds:
    """Compose our rounds."""
    return compose_rounds(_study(scale, where), _sites(scale, folder), folder=folder, device=device(where))


def loop(scale: Scale, folder: Path, where: str) -> PlainLoop:
    """Compose the plain loop."""
    return PlainLoop(_study(scale, where), _sites(scale, folder), device=device(where))


def _study(scale: Scale, where: str) -> StudyProtocol:
    return study(rounds=scale.rounds, training={"precision": "bf16" if where == "cuda" else "fp32"})


def _sites(scale: Scale, folder: Path) -> list[Hospital]:
    folder.mkdir(exist_ok=True)
    return hospitals(scale.sites, images=scale.images, size=scale.size, channels=3, folder=folder)


def _samples(scale: Scale, folder: Path, where: str) -> list[list[Sample]]:
    makes = (ours, plain)
    sides = [side(make, environment=TIMED, scale=scale, folder=folder, where=where) for make in makes]
    return interleaved(sides, times=scale.pairs, warm_up=scale.warm_up)


def _record(name: str, unit: str, ratio: Median, how: str, scale: Scale, alike: str) -> Record:
    work = f"ResNet-18, {scale.size} px, {scale.sites} sites of {scale.images} images, {scale.rounds} rounds"
    against = f"plain PyTorch loop, {how}, {work}, {alike}; {ratio}"
    return Record(name=name, value=ratio.value, unit=unit, target=TARGET, against=against)


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
