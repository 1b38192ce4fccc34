"""Cached outputs of the frozen part equal live ones bit for bit, and are never those of anything else."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.bootstrap import site_inputs
from client.features import FORWARD_BATCH, FeatureCache
from client.site_data import Rows
from shared.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")

NOTHING = lambda *_: None  # noqa: E731


class Frozen:
    """Stands for the bench: a digest of what is frozen, and a device."""

    device = torch.device("cpu")

    def __init__(self, weights: str = "weights") -> None:
        self.weights = weights

    def frozen_digest(self, start: str) -> str:
        return f"{self.weights} before {start}"


class CountingSource:
    """Stands for images behind the frozen part: each output says which row and which draw it comes from."""

    def __init__(self) -> None:
        self.forwarded: list[list[int]] = []

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        self.forwarded.append(rows.tolist())
        return torch.from_numpy(rows)[:, None].float() * torch.ones(1, 3)

    def training(self, rows: Rows, *, start: str, generator: Sequence[torch.Generator]) -> torch.Tensor:
        drawn = torch.cat([torch.rand(1, 3, generator=own) for own in generator])
        return self.evaluation(rows, start=start) + drawn


COUNT = FORWARD_BATCH + 8
TRAINING = np.arange(1, COUNT, 2)


@pytest.fixture
def source() -> CountingSource:
    return CountingSource()


@pytest.fixture
def cache(tmp_path: Path, source: CountingSource) -> Callable[..., FeatureCache]:
    """Give `cache(**changes)`: a cache of COUNT images, of which every other one trains."""

    def make(*, seed: int = 0, **changes: Any) -> FeatureCache:
        own: dict[str, Any] = {
            "bench": Frozen(),
            "pixels": "images",
            "names": [f"patient {image}" for image in range(COUNT)],
            "training_rows": TRAINING,
            "augmentation": "turned",
            "seed": lambda *purpose: hash((seed, *purpose[1:])),
            "progress": NOTHING,
        }
        return FeatureCache(source=source, folder=tmp_path, **own | changes)

    return make


def test_all_images_are_forwarded_once_in_fixed_batches(cache: Any, source: CountingSource) -> None:
    """Whatever is asked for and how often, the images go through once, in their order, by FORWARD_BATCH."""
    features, every = cache(), np.arange(COUNT)
    for rows in (every[[5, 2, 2]], every[::-1].copy(), every):
        np.testing.assert_array_equal(features.plain(rows, start="head")[:, 0], rows)
    assert source.forwarded == [every[:FORWARD_BATCH].tolist(), every[FORWARD_BATCH:].tolist()]


def test_another_process_reads_what_was_made(cache: Any, source: CountingSource) -> None:
    """A new cache over the same folder forwards nothing."""
    first = cache().plain(TRAINING, start="head"), cache().views(TRAINING, TRAINING % 3, start="head")
    made = len(source.forwarded)
    again = cache().plain(TRAINING, start="head"), cache().views(TRAINING, TRAINING % 3, start="head")
    assert len(source.forwarded) == made
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_half_written_file_is_not_used(cache: Any, source: CountingSource, tmp_path: Path) -> None:
    """Stopped while it was written, a file is made again, whole."""
    rows = np.arange(COUNT)

    def stops(rows: Rows, *, start: str) -> torch.Tensor:
        if len(rows) < FORWARD_BATCH:
            raise KeyboardInterrupt
        return CountingSource.evaluation(source, rows, start=start)

    source.evaluation = stops  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cache().plain(rows, start="head")
    assert list(tmp_path.glob("*.npy")) == []
    del source.evaluation
    cache().plain(rows, start="head")
    (whole,) = tmp_path.glob("*.npy")
    kept = whole.read_bytes()
    whole.unlink()
    whole.with_name(whole.name + ".part").write_bytes(kept[: len(kept) // 2])  # what a kill leaves behind
    np.testing.assert_array_equal(cache().plain(rows, start="head")[:, 2], rows)
    assert whole.read_bytes() == kept


OTHERS = {
    "weights": {"bench": Frozen("other weights")},
    "images": {"pixels": "other images"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_images_or_weights_are_forwarded_anew(cache: Any, source: CountingSource, other: Any) -> None:
    """Outputs of other frozen weights or other images are not reused."""
    cache().plain(TRAINING, start="head")
    source.forwarded.clear()
    np.testing.assert_array_equal(cache(**other).plain(TRAINING, start="head")[:, 0], TRAINING)
    assert source.forwarded


OTHER_VIEWS = OTHERS | {
    "augmentation": {"augmentation": "blurred"},
    "seed": {"seed": 1},
    "split": {"training_rows": np.arange(COUNT)},
}


@pytest.mark.parametrize("other", OTHER_VIEWS.values(), ids=OTHER_VIEWS)
def test_other_views_are_drawn_anew(cache: Any, source: CountingSource, other: Any) -> None:
    """Views of another augmentation, seed or split are not reused either; plain images are, where these differ."""
    cache().views(TRAINING, 0 * TRAINING, start="head")
    source.forwarded.clear()
    views = cache(**other).views(TRAINING, 0 * TRAINING, start="head")
    assert source.forwarded
    np.testing.assert_array_equal(views.floor()[:, 0], TRAINING)


def test_images_as_they_are_serve_every_split(cache: Any, source: CountingSource) -> None:
    """Another split, augmentation or seed is no reason to forward plain images again."""
    cache().plain(TRAINING, start="head")
    source.forwarded.clear()
    for other in (OTHER_VIEWS["augmentation"], OTHER_VIEWS["seed"], OTHER_VIEWS["split"]):
        cache(**other).plain(TRAINING, start="head")
    assert source.forwarded == []


def test_each_stage_and_thread_count_has_files_of_its_own(cache: Any, tmp_path: Path) -> None:
    """Another stage's outputs are others; another number of threads may add up in another order."""
    features = cache()
    features.plain(TRAINING, start="head")
    features.plain(TRAINING, start="layer4")
    torch.set_num_threads(2)
    cache().plain(TRAINING, start="head")
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_a_view_is_drawn_once_and_for_all(cache: Any) -> None:
    """A view of an image is the same whenever it is asked for; views, and images within one, differ."""
    features, none = cache(), 0 * TRAINING
    first, second = (features.views(TRAINING, none + view, start="head") for view in (0, 1))
    assert not torch.isclose(first, second).all(dim=1).any()
    assert len(torch.unique((first - first.floor())[:, 0])) == len(TRAINING)
    mixed = features.views(TRAINING[[7, 3, 7]], np.array([1, 0, 0]), start="head")
    assert torch.equal(mixed, torch.stack([second[7], first[3], first[7]]))


