"""No sum or difference of group sizes that leave, in one reply or in several, is about fewer than min_cell patients."""

import itertools
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.disclosure import suppress_evidence
from client.egress import EgressGuard
from client.evaluation import evidence_on
from client.few_patients import Unproved
from client.joint_disclosure import released_sets, suppress_jointly
from client.membership import Counted, MemberGroup, too_telling
from client.released import Released
from client.site_data import Records
from client.subgroup_evidence import group_evidence
from shared.audit import AuditLog
from shared.errors import EgressError, StorageError
from shared.evidence import Evidence, Withheld
from shared.metrics import Confusion
from shared.protocol import Task
from shared.scores import unit_scores
from shared.split import Split
from shared.subgroups import AXES, GroupEvidence

Item = Evidence | Withheld


def counted(
    groups: dict[str, Sequence[int]],
    labels: Sequence[float],
    patients: Sequence[int] | None = None,
    unit: Any = "patient",
) -> Evidence:
    """Give a finding's evidence with groups, as a site counts it; `groups` has by axis each image's place."""
    count = len(labels)
    records = Records(
        labels_NK=np.array(labels, dtype=np.float32)[:, None],
        patients_N=np.array(range(count) if patients is None else patients),
        exams_N=np.arange(count),
        split_N=np.array(["test"] * count),
        groups={axis: np.array(codes) for axis, codes in groups.items()},
    )
    scores, rows = np.linspace(0, 1, count), np.arange(count)
    units = unit_scores(
        scores,
        records.labels_NK[:, 0],
        exams_N=records.exams_N,
        patients_N=records.patients_N,
        unit=unit,
        aggregate="max",
    )
    whole = evidence_on(units, bins=8, confidence=0.95, threshold=0.5)
    found = group_evidence(
        scores,
        records,
        rows,
        0,
        task=Task(findings=("opacity",), unit=unit),
        axes=tuple(groups),
        confidence=0.95,
        threshold=0.5,
    )
    kept = {field.name: getattr(whole, field.name) for field in fields(Evidence)}
    return Evidence(**kept | {"subgroups": found})


def left(items: Sequence[Evidence], *, min_cell: int, **more: Any) -> list[set[tuple[str, str]]]:
    """Name the groups that leave of each item."""
    kept = suppress_evidence(items, min_cell=min_cell, exclusive=False)
    shown = suppress_jointly(kept, tuple(items), min_cell=min_cell, exclusive=False, **more)
    return [
        set() if isinstance(item, Withheld) else {(one.axis, one.group) for one in item.subgroups} for item in shown
    ]


DEVICES = [0] * 120 + [1] * 80 + [2] * 6 + [3] * 94
"""Three devices of one manufacturer, the third with three patients of each class, and one of another."""
GE, SIEMENS = AXES["manufacturer"].index("GE"), AXES["manufacturer"].index("Siemens")
MAKERS = [SIEMENS if device == 3 else GE for device in DEVICES]
LABELS = [float(n % 2) for n in range(300)]
ALMOST_GE = [float(maker == GE and n % 2 and n > 4) for n, maker in enumerate(MAKERS)]
"""Another finding: all of GE's patients with the first have it but two, and nobody else."""


def test_a_withheld_device_does_not_follow_from_its_manufacturer() -> None:
    """The attack: GE minus its two large devices was the third, with three patients.

    Beside it the smallest of its axis is withheld in any case; that is the other manufacturer's, and hides nothing.
    """
    few = slice(0, 120 + 80 + 6 + 60)
    item = counted({"manufacturer": MAKERS[few], "device": DEVICES[few]}, LABELS[few])
    alone = suppress_evidence([item], min_cell=10, exclusive=False)[0]
    assert isinstance(alone, Evidence)
    assert {"GE", "device 1", "device 2"} <= {one.group for one in alone.subgroups}
    (names,) = left([item], min_cell=10)
    assert ("device", "device 3") not in names
    assert not {("manufacturer", "GE"), ("device", "device 1"), ("device", "device 2")} <= names
    assert ("device", "device 1") in names


