"""One round of local training: keyed in every draw, at the study's rates, and only where it may train."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.round_checkpoint import RoundCheckpoint
from client.site_data import Rows
from client.trainer import Outcome, train_round
from client.workbench import Workbench
from shared.errors import TaskError
from shared.loss import Loss, build_loss
from shared.model import STAGES, exchanged
from shared.parameters import digest

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = {"head": (512,), "layer4": (256, 2, 2), "stem": (3, 32, 32)}
"""What each stage takes, for images of 32 px."""

BCE = build_loss("bce", exclusive=False, gamma=0.0, alpha=0.5, positive_weights_K=None)
"""Plain cross-entropy, whose gradient a reader can follow."""


class FixedInputs:
    """Gives each row a fixed input of noise, and remembers which rows were asked for."""

    def __init__(self, rows: int, *, start: str) -> None:
        self.inputs = torch.randn(rows, *SHAPES[start], generator=torch.Generator().manual_seed(rows))
        self.batches: list[list[int]] = []
        self.drawn: list[float] = []

    def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
        self.batches.append(rows.tolist())
        self.drawn.append(float(torch.rand(1, generator=generator)))
        return self.inputs[torch.from_numpy(rows)]


def seed_of(*purpose: object, run: int = 0) -> int:
    """Key a draw by its purpose, as a study does."""
    return int.from_bytes(hashlib.sha256(repr((run, purpose)).encode()).digest()[:7])


Train = Callable[..., tuple[Outcome, dict[str, Any], FixedInputs]]


@pytest.fixture(scope="module")
def train(tiny: Any) -> Train:
    """Give `train(...)`: train a fresh model for a round; it returns the outcome, what moved, and the inputs."""
    benches: dict[Any, tuple[Workbench, dict[str, Any]]] = {}

    def run(
        *,
        start: str = "head",
        labels_NK: np.ndarray[Any, Any] | None = None,
        seed: Callable[..., int] = seed_of,
        loss: Loss = BCE,
        proximal_mu: float = 0.0,
        model: dict[str, Any] | None = None,
        inputs: Any = None,
        **training: Any,
    ) -> tuple[Outcome, dict[str, Any], FixedInputs]:
        labels = np.arange(10, dtype=np.float32)[:, None] % 2 if labels_NK is None else labels_NK
        findings = [f"finding{place}" for place in range(labels.shape[1])]
        protocol = tiny.protocol(task={"findings": findings}, model=model or {}, training=training)
        if (key := protocol.model_copy(update={"training": None})) not in benches:
            bench = tiny.bench(protocol)
            everything = bench.classifier.state_dict()
            benches[key] = bench, {name: tensor.clone() for name, tensor in everything.items()}
        bench, initial = benches[key]
        bench.classifier.load_state_dict(initial)
        given = inputs or FixedInputs(len(labels), start=start)
        outcome = train_round(
            bench,
            given,
            rows=np.arange(len(labels)),
            labels_NK=labels,
            start=start,
            training=protocol.training,
            proximal_mu=proximal_mu,
            loss=loss,
            seed=seed,
        )
        after = bench.classifier.state_dict()
        return outcome, {name: after[name].numpy() - initial[name].numpy() for name in after}, given

    return run


def test_a_repeated_round_gives_the_same_bits(train: Train) -> None:
    """Data, seed and the loaded model decide the result, whatever torch's own generator has been used for."""
    first = train(start="layer4", local_epochs=2)
    torch.rand(7)
    again = train(start="layer4", local_epochs=2)
    assert digest(first[1]) == digest(again[1])
    assert first[0].loss_by_epoch == again[0].loss_by_epoch


def test_another_seed_gives_another_round(train: Train) -> None:
    """The seed decides the order of the images and what augmentation draws."""
    one, other = (train(seed=partial(seed_of, run=run)) for run in (1, 2))
    assert digest(one[1]) != digest(other[1])
    assert one[2].batches != other[2].batches
    assert one[2].drawn != other[2].drawn


