"""Clipped sums of patients' gradients: equal to a loop over patients, and never more than the clip for one of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from client.layer_gradients import BookedLinear
from client.per_sample import ClippedSums, LinearSums, clip_factors, clipped_sums, refuse_what_cannot_be_clipped
from shared.errors import PrivacyError, StudyError
from shared.loss import build_loss
from shared.model import Classifier, ModelSpec, build, set_trainable
from shared.normalisation import GatedBatchNorm2d, fold
from shared.private_study import LEAST_CLIP, MOST_CLIP
from shared.row_gradient import build_row_gradient
from shared.views import AS_IT_IS

pytestmark = pytest.mark.usefixtures("one_thread")


def network(backbone: Any, norm: Any, *, outputs: int = 2) -> Classifier:
    """Build a study's model with random weights; BatchNorms get statistics that are not those of the start."""
    spec = ModelSpec(
        backbone=backbone,
        weights="none",
        weights_fallback=None,
        norm="frozen",
        dropout=0.0,
        features="pooled",
        views=AS_IT_IS,
        centred=False,
        outputs=outputs,
        seed=3,
    )
    if norm == "group":
        return build(
            ModelSpec(**{name: getattr(spec, name) for name in spec.__slots__} | {"norm": norm}), weights_file=None
        )[0]
    model, _ = build(spec, weights_file=None)
    generator = torch.Generator().manual_seed(5)
    for layer in model.modules():
        if isinstance(layer, GatedBatchNorm2d):
            layer.running_mean.copy_(torch.rand(layer.num_features, generator=generator) - 0.5)
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
    if norm == "folded":
        fold(model)
    return model