def test_what_leaves_is_whole_where_nothing_is_small() -> None:
    """Nested axes of large groups stay as they are, and what leaves does not say who is in a group."""
    item = counted({"manufacturer": MAKERS, "device": [min(device, 1) for device in DEVICES]}, LABELS)
    assert len(left([item], min_cell=10)[0]) == 2 + 2 - 0
    (shown,) = suppress_jointly((item,), (item,), min_cell=10, exclusive=False)
    assert isinstance(shown, Evidence)
    assert {type(one) for one in shown.subgroups} == {GroupEvidence}


def sizes_tell(members: Sequence[frozenset[int]], wholes: int, least: int) -> bool:
    """Try every sum and difference: tell whether one is about fewer than `least` patients, and not of wholes alone."""
    people = sorted(set().union(*members))
    matrix = np.array([[person in one for person in people] for one in members], dtype=np.int64)
    every = np.array(list(itertools.product((-1, 0, 1), repeat=len(members))))
    about = (every @ matrix != 0).sum(axis=1)
    few = every[(about > 0) & (about < least)]
    if not len(few):
        return False
    of_wholes = {tuple(row) for row in np.array(list(itertools.product((-1, 0, 1), repeat=wholes))) @ matrix[:wholes]}
    return any(tuple(row @ matrix) not in of_wholes for row in few)


@given(data=st.data(), least=st.integers(2, 4), people=st.integers(8, 20), unit=st.sampled_from(["exam", "patient"]))
@settings(max_examples=250, deadline=None)
def test_no_sum_or_difference_of_sizes_is_about_too_few(data: Any, least: int, people: int, unit: Any) -> None:
    """By brute force, for both classes: nested, crossing or equal axes, patients with several images or one."""
    images = people if unit == "patient" else people + 10
    owners = list(range(people)) + data.draw(st.lists(st.integers(0, people - 1), min_size=10, max_size=10))
    device = data.draw(st.lists(st.integers(0, 3), min_size=images, max_size=images))
    of_maker = data.draw(st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4))
    maker = [of_maker[one] for one in device]
    if data.draw(st.booleans()):
        maker = data.draw(st.lists(st.integers(0, 1), min_size=images, max_size=images))
    labels = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=images, max_size=images))
    item = counted({"manufacturer": maker, "device": device}, labels, owners[:images], unit)
    (names,) = left([item], min_cell=least)
    for positive in (True, False):
        of = {
            (one.axis, one.group): one.positives if positive else one.negatives
            for one in item.subgroups
            if isinstance(one, MemberGroup)
        }
        whole = frozenset().union(*(members for (axis, _), members in of.items() if axis == "device"))
        every = [whole, *(of[name] for name in sorted(names))]
        assert not sizes_tell([frozenset(patient for _, patient in one) for one in every], 1, least)
        if unit == "patient":
            assert not sizes_tell([frozenset(owner for owner, _ in one) for one in every], 1, least)


def ranks_tell(wholes: Sequence[frozenset[int]], groups: Sequence[frozenset[int]], least: int) -> bool:
    """Tell whether sizes in any combination, with any factors, are about fewer than `least`, and wholes' are not.

    Exactly, for each few people: whether more combinations are about them alone than there are of wholes.
    """
    people = sorted(set().union(*wholes, *groups))
    rows = np.array([[person in one for person in people] for one in [*wholes, *groups]], dtype=float)
    few = list(itertools.combinations(range(len(people)), min(least - 1, len(people))))
    outside = np.stack([np.delete(rows, one, axis=1) for one in few])

    def about_them(upto: int) -> Any:
        return np.linalg.matrix_rank(rows[:upto]) - np.linalg.matrix_rank(outside[:, :upto])

    return bool((about_them(len(rows)) > about_them(len(wholes))).any())


