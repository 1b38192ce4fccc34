"""The preprocessing contract against a slow reference, torch's own resampling, and its stated edges."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.errors import DataError
from shared.preprocessing import Contract, MissingSpacingError, golden_phantom, normalise, prepare


def contract(**changes: Any) -> Contract:
    """Give a small contract in which only the named fields differ."""
    fields = {"size": 16, "window": (500.0, 1000.0), "spacing_mm": 0, "fit": "pad", "depth": "uint8", "channels": 1}
    return Contract(**(fields | changes))


def prepared(image: NDArray[Any], *, image_mm: Any = None, image_window: Any = None, **changes: Any) -> NDArray[Any]:
    """Prepare an image (H, W) or (H, W, C) under a contract with these changes."""
    pixels_HWC = np.atleast_3d(image).astype(np.float32)
    return prepare(pixels_HWC, spacing_mm=image_mm, window=image_window, contract=contract(**changes))


def triangle(position: float, length: int, scale: float) -> list[float]:
    """Give the weight of each of `length` pixels in a sample at `position`, in pixels from the edge."""
    radius = max(1.0, 1 / scale)
    nearest = min(max(position, 0.5), length - 0.5)
    weights = [max(0.0, 1 - abs(pixel + 0.5 - nearest) / radius) for pixel in range(length)]
    return [weight / sum(weights) for weight in weights]


def resampled(image: NDArray[Any], *, size: int, scale_y: float, scale_x: float) -> list[list[float]]:
    """Resample around the centre, one pixel at a time; NaN where the canvas lies beside the image."""
    height, width = image.shape
    canvas = []
    for row in range(size):
        line = []
        for column in range(size):
            y = (row + 0.5 - size / 2) / scale_y + height / 2
            x = (column + 0.5 - size / 2) / scale_x + width / 2
            if not (0 <= y <= height and 0 <= x <= width):
                line.append(math.nan)
                continue
            down, across = triangle(y, height, scale_y), triangle(x, width, scale_x)
            line.append(sum(down[i] * across[j] * float(image[i, j]) for i in range(height) for j in range(width)))
        canvas.append(line)
    return canvas


@pytest.mark.parametrize(
    ("shape", "spacing", "changes", "scales"),
    [
        ((20, 12), None, {"fit": "pad"}, (0.5, 0.5)),
        ((20, 12), None, {"fit": "crop"}, (10 / 12, 10 / 12)),
        ((7, 4), None, {"fit": "pad"}, (10 / 7, 10 / 7)),
        ((7, 4), None, {"fit": "crop"}, (2.5, 2.5)),
        ((30, 9), (0.5, 0.8), {"spacing_mm": 1.25}, (0.4, 0.64)),
        ((6, 5), (1.5, 1.0), {"spacing_mm": 1.0, "fit": "crop"}, (1.5, 1.0)),
    ],
)
def test_each_pixel_is_the_triangle_average_of_its_place(
    shape: tuple[int, int], spacing: Any, changes: dict[str, Any], scales: tuple[float, float]
) -> None:
    """Pad, crop and spacing agree with a pixel-by-pixel reference, and the rest is background."""
    image = np.random.default_rng(0).uniform(100, 1000, shape)
    found = prepared(image, image_mm=spacing, size=10, depth="uint16", **changes)[0]
    reference = np.array(resampled(image, size=10, scale_y=scales[0], scale_x=scales[1]))
    beside = np.isnan(reference)
    assert (found[beside] == 0).all()
    expected = (reference[~beside] / 1000).clip(0, 1) * 65535
    np.testing.assert_allclose(found[~beside], expected, atol=1.0)


@pytest.mark.parametrize("side", [9, 40, 101, 224, 500])
def test_a_square_image_is_resampled_as_torch_does(side: int) -> None:
    """Antialiased bilinear interpolation of torch, an independent implementation, gives the same picture."""
    image = np.random.default_rng(1).uniform(0, 1000, (side, side)).astype(np.float32)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], size=(64, 64), mode="bilinear", antialias=True
    )
    found = prepared(image, size=64, depth="uint16")[0]
    np.testing.assert_allclose(found, reference[0, 0].numpy() / 1000 * 65535, atol=1.0)


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (1, 500), (500, 1), (2, 7), (1, 20_000)])
def test_a_tiny_or_thin_image_is_visible(shape: tuple[int, int], fit: str) -> None:
    """However few rows or columns an image has, some of it is in the result."""
    assert prepared(np.full(shape, 1000.0), fit=fit).max() == 255


@pytest.mark.parametrize("window", ["percentile", "dicom"])
@pytest.mark.parametrize("value", [0.0, -1024.0, 1000.1, 3e9])
@pytest.mark.parametrize("shape", [(5, 5), (300, 200)])
def test_a_constant_image_becomes_zeros(window: str, value: float, shape: tuple[int, int]) -> None:
    """Rounding of the resampling is not stretched into a picture."""
    assert not prepared(np.full(shape, value), size=32, window=window).any()


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_a_window_maps_its_ends_to_black_and_white(depth: str) -> None:
    """Half a width below the centre is 0, half above is full scale, the centre lies between, beyond is clipped."""
    image = np.array([[-900.0, -160.0], [40.0, 240.0]])
    full = np.iinfo(depth).max
    found = prepared(image, size=2, window=(40.0, 400.0), depth=depth)[0]
    assert found.ravel().tolist() == [0, 0, round(full / 2), full]


def test_the_window_of_the_file_is_used_where_the_study_says_so() -> None:
    """The file's window comes first under "dicom", then the percentiles; a fixed window ignores the file's."""
    image = np.linspace(0, 1000, 256).reshape(16, 16)
    by_file = prepared(image, image_window=(2000, 4000), window="dicom")
    assert by_file.max() == round(1000 / 4000 * 255)
    by_percentile = prepared(image, window="percentile")
    assert (prepared(image, window="dicom") == by_percentile).all()
    assert (prepared(image, image_window=(1, 1), window="percentile") == by_percentile).all()
    assert (prepared(image, image_window=(1, 1)) == prepared(image)).all()


def test_a_window_of_no_width_is_a_step() -> None:
    """A LINEAR window of width 1 shows two values (C.11.2.1.2.1)."""
    found = prepared(np.array([[10.0, 30.0], [10.0, 30.0]]), image_window=(20.0, 0.0), window="dicom")
    assert np.unique(found[0, :, [0, 15]]).tolist() == [0, 255]


def test_the_percentile_window_ignores_a_few_bright_letters() -> None:
    """A burned-in marker of less than half a percent of the image does not dim the rest."""
    image = np.random.default_rng(2).uniform(0, 1000, (100, 100))
    marked = image.copy()
    marked[:4, :5] = 60_000
    plain, dimmed = prepared(image, size=100, window="percentile"), prepared(marked, size=100, window="percentile")
    assert np.abs(plain.astype(int) - dimmed)[0, 4:].max() <= 1


def test_specks_on_one_value_are_seen() -> None:
    """Where the percentiles coincide, the range of the image is its window."""
    image = np.zeros((64, 64))
    image[30, 40], image[10, 10] = 10, 4
    found = prepared(image, size=64, window="percentile")[0]
    assert (found[30, 40], found[10, 10], np.count_nonzero(found)) == (255, 102, 2)


def test_colour_stays_or_becomes_luminance() -> None:
    """Three channels keep red, green and blue; one is 0.299 R + 0.587 G + 0.114 B; grey fills three alike."""
    colours = np.zeros((1, 3, 3))
    colours[0, 0, 0] = colours[0, 1, 1] = colours[0, 2, 2] = 1000
    wide = np.repeat(colours, 3, axis=0)
    assert prepared(wide, size=3, channels=3)[:, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert prepared(wide, size=3, channels=1)[0, 0].tolist() == [76, 150, 29]
    grey = prepared(np.arange(9.0).reshape(3, 3) * 100, size=3, channels=3)
    assert (grey == grey[:1]).all()


def test_a_missing_spacing_is_an_error_of_the_data() -> None:
    """An image without spacing isn't taken for one of the study's spacing."""
    with pytest.raises(MissingSpacingError, match=r"no pixel spacing.*0\.5 mm") as fault:
        prepared(np.ones((4, 4)), spacing_mm=0.5)
    assert isinstance(fault.value, DataError)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 17},
        {"window": "dicom"},
        {"window": (500.0, 1001.0)},
        {"spacing_mm": 0.1},
        {"fit": "crop"},
        {"depth": "uint16"},
        {"channels": 3},
    ],
)
def test_each_field_is_in_the_digest(changes: dict[str, Any]) -> None:
    """Another contract has another digest."""
    assert contract(**changes).digest() != contract().digest()


def test_the_algorithm_is_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of the arithmetic has another digest."""
    before = contract().digest()
    monkeypatch.setattr("shared.preprocessing.ALGORITHM_VERSION", 999)
    assert contract().digest() != before


