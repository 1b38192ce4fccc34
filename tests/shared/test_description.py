"""A description comes back from its numbers as it was, and numbers that contradict one another are refused."""

from typing import Any

import numpy as np
import pytest

from shared.description import (
    CornerEffect,
    CornerTest,
    Description,
    MarkTest,
    description_from_numbers,
    description_to_numbers,
)
from shared.evidence import Withheld
from shared.feature_summary import summarise as summarise_features
from shared.intensity import BINS, IntensitySummary
from shared.split import Split

EFFECT = CornerEffect(value=-0.25, error=0.1, freedom=9, auc=0.75, auc_without=0.5)
FULL = Description(
    features=summarise_features(np.random.default_rng(0).standard_normal((50, 32)), split=Split.VALIDATION, seed=0),
    intensity=IntensitySummary(patients=50, shares=(1 / BINS,) * BINS, split_null=0.01),
    corners=(
        CornerTest(positive_patients=10, negative_patients=12, effects=(EFFECT,) * 4),
        CornerTest(positive_patients=1, negative_patients=12, effects=()),
        Withheld(),
    ),
    marks=(
        MarkTest(split=Split.TRAIN, positive_patients=10, negative_patients=12, areas=(0.25, 0.5, 0.75, 1.0)),
        MarkTest(split=Split.TRAIN, positive_patients=1, negative_patients=12, areas=()),
        Withheld(),
    ),
)


@pytest.mark.parametrize("item", [FULL, Description(features=Withheld(), intensity=Withheld(), corners=(), marks=())])
def test_it_comes_back_as_it_was(item: Description) -> None:
    """Exactly, whatever was withheld."""
    assert description_from_numbers(description_to_numbers(item)) == item


WRONG: dict[str, tuple[str, str, Any]] = {
    "more dimensions than patients bear": ("features", "patients", 49),
    "a mean of other dimensions": ("features", "mean", [0.0] * 9),
    "not finite": ("features", "covariance", [float("nan")] * 55),
    "no such split": ("features", "split", 3),
    "a negative count": ("intensity", "patients", -1),
    "not a list": ("intensity", "shares", 1.0),
    "no histogram": ("intensity", "shares", [2 / BINS] * BINS),
    "a negative share": ("intensity", "shares", [2.0, -1.0, *[0.0] * (BINS - 2)]),
    "an area above 1": ("corners0", "upper left", [0.1, 0.1, 9.0, 1.5, 0.5]),
    "a mark's area above 1": ("marks0", "areas", [0.5, 0.5, 0.5, 1.01]),
    "a mark's area for three corners": ("marks0", "areas", [0.5, 0.5, 0.5]),
    "a mark's areas of one patient": ("marks0", "patients", [1, 12]),
    "a mark of no split": ("marks0", "split", 3),
    "a negative error": ("corners0", "lower left", [0.1, -0.1, 9.0, 0.5, 0.5]),
}


@pytest.mark.parametrize(("record", "key", "value"), WRONG.values(), ids=WRONG)
def test_numbers_that_cannot_be_are_refused(record: str, key: str, value: Any) -> None:
    """Each contradiction raises one of the errors that make a message malformed."""
    numbers = description_to_numbers(FULL)
    numbers[record][key] = value
    with pytest.raises((KeyError, TypeError, ValueError)):
        description_from_numbers(numbers)


def test_a_missing_corner_is_refused() -> None:
    """All four or none."""
    numbers = description_to_numbers(FULL)
    del numbers["corners0"]["upper right"]
    with pytest.raises(ValueError, match="corner"):
        description_from_numbers(numbers)
