"""Every unit is counted in one group of an axis, and small groups do not leave, nor what they would follow from."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.disclosure import suppress_evidence
from client.evaluation import evidence_on
from client.site_data import Records
from client.subgroup_evidence import group_evidence
from shared.evidence import Evidence
from shared.metrics import Confusion, confusion
from shared.protocol import Task
from shared.scores import ScoredUnits
from shared.subgroups import AXES, GroupEvidence


def drawn(images: int, seed: int) -> tuple[np.ndarray, Records]:
    """Draw scored images, up to three an exam and patient, with sexes and views."""
    rng = np.random.default_rng(seed)
    exams = rng.integers(0, images // 2, images)
    labels = rng.integers(0, 2, images).astype(np.float32)
    labels[rng.random(images) < 0.1] = np.nan
    return rng.random(images), Records(
        labels_NK=labels[:, None],
        patients_N=exams // 2,
        exams_N=exams,
        split_N=np.array(["test"] * images),
        groups={"sex": (exams // 2) % 3, "view": rng.integers(0, 4, images)},
    )


@pytest.mark.parametrize("unit", ["image", "exam", "patient"])
def test_the_groups_of_an_axis_add_up_to_the_whole(unit: Any) -> None:
    """Every unit is in exactly one group, a unit whose images disagree in the unknown one."""
    scores, records = drawn(400, 0)
    task = Task(findings=("opacity",), unit=unit)
    found = group_evidence(
        scores, records, np.arange(400), 0, task=task, axes=("sex", "view"), confidence=0.95, threshold=0.5
    )
    totals = {}
    for one in found:
        at = one.confusion
        totals[one.axis] = totals.get(one.axis, Confusion(tp=0, fp=0, tn=0, fn=0)) + at
    counts = {axis: (at.tp, at.fp, at.tn, at.fn) for axis, at in totals.items()}
    whole = group_evidence(
        scores,
        replace(records, groups={"sex": np.zeros(400, dtype=np.int64)}),
        np.arange(400),
        0,
        task=task,
        axes=("sex",),
        confidence=0.95,
        threshold=0.5,
    )
    (all_units,) = whole
    at = all_units.confusion
    assert counts == dict.fromkeys(("sex", "view"), (at.tp, at.fp, at.tn, at.fn))
    views = {one.group for one in found if one.axis == "view"}
    assert ("unknown" in views) == (unit != "image")


def test_a_groups_counts_are_those_of_its_units() -> None:
    """By images, a group's counts are what a plain selection gives."""
    scores, records = drawn(300, 1)
    found = group_evidence(
        scores,
        records,
        np.arange(300),
        0,
        task=Task(findings=("opacity",), unit="image"),
        axes=("sex",),
        confidence=0.95,
        threshold=0.4,
    )
    for one in found:
        chosen = (records.groups["sex"] == AXES["sex"].index(one.group)) & ~np.isnan(records.labels_NK[:, 0])
        units = ScoredUnits(
            scores_M=scores[chosen],
            positive_M=records.labels_NK[chosen, 0] == 1,
            patients_M=records.patients_N[chosen],
        )
        assert one.confusion == confusion(units, threshold=0.4)
        assert one.positive_patients == len(set(units.patients_M[units.positive_M]))


def group(name: str, positives: int, negatives: int, axis: str = "sex") -> GroupEvidence:
    at = Confusion(tp=positives, fp=0, tn=negatives, fn=0)
    return GroupEvidence(
        axis=axis, group=name, positive_patients=positives, negative_patients=negatives, confusion=at, auc=None
    )


def whole(*groups: GroupEvidence) -> Evidence:
    units = ScoredUnits(scores_M=np.linspace(0, 1, 200), positive_M=np.arange(200) % 2 == 0, patients_M=np.arange(200))
    return replace(evidence_on(units, bins=8, confidence=0.95, threshold=0.5), subgroups=groups)


def shown(*items: Evidence, exclusive: bool = False) -> list[set[str]]:
    found = suppress_evidence(items, min_cell=10, exclusive=exclusive)
    return [{one.group for one in item.subgroups} for item in found if isinstance(item, Evidence)]


def test_what_is_missing_holds_enough_patients_of_each_class() -> None:
    """Where a group is withheld the smallest other one is too: else its counts are the whole minus the shown."""
    female, male, other = group("female", 40, 40), group("male", 30, 30), group("other", 9, 50)
    assert shown(whole(female, male)) == [{"female", "male"}]
    assert shown(whole(female, male, other)) == [{"female"}]
    assert shown(whole(female, other)) == [set()]
    assert shown(whole(group("female", 40, 0), male)) == [set()]


def test_one_axis_does_not_hide_another() -> None:
    """Views are all large and stay, whatever happens to the sexes."""
    views = group("PA", 50, 50, "view"), group("AP", 50, 50, "view")
    assert shown(whole(group("female", 9, 9), group("male", 91, 91), *views)) == [{"PA", "AP"}]


def test_of_classes_a_group_is_shown_for_all_or_for_none() -> None:
    """One class's group follows from the others': what is small in one is withheld in each."""
    first = whole(group("female", 40, 40), group("male", 30, 60), group("other", 30, 30))
    second = whole(group("female", 40, 40), group("male", 60, 30), group("other", 5, 55))
    assert shown(first, second, exclusive=True) == [{"male"}, {"male"}]
