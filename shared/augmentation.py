"""Batched, anatomy-safe, training-only augmentation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch.nn import functional

ELASTIC_KNOTS: Final = 5
"""Displacements are drawn on a grid of 5 x 5 knots from corner to corner, and interpolated in between."""

IMAGES_AT_ONCE: Final = 4
"""On a CPU: so few stay in its cache from one change to the next, which halves the time of a batch of 32."""

Generators = torch.Generator | Sequence[torch.Generator]
"""One for a batch, or one for each of its images: what is drawn for an image then knows of no other."""

_FULL_SCALE: Final = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far each image may be changed; 0 switches a change off, and it then costs nothing.

    Left stays on the left: only `laterality_invariant` allows mirror images. `shared/laterality.py` checks it.
    """

    rotation_degrees: float
    """Rotation by up to this angle, either way."""
    translate: float
    """Shift along each axis by up to this fraction of the image's side."""
    scale: float
    """Magnification by a factor between 1 - scale and 1 + scale."""
    elastic: float
    """Displacement of each knot, along each axis, by up to this fraction of the image's side; folds beyond 0.12."""
    brightness: float
    """Multiplication by a factor between 1 - brightness and 1 + brightness, cut off at full scale."""
    contrast: float
    """Distance from the image's mean, multiplied by a factor between 1 - contrast and 1 + contrast."""
    gamma: float
    """Power with an exponent between 1 / (1 + gamma) and 1 + gamma, as often below 1 as above."""
    noise: float
    """White noise with a standard deviation of up to this fraction of full scale, equal in all channels."""
    blur: float
    """Gaussian blur with a standard deviation of up to this many pixels."""
    laterality_invariant: bool
    """Mirror images left to right, half of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What was decided for each of N images, on the CPU; None for a change that is switched off."""

    affine_N23: torch.Tensor | None
    """From a place in the new image to its place in the old one, both from -1 to 1 (x right, y down)."""
    elastic_N2GG: torch.Tensor | None
    """Added to the place in the old image, at each knot, in the same units."""
    blur_NT: torch.Tensor | None
    """Weights of a symmetric kernel of T taps, which sum to 1."""
    brightness_N: torch.Tensor | None
    contrast_N: torch.Tensor | None
    gamma_N: torch.Tensor | None
    noise_N1HW: torch.Tensor | None

    def of(self, images: slice) -> "Draws":
        """Give what was decided for some of the images."""
        decided = {field.name: getattr(self, field.name) for field in fields(self)}
        return Draws(**{name: None if values is None else values[images] for name, values in decided.items()})


def draw(setting: Augmentation, *, batch: int, size: int, generator: Generators) -> Draws:
    """Decide how to change each image of a batch of `size` x `size` images.

    Uses CPU generators, whatever the images' device, so that equal seeds decide equally everywhere. The same
    generator state gives the same bits. With a generator for each image, each is decided on as if it were alone.
    """
    if not isinstance(generator, torch.Generator):
        return _together([draw(setting, batch=1, size=size, generator=own) for own in generator])

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(batch, *shape, generator=generator) * 2 - 1

    return Draws(
        affine_N23=_draw_affine(setting, batch, generator) if _moves(setting) else None,
        elastic_N2GG=2 * setting.elastic * uniform(2, ELASTIC_KNOTS, ELASTIC_KNOTS) if setting.elastic else None,
        blur_NT=_draw_blur(setting.blur, batch, size, generator) if setting.blur else None,
        brightness_N=1 + setting.brightness * uniform() if setting.brightness else None,
        contrast_N=1 + setting.contrast * uniform() if setting.contrast else None,
        gamma_N=(1 + setting.gamma) ** uniform() if setting.gamma else None,
        noise_N1HW=_draw_noise(setting.noise, batch, size, generator) if setting.noise else None,
    )