def test_an_epoch_takes_each_image_once_in_an_order_of_its_own(train: Train) -> None:
    """Each epoch is another permutation of the site's rows, in batches of the study's size."""
    _, _, inputs = train(batch_size=4, local_epochs=2)
    assert [len(batch) for batch in inputs.batches] == [4, 4, 2] * 2
    epochs = [np.concatenate(inputs.batches[first : first + 3]).tolist() for first in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert len(set(inputs.drawn)) == 6


def test_the_balanced_sampler_draws_classes_equally(train: Train) -> None:
    """With 1 positive in 20, half of the draws are positive; an epoch has as many draws as images."""
    labels = (np.arange(2000, dtype=np.float32) % 20 == 0).astype(np.float32)[:, None]
    _, _, inputs = train(labels_NK=labels, sampler="balanced", batch_size=500)
    drawn = np.concatenate(inputs.batches)
    assert len(drawn) == 2000
    assert labels[drawn].mean() == pytest.approx(0.5, abs=0.04)
    assert set(drawn[labels[drawn, 0] == 1]) == set(np.flatnonzero(labels))


def reference(
    start: str, batches: list[list[int]], labels_NK: np.ndarray[Any, Any], model: Any, inputs: Any, **rates: float
) -> dict[str, Any]:
    """Train by autograd alone: loss + mu/2 |w - w0|² as one sum, and w -= lr dw for each parameter."""
    trained = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name in exchanged(model, start, local_norm=False)
    }
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    model.train()
    for batch in batches:
        logits = model.rest(inputs[batch], start=start)
        total = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels_NK[batch]))
        distance = sum(((trained[name] - before[name]) ** 2).sum() for name in trained)
        gradients = torch.autograd.grad(total + rates["mu"] / 2 * distance, list(trained.values()))
        with torch.no_grad():
            for name, gradient in zip(trained, gradients, strict=True):
                trained[name] -= gradient * (rates["head"] if name.startswith("fc.") else rates["backbone"])
    return {name: (trained[name] - before[name]).detach().numpy() for name in trained}


@pytest.mark.parametrize("mu", [0.0, 3.0])
def test_the_steps_are_those_of_autograd_at_the_studys_rates(train: Train, tiny: Any, mu: float) -> None:
    """Head and backbone move at rates of their own, and FedProx adds the gradient of mu/2 |w - w0|² to each weight."""
    labels = np.arange(10, dtype=np.float32)[:, None] % 2
    sgd = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 4, "local_epochs": 2}
    _, moved, inputs = train(start="layer4", proximal_mu=mu, lr_head=0.1, lr_backbone=0.02, **sgd)
    model = tiny.bench(tiny.protocol(task={"findings": ["finding0"]})).classifier
    expected = reference("layer4", inputs.batches, labels, model, inputs.inputs, mu=mu, head=0.1, backbone=0.02)
    for name, change in expected.items():
        np.testing.assert_allclose(moved[name], change, rtol=1e-3, atol=2e-6, err_msg=name)
    assert all(np.abs(change).max() > 1e-5 for change in expected.values())


def test_fedprox_holds_the_model_back(train: Train) -> None:
    """The larger mu, the less a site moves: the anchor is where the round began."""
    settings = {"optimiser": "sgd", "momentum": 0.0, "lr_head": 0.02, "local_epochs": 5, "batch_size": 4}
    moved = [np.abs(train(proximal_mu=mu, **settings)[1]["fc.weight"]).sum() for mu in (0.0, 3.0, 12.0)]
    assert moved[0] > 1.1 * moved[1] > 1.1 * moved[2]


def test_momentum_and_weight_decay_are_the_studys(train: Train) -> None:
    """Each changes what SGD does; momentum starts afresh in every round."""
    plain = {"optimiser": "sgd", "momentum": 0.0, "weight_decay": 0.0, "batch_size": 4}
    base, momentum, decay = (
        digest(train(**plain | change)[1]) for change in ({}, {"momentum": 0.9}, {"weight_decay": 0.1})
    )
    assert len({base, momentum, decay, digest(train(**plain | {"optimiser": "adamw"})[1])}) == 4
    one_step, with_momentum = plain | {"batch_size": 10}, {"momentum": 0.9}
    assert digest(train(**one_step)[1]) == digest(train(**one_step | with_momentum)[1])


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_finding_that_was_not_assessed_is_not_trained(train: Train, optimiser: str, decay: float) -> None:
    """Where no image of a site has a finding assessed, the finding's row of the head stays bit for bit."""
    labels = np.stack([np.arange(10) % 2, np.full(10, np.nan)], axis=1).astype(np.float32)
    _, moved, _ = train(labels_NK=labels, optimiser=optimiser, weight_decay=decay, local_epochs=2)
    assert not moved["fc.weight"][1].any()
    assert not moved["fc.bias"][1]
    assert moved["fc.weight"][0].all()