def test_a_view_does_not_depend_on_those_before_it(cache: Any, source: CountingSource, tmp_path: Path) -> None:
    """Asked for alone, by a process that makes it first, a view is the same."""
    both = cache().views(TRAINING, 0 * TRAINING, start="head"), cache().views(TRAINING, 0 * TRAINING + 1, start="head")
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    assert torch.equal(cache().views(TRAINING, 0 * TRAINING + 1, start="head"), both[1])


def test_a_person_sees_how_far_it_is(cache: Any) -> None:
    """Progress is told after each batch, up to the last image."""
    told: list[tuple[str, int, int]] = []
    cache(progress=lambda *step: told.append(step)).plain(TRAINING, start="head")
    assert told == [("frozen features", 32, 40), ("frozen features", 40, 40)]


@pytest.mark.parametrize("start", ["head", "layer4"])
def test_cached_outputs_equal_live_ones_bit_for_bit(tiny: Any, tmp_path: Path, start: str) -> None:
    """A real model's cached outputs are those of the same batches forwarded now, whatever is asked for."""
    protocol = tiny.protocol(training={"feature_views": 2}, augmentation={"noise": 0.05})
    bench, site = tiny.bench(protocol), tiny.hospital(protocol, tmp_path)
    inputs = site_inputs(site, protocol, bench, progress=NOTHING)
    live = inputs.live.evaluation(np.arange(len(site.pixels)), start=start)
    for split in Split:
        rows = site.records.rows(split)
        assert torch.equal(inputs.evaluation(rows, start=start), live[torch.from_numpy(rows)])


CHANGES = {
    "backbone": {"model": {"backbone": "resnet34"}},
    "weights": {"study": {"seed": 1}},
    "norm": {"model": {"norm": "folded"}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_studys_model_has_files_of_its_own(tiny: Any, tmp_path: Path, change: Any) -> None:
    """Studies that share a hospital's cache folder share no output of different models."""
    for protocol in (tiny.protocol(), tiny.protocol(**change)):
        site = tiny.hospital(protocol, tmp_path)
        inputs = site_inputs(site, protocol, tiny.bench(protocol), progress=NOTHING)
        inputs.evaluation(site.records.rows(Split.TEST), start="head")
    assert len(list(tmp_path.rglob("*.npy"))) == 2
