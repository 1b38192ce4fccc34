"""Properties of the preprocessing that hold for every image and every contract."""

import dataclasses
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.preprocessing import Contract, prepare

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
IMAGES = st.builds(
    lambda shape, seed: np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.float32),
    shape=SHAPES,
    seed=st.integers(0, 2**32 - 1),
)
WINDOWS = st.tuples(st.floats(-500, 500), st.floats(0, 4000))
CONTRACTS = st.builds(
    Contract,
    size=st.integers(1, 33),
    window=st.sampled_from(["dicom", "percentile"]) | WINDOWS,
    spacing_mm=st.sampled_from([0.0, 0.4, 2.5]),
    fit=st.sampled_from(["pad", "crop"]),
    depth=st.sampled_from(["uint8", "uint16"]),
    channels=st.sampled_from([1, 3]),
)
CASES = {
    "image": IMAGES,
    "contract": CONTRACTS,
    "spacing_mm": st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)),
    "window": st.none() | WINDOWS,
}


def as_float(image: NDArray[Any]) -> NDArray[np.float64]:
    """Give levels as a share of full scale."""
    return image / np.iinfo(image.dtype).max


@settings(max_examples=150)
@given(**CASES)
def test_every_image_fits_its_contract(
    image: NDArray[np.float32], contract: Contract, spacing_mm: Any, window: Any
) -> None:
    """Shape and type are the contract's, the input is untouched, and a second run gives the same bits."""
    before = image.copy()
    found = prepare(image, spacing_mm=spacing_mm, window=window, contract=contract)
    assert (found.shape, found.dtype) == (contract.shape, contract.dtype)
    np.testing.assert_array_equal(image, before)
    again = prepare(np.asfortranarray(image), spacing_mm=spacing_mm, window=window, contract=contract)
    np.testing.assert_array_equal(again, found)


@settings(max_examples=150)
@given(**CASES)
def test_a_turned_image_is_the_turned_result(
    image: NDArray[np.float32], contract: Contract, spacing_mm: Any, window: Any
) -> None:
    """Flips and the transpose commute with preparing, so no axis is treated better than the other."""
    found = as_float(prepare(image, spacing_mm=spacing_mm, window=window, contract=contract))
    mirrored = prepare(image[:, ::-1], spacing_mm=spacing_mm, window=window, contract=contract)
    turned = prepare(image.transpose(1, 0, 2), spacing_mm=spacing_mm[::-1], window=window, contract=contract)
    assert_same_picture(as_float(mirrored)[:, :, ::-1], found)
    assert_same_picture(as_float(turned).transpose(0, 2, 1), found)


def assert_same_picture(one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    """Compare but for the rounding of sums in another order, which a narrow window may stretch at an edge."""
    assert (np.abs(one - other) > 1 / 200).mean() <= 0.02


@settings(max_examples=100)
@given(
    image=IMAGES,
    contract=CONTRACTS,
    slope=st.sampled_from([0.25, 2.0, 8.0]),
    offset=st.integers(-1000, 1000),
)
def test_the_percentile_window_ignores_units(
    image: NDArray[np.float32], contract: Contract, slope: float, offset: int
) -> None:
    """The same picture in other units gives the same result."""
    asked = dataclasses.replace(contract, window="percentile", spacing_mm=0.0)
    found = prepare(image, spacing_mm=None, window=None, contract=asked)
    rescaled = prepare(slope * image + np.float32(offset), spacing_mm=None, window=None, contract=asked)
    assert_same_picture(as_float(rescaled), as_float(found))


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.integers(2, 40),
    spacing_mm=st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)),
    to_mm=st.sampled_from([0.0, 0.7]),
    fit=st.sampled_from(["pad", "crop"]),
)
def test_the_image_is_centred_and_covers_what_it_should(
    shape: tuple[int, int], size: int, spacing_mm: tuple[float, float], to_mm: float, fit: Any
) -> None:
    """A white image is a white box around the centre, as large as its extent, within one pixel."""
    contract = Contract(size=size, window=(0.0, 1.0), spacing_mm=to_mm, fit=fit, depth="uint8", channels=1)
    box = prepare(np.ones((*shape, 1), np.float32), spacing_mm=spacing_mm, window=None, contract=contract)[0]
    np.testing.assert_array_equal(box, box[::-1, ::-1])
    longest = max(shape) if fit == "pad" else min(shape)
    for axis, length in enumerate(shape):
        extent = length * spacing_mm[axis] / to_mm if to_mm else length * size / longest
        covered = int(box.max(axis=1 - axis).astype(bool).sum())
        assert abs(covered - min(max(extent, 1), size)) <= 1
    assert set(np.unique(box)) <= {0, 255}
