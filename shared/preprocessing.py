"""The preprocessing contract: physical image to model tensor, its digest and its golden phantoms.

Shapes: N images, C channels, H rows, W columns. An image keeps its stored orientation: row 0 stays row 0, column 0
stays column 0.

`prepare` gives the same bits whatever the thread count, and on every machine: it is made of elementwise IEEE
arithmetic and sums in a fixed order, with no matrix product and no fused multiply-add. That is what makes one
digest mean one preprocessing at every hospital.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from shared.errors import DataError
from shared.grey_levels import LookUp, OwnWindow, Sigmoid
from shared.landmarks import Standard, harmonise
from shared.protocol import StudyProtocol

ALGORITHM_VERSION = 1
"""Part of every digest: raise it with any change that can move one bit of a prepared image."""

OWN_WINDOW_VERSION = 1
"""Added to it where the window is the file's own: since 1, SIGMOID and VOI LUTs are read as they are."""

PERCENTILES = (0.5, 99.5)
"""The percentile window: the limits that nnU-Net clips at (Isensee et al., Nature Methods 2021).

Half a percent is 251 of 224 x 224 pixels: more than a burned-in letter or a metal clip, less than any organ.
"""

FLAT = 1e-5
"""Contrast, as a share of the values, below which an image is constant: the rounding of the resampling is less."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weight of red, green and blue in grey (ITU-R BT.601-7, section 2.5.1)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation, in RGB, that torchvision's ImageNet weights were trained with."""