@given(data=st.data(), least=st.integers(2, 4), people=st.integers(6, 13), findings=st.integers(1, 2))
@settings(max_examples=150, deadline=None)
def test_no_combination_with_any_factors_is_about_too_few(data: Any, least: int, people: int, findings: int) -> None:
    """Small sites, one or two findings of which some patients are not assessed: what one alone tells and both."""
    axes = {
        axis: data.draw(st.lists(st.integers(0, groups - 1), min_size=people, max_size=people))
        for axis, groups in (("manufacturer", 3), ("device", 4), ("sex", 2))
    }
    labels = [
        data.draw(st.lists(st.sampled_from([0.0, 1.0, 1.0, float("nan")]), min_size=people, max_size=people))
        for _ in range(findings)
    ]
    items = [counted(axes, own) for own in labels]
    kept = suppress_evidence(items, min_cell=least, exclusive=False)
    names = left(items, min_cell=least)
    wholes, groups = [], []
    for item, known, shown in zip(items, kept, names, strict=True):
        if isinstance(known, Evidence):
            for positive in (True, False):
                of = {
                    (one.axis, one.group): frozenset(patient for _, patient in members)
                    for one in item.subgroups
                    if isinstance(one, MemberGroup)
                    for members in [one.positives if positive else one.negatives]
                }
                wholes.append(frozenset().union(*(own for (axis, _), own in of.items() if axis == "sex")))
                groups += [of[name] for name in shown]
    assert not groups or not ranks_tell(wholes, groups, least)


def test_a_group_is_held_beside_a_finding_of_which_no_group_leaves() -> None:
    """GE's patients with the first finding, minus all with the second, were two; of the second no group leaves."""
    first, other = (counted({"manufacturer": MAKERS}, labels) for labels in (LABELS, ALMOST_GE))
    assert ("manufacturer", "GE") in left([first], min_cell=10)[0]
    names = left([first, other], min_cell=10)
    assert names[1] == set()
    assert ("manufacturer", "GE") not in names[0]


def test_a_target_without_a_threshold_lets_no_group_leave_and_is_held_beside_the_others(tmp_path: Path) -> None:
    """It has no counts at a threshold, but its whole classes leave."""
    first, other = (counted({"manufacturer": MAKERS}, labels) for labels in (LABELS, ALMOST_GE))
    guard = EgressGuard(min_cell=10, audit=AuditLog(tmp_path / "audit.jsonl"), exclusive=False, wire="fp32")
    shown = guard._evidence(Split.TEST, (first, replace(other, confusion=None)))
    groups = [{one.group for one in item.subgroups} for item in shown if isinstance(item, Evidence)]
    assert groups[1] == set()
    assert "GE" not in groups[0]


def test_more_sets_than_can_be_looked_at_together_do_not_leave_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest groups are withheld until the rest can be looked at, and the rest is: none left as it was before."""
    second = [*LABELS]
    second[0] = second[1] = float("nan")
    both = [counted({"manufacturer": MAKERS}, labels) for labels in (LABELS, second)]
    monkeypatch.setattr("client.joint_disclosure.MOST_SETS", 11)  # two wholes and two groups of two classes are 12
    names = left(both, min_cell=10)
    assert not all(("manufacturer", "GE") in of for of in names)
    assert sum(map(len, names)) < 4
    monkeypatch.setattr("client.joint_disclosure.MOST_SETS", 3)
    assert left(both, min_cell=10) == [set(), set()]


def test_many_findings_are_looked_at_together_whatever_their_number() -> None:
    """The attack: with so many findings that the sizes were over 160, those of two findings were not held together."""
    second = [*LABELS]
    second[0] = second[1] = float("nan")
    axes = {"manufacturer": MAKERS, "sex": [place // 2 % 2 for place in range(300)]}
    items = [counted(axes, labels) for labels in [LABELS, second] * 9]
    names = left(items, min_cell=10)
    shown = {place % 2 for place, own in enumerate(names) if ("manufacturer", "GE") in own}
    assert len(shown) < 2


def test_what_cannot_be_proved_safe_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a search that ended for want of work the smallest group is withheld, and so on until it ends."""
    monkeypatch.setattr("client.membership.of_few", lambda *_, **__: Unproved())
    assert left([counted({"manufacturer": MAKERS}, LABELS)], min_cell=10) == [set()]


