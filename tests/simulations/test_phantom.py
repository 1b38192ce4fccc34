"""The phantom chest film: anatomy with a left and a right, findings that add density where they lie."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.phantom import KINDS, Pose, draw_anatomy, draw_film, draw_finding, draw_pose

STRAIGHT = Pose(y=0.0, x=0.0, tilt=0.0, magnification=1.0)


def anatomy_of(seed):
    """Draw one patient."""
    return draw_anatomy(np.random.default_rng(seed))


def film_of(anatomy, blobs=(), pose=STRAIGHT, rows=96, columns=80):
    """Draw a small film."""
    return draw_film(anatomy, blobs, pose, rows=rows, columns=columns)


@pytest.mark.parametrize("shape", [(96, 80), (61, 97), (33, 32)])
def test_a_film_is_relative_density_of_the_asked_shape(shape):
    """Values lie in [0, 1] as float32, the shape may be odd, and most of the range is used."""
    film = film_of(anatomy_of(1), rows=shape[0], columns=shape[1])
    assert film.shape == shape
    assert film.dtype == np.float32
    assert film.min() >= 0
    assert 0.7 < film.max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_the_heart_points_to_the_viewers_right(seed):
    """Left and right can be told apart in every patient: beside the lower spine it is denser on the viewer's right."""
    film = film_of(replace(anatomy_of(seed), vessels=0.0))
    left, right = film[52:66, 20:34], film[52:66, 46:60]
    assert right.mean() > left.mean() + 0.05
    assert film[74:86, 46:64].min() < film[74:86, 16:34].min() - 0.05  # the stomach's bubble


def test_what_was_decided_gives_the_same_pixels():
    """A film depends on its arguments alone."""
    anatomy = anatomy_of(3)
    blobs = draw_finding(np.random.default_rng(4), number=0, anatomy=anatomy)
    np.testing.assert_array_equal(film_of(anatomy, blobs), film_of(anatomy, blobs))


def test_patients_and_poses_differ():
    """Another patient, and the same patient at another exposure, give another film."""
    pose = draw_pose(np.random.default_rng(0))
    films = [film_of(anatomy_of(1)), film_of(anatomy_of(2)), film_of(anatomy_of(1), pose=pose)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(films[first] - films[second]).max() > 0.1


@pytest.mark.parametrize("number", range(2 * len(KINDS)))
def test_a_finding_adds_density_inside_the_chest(number):
    """A finding is nowhere darker than without it, plainly there, and leaves most of the film alone."""
    anatomy = anatomy_of(number)
    blobs = draw_finding(np.random.default_rng(number), number=number, anatomy=anatomy)
    added = film_of(anatomy, blobs) - film_of(anatomy)
    assert added.min() > -1e-6
    assert added.max() > 0.05
    assert np.mean(added > 0.02) < 0.6


def test_findings_look_different():
    """Each number has a look of its own: the extent and height of what it adds differ from every other's."""

    def look(number):
        anatomy, rng = replace(anatomy_of(0), vessels=0.0), np.random.default_rng(9)
        blobs = [draw_finding(rng, number=number, anatomy=anatomy) for _ in range(30)]
        added = [film_of(anatomy, one) - film_of(anatomy) for one in blobs]
        return np.mean([np.mean(one > 0.03) for one in added]), np.mean([one.max() for one in added])

    looks = np.array([look(number) for number in range(len(KINDS))])
    apart = np.abs(looks[:, None] / looks[None, :] - 1).max(axis=2)
    assert apart[~np.eye(len(KINDS), dtype=bool)].min() > 0.1


def test_a_finding_beyond_the_kinds_is_larger():
    """A study may have more findings than there are kinds: they come again, half as large again."""
    anatomy = anatomy_of(0)
    first, again = (
        draw_finding(np.random.default_rng(1), number=number, anatomy=anatomy) for number in (0, len(KINDS))
    )
    assert again[0].radius == pytest.approx(1.5 * first[0].radius)


def test_haze_lies_in_both_lungs():
    """A finding of two pieces has one on each side."""
    for seed in range(5):
        blobs = draw_finding(np.random.default_rng(seed), number=5, anatomy=anatomy_of(seed))
        assert sorted(np.sign([blob.x for blob in blobs])) == [-1, 1]
