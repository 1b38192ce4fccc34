"""Landmarks are an image's own deciles, the standard their mean over sites, and the map is piecewise linear."""

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.landmarks import TENTHS, CountedLandmarks, Landmarks, checked, harmonise, rises, standard_scale, summarise
from shared.scores import Floats

STANDARD = (0.05, 0.15, 0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)


def films(seed: int, *, gamma: float = 1.0, kind: str = "uint8", count: int = 3) -> npt.NDArray[np.unsignedinteger]:
    """Draw smooth films with a black border, whose grey levels a scanner's curve has bent."""
    down, right = np.mgrid[0:40, 0:40] / 40
    waves = [np.sin(3 * down + seed + place) * np.cos(2 * right + place) for place in range(count)]
    unit = np.stack([(wave - wave.min()) / np.ptp(wave) for wave in waves])[:, np.newaxis] ** gamma
    unit[..., :6] = 0
    white = np.iinfo(kind).max
    return np.rint(unit * white).astype(kind)


def deciles(image: npt.NDArray[np.unsignedinteger]) -> Floats:
    """Give the deciles of the pixels above black by numpy's inverted distribution."""
    above = image[image > 0]
    return np.percentile(above, [10 * tenth for tenth in TENTHS], method="inverted_cdf")


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_landmarks_are_the_mean_deciles_of_what_is_not_black(kind: str) -> None:
    """They are numpy's, image by image, on the scale of the type; an image that is all black does not count."""
    drawn = films(1, kind=kind)
    found = summarise([drawn, np.zeros_like(drawn)])
    expected = np.mean([deciles(image) for image in drawn], axis=0) / np.iinfo(kind).max
    assert found.patients == 3
    assert found.positions == pytest.approx(expected, abs=1e-12)
    assert summarise([np.zeros_like(drawn)]) == CountedLandmarks(patients=0, positions=())
    assert summarise([]) == CountedLandmarks(patients=0, positions=())


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_the_map_is_piecewise_linear_between_landmarks(kind: str) -> None:
    """Each level goes where numpy's interpolation between the image's own landmarks and the standard takes it."""
    drawn, white = films(2, kind=kind), int(np.iinfo(kind).max)
    mapped = harmonise(drawn, STANDARD)
    assert mapped.dtype == drawn.dtype
    for image, moved in zip(drawn, mapped, strict=True):
        own = [0, *deciles(image), white]
        assert len(set(own)) == len(own)
        expected = np.interp(image, own, np.array([0, *STANDARD, 1]) * white)
        assert np.abs(moved - expected).max() <= 0.5 + 1e-6


def test_black_white_and_the_order_of_levels_stay() -> None:
    """Black stays black, white white, and no brighter pixel becomes the darker one; a black image stays as it is."""
    drawn = films(3)
    mapped = harmonise(drawn, STANDARD)
    for image, moved in zip(drawn, mapped, strict=True):
        assert (moved[image == 0] == 0).all()
        assert (moved[image == 255] == 255).all()
        order = np.argsort(image, axis=None)
        assert (np.diff(moved.ravel()[order].astype(int)) >= 0).all()
    assert not harmonise(np.zeros_like(drawn), STANDARD).any()


def test_landmarks_that_coincide_go_to_their_mean() -> None:
    """An image of two levels has landmarks on these alone: each goes to the mean of the standard ones there."""
    image = np.array([[[[0, 100, 100, 100, 100, 200, 200, 200, 200, 200, 200]]]], np.uint8)
    low, high = np.mean(STANDARD[:4]), np.mean(STANDARD[4:])
    assert set(harmonise(image, STANDARD)[image == 100]) == {round(255 * low)}
    assert set(harmonise(image, STANDARD)[image == 200]) == {round(255 * high)}
    saturated = np.full((1, 1, 4, 4), 255, np.uint8)
    np.testing.assert_array_equal(harmonise(saturated, STANDARD), saturated)


def test_a_bent_curve_is_undone() -> None:
    """The same films under another monotone curve become nearly the same images: the curve is what is taken out."""
    one, other = films(4), films(4, gamma=2.2)
    before = np.abs(one.astype(float) - other).mean()
    standard = summarise([one, other]).positions
    after = np.abs(harmonise(one, standard).astype(float) - harmonise(other, standard)).mean()
    assert after < before / 6


def test_channels_share_one_map() -> None:
    """A grey image that is repeated stays grey, and has the landmarks of one channel."""
    grey = films(5)
    repeated = np.repeat(grey, 3, axis=1)
    np.testing.assert_array_equal(harmonise(repeated, STANDARD)[:, 2:], harmonise(grey, STANDARD))
    assert summarise([repeated]) == summarise([grey])


def test_each_site_counts_once() -> None:
    """Of two sites the standard is the mean, whatever their sizes; without any there is none."""
    small, large = (
        CountedLandmarks(patients=patients, positions=tuple(float(Fraction(tenth, 10) ** power) for tenth in TENTHS))
        for patients, power in ((10, 1), (10_000, 2))
    )
    expected = [(a + b) / 2 for a, b in zip(small.positions, large.positions, strict=True)]
    assert standard_scale([small, large]) == pytest.approx(expected)
    assert standard_scale([]) == ()


rising = st.lists(st.floats(0.01, 1.0), min_size=10, max_size=10).map(
    lambda steps: Landmarks(
        positions=tuple((np.cumsum(steps)[:-1] / sum(steps) * (1 - 10 / 255) + np.arange(1, 10) / 255).tolist())
    )
)


@given(one=rising, other=rising, anything=rising)
def test_one_site_of_three_sets_no_scale(one: Landmarks, other: Landmarks, anything: Landmarks) -> None:
    """Whatever it says, each landmark lies between those of the two others, and the scale rises as theirs do."""
    standard = np.array(standard_scale([one, other, anything]))
    low, high = np.sort([one.positions, other.positions], axis=0)
    assert ((low <= standard) & (standard <= high)).all()
    assert rises(tuple(standard.tolist()))
    assert standard_scale([anything, other, one]) == tuple(standard.tolist())


@pytest.mark.parametrize(
    "values",
    [
        (),
        STANDARD[:-1],
        (*STANDARD, 0.95),
        (-0.1, *STANDARD[1:]),
        (*STANDARD[:-1], 1.1),
        STANDARD[::-1],
        (*STANDARD[:-1], float("nan")),
        (0.0,) * 9,
        (1.0,) * 9,
        (0.5,) * 9,
        (*STANDARD[:4], STANDARD[3], *STANDARD[5:]),
        (0.9 / 255, *STANDARD[1:]),
        (*STANDARD[:-1], 1 - 0.9 / 255),
        (*STANDARD[:-1], STANDARD[-2] + 0.9 / 255),
        tuple(map(str, STANDARD)),
        "0.5555555",
        (*STANDARD[:-1], True),
        (False, *STANDARD[1:]),
    ],
)
def test_a_scale_that_does_not_rise_from_black_to_white_is_none(values: tuple[float, ...]) -> None:
    """Too few, too many, out of range, falling, coinciding, on an end, or no numbers: refused at the door."""
    with pytest.raises(ValueError, match="rise"):
        checked(values)


def test_a_scale_may_rise_by_single_levels() -> None:
    """Landmarks one level of an 8-bit image apart are a scale, at either end too, whatever their last bits are."""
    low = tuple(tenth / 255 for tenth in TENTHS)
    for values in (STANDARD, low, tuple(1 - one for one in low[::-1])):
        assert rises(values)
        assert checked(values) == values