def test_a_group_of_the_same_patients_with_another_exam_does_not_leave_again(tmp_path: Path) -> None:
    """The difference of two releases, by exams, was one exam; the other group, unchanged, leaves as before."""
    memory = Released(folder=tmp_path, key=bytes(32))
    labels = [*LABELS, 1.0]
    before = counted({"manufacturer": MAKERS}, LABELS, range(300), "exam")
    assert release(memory, before) == {("manufacturer", "GE"), ("manufacturer", "Siemens")}
    after = counted({"manufacturer": [*MAKERS, GE]}, labels, [*range(300), 1], "exam")  # patient 1 came once more
    assert release(memory, after) == {("manufacturer", "Siemens")}


def test_two_findings_do_not_tell_who_was_assessed_for_one() -> None:
    """GE's patients assessed for one finding, minus those for the other, were two."""
    second = [*LABELS]
    second[0] = second[1] = float("nan")
    both = [counted({"manufacturer": MAKERS}, labels) for labels in (LABELS, second)]
    names = left(both, min_cell=10)
    assert not all(("manufacturer", "GE") in of for of in names)
    assert left([both[0]], min_cell=10) == [{("manufacturer", "GE"), ("manufacturer", "Siemens")}]


@pytest.mark.parametrize("first", [0, 1])
def test_findings_asked_for_one_by_one_tell_no_more_than_together(tmp_path: Path, first: int) -> None:
    """The attack: a threshold for one finding alone, then for the other; the second is held beside the first."""
    second = [*LABELS]
    for patient in (0, 1, 2, 4):
        second[patient] = float("nan")
    both = [counted({"manufacturer": MAKERS}, labels) for labels in (LABELS, second)]
    guard = EgressGuard(
        min_cell=10,
        audit=AuditLog(tmp_path / "audit.jsonl"),
        exclusive=False,
        wire="fp32",
        released=Released(folder=tmp_path / "released", key=bytes(32)),
    )
    names: set[tuple[int, str]] = set()
    for asked in (first, 1 - first, first):
        items = tuple(one if place == asked else replace(one, subgroups=()) for place, one in enumerate(both))
        shown = guard._evidence(Split.VALIDATION, items)
        names |= {
            (place, of.group) for place, one in enumerate(shown) if isinstance(one, Evidence) for of in one.subgroups
        }
    assert {(first, "GE"), (first, "Siemens")} <= names
    assert (1 - first, "GE") not in names


@pytest.mark.parametrize("unit", ["exam", "image"])
@pytest.mark.parametrize("first", [0, 1])
def test_findings_asked_for_one_by_one_tell_no_more_exams_than_together(tmp_path: Path, first: int, unit: Any) -> None:
    """The attack: women's exams with one finding, minus those with the other, are one exam of one patient."""
    women, men = range(40), range(40, 110)
    exams = [(one, both) for one in women for both in ((1, 1), (0, 0))] + [(0, (1, 0))]
    exams += [(one, both) for one in men for both in ((1, int(one < 80)), (0, 0))]
    patients, labels = [one for one, _ in exams], np.array([both for _, both in exams], dtype=float)
    sex = {"sex": [int(one in men) for one in patients]}
    both = [counted(sex, labels[:, place], patients, unit) for place in (0, 1)]
    together = left(both, min_cell=10)
    guard = EgressGuard(
        min_cell=10,
        audit=AuditLog(tmp_path / "audit.jsonl"),
        exclusive=False,
        wire="fp32",
        released=Released(folder=tmp_path / "released", key=bytes(32)),
    )
    apart: list[set[tuple[str, str]]] = [set(), set()]
    for asked in (first, 1 - first, first):
        items = tuple(one if place == asked else replace(one, confusion=None) for place, one in enumerate(both))
        for own, shown in zip(apart, guard._evidence(Split.VALIDATION, items), strict=True):
            assert isinstance(shown, Evidence)
            own |= {(group.axis, group.group) for group in shown.subgroups}
    assert apart == together
    assert ("sex", "male") in together[0] | together[1]
    assert not all(("sex", "female") in own for own in together)