def test_one_assessed_image_trains_its_finding(train: Train) -> None:
    """The mask is an image's, not a site's."""
    labels = np.stack([np.arange(10) % 2, np.full(10, np.nan)], axis=1).astype(np.float32)
    labels[3, 1] = 1
    _, moved, _ = train(labels_NK=labels, weight_decay=0.0)
    assert moved["fc.weight"][1].any()


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("start", ["head", "layer4"])
def test_what_is_frozen_does_not_move(train: Train, start: str, norm: str) -> None:
    """Before the stage that trains first, neither weights nor running statistics move; those after it do."""
    _, moved, _ = train(start=start, model={"norm": norm}, lr_backbone=0.01)
    parts = {stage: (stage,) for stage in STAGES} | {"stem": ("conv1", "bn1"), "head": ("fc",)}
    frozen = [part for stage in STAGES[: STAGES.index(start)] for part in parts[stage]]
    assert not any(change.any() for name, change in moved.items() if name.split(".")[0] in frozen)
    assert moved["fc.weight"].any()
    assert moved["layer4.0.conv1.weight"].any() == (start == "layer4")
    assert moved["layer4.0.bn1.running_mean"].any() == (start == "layer4" and norm == "batch")


def test_dropout_is_keyed(train: Train) -> None:
    """Dropout draws by a seed of its own, and leaves torch's generator as it was."""
    model = {"dropout": 0.5}
    state = torch.get_rng_state()
    first = train(model=model)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert digest(train(model=model)[1]) == digest(first[1])

    def other_dropout(*purpose: object) -> int:
        return 5 if purpose == ("dropout",) else seed_of(*purpose)

    other = train(model=model, seed=other_dropout)
    assert digest(other[1]) != digest(first[1])
    assert other[2].batches == first[2].batches
    assert digest(train()[1]) != digest(first[1])


def test_a_loss_that_is_not_finite_ends_the_round(train: Train) -> None:
    """A model that diverged is refused with its own code, not sent."""
    broken = FixedInputs(10, start="head")
    broken.inputs[4] = torch.inf
    with pytest.raises(TaskError) as refusal:
        train(inputs=broken)
    assert refusal.value.code == "training_diverged"


