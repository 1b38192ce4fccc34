"""Maps are those of the papers: equal to a maintained library's, and on the right spot where the model is known."""

from typing import Any

import captum.attr
import pytest
import torch
from torch.nn import functional

from client.explain import METHODS, grad_cam, hires_cam, map_stage
from shared.views import AS_IT_IS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("norm", ["frozen", "folded", "group"])
@pytest.mark.parametrize("stage", ["layer2", "layer4"])
def test_it_equals_captums(tiny: Any, norm: str, stage: str) -> None:
    """The same map as captum's LayerGradCam with its negative part cut off, for each output and stage."""
    classifier = tiny.bench(tiny.protocol(task={"findings": ["a", "b"]}, model={"norm": norm})).classifier
    classifier.requires_grad_(norm != "frozen")  # whether parameters train must not matter
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    classifier.fc.weight.data[1] = -classifier.fc.weight.data[0]  # so that something raises one of the two
    highest = 0.0
    for target in range(2):
        expected = captum.attr.LayerGradCam(classifier, classifier.get_submodule(stage)).attribute(
            images.clone().requires_grad_(), target=target, relu_attributions=True
        )
        highest = max(highest, float(expected.detach().max()))
        stretched = functional.interpolate(expected, size=(96, 96), mode="bilinear", align_corners=False)[:, 0]
        found = grad_cam(classifier, images, target=target, stage=stage)
        assert found.shape == (2, 96, 96)
        torch.testing.assert_close(found, stretched.detach(), rtol=1e-4, atol=1e-7)
    assert highest > 1e-3


def test_hires_cam_equals_captums_gradient_times_activation(tiny: Any) -> None:
    """Summed over channels, without its negative part; behind layer4, with a linear head, it is Grad-CAM."""
    classifier = tiny.bench(tiny.protocol(model={"norm": "group"})).classifier
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    layer = captum.attr.LayerGradientXActivation(classifier, classifier.layer2)
    expected = layer.attribute(images.clone().requires_grad_(), target=0).sum(dim=1, keepdim=True).relu().detach()
    assert float(expected.max()) > 1e-5
    stretched = functional.interpolate(expected, size=(96, 96), mode="bilinear", align_corners=False)[:, 0]
    found = hires_cam(classifier, images, target=0, stage="layer2")
    torch.testing.assert_close(found, stretched, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(found, grad_cam(classifier, images, target=0, stage="layer2"), rtol=0.1)
    last = [make(classifier, images, target=0, stage="layer4") for make in METHODS.values()]
    torch.testing.assert_close(last[0], last[1], rtol=1e-4, atol=1e-7)


def test_it_lies_where_the_score_comes_from(tiny: Any) -> None:
    """A model whose only channel is the image's brightness: the map is highest on the bright block, wherever it is."""
    classifier = tiny.bench(tiny.protocol()).classifier
    for parameter in classifier.parameters():
        parameter.data.zero_()
    classifier.conv1.weight.data[0, 0, 3, 3] = 1.0
    classifier.bn1.weight.data[0] = 1.0
    for block in (classifier.layer2[0], classifier.layer3[0], classifier.layer4[0]):
        block.downsample[0].weight.data[0, 0] = 1.0
        block.downsample[1].weight.data[0] = 1.0
    classifier.fc.weight.data[0, 0] = 1.0
    for down, right in ((16, 80), (96, 32)):
        images = torch.zeros(1, 3, 128, 128)
        images[:, :, down : down + 16, right : right + 16] = 1
        found = grad_cam(classifier, images, target=0, stage="layer2")[0]
        y, x = divmod(int(found.argmax()), 128)
        assert down - 8 <= y < down + 24
        assert right - 8 <= x < right + 24
        classifier.fc.weight.data[0, 0] = -1.0  # the same place lowers the score: nothing raises it
        assert grad_cam(classifier, images, target=0, stage="layer2").max() == 0
        classifier.fc.weight.data[0, 0] = 1.0


def test_it_leaves_no_trace_in_the_model(tiny: Any) -> None:
    """No hook and no gradient stays behind, so that the next score is what it was."""
    classifier = tiny.bench(tiny.protocol()).classifier
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    before = classifier(images)
    with torch.no_grad():  # as a caller that scores may have it
        grad_cam(classifier, images, target=0, stage="layer1")
    torch.testing.assert_close(classifier(images), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())


def test_small_images_are_read_at_an_earlier_stage() -> None:
    """Two by two cells say nothing: the deepest stage with seven or more is taken."""
    assert {size: map_stage(size) for size in (32, 64, 112, 224, 512)} == {
        32: "layer1",
        64: "layer2",
        112: "layer3",
        224: "layer4",
        512: "layer4",
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_mirrored_models_map_is_of_both_images(tiny: Any, method: str) -> None:
    """What the mirror image adds lies where it is in the image: a film's map, mirrored, is its mirror image's."""
    study = {"model": {"norm": "group", "mirrored": True}, "augmentation": {"laterality_invariant": True}}
    classifier = tiny.bench(tiny.protocol(**study)).classifier
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    found = METHODS[method](classifier, images, target=0, stage="layer2")
    assert found.shape == (2, 96, 96)
    assert float(found.max()) > 1e-5
    other = METHODS[method](classifier, images.flip(-1), target=0, stage="layer2")
    torch.testing.assert_close(found, other.flip(-1), rtol=1e-3, atol=1e-6)
    classifier.views = AS_IT_IS
    alone = [METHODS[method](classifier, one, target=0, stage="layer2") for one in (images, images.flip(-1))]
    assert not torch.allclose(found, alone[0] / 2 + alone[1].flip(-1) / 2, rtol=0.1), "signs meet before they are cut"


@pytest.mark.parametrize("method", METHODS)
def test_a_zoomed_models_map_lies_where_the_image_has_it(tiny: Any, method: str) -> None:
    """The middle's map lies in the middle, and the border has the whole image's alone; a head of two signs is cut."""
    classifier = tiny.bench(tiny.protocol(model={"norm": "group", "zoomed": True})).classifier
    images = torch.rand(2, 3, 90, 90, generator=torch.Generator().manual_seed(2))
    both = METHODS[method](classifier, images, target=0, stage="layer2")
    middle = functional.interpolate(images[..., 10:-10, 10:-10], size=(90, 90), mode="bilinear")
    classifier.views = AS_IT_IS
    whole = METHODS[method](classifier, images, target=0, stage="layer2") / 2
    enlarged = METHODS[method](classifier, middle, target=0, stage="layer2") / 2
    assert both.shape == (2, 90, 90)
    assert float(enlarged.max()) > 1e-6
    border = torch.ones(90, 90, dtype=torch.bool)
    border[10:-10, 10:-10] = False
    torch.testing.assert_close(both[:, border], whole[:, border], rtol=1e-3, atol=1e-6)
    added = (both - whole).sum(dim=(1, 2))
    torch.testing.assert_close(added, enlarged.sum(dim=(1, 2)), rtol=0.05, atol=1e-6)
