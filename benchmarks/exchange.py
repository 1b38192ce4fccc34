"""A round in which nobody trains: what it costs to send a whole ResNet-18 out, and its updates back into one model."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import benchmarks.federated_rounds
import client.agent
from benchmarks import simulation
from benchmarks.record import Record, Target
from benchmarks.sides import TIMED, Work, cpu_ratio, interleaved, median_of, side
from benchmarks.workload import Scale
from client.egress import sha256_of
from client.trainer import Outcome

TARGET = Target(limit=1.3, side="at most")

SETTLE = 3
"""Rounds before the first that counts: until then the allocator asks the system for memory that it later has."""

ROUNDS_A_SAMPLE = 3
"""One round takes less than the clock ticks that other processes are counted in."""


def run(scale: Scale) -> Iterator[Record]:
    """Compare with load_state_dict, the difference and a weighted sum, one site after the other."""
    with tempfile.TemporaryDirectory() as folder:
        makes = (ours, plain, textbook, ours_with_digest)
        sides = [side(make, environment=TIMED, scale=scale, folder=Path(folder)) for make in makes]
        samples = interleaved(sides, times=scale.pairs, warm_up=scale.warm_up * SETTLE)
        ratios = [cpu_ratio(samples[0], other) for other in samples]
        milliseconds = [
            median_of([s.cpu_seconds for s in side]).value / ROUNDS_A_SAMPLE / scale.sites * 1e3 for side in samples
        ]
        yield Record(
            name="exchange",
            value=ratios[1].value,
            unit="x CPU seconds",
            target=TARGET,
            against=f"plain PyTorch loop that adds up site by site, {scale.sites} sites, 11.2 M fp32; {ratios[1]}",
        )
        yield Record(
            name="exchange_against_textbook",
            value=ratios[2].value,
            unit="x CPU seconds",
            against=f"plain PyTorch loop that keeps every site's state_dict and averages at the end; {ratios[2]}",
        )
        yield Record(
            name="exchange_with_digest",
            value=cpu_ratio(samples[3], samples[1]).value,
            unit="x CPU seconds",
            against="the same as exchange, with each departure's SHA-256 in the audit log, as at a deployed site",
        )
        yield Record(
            name="exchange_milliseconds_a_site",
            value=milliseconds[0],
            unit="ms",
            against=f"plain loop {milliseconds[1]:.1f}, textbook {milliseconds[2]:.1f}, ours with the digest "
            f"{milliseconds[3]:.1f}",
        )


def ours(*, scale: Scale, folder: Path) -> Work:
    """Prepare our rounds, with agents that skip their training."""
    _replace(client.agent, "train_round", _no_training)
    rounds = simulation.rounds(scale, folder / "ours", "cpu")
    return partial(_several, rounds.exchange)


def ours_with_digest(*, scale: Scale, folder: Path) -> Work:
    """Prepare the same with the digest that a deployed site takes of what leaves."""
    _replace(client.agent, "train_round", _no_training)
    _replace(benchmarks.federated_rounds, "not_digested", sha256_of)
    rounds = simulation.rounds(scale, folder / "ours_with_digest", "cpu")
    return partial(_several, rounds.exchange)


def plain(*, scale: Scale, folder: Path) -> Work:
    """Prepare the plain loop without its training."""
    loop = simulation.loop(scale, folder / "plain", "cpu")
    _replace(loop, "train", _no_training)
    weights = {name: value.clone() for name, value in loop.model.state_dict().items()}
    return partial(_several, lambda: weights.update(loop.exchange(weights, 1)))


def textbook(*, scale: Scale, folder: Path) -> Work:
    """Prepare the loop of the textbooks: a copy of every site's weights, averaged in the end."""
    loop = simulation.loop(scale, folder / "textbook", "cpu")
    weights = {name: value.clone() for name, value in loop.model.state_dict().items()}
    share = 1 / scale.sites

    def exchange() -> None:
        trained = []
        for _ in loop.sites:
            loop.model.load_state_dict(weights)
            trained.append({name: value.clone() for name, value in loop.model.state_dict().items()})
        for name, value in weights.items():
            if value.is_floating_point():
                weights[name] = sum((one[name] * share for one in trained[1:]), trained[0][name] * share)

    return partial(_several, exchange)


def _several(work: Work) -> None:
    for _ in range(ROUNDS_A_SAMPLE):
        work()


def _no_training(*_inputs: object, **_settings: object) -> Outcome:
    return Outcome(loss_by_epoch=(0.5,), images=1, seconds=1.0)


def _replace(owner: object, name: str, stand_in: object) -> None:
    """Replace a part in this process, which does nothing else."""
    setattr(owner, name, stand_in)
