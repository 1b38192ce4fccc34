"""Tests of shared/model.py: what a study says about its model is what is built, trained and exchanged."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from shared import model, vision
from shared.normalisation import normalisation_layers
from shared.views import AS_IT_IS, Views

BACKBONES: list[vision.Backbone] = ["resnet18", "resnet34", "resnet50", "resnet50_v1"]
NORMS: list[model.Norm] = ["batch", "frozen", "folded", "group"]


def spec(**study: Any) -> model.ModelSpec:
    """Describe a small model without pretrained weights, but for what a test says."""
    defaults = {
        "backbone": "resnet18",
        "weights": "none",
        "weights_fallback": None,
        "norm": "frozen",
        "features": "pooled",
        "views": AS_IT_IS,
        "centred": False,
        "dropout": 0.0,
        "outputs": 2,
        "seed": 7,
    }
    return model.ModelSpec(**(defaults | study))


@functools.lru_cache(maxsize=4)
def template(study: model.ModelSpec) -> model.Classifier:
    """Draw a study's weights once."""
    return model.build(study, weights_file=None)[0]


def build(**study: Any) -> model.Classifier:
    """Give a model of one's own, without pretrained weights."""
    return copy.deepcopy(template(spec(**study)))


def images(batch: int = 4, *, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Draw a batch of normalised images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def copied_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Copy all arrays of a model."""
    return {name: array.clone() for name, array in network.state_dict().items()}


def changed(network: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Name the arrays that differ from a copy."""
    return {name for name, array in network.state_dict().items() if not torch.equal(array, before[name])}


def train_one_step(network: model.Classifier) -> None:
    """Do one step of training that moves every parameter that has a gradient."""
    network.train()
    groups = model.parameter_groups(network, lr_head=0.1, lr_backbone=0.1)
    optimiser = torch.optim.SGD(groups)
    network(images()).square().sum().backward()
    optimiser.step()


@pytest.fixture(scope="module")
def trained_files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Write weights of a backbone whose BatchNorm statistics and affine parameters are those of some training."""

    def write(backbone: vision.Backbone) -> Path:
        path = tmp_path_factory.getbasetemp() / f"{backbone}.safetensors"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            arrays = vision.residual_network(backbone, norm_layer=nn.BatchNorm2d).state_dict()
            for name, array in arrays.items():
                if "running" in name or (("bn" in name or "downsample.1" in name) and name.endswith("weight")):
                    array.uniform_(0.5, 1.0)
        save_file(arrays, path, metadata={"arch": backbone})
        return path

    return write


@pytest.mark.parametrize("backbone", BACKBONES)
def test_folding_keeps_the_function_of_every_backbone(trained_files: Any, backbone: vision.Backbone) -> None:
    """A folded model gives the logits of the unfolded one in eval mode, to 1e-4 of their size."""
    path = trained_files(backbone)
    logits = [
        model.build(spec(backbone=backbone, weights="file", norm=norm), weights_file=path)[0](images(2, size=64))
        for norm in ("frozen", "folded")
    ]
    assert (logits[0] - logits[1]).abs().max() <= 1e-4 * logits[0].abs().max()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_classifier_is_torchvisions_network(trained_files: Any, backbone: vision.Backbone) -> None:
    """With the same arrays, the stages compute bit for bit what torchvision's own forward pass computes."""
    ours, _ = model.build(spec(backbone=backbone, weights="file"), weights_file=trained_files(backbone))
    theirs: Any = vision.residual_network(backbone, norm_layer=nn.BatchNorm2d)
    theirs.fc = nn.Linear(theirs.fc.in_features, 2)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(images()), theirs.eval()(images()))


@pytest.mark.parametrize("norm", NORMS)
def test_trunk_and_rest_are_the_whole(norm: model.Norm) -> None:
    """Split at any stage, the two halves give the logits bit for bit, and leave the cached features unchanged."""
    network = build(norm=norm, dropout=0.5)
    whole = network(images())
    for stage in model.STAGES:
        features = network.trunk(images(), upto=stage)
        kept = features.clone()
        assert torch.equal(network.rest(features, start=stage), whole)
        assert torch.equal(features, kept)


