"""Head training on cached features of a frozen backbone against forwarding the images again in each epoch."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.federated_rounds import site_inputs
from benchmarks.record import Record, Target
from benchmarks.sides import TIMED, Work, interleaved, median_of, side
from benchmarks.workload import Hospital, Scale, hospitals, study
from client.inputs import Inputs, LiveInputs
from client.trainer import train_round
from client.workbench import Workbench
from server.bootstrap import compose
from shared.augmentation import Augmentation
from shared.loss import build_loss
from shared.protocol import StudyProtocol
from shared.split import Split

TARGET = Target(limit=200, side="at least")

VIEWS = 2

CACHED_EPOCHS = 10
"""A sample of the cached side has so many epochs, because one takes milliseconds."""

OFF: dict[str, object] = {"rotation_degrees": 0.0, "translate": 0.0, "scale": 0.0, "brightness": 0.0, "contrast": 0.0}


def run(scale: Scale) -> Iterator[Record]:
    """Compare epochs after the first, which fills the cache: without augmentation, and with K fixed views."""
    yield _compare("frozen_backbone", scale, views=0, how="no augmentation")
    yield _compare("frozen_backbone_views", scale, views=VIEWS, how=f"{VIEWS} fixed views against fresh augmentation")


def _compare(name: str, scale: Scale, *, views: int, how: str) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        start = partial(side, environment=TIMED, scale=scale, folder=Path(folder), views=views)
        sides = [start(make) for make in (cached, live)]
        samples = interleaved(sides, times=scale.few_pairs, warm_up=1)  # the first round fills the cache
    ratio = median_of([CACHED_EPOCHS * b.cpu_seconds / a.cpu_seconds for a, b in zip(*samples, strict=True)])
    milliseconds = median_of([sample.cpu_seconds for sample in samples[0]]).value / CACHED_EPOCHS * 1e3
    return Record(
        name=name,
        value=ratio.value,
        unit="x cheaper",
        target=TARGET,
        against=f"forwarding {scale.films} images of {scale.film_size} px through ResNet-18 in each epoch, {how}; an "
        f"epoch on the cache takes {milliseconds:.1f} ms; {ratio}",
    )


def cached(*, scale: Scale, folder: Path, views: int) -> Work:
    """Prepare rounds of one epoch on the cache, fed as an agent is."""
    protocol, bench, hospital = _site(scale, folder / "cached", views)
    inputs = site_inputs(hospital, protocol, bench, folder=folder)
    return partial(_train, CACHED_EPOCHS, protocol, bench, hospital, inputs)


def live(*, scale: Scale, folder: Path, views: int) -> Work:
    """Prepare a round of one epoch that forwards the images."""
    protocol, bench, hospital = _site(scale, folder / "live", views)
    inputs = LiveInputs(bench, hospital.pixels, Augmentation(**protocol.augmentation.model_dump()))
    return partial(_train, 1, protocol, bench, hospital, inputs)


def _site(scale: Scale, folder: Path, views: int) -> tuple[StudyProtocol, Workbench, Hospital]:
    """Compose a study of a frozen backbone and one hospital, all of whose images train."""
    folder.mkdir()
    protocol = study(
        rounds=1,
        model={"weights": "none"},
        training={"feature_views": views},
        augmentation={} if views else OFF,
        images={"size": scale.film_size},
    )
    (hospital,) = hospitals(1, images=scale.films, size=scale.film_size, channels=3, folder=folder)
    hospital.records.split_N[:] = Split.TRAIN.value
    bench = Workbench(compose(protocol, weights_file=None)[1], device=torch.device("cpu"), precision="fp32")
    return protocol, bench, hospital


def _train(rounds: int, protocol: StudyProtocol, bench: Workbench, hospital: Hospital, inputs: Inputs) -> None:
    """Train the head for some rounds of one epoch, each with all that a round sets up."""
    training = protocol.training
    for number in range(rounds):
        train_round(
            bench,
            inputs,
            rows=hospital.records.training_rows(),
            labels_NK=hospital.records.labels_NK,
            start="head",
            training=training,
            proximal_mu=0.0,
            loss=build_loss(
                training.loss, exclusive=False, gamma=training.gamma, alpha=training.alpha, positive_weights_K=None
            ),
            seed=partial(protocol.random_seed, "train", hospital.name, number),
        )