class MissingSpacingError(DataError):
    """The contract asks for a pixel spacing in mm, and the image does not say its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """All that decides how a physical image becomes what the model sees.

    `window` is "dicom" (the file's own, else "percentile"), "percentile", or (centre, width) in physical units,
    read as LINEAR_EXACT (PS3.3 C.11.2.1.3.2): centre - width / 2 becomes black, centre + width / 2 white.
    `standard` is what the landmarks of every image are moved to (shared/landmarks.py); empty: they stay where they are.
    `spacing_mm` is 0 for "as acquired". `channels` 1 turns colour into luminance, 3 repeats grey.
    """

    size: int
    window: Literal["dicom", "percentile"] | tuple[float, float]
    spacing_mm: float
    fit: Literal["pad", "crop"]
    depth: Literal["uint8", "uint16"]
    channels: Literal[1, 3]
    standard: Standard = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a prepared image."""
        return np.dtype(self.depth)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape CHW of a prepared image."""
        return (self.channels, self.size, self.size)

    def canonical(self) -> str:
        """Write the fields and the algorithm's version as JSON, sorted; without a standard, as before there was one."""
        fields = dataclasses.asdict(self) | {"spacing_mm": float(self.spacing_mm)}
        if not self.standard:
            del fields["standard"]
        if not isinstance(self.window, str):
            fields["window"] = [float(limit) for limit in self.window]
        version = ALGORITHM_VERSION + (OWN_WINDOW_VERSION if self.window == "dicom" else 0)
        return json.dumps(fields | {"algorithm": version}, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """Give the SHA-256 of the canonical form; equal digests mean equal bits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def contract_of(study: StudyProtocol, *, standard: Standard) -> Contract:
    """Give the study's preprocessing contract; `standard` is what its sites' images were averaged to, if asked for."""
    images = study.images
    return Contract(
        size=images.size,
        window=images.window,
        spacing_mm=images.spacing_mm,
        fit=images.fit,
        depth=images.depth,
        channels=images.channels,
        standard=standard,
    )


def prepare(
    pixels_HWC: NDArray[np.float32],
    *,
    spacing_mm: tuple[float, float] | None,
    window: OwnWindow | None,
    contract: Contract,
) -> NDArray[Any]:
    """Resample, place, window and quantise one finite physical image to `contract.shape` and `contract.dtype`.

    The centre of the image is mapped to the centre of the result. With `fit` "pad" the longest side fills the
    result and the rest is background (0 after the window); with "crop" the shortest side does and what reaches
    beyond is cut. With a `spacing_mm` in the contract, the image is resampled to it in the same step and is then
    padded or cut, never scaled again. Downscaling is antialiased with a triangle filter, upscaling is bilinear.
    The window comes after, on the image without its background. A constant image becomes zeros under
    "percentile". Last, where the contract has a standard, landmarks are moved to it.

    Args:
        pixels_HWC: any height and width from 1; C is 1 or 3.
        spacing_mm: distance between (rows, columns), or None where the file does not say.
        window: the file's own, or None where it has none; (centre, width) is LINEAR_EXACT.
        contract: what to make of it.

    Raises:
        MissingSpacingError: the contract asks for a spacing and the image has none.
    """
    height, width, _ = pixels_HWC.shape
    scale_y, scale_x = _scales(height, width, spacing_mm=spacing_mm, contract=contract)
    rows, row_taps = _taps(height, scale=scale_y, size=contract.size)
    columns, column_taps = _taps(width, scale=scale_x, size=contract.size)
    resampled_WHC = _resample(_resample(pixels_HWC, row_taps).transpose(1, 0, 2), column_taps)
    image_CHW = _with_channels(resampled_WHC, contract.channels).transpose(2, 1, 0)
    prepared = np.zeros(contract.shape, dtype=contract.dtype)
    prepared[:, rows, columns] = _quantise(image_CHW, window=window, contract=contract)
    return harmonise(prepared[np.newaxis], contract.standard)[0] if contract.standard else prepared


def normalise(images_NCHW: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Turn images (N, 1 or 3, H, W) into what the backbone was pretrained on, (N, 3, H, W) of `dtype`.

    Images are as prepared, with 255 (uint8) or 65535 (uint16) for full scale, or augmented, in [0, 1]. Full scale
    becomes 1; then ImageNet's mean is taken away and the result is divided by its standard deviation. Computed in
    float32 whatever `dtype` is, on the images' device. The same bits for any thread count.
    """
    if images_NCHW.device.type == "cpu":
        return normalise_each(images_NCHW.unbind(), size=images_NCHW.shape[2:]).to(dtype)
    # On a GPU one launch takes all.
    batch, _, height, width = images_NCHW.shape
    normalised = torch.empty((batch, 3, height, width), dtype=torch.float32, device=images_NCHW.device)
    return _normalise_into(normalised, images_NCHW).to(dtype)


def normalise_each(images: Sequence[torch.Tensor], *, size: Sequence[int]) -> torch.Tensor:
    """Do the same in float32 with images (1 or 3, H, W) in a CPU's memory, wherever each lies; `size` is (H, W).

    One image at a time stays in the cache, which halves the time.
    """
    normalised = torch.empty((len(images), 3, *size), dtype=torch.float32)
    for image, target in zip(images, normalised, strict=True):
        _normalise_into(target, image)
    return normalised


def _normalise_into(target: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    white = 1 if images.is_floating_point() else torch.iinfo(images.dtype).max
    gain, offset = normalisation(white, device=images.device)
    return target.copy_(images).mul_(gain).add_(offset)


@cache
def normalisation(white: int, *, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Give gain and offset (3, 1, 1): a value times the gain, plus the offset, is what `normalise` makes of it.

    Made once, because that takes about as long as normalising an image. Nobody may write to them.
    """
    deviation = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)
    return 1 / (white * deviation), -torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1) / deviation


def golden_phantom() -> NDArray[np.float32]:
    """Draw the image that proves orientation: (40, 28, 1), values 0 to 1000, unlike each of its flips and turns.

    A ramp grows to the right and, three times as steep, downwards; a bright block lies at the top left and a
    dark one at the bottom, left of the middle. `tests/golden` holds what each contract makes of it.
    """
    down, right = np.mgrid[0:40, 0:28]
    phantom = np.asarray(200 + 4 * right + 12 * down, dtype=np.float32)
    phantom[4:14, 3:9] = 1000
    phantom[28:36, 8:12] = 0
    return phantom[..., np.newaxis]


def _scales(
    height: int, width: int, *, spacing_mm: tuple[float, float] | None, contract: Contract
) -> tuple[float, float]:
    """Give how many pixels of the result one (row, column) of the image becomes."""
    if contract.spacing_mm == 0:
        side = max(height, width) if contract.fit == "pad" else min(height, width)
        return (contract.size / side, contract.size / side)
    if spacing_mm is None:
        raise MissingSpacingError(
            f"An image has no pixel spacing, and the study resamples to {contract.spacing_mm:g} mm. "
            "Leave such images out, or set [images] spacing_mm = 0 (as acquired)."
        )
    row_mm, column_mm = spacing_mm
    return (row_mm / contract.spacing_mm, column_mm / contract.spacing_mm)


_Taps = tuple[NDArray[np.intp], NDArray[np.float32]]


def _taps(length: int, *, scale: float, size: int) -> tuple[slice, _Taps]:
    """Give the part of an axis of the result that an image covers, and how each of its pixels is made.

    Pixel i of that part is the sum over t of weights[i, t] * image[starts[i] + t]. A pixel is covered if its
    centre lies in the image; however thin the image is, its middle is covered.
    """
    half = max(length * scale / 2, 0.5)
    first = max(0, int(np.ceil(size / 2 - half - 0.5)))
    covered = slice(first, size - first)
    centres = (np.arange(covered.start, covered.stop) + 0.5 - size / 2) / scale + length / 2
    centres = centres.clip(0.5, length - 0.5)[:, np.newaxis]
    radius = max(1.0, 1 / scale)
    reach = min(length, int(np.ceil(2 * radius)) + 1)
    starts = np.floor(centres - radius).clip(0, length - reach)
    weights = (1 - np.abs(starts + np.arange(reach) + 0.5 - centres) / radius).clip(0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return covered, (starts[:, 0].astype(np.intp), weights.astype(np.float32))


def _resample(image: NDArray[np.float32], taps: _Taps) -> NDArray[np.float32]:
    """Resample the first axis of (length, ..., C)."""
    starts, weights = taps
    image = np.ascontiguousarray(image)
    resampled = np.empty((len(starts), *image.shape[1:]), dtype=np.float32)
    for row, start, weight in zip(resampled, starts, weights[:, :, np.newaxis, np.newaxis], strict=True):
        np.sum(weight * image[start : start + len(weight)], axis=0, out=row)
    return resampled


def _with_channels(image: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Turn (..., 1 or 3) into (..., channels), or leave the one channel that assignment will repeat."""
    if channels == 1 and image.shape[-1] == 3:
        grey: NDArray[np.float32] = np.sum(image * np.array(LUMINANCE, np.float32), axis=-1, keepdims=True)
        return grey
    return image


def _quantise(image: NDArray[np.float32], *, window: OwnWindow | None, contract: Contract) -> NDArray[np.float64]:
    """Map the window to whole numbers from 0 to the largest of the contract's type."""
    levels = float(np.iinfo(contract.dtype).max)
    chosen = window if contract.window == "dicom" else None if contract.window == "percentile" else contract.window
    if isinstance(chosen, Sigmoid | LookUp):
        return np.rint(chosen(image) * levels)
    black, white = _limits(image, chosen)
    if white <= black:
        return np.where(image > black, levels, 0.0)
    unit = (image.astype(np.float64).clip(black, white) - black) / (white - black)
    return np.rint(unit * levels)


def _limits(image: NDArray[np.float32], window: tuple[float, float] | None) -> tuple[float, float]:
    """Give the values that become black and white."""
    if window is None:
        return _percentile_limits(image)
    centre, width = window
    return centre - width / 2, centre + width / 2


def _percentile_limits(image: NDArray[np.float32]) -> tuple[float, float]:
    # Where all but a few specks are one value, the specks are the image.
    for percentiles in (PERCENTILES, (0, 100)):
        low, high = (float(limit) for limit in np.percentile(image, percentiles))
        if high - low > FLAT * max(abs(low), abs(high)):
            return low, high
    return high, high
