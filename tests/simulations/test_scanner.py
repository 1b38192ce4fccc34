"""The scanner: how one vendor turns density into stored values."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.dicom_writer import Encoding
from simulations.scanner import Scanner, contrast_curve, expose

PLAIN = Scanner(
    manufacturer="SYNTHETIC",
    model_name="PHANTOM",
    rows=64,
    columns=48,
    spacing_mm=1.0,
    encoding=Encoding.EXPLICIT,
    noise=0.0,
    blur_px=0.0,
)
RAMP = np.tile(np.linspace(0, 1, 48, dtype=np.float32), (64, 1))


def shoot(film, scanner, *, marked=False):
    """Expose with the same noise each time."""
    return expose(film, scanner, marked=marked, rng=np.random.default_rng(0))


@given(gamma=st.floats(0.3, 3), steepness=st.just(0.0) | st.floats(0.1, 12))
def test_a_contrast_curve_rises_from_black_to_white(gamma, steepness):
    """Whatever its parameters, a curve keeps 0 and 1 and never swaps two densities."""
    curved = contrast_curve(RAMP[0], gamma=gamma, steepness=steepness)
    assert curved[0] == pytest.approx(0, abs=1e-5)
    assert curved[-1] == pytest.approx(1, abs=1e-5)
    assert np.diff(curved).min() >= -1e-6


def test_a_steep_curve_takes_contrast_from_dark_tones():
    """The planted shift: between two dark densities less is left than was there."""
    dark = np.array([0.15, 0.25], np.float32)
    assert np.diff(contrast_curve(dark, gamma=1.3, steepness=4.0))[0] < 0.5 * np.diff(dark)[0]


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_density_becomes_the_full_range_of_the_bits(bits):
    """0 is stored as 0 and 1 as the largest value, in the smallest type that holds it."""
    stored = shoot(RAMP, replace(PLAIN, bits_stored=bits))
    assert stored.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert (stored.min(), stored.max()) == (0, 2**bits - 1)


def test_monochrome1_is_the_exact_negative():
    """The same exposure in the other sense: both stored values add up to the largest one, marker and noise included."""
    scanner = replace(PLAIN, noise=0.05, blur_px=1.0)
    positive = shoot(RAMP, scanner, marked=True)
    negative = shoot(RAMP, replace(scanner, monochrome1=True), marked=True)
    assert (positive + negative == 2**12 - 1).all()
    assert (scanner.photometric, replace(scanner, monochrome1=True).photometric) == ("MONOCHROME2", "MONOCHROME1")


def test_the_marker_is_printed_white_in_the_upper_left_corner():
    """A marker changes its corner and nothing else, and is no mirror image of itself."""
    film = np.full((64, 48), 0.3, np.float32)
    changed = shoot(film, PLAIN, marked=True) != shoot(film, PLAIN)
    rows, columns = np.nonzero(changed)
    assert (shoot(film, PLAIN, marked=True)[changed] == 2**12 - 1).all()
    assert rows.max() < 16
    assert columns.max() < 12
    glyph = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (glyph != glyph[:, ::-1]).any()


def test_a_marker_that_does_not_fit_is_cut_off():
    """A tiny film is still a film."""
    assert shoot(np.zeros((7, 5), np.float32), PLAIN, marked=True).shape == (7, 5)


def test_blur_spreads_a_point_and_keeps_its_sum():
    """Blur is a weighted mean: a plain film stays plain, and a point keeps its mass while its height falls."""
    sharp, blurred = replace(PLAIN, bits_stored=16), replace(PLAIN, bits_stored=16, blur_px=1.5)
    plain = np.full((31, 31), 0.5, np.float32)
    np.testing.assert_array_equal(shoot(plain, blurred), shoot(plain, sharp))
    point = np.zeros((31, 31), np.float32)
    point[15, 12] = 1
    spread = shoot(point, blurred)
    assert spread.max() < 0.1 * shoot(point, sharp).max()
    assert spread.sum() == pytest.approx(65535, rel=0.01)
    np.testing.assert_array_equal(np.argwhere(spread == spread.max()), [[15, 12]])
    np.testing.assert_array_equal(spread[:, 12], spread[::-1, 12])


def test_noise_has_the_stated_strength():
    """The standard deviation is `noise` of the full scale."""
    stored = shoot(np.full((200, 200), 0.5, np.float32), replace(PLAIN, noise=0.05, bits_stored=16))
    assert stored.std() / 65535 == pytest.approx(0.05, rel=0.05)