@torch.no_grad()
def apply(images_NCHW: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Change images as decided, on their own device.

    Args:
        images_NCHW: square images, uint8, uint16 or fp32 in [0, 1]; left unchanged.
        draws: decisions for as many images.

    Returns:
        Images (N, C, H, W), fp32 in [0, 1]. What comes in from outside the old image is 0. Geometry comes first, as
        one resampling; then blur, brightness, contrast, gamma, noise.
    """
    if images_NCHW.device.type != "cpu":
        return _apply_at_once(images_NCHW, draws)
    changed = torch.empty(images_NCHW.shape)
    for start in range(0, len(changed), IMAGES_AT_ONCE):
        some = slice(start, start + IMAGES_AT_ONCE)
        changed[some] = _apply_at_once(images_NCHW[some], draws.of(some))
    return changed


def _together(each: Sequence[Draws]) -> Draws:
    decided = {field.name: [getattr(own, field.name) for own in each] for field in fields(Draws)}
    return Draws(
        **{name: None if not values or values[0] is None else torch.cat(values) for name, values in decided.items()}
    )


def _moves(setting: Augmentation) -> bool:
    return bool(setting.rotation_degrees or setting.translate or setting.scale or setting.laterality_invariant)


def _draw_affine(setting: Augmentation, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Draw a mirroring, a turn and a magnification about the centre and then a shift, and give the way back."""
    turn_N, shift_x_N, shift_y_N, zoom_N = torch.rand(4, batch, generator=generator) * 2 - 1
    angle_N = math.radians(setting.rotation_degrees) * turn_N
    shift_N21 = 2 * setting.translate * torch.stack((shift_x_N, shift_y_N), dim=1).unsqueeze(2)
    cosine_N, sine_N = angle_N.cos(), angle_N.sin()
    turn_N22 = torch.stack((cosine_N, sine_N, -sine_N, cosine_N), dim=1).view(batch, 2, 2)
    linear_N22 = turn_N22 / (1 + setting.scale * zoom_N).view(batch, 1, 1)
    affine_N23 = torch.cat((linear_N22, -linear_N22 @ shift_N21), dim=2)
    if setting.laterality_invariant:
        affine_N23[:, 0] *= torch.randint(2, (batch, 1), generator=generator) * 2 - 1
    return affine_N23


def _draw_blur(most_pixels: float, batch: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Draw widths, and give their Gaussians, cut off at three times the widest that could have been drawn."""
    radius = min(math.ceil(3 * most_pixels), size - 1)
    # The least width leaves an image as it is, and can be divided by.
    width_N1 = (most_pixels * torch.rand(batch, 1, generator=generator)).clamp(min=1e-3)
    offsets_T = torch.arange(-radius, radius + 1)
    return torch.softmax(-0.5 * (offsets_T / width_N1) ** 2, dim=1)


def _draw_noise(most: float, batch: int, size: int, generator: torch.Generator) -> torch.Tensor:
    deviation_N111 = most * torch.rand(batch, 1, 1, 1, generator=generator)
    return torch.randn(batch, 1, size, size, generator=generator).mul_(deviation_N111)


def _apply_at_once(images_NCHW: torch.Tensor, draws: Draws) -> torch.Tensor:
    images = images_NCHW.to(torch.float32, copy=True).div_(_FULL_SCALE[images_NCHW.dtype])
    images = _warp(images, draws)
    if draws.blur_NT is not None:
        images = _blur(images, draws.blur_NT)
    return _change_grey_levels(images, draws)


def _warp(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Resample once: affine map and elastic displacement together, bilinear, zeros from outside."""
    if draws.affine_N23 is None and draws.elastic_N2GG is None:
        return images
    size = images.shape[-1]
    affine_N23 = torch.eye(2, 3).unsqueeze(0) if draws.affine_N23 is None else draws.affine_N23
    places_N2HW = _affine_places(affine_N23.to(images.device), size)
    if draws.elastic_N2GG is not None:
        basis_SG = _elastic_basis(size).to(images.device)
        places_N2HW = places_N2HW + basis_SG @ draws.elastic_N2GG.to(images.device) @ basis_SG.T
    places_NHW2 = places_N2HW.permute(0, 2, 3, 1)
    warped = functional.grid_sample(images, places_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped.clamp_(0, 1)  # the four weights of a pixel sum to 1 up to rounding


def _affine_places(affine_N23: torch.Tensor, size: int) -> torch.Tensor:
    """Give what `functional.affine_grid` gives, coordinates first; a sum of row and column costs a tenth of it."""
    centres_S = (2 * torch.arange(size, device=affine_N23.device) + 1) / size - 1
    columns_N2W = affine_N23[:, :, 0, None] * centres_S + affine_N23[:, :, 2, None]
    rows_N2H = affine_N23[:, :, 1, None] * centres_S
    return columns_N2W.unsqueeze(2) + rows_N2H.unsqueeze(3)


def _elastic_basis(size: int) -> torch.Tensor:
    """Give the matrix (size, knots) of cubic interpolation between knots; two products replace a 2-D upsampling."""
    knots = torch.eye(ELASTIC_KNOTS)[None, None]
    return functional.interpolate(knots, (size, ELASTIC_KNOTS), mode="bicubic", align_corners=True)[0, 0]


def _blur(images: torch.Tensor, kernels_NT: torch.Tensor) -> torch.Tensor:
    """Convolve each image with its own kernel along rows and columns; the borders are mirrored."""
    batch, channels, _, _ = images.shape
    radius = kernels_NT.shape[1] // 2
    kernels = kernels_NT.to(images.device).repeat_interleave(channels, dim=0)[:, None, None, :]
    padded = functional.pad(images, (radius,) * 4, mode="reflect").flatten(0, 1).unsqueeze(0)
    along_rows = functional.conv2d(padded, kernels, groups=batch * channels)
    blurred = functional.conv2d(along_rows, kernels.transpose(2, 3), groups=batch * channels)
    return blurred.view_as(images).clamp_(0, 1)  # the weights of a kernel sum to 1 up to rounding


def _change_grey_levels(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Change brightness, contrast and gamma and add noise, in place, within [0, 1] after each."""

    def per_image(values_N: torch.Tensor) -> torch.Tensor:
        return values_N.to(images.device).view(-1, 1, 1, 1)

    if draws.brightness_N is not None:
        images.mul_(per_image(draws.brightness_N)).clamp_(0, 1)
    if draws.contrast_N is not None:
        mean_N111 = images.mean(dim=(1, 2, 3), keepdim=True)
        images.sub_(mean_N111).mul_(per_image(draws.contrast_N)).add_(mean_N111).clamp_(0, 1)
    if draws.gamma_N is not None:
        images.pow_(per_image(draws.gamma_N))
    if draws.noise_N1HW is not None:
        images.add_(draws.noise_N1HW.to(images.device)).clamp_(0, 1)
    return images