@pytest.mark.parametrize(("backbone", "width"), [("resnet18", 512), ("resnet50", 2048)])
def test_pooled_features_are_fp32(backbone: Any, width: int) -> None:
    """Features of a frozen backbone are (N, D) and fp32, also under bf16 autocast."""
    network = build(backbone=backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.trunk(images(2), upto="head")
    assert features.shape == (2, width)
    assert features.dtype == torch.float32


def test_dropout_acts_on_the_head_alone() -> None:
    """In training mode, dropout changes the logits and not the features."""
    network = build(dropout=0.5)
    network.train()
    features = [network.trunk(images(), upto="head") for _ in range(2)]
    assert torch.equal(*features)
    assert not torch.equal(network.rest(features[0], start="head"), network.rest(features[0], start="head"))


def test_random_weights_come_from_the_seed_alone(trained_files: Any) -> None:
    """Equal seeds give equal bits whatever torch's global generator did before, which is left where it was."""
    torch.manual_seed(1)
    first = model.build(spec(), weights_file=None)[0].state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = model.build(spec(), weights_file=None)[0].state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build(seed=8).state_dict()
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    pretrained, _ = model.build(spec(weights="file"), weights_file=trained_files("resnet18"))
    assert torch.equal(pretrained.fc.weight, first["fc.weight"])


@pytest.mark.parametrize("norm", ["frozen", "folded", "group", "batch"])
def test_statistics_never_move_unless_the_study_says_batch(norm: model.Norm) -> None:
    """However hard training mode is asked for, only norm = "batch" lets BatchNorm collect statistics."""
    network = build(norm=norm)
    model.set_trainable(network, "stem")
    before = copied_state(network)
    network.train()
    for layer in network.modules():
        layer.train()
    network(images())
    assert bool(changed(network, before)) == (norm == "batch")


def test_an_image_does_not_see_its_batch_under_frozen_norm() -> None:
    """In training mode, a frozen model's logits of an image are the same in any company."""
    network = build()
    model.set_trainable(network, "stem")
    network.train()
    torch.testing.assert_close(network(images(4))[:1], network(images(4)[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", model.STAGES)
@pytest.mark.parametrize("norm", NORMS)
def test_what_trains_is_what_is_exchanged(start: str, norm: model.Norm) -> None:
    """One step changes exactly the arrays that travel, and batch counters, and leaves what is before the stage."""
    network = build(norm=norm)
    model.set_trainable(network, start)
    before = copied_state(network)
    train_one_step(network)
    names = model.exchanged(network, start, local_norm=False)
    moved = {name for name in changed(network, before) if not name.endswith("num_batches_tracked")}
    assert moved == set(names)
    assert [name for name in network.state_dict() if name in moved] == names


def test_batch_norm_before_the_first_training_stage_keeps_its_statistics() -> None:
    """Under norm = "batch", layers of frozen stages stay in eval mode, and later thawing changes that."""
    network = build(norm="batch")
    model.set_trainable(network, "layer4")
    network.train()
    training = {name for name, layer in normalisation_layers(network) if layer.training}
    assert training
    assert all(name.startswith("layer4.") for name in training)
    model.set_trainable(network, "stem")
    assert all(layer.training for _, layer in normalisation_layers(network))
    model.set_trainable(network, "head")
    assert not any(layer.training for _, layer in normalisation_layers(network))


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_local_norm_keeps_normalisation_layers_at_the_site(norm: model.Norm) -> None:
    """With local_norm, convolutions and the head travel, and nothing of a normalisation layer."""
    network = build(norm=norm)
    everything = model.exchanged(network, "stem", local_norm=False)
    travels = model.exchanged(network, "stem", local_norm=True)
    norm_names = tuple(f"{name}." for name, _ in normalisation_layers(network))
    assert travels == [name for name in everything if not name.startswith(norm_names)]
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "fc.bias"} <= set(travels)
    assert len(travels) < len(everything)


def test_the_head_alone_is_small() -> None:
    """While the backbone is frozen, the head's two arrays travel."""
    assert model.exchanged(build(), "head", local_norm=False) == ["fc.weight", "fc.bias"]


def test_learning_rates_differ_between_backbone_and_head() -> None:
    """Each parameter that trains is in exactly one group, at its rate; a frozen backbone has no group."""
    network = build()
    model.set_trainable(network, "layer4")
    backbone, head = model.parameter_groups(network, lr_head=1e-3, lr_backbone=1e-4)
    assert (backbone["lr"], head["lr"]) == (1e-4, 1e-3)
    assert {id(p) for p in head["params"]} == {id(p) for p in network.fc.parameters()}
    assert {id(p) for p in backbone["params"]} == {id(p) for p in network.layer4.parameters()}
    model.set_trainable(network, "head")
    assert [group["lr"] for group in model.parameter_groups(network, lr_head=1e-3, lr_backbone=1e-4)] == [1e-3]


def test_a_built_model_is_ready(trained_files: Any) -> None:
    """A model starts in eval mode with all of its parameters trainable, folded biases too, and K outputs."""
    network, provenance = model.build(
        spec(weights="file", norm="folded", outputs=5), weights_file=trained_files("resnet18")
    )
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network(images()).shape == (4, 5)
    assert provenance.source == "file"
    assert not list(normalisation_layers(network))


def test_unit_features_have_their_own_mean_taken_off_and_variance_one() -> None:
    """Row by row, with no statistic of the batch: a row does not depend on the others, and zeros stay zeros."""
    features_ND = torch.rand(5, 32, generator=torch.Generator().manual_seed(1)) * 7 + 3
    made_ND = model.unit(features_ND)
    torch.testing.assert_close(made_ND.mean(dim=1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(made_ND.var(dim=1, correction=0), torch.ones(5))
    expected_N = features_ND.std(dim=1, correction=0)
    torch.testing.assert_close(made_ND * expected_N[:, None] + features_ND.mean(dim=1, keepdim=True), features_ND)
    torch.testing.assert_close(model.unit(features_ND[2:3])[0], made_ND[2])
    assert model.unit(torch.full((1, 32), 4.0)).abs().max() == 0


def test_the_head_of_a_study_with_unit_features_sees_them() -> None:
    """The cached features are the same in both kinds of study; the head alone differs."""
    images_NCHW = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    pooled, made = build(features="pooled"), build(features="unit")
    hidden_ND = pooled.trunk(images_NCHW, upto="head")
    assert torch.equal(hidden_ND, made.trunk(images_NCHW, upto="head"))
    assert torch.equal(made(images_NCHW), made.fc(model.unit(hidden_ND)))
    assert not torch.allclose(made(images_NCHW), pooled(images_NCHW))


def test_a_mirrored_model_sees_the_mean_of_image_and_mirror_image() -> None:
    """Its pooled features are that mean, whatever the norm; and a film and its mirror image have one score."""
    plain, mirrored = build(features="unit"), build(features="unit", views=Views(mirrored=True, zoomed=False))
    mean = (plain.trunk(images(), upto="head") + plain.trunk(images().flip(-1), upto="head")) / 2
    torch.testing.assert_close(mirrored.trunk(images(), upto="head"), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mirrored(images()), plain.rest(mean, start="head"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mirrored(images().flip(-1)), mirrored(images()), rtol=1e-4, atol=1e-5)
    assert (mirrored(images()) - plain(images())).abs().max() > 1e-3
    assert torch.equal(mirrored.rest(mirrored.trunk(images(), upto="head"), start="head"), mirrored(images()))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_zoomed_model_sees_the_middle_too(mirrored: bool) -> None:
    """Its pooled features are the mean of its views' own, and each view has an equal share."""
    plain, zoomed = build(features="unit"), build(features="unit", views=Views(mirrored=mirrored, zoomed=True))
    views = [images(), functional.interpolate(images()[..., 4:-4, 4:-4], size=(32, 32), mode="bilinear")]
    views += [view.flip(-1) for view in views] if mirrored else []
    mean = torch.stack([plain.trunk(view, upto="head") for view in views]).mean(0)
    torch.testing.assert_close(zoomed.trunk(images(), upto="head"), mean, rtol=1e-5, atol=1e-6)
    assert (zoomed(images()) - plain(images())).abs().max() > 1e-3
    assert torch.equal(zoomed.rest(zoomed.trunk(images(), upto="head"), start="head"), zoomed(images()))


def test_a_centred_model_takes_its_centre_off_the_unit_features() -> None:
    """A centre of 0 changes nothing; another is subtracted, and what is left has variance 1 again."""
    plain, centred = build(features="unit"), build(features="unit", centred=True)
    assert torch.equal(plain.fc.weight, centred.fc.weight), "the head begins as it did without a centre"
    torch.testing.assert_close(centred(images()), plain(images()), rtol=1e-5, atol=1e-6)
    pooled = plain.trunk(images(), upto="head")
    with torch.no_grad():
        centred.centre.weight.copy_(model.unit(pooled).mean(0))
    left = model.unit(pooled) - model.unit(pooled).mean(0)
    left = left / left.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(centred(images()), left @ plain.fc.weight.T + plain.fc.bias, rtol=1e-4, atol=1e-4)
    assert (centred(images()) - plain(images())).abs().max() > 1e-3


def test_the_centre_travels_and_trains_in_its_own_rounds_alone() -> None:
    """It is among the arrays of every round; where the head trains it stays, and where it trains all else stays."""
    network = build(features="unit", centred=True)
    model.set_trainable(network, "head")
    assert model.exchanged(network, "head", local_norm=False) == ["fc.weight", "fc.bias", "centre.weight"]
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {"fc.weight", "fc.bias"}
    assert model.set_centre_trainable(network) is network.centre
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {"centre.weight"}
    model.set_trainable(network, "head")
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {"fc.weight", "fc.bias"}
    with pytest.raises(ValueError, match="no centre to train"):
        model.set_centre_trainable(build())


def test_pretrained_weights_need_no_centre(trained_files: Any) -> None:
    """A backbone's file has none, and the centre begins at 0."""
    network, _ = model.build(
        spec(weights="file", features="unit", centred=True), weights_file=trained_files("resnet18")
    )
    assert not network.centre.weight.any()
