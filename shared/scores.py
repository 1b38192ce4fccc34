"""Image scores to unit scores, and to histogram bins.

Suffixes: N images, M units (images, exams or patients, as the study says). A score is the model's probability of one
finding, in [0, 1]. It is turned into float64 here, once: a float32 score compared with a Python float would be
compared in float32, and a unit on the threshold could change its side between the histogram and the count.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from shared.errors import DataError

Unit = Literal["image", "exam", "patient"]
Aggregate = Literal["max", "mean"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LOGIT_RANGE = 8.0
"""The bins are equal steps of the logit from -8 to 8 (probability .0003 to .9997); the outer bins take the tails."""

_EDGE_DECIMALS = 12
"""Machines differ in the last bit of exp(); rounding gives every site and the coordinator the very same edges."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredUnits:
    """The units of one split that have one finding assessed; row i of every array is unit i.

    Patients are opaque numbers within the site; a patient with several units is one cluster.
    """

    scores_M: Floats
    positive_M: npt.NDArray[np.bool_]
    patients_M: Integers


def unit_scores(
    scores_N: npt.ArrayLike,
    labels_N: npt.ArrayLike,
    *,
    exams_N: Integers,
    patients_N: Integers,
    unit: Unit,
    aggregate: Aggregate,
) -> ScoredUnits:
    """Gather image scores of one finding into the study's units, ordered by exam or patient number.

    Labels are 1, 0 or NaN (not assessed). Images that were not assessed are left out first, so that a unit's label
    and score speak of the same images; a unit is positive if any of its images is. `aggregate` joins the scores.

    Raises:
        DataError: a score is not a number in [0, 1].
    """
    scores, labels = np.asarray(scores_N, dtype=np.float64), np.asarray(labels_N, dtype=np.float64)
    _check(scores)
    assessed = np.flatnonzero(~np.isnan(labels))
    scores, positive, patients = scores[assessed], labels[assessed] == 1, patients_N[assessed]
    if unit == "image":
        return ScoredUnits(scores_M=scores, positive_M=positive, patients_M=patients)
    owner = exams_N[assessed] if unit == "exam" else patients
    _, first, unit_of, images = np.unique(owner, return_index=True, return_inverse=True, return_counts=True)
    joined = np.bincount(unit_of, weights=scores) / images if aggregate == "mean" else _max(scores, unit_of)
    return ScoredUnits(
        scores_M=joined, positive_M=np.bincount(unit_of, weights=positive) > 0, patients_M=patients[first]
    )


def units_of(*, exams_N: Integers, patients_N: Integers, unit: Unit) -> Integers:
    """Give each image the number of its unit: the unit's place in what `unit_scores` gives for the same images."""
    owners = {"image": np.arange(len(exams_N)), "exam": exams_N, "patient": patients_N}[unit]
    numbers: Integers = np.unique(owners, return_inverse=True)[1]
    return numbers


def score_bins(scores_N: npt.ArrayLike, *, bins: int) -> Integers:
    """Put scores into bins 0 to bins - 1; bin i holds the scores from its lower edge up to the next one.

    So `score >= lower_edges(bins=bins)[i]` holds exactly where the bin is i or higher, whatever the score's precision.
    """
    return np.searchsorted(lower_edges(bins=bins), np.asarray(scores_N, dtype=np.float64), side="right") - 1


@cache
def lower_edges(*, bins: int) -> Floats:
    """Give each bin's lowest score as a probability, ascending and read-only; that of bin 0 is 0."""
    logits = np.linspace(-LOGIT_RANGE, LOGIT_RANGE, bins + 1)[:-1]
    edges = np.round(1 / (1 + np.exp(-logits)), _EDGE_DECIMALS)
    edges[0] = 0.0
    edges.flags.writeable = False
    return edges


@cache
def bin_middles(*, bins: int) -> Floats:
    """Give each bin's middle as a logit, ascending and read-only."""
    middles: Floats = (np.arange(bins) + 0.5) * 2 * LOGIT_RANGE / bins - LOGIT_RANGE
    middles.flags.writeable = False
    return middles


def _check(scores: Floats) -> None:
    wrong = np.count_nonzero(~((scores >= 0) & (scores <= 1)))
    if wrong:
        raise DataError(
            f"{wrong} of {scores.size} scores are not numbers in [0, 1]: the model has diverged. "
            "Lower [training] lr_head and lr_backbone, or look for images that are not finite."
        )


def _max(scores: Floats, unit_of: Integers) -> Floats:
    highest = np.zeros(unit_of.max(initial=-1) + 1)
    np.maximum.at(highest, unit_of, scores)
    return highest
