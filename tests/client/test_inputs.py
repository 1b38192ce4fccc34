"""What the training part sees: live or cached, augmented or not, always what the study says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from client.bootstrap import site_inputs
from client.features import FORWARD_BATCH
from client.inputs import LiveInputs, OneSize, StudyInputs
from shared.augmentation import Augmentation, apply, draw
from shared.preprocessing import normalise
from shared.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")

AUGMENTED = {"rotation_degrees": 15.0, "contrast": 0.2}


class Site:
    """A tiny hospital with its inputs; `forwarded` counts the passes through the frozen part."""

    def __init__(self, tiny: Any, folder: Path, **sections: Any) -> None:
        self.protocol = tiny.protocol(**sections)
        self.bench = tiny.bench(self.protocol)
        self.site = tiny.hospital(self.protocol, folder)
        self.inputs: StudyInputs = site_inputs(self.site, self.protocol, self.bench, progress=lambda *_: None)
        self.rows = self.site.records.training_rows()
        self.forwarded = 0
        trunk = self.bench.classifier.trunk

        def counted(images: torch.Tensor, *, upto: str) -> torch.Tensor:
            self.forwarded += 1
            return trunk(images, upto=upto)

        self.bench.classifier.trunk = counted  # type: ignore[method-assign]

    def training(self, *, start: str, seed: int = 0) -> torch.Tensor:
        return self.inputs.training(self.rows, start=start, generator=torch.Generator().manual_seed(seed))


def test_live_images_are_augmented_normalised_and_run_through_the_frozen_part(tiny: Any, tmp_path: Path) -> None:
    """A training batch is trunk(normalise(augment(images))), an evaluation batch trunk(normalise(images))."""
    here = Site(tiny, tmp_path, augmentation=AUGMENTED)
    images = here.site.pixels.read(here.rows)
    setting = Augmentation(**here.protocol.augmentation.model_dump())
    draws = draw(setting, batch=len(images), size=32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        augmented, plain = (
            here.bench.classifier.trunk(normalise(batch, dtype=torch.float32), upto="layer4")
            for batch in (apply(images, draws), images)
        )
    assert torch.equal(here.training(start="layer4"), augmented)
    assert torch.equal(here.inputs.live.evaluation(here.rows, start="layer4"), plain)
    assert not here.training(start="layer4").requires_grad


@pytest.mark.parametrize("images", [1, 7, FORWARD_BATCH, FORWARD_BATCH + 1])
def test_under_privacy_the_frozen_part_runs_on_batches_of_one_size(images: int) -> None:
    """However many images there are, each goes through among FORWARD_BATCH, changed by what its own generator draws."""
    sizes = []

    class Live:
        def evaluation(self, rows: Any, *, start: str) -> torch.Tensor:
            sizes.append(len(rows))
            return torch.from_numpy(rows)[:, None].float()

        def training(self, rows: Any, *, start: str, generator: Any) -> torch.Tensor:
            drawn = torch.cat([torch.rand(1, 1, generator=own) for own in generator])
            return self.evaluation(rows, start=start) + drawn

        def images(self, rows: Any) -> torch.Tensor:
            raise NotImplementedError

    rows, inputs = np.arange(images)[::-1].copy(), OneSize(live=Live())
    assert inputs.evaluation(rows, start="head")[:, 0].tolist() == rows.tolist()
    own = [torch.Generator().manual_seed(seed) for seed in range(images)]
    made = inputs.training(rows, start="head", generator=own)[:, 0]
    alone = torch.tensor(
        [float(torch.rand(1, generator=torch.Generator().manual_seed(seed))) for seed in range(images)]
    )
    assert torch.equal(made, torch.from_numpy(rows).float() + alone)
    left = [float(torch.rand(1, generator=generator)) for generator in own]
    again = [torch.rand(2, generator=torch.Generator().manual_seed(seed))[1].item() for seed in range(images)]
    assert left == again, "what fills a batch up draws from nobody's generator"
    assert set(sizes) == {FORWARD_BATCH}


def test_augmentation_follows_the_generator_and_spares_evaluation(tiny: Any, tmp_path: Path) -> None:
    """Equal seeds augment equally, others differ, and no test image is ever augmented."""
    here = Site(tiny, tmp_path, augmentation=AUGMENTED)
    assert torch.equal(here.training(start="head", seed=1), here.training(start="head", seed=1))
    assert not torch.isclose(here.training(start="head", seed=1), here.training(start="head", seed=2)).all()
    test = here.site.records.rows(Split.TEST)
    assert torch.equal(here.inputs.evaluation(test, start="head"), here.inputs.evaluation(test, start="head"))


def test_training_the_stem_takes_images(tiny: Any, tmp_path: Path) -> None:
    """Where nothing is frozen, the model gets the images themselves, and nothing is cached."""
    here = Site(tiny, tmp_path, augmentation=AUGMENTED)
    assert here.training(start="stem").shape == (len(here.rows), 3, 32, 32)
    assert here.inputs.evaluation(here.rows, start="stem").shape == (len(here.rows), 3, 32, 32)
    assert list(tmp_path.rglob("*.npy")) == []


@pytest.mark.parametrize(
    ("sections", "start", "training", "evaluation"),
    [
        ({}, "head", True, True),
        ({}, "layer4", False, False),
        ({"augmentation": AUGMENTED}, "head", False, True),
        ({"augmentation": AUGMENTED}, "layer4", False, False),
        ({"augmentation": AUGMENTED, "training": {"feature_views": 2}}, "head", True, True),
        ({"augmentation": AUGMENTED, "training": {"feature_views": 2}}, "layer4", True, True),
        ({"augmentation": AUGMENTED, "training": {"feature_views": 2}}, "stem", False, False),
    ],
)
def test_constants_are_computed_once(
    tiny: Any, tmp_path: Path, sections: Any, start: str, training: bool, evaluation: bool
) -> None:
    """Where the study makes outputs constants, epochs after the first forward nothing; elsewhere each one does."""
    here = Site(tiny, tmp_path, **sections)
    for cached, ask in (
        (training, lambda seed: here.training(start=start, seed=seed)),
        (evaluation, lambda _: here.inputs.evaluation(here.rows, start=start)),
    ):
        for seed in range(4):
            ask(seed)  # by now each of two views has been asked for
        before = here.forwarded
        ask(4)
        assert (here.forwarded == before) == cached


def test_cached_training_images_are_those_of_evaluation(tiny: Any, tmp_path: Path) -> None:
    """Without augmentation a frozen backbone gives training and evaluation the same cached outputs."""
    here = Site(tiny, tmp_path)
    assert torch.equal(here.training(start="head"), here.inputs.evaluation(here.rows, start="head"))
    assert len(list(tmp_path.rglob("*.npy"))) == 1


def test_each_epoch_picks_among_the_views(tiny: Any, tmp_path: Path) -> None:
    """Every image of every batch is one of its K cached views, picked by the generator."""
    here = Site(tiny, tmp_path, augmentation=AUGMENTED, training={"feature_views": 3})
    views = [here.inputs.cache.views(here.rows, 0 * here.rows + view, start="head") for view in range(3)]
    picked = torch.randint(3, (len(here.rows),), generator=torch.Generator().manual_seed(5)).tolist()
    expected = torch.stack([views[view][place] for place, view in enumerate(picked)])
    assert torch.equal(here.training(start="head", seed=5), expected)
    assert len(set(picked)) == 3


def test_images_stay_on_a_device_that_is_not_the_cpu(tiny: Any, tmp_path: Path) -> None:
    """On a GPU all images are read once and picked there; the batches are the same."""
    here = Site(tiny, tmp_path)

    gpu_bench = SimpleNamespace(
        device=SimpleNamespace(type="cuda"), precision=here.bench.precision, classifier=here.bench.classifier
    )
    reads = []

    class Watched:
        """The site's pixels; what is read goes to the device, which here is this machine's own memory."""

        def __len__(self) -> int:
            return len(here.site.pixels)

        def read(self, rows: Any) -> Any:
            reads.append(len(rows))
            return SimpleNamespace(to=lambda _: here.site.pixels.read(rows))

    off = Augmentation(**here.protocol.augmentation.model_dump())
    live = LiveInputs(gpu_bench, Watched(), off)  # type: ignore[arg-type]
    rows = np.array([3, 1])
    assert torch.equal(live.evaluation(rows, start="stem"), here.inputs.live.evaluation(rows, start="stem"))
    assert reads == [len(here.site.pixels)]