def test_the_loss_of_an_epoch_is_the_mean_over_its_images(train: Train) -> None:
    """A last, smaller batch counts by its images; images are counted over all epochs."""

    def size_of_batch(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 0 * logits.sum() + len(labels)

    outcome, _, _ = train(loss=size_of_batch, batch_size=8, local_epochs=3)
    assert outcome.loss_by_epoch == pytest.approx([6.8] * 3)
    assert outcome.images == 30
    assert outcome.seconds > 0


def test_training_learns(train: Train) -> None:
    """The loss falls over the epochs."""
    losses = train(local_epochs=20, lr_head=0.01)[0].loss_by_epoch
    assert losses[-1] < 0.5 * losses[0]


def test_the_model_is_left_in_evaluation_mode(tiny: Any, train: Train) -> None:
    """Whatever comes next does not update statistics or drop features by chance."""
    modes = []

    class Watching(FixedInputs):
        def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
            modes.append(bench.classifier.training)
            return super().training(rows, start=start, generator=generator)

    protocol = tiny.protocol()
    bench = tiny.bench(protocol)
    labels = np.ones((8, 1), np.float32)
    train_round(
        bench,
        Watching(8, start="head"),
        rows=np.arange(8),
        labels_NK=labels,
        start="head",
        training=protocol.training,
        proximal_mu=0.0,
        loss=BCE,
        seed=seed_of,
    )
    assert (modes, bench.classifier.training) == ([True], False)


class KilledError(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("die_at", [1, 4, 6], ids=["after one batch", "at an epoch's end", "in the second epoch"])
def test_a_round_that_was_killed_ends_in_the_same_bits(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str, die_at: int
) -> None:
    """Cut off after any batch and gone on with from its checkpoint, on a fresh bench, a round gives the same model.

    Draws, dropout, moments, batch statistics and losses are all those of a round that nobody disturbed.
    """
    protocol = tiny.protocol(
        model={"norm": "batch", "dropout": 0.4}, training={"local_epochs": 2, "optimiser": optimiser, "batch_size": 4}
    )
    names = exchanged(tiny.bench(protocol).classifier, "layer4", local_norm=False)

    def run(checkpoint: RoundCheckpoint | None) -> tuple[Any, ...]:
        bench, inputs = tiny.bench(protocol), FixedInputs(16, start="layer4")
        outcome = train_round(
            bench,
            inputs,
            rows=np.arange(16),
            labels_NK=np.tile(np.array([[0.0], [1.0]], np.float32), (8, 1)),
            start="layer4",
            training=protocol.training,
            proximal_mu=0.1,
            loss=BCE,
            seed=seed_of,
            checkpoint=checkpoint,
        )
        return digest(bench.arrays(names)), outcome.loss_by_epoch, outcome.images, inputs.drawn

    class Dying(RoundCheckpoint):
        saved = 0

        def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
            RoundCheckpoint.save_if_due(self, state)
            Dying.saved += 1
            if Dying.saved == die_at:
                raise KilledError

    path = tmp_path / "round.pt"
    monkeypatch.setattr("client.round_checkpoint.WRITING_SHARE", float("inf"))
    whole = run(None)
    with pytest.raises(KilledError):
        run(Dying(path, "key", least_seconds=0.0))
    model, losses, images, drawn = run(RoundCheckpoint(path, "key", least_seconds=0.0))
    assert (model, losses, images) == whole[:3]
    assert drawn == whole[3][die_at:]
    assert len(run(RoundCheckpoint(path, "of another request"))[3]) == 8


def test_a_checkpoint_that_cannot_be_read_is_no_checkpoint(tmp_path: Path) -> None:
    """A round begins anew; a finished one leaves no file."""
    path = tmp_path / "round.pt"
    checkpoint = RoundCheckpoint(path, "key", least_seconds=0.0)
    assert checkpoint.load() is None
    checkpoint.save_if_due(lambda: {"at": 1})
    assert checkpoint.load() == {"at": 1}
    whole = path.read_bytes()
    for damage in (whole[:100], b"", b"\0" + whole[1:], b"\x80\x02" + whole[2:], bytes(len(whole))):
        path.write_bytes(damage)
        assert checkpoint.load() is None
    checkpoint.forget()
    assert not path.exists()
    RoundCheckpoint(path, "key").save_if_due(lambda: pytest.fail("it is not time yet"))


@pytest.mark.parametrize(("images", "expected"), [(10, [4, 4, 2]), (9, [4, 5]), (8, [4, 4]), (5, [5]), (1, [1])])
def test_a_last_image_alone_joins_the_batch_before(train: Train, images: int, expected: list[int]) -> None:
    """No batch has one image where the epoch has more: 9 images in batches of 4 are 4 and 5, not 4, 4 and 1."""
    labels = (np.arange(images, dtype=np.float32) % 2)[:, None]
    _, _, inputs = train(labels_NK=labels, batch_size=4)
    sizes = [len(batch) for batch in inputs.batches]
    assert sizes == expected
    assert sorted(row for batch in inputs.batches for row in batch) == list(range(images))


def test_batch_statistics_train_with_a_last_batch_of_one(train: Train) -> None:
    """Under norm = 'batch' the epoch that ended in "Expected more than 1 value per channel" is trained."""
    labels = (np.arange(9, dtype=np.float32) % 2)[:, None]
    outcome, _, _ = train(start="stem", labels_NK=labels, batch_size=4, model={"norm": "batch"})
    assert outcome.images == 9


def test_a_single_image_has_no_batch_statistics_and_a_code_that_says_so(train: Train) -> None:
    """The coordinator is told too_few_images, and not internal."""
    with pytest.raises(TaskError, match="single training image") as refused:
        train(start="stem", labels_NK=np.ones((1, 1), np.float32), batch_size=4, model={"norm": "batch"})
    assert refused.value.code == "too_few_images"
