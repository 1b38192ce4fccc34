"""Tests of shared/augmentation.py, against torchvision and scipy with the same draws."""

import importlib
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.nn import functional

from shared import augmentation, vision

assert vision.torchvision  # cures the import of what follows
reference: Any = importlib.import_module("torchvision.transforms.v2.functional")

SIZE = 40


def setting(**on: Any) -> augmentation.Augmentation:
    """Switch everything off, but for what a test says."""
    off = {field.name: 0.0 for field in fields(augmentation.Augmentation)} | {"laterality_invariant": False}
    return augmentation.Augmentation(**(off | on))


def drawn(batch: int = 6, *, seed: int = 0, size: int = SIZE, **on: Any) -> augmentation.Draws:
    """Draw for a batch from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return augmentation.draw(setting(**on), batch=batch, size=size, generator=generator)


def images(batch: int = 6, *, channels: int = 1, size: int = SIZE) -> torch.Tensor:
    """Draw smooth images in [0, 1], so that interpolation does not depend on single pixels."""
    coarse = torch.rand(batch, channels, 8, 8, generator=torch.Generator().manual_seed(5))
    return functional.interpolate(coarse, size, mode="bilinear")


def similarity(affine_23: torch.Tensor, *, size: int) -> tuple[float, float, list[float]]:
    """Read angle in degrees, magnification and shift in pixels out of a map from new places to old ones."""
    forward = torch.linalg.inv(affine_23[:, :2])
    scale = float(forward.det().sqrt())
    angle = math.degrees(math.atan2(forward[1, 0], forward[0, 0]))
    shift = (-forward @ affine_23[:, 2]) * size / 2
    return angle, scale, shift.tolist()


GEOMETRY = {"rotation_degrees": 30.0, "translate": 0.1, "scale": 0.2}


def test_geometry_is_torchvisions_affine() -> None:
    """Rotation, shift and scale equal torchvision's affine with the drawn angle, pixels and factor."""
    draws = drawn(**GEOMETRY)
    assert draws.affine_N23 is not None
    ours = augmentation.apply(images(channels=3), draws)
    for image, affine_23, changed in zip(images(channels=3), draws.affine_N23, ours, strict=True):
        angle, scale, shift = similarity(affine_23, size=SIZE)
        expected = reference.affine(
            image,
            angle=angle,
            translate=shift,
            scale=scale,
            shear=[0.0, 0.0],
            interpolation=reference.InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-4)