def squares(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Give a loss that keeps fp64 in fp64, with labels that may be missing."""
    known = ~labels.isnan()
    return torch.where(known, (logits - labels.nan_to_num()) ** 2, 0).sum(1)


def by_autograd(
    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], labels: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Give the gradient of losses (N,) by outputs, as torch finds it."""

    def gradient(outputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            return torch.autograd.grad(losses(leaf, labels), leaf, weights)[0]

    return gradient


def one_by_one(
    model: nn.Module,
    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    clip: float,
    group: int = 1,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Sum clipped gradients by a loop over patients and torch's own backward; give the norms too."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums, norms = [torch.zeros_like(parameter) for parameter in parameters], []
    for seen, known in zip(images.split(group), labels.split(group), strict=True):
        own = torch.autograd.grad(losses(model(seen), known).mean(), parameters)
        norms.append(torch.sqrt(sum(part.double().square().sum() for part in own)))
        for total, part in zip(sums, own, strict=True):
            total += part * min(1.0, clip / max(clip, float(norms[-1])))
    return sums, torch.stack(norms)


def at_once(
    model: nn.Module,
    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    clip: float,
    group: int = 1,
    gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """Sum clipped gradients as the engine does."""
    weights = torch.full((len(images) // group, group), 1 / group, dtype=images.dtype)
    with clipped_sums(model, clip=clip) as sums:
        sums.reset()
        sums.add(lambda: model(images), gradient or by_autograd(losses, labels), weights)
        return [parameter.grad.clone() for parameter in sums.parameters]


def largest_error(found: list[torch.Tensor], true: list[torch.Tensor]) -> float:
    """Relative error of the worst parameter."""
    assert any(float(part.norm()) > 0 for part in true)
    return max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(found, true, strict=True))


def batch(images: int, *, size: int, dtype: torch.dtype, targets: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise of differing strength, so that some are clipped and some not, and labels with a gap."""
    generator = torch.Generator().manual_seed(7)
    seen = torch.randn(images, 3, size, size, generator=generator) * torch.linspace(0.05, 1, images).view(-1, 1, 1, 1)
    labels = torch.randint(0, 2, (images, targets), generator=generator).float()
    labels[0, 0] = float("nan")
    return seen.to(dtype), labels.to(dtype)


@pytest.mark.parametrize(
    ("backbone", "norm", "size"),
    [
        ("resnet18", "folded", 48),
        ("resnet18", "frozen", 48),
        ("resnet18", "group", 48),
        ("resnet34", "folded", 32),
        ("resnet50", "frozen", 32),
        ("resnet50", "group", 32),
        ("resnet50_v1", "folded", 32),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_sums_are_those_of_a_loop_over_patients(backbone, norm, size, dtype, tolerance) -> None:
    """Whole networks, in each norm mode: every parameter's clipped sum is the loop's, and some patients are clipped."""
    model = network(backbone, norm).to(dtype)
    images, labels = batch(3, size=size, dtype=dtype)
    _, norms = one_by_one(model, squares, images, labels, clip=1.0)
    clip = float(norms.median())
    true, _ = one_by_one(model, squares, images, labels, clip=clip)
    assert largest_error(at_once(model, squares, images, labels, clip=clip), true) < tolerance


@pytest.mark.parametrize("norm", ["folded", "frozen", "group"])
def test_a_patients_images_are_averaged_before_one_clip(norm) -> None:
    """With two images a patient the gradient of their mean is clipped, in every kind of layer."""
    model = network("resnet18", norm).double()
    images, labels = batch(4, size=48, dtype=torch.float64)
    _, norms = one_by_one(model, squares, images, labels, clip=1.0, group=2)
    clip = float(norms.mean())
    true, _ = one_by_one(model, squares, images, labels, clip=clip, group=2)
    assert largest_error(at_once(model, squares, images, labels, clip=clip, group=2), true) < 1e-9


@pytest.mark.parametrize("start", ["head", "layer4", "layer2"])
def test_only_what_trains_is_clipped(start) -> None:
    """Where training starts later, frozen layers get no gradient and count for no norm."""
    model = network("resnet18", "frozen").double()
    set_trainable(model, start)
    images, labels = batch(3, size=32, dtype=torch.float64)
    true, norms = one_by_one(model, squares, images, labels, clip=1.0)
    clip = float(norms.median())
    true, _ = one_by_one(model, squares, images, labels, clip=clip)
    assert largest_error(at_once(model, squares, images, labels, clip=clip), true) < 1e-9
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_the_studys_losses(kind, exclusive) -> None:
    """Sigmoid and softmax, plain and focal, with findings that were not assessed: as the loop has it."""
    settings = {"exclusive": exclusive, "gamma": 2.0, "alpha": 0.25}
    losses = build_loss(kind, positive_weights_K=None, **settings)
    model = network("resnet18", "folded", outputs=3)
    images, labels = batch(4, size=32, dtype=torch.float32, targets=3)
    if exclusive:
        labels = torch.eye(3)[torch.tensor([0, 2, 1, 1])]
        labels[0] = float("nan")
    _, norms = one_by_one(model, losses, images, labels, clip=1.0)
    clip = float(norms.median())
    true, _ = one_by_one(model, losses, images, labels, clip=clip)
    gradient = partial(build_row_gradient(kind, **settings), labels)
    assert largest_error(at_once(model, losses, images, labels, clip=clip, gradient=gradient), true) < 1e-4


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("poison", [0.0, float("nan")])
def test_a_head_alone_is_clipped_as_any_layer(images, poison) -> None:
    """Where the head alone trains, the short way ends with the sums of the general one, broken images included."""
    head = nn.Linear(64, 3).double()
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(8 * images, 64, generator=generator, dtype=torch.float64)
    features[0, 0] += poison
    labels = torch.randint(0, 2, (8 * images, 3), generator=generator).double()
    weights = torch.full((8, images), 1 / images, dtype=torch.float64)
    found = []
    for kind in (LinearSums, ClippedSums):
        sums = kind(head, clip=1.5)
        layer = partial(sums.run, BookedLinear, head)
        sums.reset()
        for _ in range(2):
            sums.add(partial(layer, features), by_autograd(squares, labels), weights)
        found.append(sums.total_D.clone())
    assert found[0].isfinite().all()
    assert found[0].norm() > 1
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_what_runs_behind_a_layer_that_trains_alone_counts() -> None:
    """Where the one linear layer that trains is not the last, its gradient passes through what is behind."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    for frozen in (model[0], model[3]):
        frozen.requires_grad_(False)
    images, labels = torch.randn(5, 6).double(), torch.ones(5, 2).double()
    with clipped_sums(model, clip=1.0) as sums:
        assert isinstance(sums, LinearSums)
    _, norms = one_by_one(model, squares, images, labels, clip=1.0)
    clip = float(norms.median())
    true, _ = one_by_one(model, squares, images, labels, clip=clip)
    assert largest_error(at_once(model, squares, images, labels, clip=clip), true) < 1e-9


def test_a_head_alone_takes_the_short_way() -> None:
    """It is taken for a study's head, and not where its bias is frozen or another layer trains."""
    model = network("resnet18", "folded")
    set_trainable(model, "head")
    with clipped_sums(model, clip=1.0) as sums:
        assert isinstance(sums, LinearSums)
    model.fc.bias.requires_grad_(False)
    with clipped_sums(model, clip=1.0) as sums:
        assert not isinstance(sums, LinearSums)
    set_trainable(model, "layer4")
    with clipped_sums(model, clip=1.0) as sums:
        assert not isinstance(sums, LinearSums)


@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning", "ignore::FutureWarning")
def test_opacus_finds_the_same() -> None:
    """Opacus' own per-sample gradients (its hooks), clipped by Abadi et al.'s formula, add up to the same sums."""
    from opacus import GradSampleModule

    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 2),
    ).double()
    images, labels = batch(5, size=16, dtype=torch.float64)
    hooked = GradSampleModule(model, loss_reduction="sum")
    squares(hooked(images), labels).sum().backward()
    own = [parameter.grad_sample for parameter in hooked.parameters()]
    norms = torch.sqrt(sum(part.flatten(1).square().sum(1) for part in own))
    clip = float(norms.median())
    true = [torch.tensordot((clip / norms).clamp(max=1), part, 1) for part in own]
    hooked.remove_hooks()
    for parameter in model.parameters():
        parameter.grad = None
    assert largest_error(at_once(model, squares, images, labels, clip=clip), true) < 1e-9


@pytest.mark.parametrize("norm", ["folded", "frozen", "group"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_what_is_not_finite_adds_nothing_and_spoils_nobody(norm, poison) -> None:
    """A patient whose image is broken adds 0 or stays within the clip; the others' sum is as if they were alone."""
    model = network("resnet18", norm)
    images, labels = batch(3, size=32, dtype=torch.float32)
    alone = at_once(model, squares, images[[0, 2]], labels[[0, 2]], clip=0.5)
    images[1, :, 8:16] = poison
    together = at_once(model, squares, images, labels, clip=0.5)
    influence = torch.sqrt(sum((a - b).double().square().sum() for a, b in zip(together, alone, strict=True)))
    assert all(part.isfinite().all() for part in together)
    assert influence <= 0.5 * (1 + 1e-4)
    if poison != 1e30:
        assert influence < 1e-4


def test_virtual_batches_add_up() -> None:
    """Two batches of one step give the sum of one large batch."""
    model = network("resnet18", "folded").double()
    images, labels = batch(4, size=32, dtype=torch.float64)
    whole = at_once(model, squares, images, labels, clip=0.5)
    with clipped_sums(model, clip=0.5) as sums:
        sums.reset()
        for part in (slice(0, 1), slice(1, 4)):
            gradient = by_autograd(squares, labels[part])
            sums.add(lambda p=part: model(images[p]), gradient, torch.ones(len(labels[part]), 1))
        assert largest_error([parameter.grad for parameter in sums.parameters], whole) < 1e-9


@pytest.mark.parametrize("clip", [LEAST_CLIP, MOST_CLIP])
@pytest.mark.parametrize("kind", [LinearSums, ClippedSums])
def test_no_size_of_a_gradient_passes_the_least_and_the_most_clip(clip, kind) -> None:
    """From gradients of which fp32 holds no square to those that overflow, one patient adds the clip at most."""
    head = nn.Linear(64, 1)
    images = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    sums = kind(head, clip=clip)
    for power in range(-40, 38):
        sums.reset()
        sums.add(
            partial(sums.run, BookedLinear, head, images),
            lambda outputs, _: torch.full_like(outputs, 10.0**power),  # noqa: B023  # called at once
            torch.ones(1, 1),
        )
        assert float(sums.total_D.double().norm()) <= clip, power


def test_the_factor_is_the_papers() -> None:
    """min(1, clip / norm): a small gradient stays, a large one is scaled to the clip, and 0 stays 0."""
    factors, left_out = clip_factors(torch.tensor([0.0, 0.25, 4.0, 100.0]).double(), clip=2.0, dtype=torch.float64)
    assert factors.tolist() == pytest.approx([1, 1, 1, 0.2])
    assert left_out is None
    factors, left_out = clip_factors(
        torch.tensor([1.0, float("nan"), float("inf")]).double(), clip=2.0, dtype=torch.float32
    )
    assert (factors.tolist(), left_out.tolist()) == ([1, 0, 0], [1, 2])


class Scale(nn.Module):
    """A layer with a parameter that nobody wrote a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.ones(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.by


class Centre(nn.Module):
    """A layer without parameters that mixes a batch."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs - inputs.mean(0)


def shared() -> nn.Module:
    """Two layers with one weight."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2), Scale()), "Scale '1' trains a parameter that has no clipping rule"),
        (lambda: nn.Sequential(nn.LayerNorm(2)), "LayerNorm '0' trains a parameter"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), "groups"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding="same")), "padding"),
        (lambda: nn.Sequential(nn.Linear(2, 2), Centre()), "Centre '1' is not known to treat each image for itself"),
        (lambda: nn.Sequential(nn.BatchNorm2d(2)), "statistics of a batch"),
        (lambda: nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False).eval()), "statistics of a batch"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(2, affine=False)), "statistics of a batch"),
        (shared, "share a parameter"),
        (lambda: nn.Sequential(nn.ReLU()), "no parameter that trains"),
    ],
)
def test_what_cannot_be_clipped_is_refused_by_name(make, words) -> None:
    """A plan is not built over a parameter without a rule, nor over a layer that may mix patients."""
    with pytest.raises(StudyError, match=words):
        refuse_what_cannot_be_clipped(make())


def test_norm_batch_is_refused() -> None:
    """A study's model under norm = 'batch' is refused as soon as its BatchNorms would collect."""
    model, _ = build(
        ModelSpec(
            backbone="resnet18",
            weights="none",
            weights_fallback=None,
            norm="batch",
            dropout=0.0,
            features="pooled",
            views=AS_IT_IS,
            centred=False,
            outputs=1,
            seed=0,
        ),
        weights_file=None,
    )
    set_trainable(model, "layer4")
    with pytest.raises(StudyError, match="norm = 'batch'"):
        refuse_what_cannot_be_clipped(model)


def test_a_batchnorm_that_wakes_up_is_caught() -> None:
    """Training mode is looked for before each batch, not once; `model.train()` alone does not wake ours."""
    model = network("resnet18", "frozen")
    images, labels = batch(2, size=32, dtype=torch.float32)
    with clipped_sums(model, clip=1.0) as sums:
        sums.reset()
        model.train()
        sums.add(lambda: model(images), by_autograd(squares, labels), torch.ones(2, 1))
        model.layer4[0].bn1.collects = True
        model.train()
        with pytest.raises(PrivacyError, match="training mode"):
            sums.add(lambda: model(images), by_autograd(squares, labels), torch.ones(2, 1))


def test_a_layer_runs_once() -> None:
    """A layer that runs twice, or never, would be clipped wrongly: both are refused."""
    layer = nn.Linear(2, 2)
    with clipped_sums(layer, clip=1.0) as sums, pytest.raises(PrivacyError, match="twice"):
        sums.add(lambda: layer(layer(torch.ones(1, 2))), by_autograd(squares, torch.ones(1, 2)), torch.ones(1, 1))
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with clipped_sums(model, clip=1.0) as sums, pytest.raises(PrivacyError, match="did not run"):
        sums.add(lambda: model[0](torch.ones(1, 2)), by_autograd(squares, torch.ones(1, 2)), torch.ones(1, 1))


def test_the_model_is_as_it_was_afterwards() -> None:
    """Outside, layers run as torch's own do and no gradient is left behind."""
    model = network("resnet18", "folded")
    images, labels = batch(2, size=32, dtype=torch.float32)
    before = model(images)
    at_once(model, squares, images, labels, clip=1.0)
    assert torch.equal(model(images), before)
    assert not any("forward" in layer.__dict__ for layer in model.modules())
