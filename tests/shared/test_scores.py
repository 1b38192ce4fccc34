"""Image scores become unit scores, and unit scores become bins."""

import numpy as np
import pytest
from scipy.special import expit

from shared.errors import DataError
from shared.scores import Aggregate, ScoredUnits, Unit, lower_edges, score_bins, unit_scores

NAN = float("nan")
EXAMS = np.array([7, 7, 3, 9, 9, 9])
PATIENTS = np.array([1, 1, 1, 2, 2, 2])
SCORES = [0.2, 0.6, 0.9, 0.1, 0.3, 0.8]


def units_of(unit: Unit, aggregate: Aggregate, labels: list[float]) -> ScoredUnits:
    return unit_scores(
        np.array(SCORES, dtype=np.float64),
        np.array(labels),
        exams_N=EXAMS,
        patients_N=PATIENTS,
        unit=unit,
        aggregate=aggregate,
    )


def test_exams_take_their_highest_score() -> None:
    """An exam has the highest of its images' scores, its patient, and is positive if any image is."""
    units = units_of("exam", "max", [0, 1, 0, 0, 0, 0])
    assert units.scores_M.tolist() == [0.9, 0.6, 0.8]
    assert units.positive_M.tolist() == [False, True, False]
    assert units.patients_M.tolist() == [1, 1, 2]


def test_patients_take_their_mean_score() -> None:
    """A patient's mean is over images, whatever their exams."""
    units = units_of("patient", "mean", [0, 1, 0, 0, 0, 0])
    assert units.scores_M == pytest.approx([1.7 / 3, 0.4])
    assert units.positive_M.tolist() == [True, False]
    assert units.patients_M.tolist() == [1, 2]


def test_images_stay_as_they_are() -> None:
    """With images as units every assessed image is a unit, in order."""
    units = units_of("image", "max", [0, 1, NAN, 0, NAN, 1])
    assert units.scores_M.tolist() == [0.2, 0.6, 0.1, 0.8]
    assert units.positive_M.tolist() == [False, True, False, True]
    assert units.patients_M.tolist() == [1, 1, 2, 2]


def test_an_image_that_was_not_assessed_lends_no_score() -> None:
    """The score of an exam comes from the images that its label speaks of."""
    units = units_of("exam", "max", [0, NAN, NAN, 1, NAN, NAN])
    assert units.scores_M.tolist() == [0.2, 0.1]
    assert units.positive_M.tolist() == [False, True]


def test_nothing_assessed_gives_no_units() -> None:
    """A finding that nobody assessed has no units and raises nothing."""
    for unit in ("image", "exam", "patient"):
        assert units_of(unit, "max", [NAN] * 6).scores_M.size == 0


@pytest.mark.parametrize("score", [NAN, float("inf"), -0.1, 1.1])
def test_a_score_that_is_no_probability_is_refused(score: float) -> None:
    """A model that diverged is named, with the number of its scores and what to do."""
    with pytest.raises(DataError, match="1 of 6 scores are not numbers in"):
        unit_scores([score, *SCORES[1:]], [0] * 6, exams_N=EXAMS, patients_N=PATIENTS, unit="exam", aggregate="max")


def test_edges_are_equal_steps_of_the_logit() -> None:
    """64 bins step by a quarter from -8 to 8, and the outer bins take the tails."""
    edges = lower_edges(bins=64)
    assert edges[0] == 0.0
    assert edges[1:] == pytest.approx(expit(np.arange(-7.75, 8, 0.25)), abs=1e-12)
    assert score_bins([0.0, expit(-30.0), expit(-7.8), expit(7.8), expit(30.0), 1.0], bins=64).tolist() == [
        0,
        0,
        0,
        63,
        63,
        63,
    ]


def test_edges_do_not_hang_on_the_last_bit_of_exp() -> None:
    """Two machines whose exp() differs by a few bits have the same edges."""
    logits = np.linspace(-8, 8, 65)[:-1]
    for direction in (-np.inf, np.inf):
        power = np.exp(-logits)
        for _ in range(4):
            power = np.nextafter(power, direction)
        assert np.array_equal(np.round(1 / (1 + power), 12)[1:], lower_edges(bins=64)[1:])


def test_edges_cannot_be_changed() -> None:
    """The edges are shared by all callers, and so are read-only."""
    with pytest.raises(ValueError, match="read-only"):
        lower_edges(bins=64)[0] = 1.0


def test_a_score_on_an_edge_is_in_the_bin_above() -> None:
    """The edge itself belongs to the bin whose lower edge it is; the next smaller float does not."""
    edges = lower_edges(bins=64)
    assert score_bins(edges, bins=64).tolist() == list(range(64))
    assert score_bins(np.nextafter(edges[1:], 0), bins=64).tolist() == list(range(63))