def test_geometry_is_scipys_affine_transform() -> None:
    """The same resampling by scipy, in double precision and pixel coordinates, with zeros from outside."""
    draws = drawn(**GEOMETRY)
    assert draws.affine_N23 is not None
    ours = augmentation.apply(images(), draws)
    centre = (SIZE - 1) / 2
    for image, affine_23, changed in zip(images(), draws.affine_N23.double().numpy(), ours, strict=True):
        # scipy's axes are row, column: the other order of ours, x and y.
        matrix = affine_23[::-1, 1::-1]
        shift = affine_23[::-1, 2] * SIZE / 2
        expected = scipy.ndimage.affine_transform(
            image[0].double().numpy(),
            matrix,
            offset=centre - matrix @ np.array([centre, centre]) + shift,
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(changed[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("also", [{}, GEOMETRY])
def test_elastic_is_a_displacement_field(also: dict[str, float]) -> None:
    """Elastic deformation equals scipy's sampling at affine places plus a bicubic upsampling of the knots."""
    draws = drawn(elastic=0.05, **also)
    assert draws.elastic_N2GG is not None
    ours = augmentation.apply(images(), draws)
    affine = torch.eye(2, 3).expand(6, 2, 3) if draws.affine_N23 is None else draws.affine_N23
    places = functional.affine_grid(affine, [6, 1, SIZE, SIZE], align_corners=False).permute(0, 3, 1, 2)
    places = places + functional.interpolate(draws.elastic_N2GG, SIZE, mode="bicubic", align_corners=True)
    pixels = ((places + 1) * SIZE - 1) / 2
    for image, (x, y), changed in zip(images(), pixels.double().numpy(), ours, strict=True):
        expected = scipy.ndimage.map_coordinates(image[0].double().numpy(), [y, x], order=1, mode="grid-constant")
        np.testing.assert_allclose(changed[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "function"),
    [("brightness", "adjust_brightness"), ("contrast", "adjust_contrast"), ("gamma", "adjust_gamma")],
)
def test_grey_levels_are_torchvisions(name: str, function: str) -> None:
    """Brightness, contrast and gamma equal torchvision's with the drawn factors."""
    draws = drawn(**{name: 0.8})
    ours = augmentation.apply(images(), draws)
    for image, factor, changed in zip(images(), getattr(draws, f"{name}_N"), ours, strict=True):
        expected = getattr(reference, function)(image, float(factor))
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-6)


def test_blur_is_torchvisions() -> None:
    """Each image is blurred by torchvision's Gaussian of its own drawn width."""
    draws = drawn(blur=2.0)
    assert draws.blur_NT is not None
    taps = draws.blur_NT.shape[1]
    assert taps == 13
    ours = augmentation.apply(images(channels=3), draws)
    for image, kernel, changed in zip(images(channels=3), draws.blur_NT.double(), ours, strict=True):
        sigma = float((0.5 / (kernel[taps // 2] / kernel[taps // 2 + 1]).log()).sqrt())
        assert 0 < sigma <= 2
        torch.testing.assert_close(changed, reference.gaussian_blur(image, [taps, taps], [sigma, sigma]))


def test_blur_of_a_small_image_stays_inside_it() -> None:
    """A blur wider than the image is cut off where mirroring at the border ends."""
    assert augmentation.apply(images(2, size=8), drawn(2, size=8, blur=50.0)).isfinite().all()


def test_noise_is_white_and_as_strong_as_drawn() -> None:
    """Noise has mean 0 and, image by image, a standard deviation between 0 and the setting, equal in all channels."""
    grey = torch.full((64, 3, SIZE, SIZE), 0.5)
    noise = augmentation.apply(grey, drawn(64, noise=0.05)) - grey
    deviations = noise.std(dim=(1, 2, 3))
    assert abs(float(noise.mean())) < 1e-3
    assert 0 < float(deviations.min()) < 0.01
    assert 0.04 < float(deviations.max()) < 0.053
    assert torch.equal(noise[:, 0], noise[:, 2])
    neighbours = torch.corrcoef(torch.stack((noise[0, 0, :, 1:].flatten(), noise[0, 0, :, :-1].flatten())))
    assert abs(float(neighbours[0, 1])) < 0.1


def test_changes_come_in_their_order() -> None:
    """All changes at once are geometry, blur, brightness, contrast, gamma and noise, one after another."""
    everything = drawn(**GEOMETRY, elastic=0.03, brightness=0.5, contrast=0.5, gamma=0.5, noise=0.1, blur=1.0)
    nothing = {field.name: None for field in fields(augmentation.Draws)}
    steps: list[tuple[str, ...]] = [
        ("affine_N23", "elastic_N2GG"),
        ("blur_NT",),
        ("brightness_N",),
        ("contrast_N",),
        ("gamma_N",),
        ("noise_N1HW",),
    ]
    expected = images()
    for names in steps:
        some = augmentation.Draws(**(nothing | {name: getattr(everything, name) for name in names}))  # type: ignore[arg-type]
        expected = augmentation.apply(expected, some)
    torch.testing.assert_close(augmentation.apply(images(), everything), expected)


@pytest.mark.parametrize(("dtype", "full_scale"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_stored_images_are_scaled_to_one(dtype: torch.dtype, full_scale: int) -> None:
    """Without any change, stored images are divided by their full scale, and nothing is drawn."""
    stored = torch.tensor([0, full_scale // 5, full_scale]).to(dtype).view(1, 1, 1, 3)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    draws = augmentation.draw(setting(), batch=1, size=3, generator=generator)
    assert all(getattr(draws, field.name) is None for field in fields(draws))
    assert torch.equal(generator.get_state(), state)
    torch.testing.assert_close(augmentation.apply(stored, draws), torch.tensor([0, 0.2, 1]).view(1, 1, 1, 3))


def test_mirroring_needs_permission() -> None:
    """Half of the images are mirrored where the study allows it, and none where it does not."""
    flipped = augmentation.apply(images(64), drawn(64, laterality_invariant=True))
    mirrored = torch.isclose(flipped, images(64).flip(-1), atol=1e-5).flatten(1).all(dim=1)
    same = torch.isclose(flipped, images(64), atol=1e-5).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~same)
    assert 20 < int(mirrored.sum()) < 44
    draws = drawn(64, rotation_degrees=180.0, translate=0.5, scale=0.9)
    assert draws.affine_N23 is not None
    assert (draws.affine_N23[:, :, :2].det() > 0).all()


def test_draws_reach_their_settings() -> None:
    """Over many draws, each change comes close to all that the study allows, in both directions."""
    draws: Any = drawn(500, elastic=0.04, brightness=0.2, contrast=0.3, gamma=0.5, **GEOMETRY)
    angles, scales, shifts = zip(*(similarity(affine, size=1) for affine in draws.affine_N23), strict=True)
    ranges = [
        (angles, -30, 30),
        (scales, 0.8, 1.2),
        (shifts, -0.1, 0.1),
        (draws.elastic_N2GG, -0.08, 0.08),  # of half a side
        (draws.brightness_N, 0.8, 1.2),
        (draws.contrast_N, 0.7, 1.3),
        (draws.gamma_N, 1 / 1.5, 1.5),
    ]
    for values, low, high in ranges:
        assert np.asarray(values).min() == pytest.approx(low, abs=0.02 * (high - low))
        assert np.asarray(values).max() == pytest.approx(high, abs=0.02 * (high - low))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_images_stay_on_their_device(dtype: torch.dtype) -> None:
    """Draws made on the CPU are applied where the images are, and no image comes back to the CPU."""
    elsewhere = torch.empty(6, 1, SIZE, SIZE, dtype=dtype, device="meta")
    draws = drawn(**GEOMETRY, elastic=0.03, brightness=0.5, contrast=0.5, gamma=0.5, noise=0.1, blur=1.0)
    augmented = augmentation.apply(elsewhere, draws)
    assert augmented.device.type == "meta"
    assert (augmented.shape, augmented.dtype) == (elsewhere.shape, torch.float32)