def test_classes_lose_a_group_together() -> None:
    """Of classes one follows from the others: what is withheld for one is withheld for each."""
    items = [
        counted({"manufacturer": MAKERS, "device": DEVICES}, labels) for labels in (LABELS, [1 - x for x in LABELS])
    ]
    kept = suppress_evidence(items, min_cell=10, exclusive=True)
    shown = suppress_jointly(kept, tuple(items), min_cell=10, exclusive=True)
    names = [{(one.axis, one.group) for one in item.subgroups} for item in shown if isinstance(item, Evidence)]
    assert names[0] == names[1]
    assert not {("manufacturer", "GE"), ("device", "device 1"), ("device", "device 2")} <= names[0]


def test_a_withdrawn_patients_groups_do_not_follow_from_two_releases(tmp_path: Path) -> None:
    """Counted before and after, a group that lost one patient does not leave again; the others do."""
    memory = Released(folder=tmp_path, key=bytes(32))
    before = counted({"manufacturer": MAKERS}, LABELS)
    names = release(memory, before)
    assert names == {("manufacturer", "GE"), ("manufacturer", "Siemens")}
    again = Released(folder=tmp_path, key=bytes(32))
    assert release(again, before) == names
    gone = slice(1, None)
    after = counted({"manufacturer": MAKERS[gone]}, LABELS[gone], range(1, 300))
    assert ("manufacturer", "GE") not in release(again, after)


def release(memory: Released, item: Evidence) -> set[tuple[str, str]]:
    sets = memory.sets(Split.VALIDATION)
    kept = suppress_evidence([item], min_cell=10, exclusive=False)
    shown = suppress_jointly(kept, (item,), min_cell=10, exclusive=False, earlier=sets, token=memory.token)
    memory.remember(Split.VALIDATION, list(released_sets(shown, (item,), token=memory.token)))
    return {(one.axis, one.group) for one in shown[0].subgroups} if isinstance(shown[0], Evidence) else set()


def test_what_has_left_is_remembered_by_keyed_hashes_alone(tmp_path: Path) -> None:
    """Without the key nobody can try out patients; a memory that cannot be read lets nothing leave."""
    memory = Released(folder=tmp_path, key=bytes(32))
    release(memory, counted({"manufacturer": MAKERS}, LABELS))
    text = (tmp_path / "validation.jsonl").read_text()
    assert len(text.splitlines()) == 6  # two groups and the whole, of two classes
    assert memory.token(7) != Released(folder=tmp_path, key=b"\1" * 32).token(7)
    assert str(memory.token(7)) in text
    (tmp_path / "validation.jsonl").write_text("{}\n")
    with pytest.raises(StorageError, match="cannot be read"):
        memory.sets(Split.VALIDATION)


def test_a_group_that_does_not_say_who_is_in_it_does_not_leave(tmp_path: Path) -> None:
    """The guard denies by default."""
    at = Confusion(tp=40, fp=0, tn=40, fn=0)
    plain = GroupEvidence(
        axis="sex", group="female", positive_patients=40, negative_patients=40, confusion=at, auc=None
    )
    item = counted({"manufacturer": MAKERS}, LABELS)
    kept = {field.name: getattr(item, field.name) for field in fields(Evidence)}
    guard = EgressGuard(min_cell=10, audit=AuditLog(tmp_path / "audit.jsonl"), exclusive=False, wire="fp32")
    with pytest.raises(EgressError, match="does not say who is in it"):
        guard._evidence(Split.TEST, (Evidence(**kept | {"subgroups": (plain,)}),))


def test_sets_of_nobody_tell_of_nobody() -> None:
    """A site without a patient in a split has sets without elements, and prepares like any other."""
    assert too_telling([Counted(group="clear", elements=set()), Counted(group=None, elements=set())], least=10) is None
