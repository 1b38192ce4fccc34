"""Groups have fixed words, whatever a header holds, and come back from their numbers as they were."""

from typing import Any

import pytest

from shared.estimates import Estimate
from shared.metrics import Confusion
from shared.protocol import SUBGROUPS
from shared.subgroups import (
    AXES,
    UNKNOWN,
    GroupEvidence,
    age_group,
    groups_from_numbers,
    groups_to_numbers,
    manufacturer_group,
    sex_group,
    view_group,
)

NAME = "DOE^JOHN"


def test_a_study_can_ask_for_the_axes_that_there_are() -> None:
    """The protocol's words are those that evidence can be counted by."""
    assert set(SUBGROUPS) == set(AXES)


@pytest.mark.parametrize(
    ("read", "word", "group"),
    [
        (sex_group, "F", "female"),
        (sex_group, "male", "male"),
        (sex_group, "O", "other"),
        (sex_group, "", UNKNOWN),
        (sex_group, " FEMALE ", "female"),
        *(
            (sex_group, word, UNKNOWN)
            for word in ("Mujer", "Mulher", "Hombre", "Femme", "weiblich", "W", "Mann", "masc")
        ),
        (age_group, "45.0", "40 to 59"),
        (age_group, "45,0", "40 to 59"),
        (age_group, "59.9", "40 to 59"),
        (age_group, "0.5", "0 to 17"),
        (age_group, "45 years", "40 to 59"),
        (age_group, "013W", "0 to 17"),
        (age_group, "216M", "18 to 39"),
        (age_group, "11 months", "0 to 17"),
        (age_group, "45ys", UNKNOWN),
        (age_group, "٤٥", UNKNOWN),
        (age_group, "-5", UNKNOWN),
        (age_group, "1945", UNKNOWN),
        (age_group, "045Y", "40 to 59"),
        (age_group, "017Y", "0 to 17"),
        (age_group, "011M", "0 to 17"),
        (age_group, "090D", "0 to 17"),
        (age_group, "080Y", "80 and over"),
        (age_group, "59", "40 to 59"),
        (age_group, "1-5", UNKNOWN),
        (age_group, NAME, UNKNOWN),
        (age_group, "", UNKNOWN),
        (view_group, "pa", "PA"),
        (view_group, "LL", "lateral"),
        (view_group, "AP SUPINE " + NAME, "other"),
        (view_group, " ", UNKNOWN),
        (manufacturer_group, "GE MEDICAL SYSTEMS", "GE"),
        (manufacturer_group, "GE", "GE"),
        (manufacturer_group, "Philips Medical Systems", "Philips"),
        (manufacturer_group, "FUJIFILM Corporation", "Fujifilm"),
        (manufacturer_group, "GEORGE'S X-RAYS", "other"),
        (manufacturer_group, NAME, "other"),
        (manufacturer_group, "", UNKNOWN),
    ],
)
def test_words_become_groups(read: Any, word: str, group: str) -> None:
    """By DICOM's own values and a table's usual ones; what is not known is never passed on."""
    assert read(word) == group


FULL = (
    GroupEvidence(
        axis="sex",
        group="female",
        positive_patients=20,
        negative_patients=30,
        confusion=Confusion(tp=18, fp=4, tn=30, fn=4, positives_design_effect=1.25, negatives_design_effect=1.0),
        auc=Estimate(value=0.9, low=0.8, high=0.95),
    ),
    GroupEvidence(
        axis="age",
        group="40 to 59",
        positive_patients=1,
        negative_patients=0,
        confusion=Confusion(tp=1, fp=0, tn=0, fn=0),
        auc=None,
    ),
)


def test_groups_come_back_as_they_were() -> None:
    """Counts, design effects and AUC, each group under its own key."""
    assert groups_from_numbers(groups_to_numbers(FULL) | {"units": 4}) == FULL


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("subgroup/sex/" + NAME, [1.0] * 8),
        ("subgroup/name/female", [1.0] * 8),
        ("subgroup/sex/female", [1.0] * 7),
        ("subgroup/sex/female", [0.5, *[1.0] * 7]),
        ("subgroup/sex/female", [-1.0, *[1.0] * 7]),
        ("subgroup/sex/female", [1.0] * 6 + [0.5, 1.0]),
        ("subgroup/sex/female", 1),
    ],
)
def test_words_and_numbers_of_another_form_are_refused(key: str, values: Any) -> None:
    """A free word cannot come in as a group, nor a count that is none."""
    with pytest.raises((TypeError, ValueError)):
        groups_from_numbers({key: values})
