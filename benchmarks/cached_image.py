"""From a prepared image in the cache to what the model takes: microseconds an image on one core."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.record import Record, Target
from benchmarks.sides import TIMED, Work, interleaved, median_of, side
from benchmarks.workload import Scale, hospitals
from client.site_data import Pixels

TARGET = Target(limit=60, side="at most")

BATCH = 32
CHANNELS = (1, 3)
READINGS_A_SAMPLE = 8


def run(scale: Scale) -> Iterator[Record]:
    """Read batches of shuffled rows through the memory map, and normalise them to fp32."""
    with tempfile.TemporaryDirectory() as folder:
        start = partial(side, reader, environment=TIMED, scale=scale, folder=Path(folder))
        sides = [start(channels=channels) for channels in CHANNELS]
        samples = interleaved(sides, times=scale.pairs, warm_up=scale.warm_up)
    for channels, timed in zip(CHANNELS, samples, strict=True):
        microseconds = median_of([one.cpu_seconds / (READINGS_A_SAMPLE * scale.films) * 1e6 for one in timed])
        yield Record(
            name=f"cached_image_{channels}",
            value=microseconds.value,
            unit="µs an image",
            target=TARGET,
            against=f"{scale.film_size} px, uint8, {channels} to 3 channels, batches of {BATCH}; {microseconds}",
        )


def reader(*, scale: Scale, folder: Path, channels: int) -> Work:
    """Prepare a hospital; the work reads all of its images some times over."""
    place = folder / f"{channels}"
    place.mkdir()
    (hospital,) = hospitals(1, images=scale.films, size=scale.film_size, channels=channels, folder=place)
    order = np.random.default_rng(0).permutation(scale.films)
    return partial(_read_all, hospital.pixels, order)


def _read_all(pixels: Pixels, order: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    for _ in range(READINGS_A_SAMPLE):
        for first in range(0, len(order), BATCH):
            pixels.normalised(order[first : first + BATCH])