def test_equal_contracts_have_equal_digests_in_every_process() -> None:
    """1 and 1.0 are the same number, and no hash seed takes part."""
    assert contract(spacing_mm=1).digest() == contract(spacing_mm=1.0).digest()
    assert contract(window=(40, 400)).digest() == contract(window=(40.0, 400.0)).digest()
    program = f"from shared.preprocessing import Contract; print({contract()!r}.digest())"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == contract().digest()


def test_a_contract_says_what_it_makes() -> None:
    """Shape and type of the result are known before there is one; a contract cannot be changed."""
    asked = contract(channels=3, depth="uint16")
    found = prepared(np.ones((4, 5)), channels=3, depth="uint16")
    assert (found.shape, found.dtype) == (asked.shape, asked.dtype) == ((3, 16, 16), np.uint16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        asked.size = 8  # type: ignore[misc]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [torch.uint8, torch.uint16])
def test_normalising_takes_the_mean_and_divides_by_the_deviation(channels: int, depth: torch.dtype) -> None:
    """Each value agrees with the formula of torchvision's ImageNet transforms; one channel serves three."""
    white = torch.iinfo(depth).max
    images = torch.from_numpy(np.random.default_rng(3).integers(0, white + 1, (2, channels, 4, 5))).to(depth)
    found = normalise(images, dtype=torch.float32)
    for colour, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (images[:, min(colour, channels - 1)].double() / white - mean) / deviation
        torch.testing.assert_close(found[:, colour].double(), expected, atol=1e-6, rtol=1e-6)


def test_normalising_augmented_images_takes_one_as_full_scale() -> None:
    """Floats in [0, 1] give what their bytes give."""
    images = torch.arange(0, 240, dtype=torch.uint8).view(1, 3, 8, 10)
    torch.testing.assert_close(
        normalise(images / 255, dtype=torch.float32), normalise(images, dtype=torch.float32), atol=1e-6, rtol=1e-6
    )


def test_normalising_rounds_once() -> None:
    """A narrow type is the rounding of the float32 result; no image gives no image."""
    images = torch.arange(0, 192, dtype=torch.uint8).view(1, 3, 8, 8)
    wide = normalise(images, dtype=torch.float32)
    assert torch.equal(normalise(images, dtype=torch.bfloat16), wide.to(torch.bfloat16))
    assert normalise(images[:0], dtype=torch.float32).shape == (0, 3, 8, 8)


def test_the_thread_count_changes_no_bit() -> None:
    """Preparing and normalising give the same bits with one thread and with several."""
    image = np.random.default_rng(4).normal(size=(301, 257)) * 500
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found = prepared(image, size=61, depth="uint16", channels=3)
            results.append(normalise(torch.from_numpy(found)[None], dtype=torch.float32).numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_the_phantom_is_unlike_its_flips_and_turns() -> None:
    """None of the seven other orientations of the phantom is the phantom, nor near it."""
    square = prepared(golden_phantom(), size=24, fit="pad")[0].astype(int)
    turns = [np.rot90(square, k) for k in range(4)]
    others = [*turns[1:], *(np.flip(turn, axis=1) for turn in turns)]
    assert len(others) == 7
    assert min(np.abs(other - square).mean() for other in others) > 10
