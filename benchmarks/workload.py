"""The study and the hospitals that both sides of a comparison work on, and how large they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.site_data import Pixels, Records
from shared.declaration import parse
from shared.errors import StudyError
from shared.protocol import StudyProtocol
from shared.split import Split

VALIDATION_SHARE = 4
"""Of a site's images, one in so many is for validation; the others are for training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the benchmarks are: FULL for figures, TINY to see that the programs run.

    `pairs` is how often both sides work in turn; `few_pairs` that of sides that take long and are far apart.
    """

    sites: int
    images: int
    size: int
    rounds: int
    pairs: int
    few_pairs: int
    warm_up: int
    more_sites: tuple[int, ...]
    film_size: int
    films: int
    aggregated: str
    replies: tuple[int, ...]


FULL = Scale(
    sites=8,
    images=64,
    size=64,
    rounds=3,
    pairs=10,
    few_pairs=3,
    warm_up=1,
    more_sites=(2, 8, 32),
    film_size=224,
    films=128,
    aggregated="resnet50",
    replies=(2, 10, 50),
)
TINY = Scale(
    sites=2,
    images=8,
    size=32,
    rounds=1,
    pairs=2,
    few_pairs=1,
    warm_up=0,
    more_sites=(1, 2),
    film_size=32,
    films=8,
    aggregated="resnet18",
    replies=(1, 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """One site's prepared images and what is known of them; every patient has one image."""

    name: str
    records: Records
    pixels: Pixels


def study(*, rounds: int, **sections: dict[str, object]) -> StudyProtocol:
    """Declare a study in which all of a ResNet-18 trains, batch statistics included, from random weights.

    All else is as studies are by default, unless a section says otherwise.
    """
    declared: dict[str, dict[str, object]] = {
        "study": {"name": "benchmark", "intended_use": "To measure speed and memory."},
        "task": {"findings": ["finding"]},
        "model": {"weights": "none", "norm": "batch", "unfreeze": [{"round": 1, "from": "stem"}]},
        "federation": {"rounds": rounds, "weighting": "equal", "min_sites": 1},
    }
    return parse(declared | sections, StudyProtocol, where="benchmark", error=StudyError)


def hospitals(count: int, *, images: int, size: int, channels: int, folder: Path) -> list[Hospital]:
    """Make hospitals whose images are noise, half of them with a brighter corner, in memory-mapped files."""
    return [
        _hospital(f"site{number:02d}", images, (channels, size, size), folder / f"site{number:02d}.npy", number)
        for number in range(count)
    ]


def _hospital(name: str, images: int, shape: tuple[int, ...], file: Path, seed: int) -> Hospital:
    everyone = np.arange(images)
    has_finding = everyone % 2 == 1
    pixels_NCHW = np.random.default_rng(seed).integers(0, 200, (images, *shape), np.uint8)
    pixels_NCHW[has_finding, :, : shape[1] // 3, : shape[2] // 3] += 50
    np.save(file, pixels_NCHW)
    validates = everyone // 2 % VALIDATION_SHARE == 0  # by pairs, so that both kinds are there
    records = Records(
        labels_NK=has_finding[:, None].astype(np.float32),
        patients_N=everyone,
        exams_N=everyone,
        split_N=np.where(validates, Split.VALIDATION.value, Split.TRAIN.value),
    )
    pixels = Pixels(cached=np.load(file, mmap_mode="r"), cached_row_N=everyone, digest=name)
    return Hospital(name=name, records=records, pixels=pixels)


def device(name: str) -> torch.device:
    """Give the device, ready to work: whatever starts with its first use has started."""
    chosen = torch.device(name)
    torch.zeros(1, device=chosen)
    return chosen
