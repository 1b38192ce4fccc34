"""Foresees what a site's guard will withhold in a study, by the guard's own rules, before anything is computed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from client.disclosure import suppress_evidence, too_few_to_train
from client.evaluation import evidence_on
from client.joint_disclosure import suppress_jointly
from client.site_data import Records
from client.subgroup_evidence import group_evidence
from shared.amounts import counted
from shared.evidence import Evidence, Withheld
from shared.privacy import rounded_size
from shared.protocol import StudyProtocol
from shared.split import Split

ANY_SCORE = 0.5
"""Who is counted does not follow from scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTraining:
    """The site will not train: so many training patients (under [privacy], their public size) are too few."""

    patients: int
    needed: int

    def __str__(self) -> str:
        """Say it with the number that would be needed."""
        found = counted(self.patients, "patient")
        return f"training: {found}, {self.needed:,} needed (min_cell). The site does not train."


@dataclass(frozen=True, slots=True, kw_only=True)
class NotLearnt:
    """The site will train without a finding: so many training patients were assessed for it."""

    target: str
    patients: int
    needed: int

    def __str__(self) -> str:
        """Say it with the number that would be needed."""
        found = counted(self.patients, "patient")
        return f"training, {self.target}: {found} assessed, {self.needed:,} needed (min_cell). It is not learnt here."


@dataclass(frozen=True, slots=True, kw_only=True)
class NoEvidence:
    """A split's evidence on a target will be withheld: so many patients have it and have it not."""

    split: Split
    target: str
    positives: int
    negatives: int
    needed: int

    def __str__(self) -> str:
        """Say it with the number that would be needed."""
        found = f"{self.split.value}, {self.target}: {self.positives:,} patients with it and {self.negatives:,} without"
        if self.needed == 1 and not (self.positives or self.negatives):
            return f"{self.split.value}, {self.target}: no patient has a label for it. There is no evidence."
        if min(self.positives, self.negatives) >= self.needed:
            return f"{found}, withheld with another class, which would follow from it."
        return f"{found}, {self.needed:,} of each needed (min_cell). Its evidence is withheld."


@dataclass(frozen=True, slots=True, kw_only=True)
class FewerGroups:
    """Of a target's subgroups on an axis, some will be withheld."""

    split: Split
    target: str
    axis: str
    withheld: int
    groups: int
    needed: int

    def __str__(self) -> str:
        """Say how many, and what would be needed."""
        return (
            f"{self.split.value}, {self.target} by {self.axis}: "
            f"{self.withheld} of {counted(self.groups, 'group')} withheld; "
            f"a group needs {counted(self.needed, 'patient')} of each class, and none may follow from others."
        )


Foreseen = NoTraining | NotLearnt | NoEvidence | FewerGroups


def foresee(records: Records, protocol: StudyProtocol, *, min_cell: int) -> tuple[Foreseen, ...]:
    """Tell what a site that has these records will withhold in a study, for the hospital's own eyes: counts are exact.

    With [privacy] count_noise_epsilon the guard judges noised counts, so that it may decide otherwise where a class is
    close to `min_cell`.
    """
    evidence = (
        one
        for split in (Split.VALIDATION, Split.TEST)
        for one in _of_split(records, protocol, split, min_cell=min_cell)
    )
    return (*_of_training(records, protocol, min_cell=min_cell), *evidence)


def _of_training(records: Records, protocol: StudyProtocol, *, min_cell: int) -> Iterator[NoTraining | NotLearnt]:
    """Judge as the agent does: under [privacy] by the public size alone, for noise covers each training patient."""
    if protocol.privacy:
        patients = rounded_size(records.patients(Split.TRAIN), rounding=protocol.privacy.size_rounding)
    else:
        patients = max(records.assessed_patients(Split.TRAIN))
    if too_few_to_train(patients, min_cell):
        yield NoTraining(patients=patients, needed=min_cell)
    elif not protocol.privacy:
        for target, assessed in zip(protocol.task.targets, records.assessed_patients(Split.TRAIN), strict=True):
            if 0 < assessed < min_cell:
                yield NotLearnt(target=target, patients=assessed, needed=min_cell)


def _of_split(records: Records, protocol: StudyProtocol, split: Split, *, min_cell: int) -> Iterator[Foreseen]:
    targets, exclusive = protocol.task.targets, protocol.task.exclusive
    whole = _counted(records, protocol, split)
    kept = suppress_evidence(whole, min_cell=min_cell, exclusive=exclusive)
    shown = suppress_jointly(kept, whole, min_cell=min_cell, exclusive=exclusive)
    for target, every, left in zip(targets, whole, shown, strict=True):
        if isinstance(left, Withheld):
            yield NoEvidence(
                split=split,
                target=target,
                positives=every.positive_patients,
                negatives=every.negative_patients,
                needed=min_cell,
            )
        else:
            yield from _fewer_groups(split, target, every, left, min_cell=min_cell)


def _fewer_groups(
    split: Split, target: str, every: Evidence, left: Evidence, *, min_cell: int
) -> Iterator[FewerGroups]:
    before, after = (Counter(one.axis for one in item.subgroups) for item in (every, left))
    for axis, groups in before.items():
        if after[axis] < groups:
            yield FewerGroups(
                split=split, target=target, axis=axis, withheld=groups - after[axis], groups=groups, needed=min_cell
            )


def _counted(records: Records, protocol: StudyProtocol, split: Split) -> tuple[Evidence, ...]:
    """Give the evidence that the site would give to its guard, of any scores."""
    task, wish, rows = protocol.task, protocol.evaluation, records.rows(split)
    scores_N = np.full(len(rows), ANY_SCORE)
    # Subgroups are counted where there are thresholds, and with noised counts there are none.
    noised = protocol.privacy is not None and protocol.privacy.count_noise_epsilon > 0
    axes = () if noised else wish.subgroups
    found = []
    for place in range(len(task.targets)):
        units = records.units(scores_N, rows, place, unit=task.unit, aggregate=task.aggregate)
        item = evidence_on(units, bins=wish.score_bins, confidence=wish.confidence, threshold=None)
        groups = group_evidence(
            scores_N,
            records,
            rows,
            place,
            task=task,
            axes=axes,
            confidence=wish.confidence,
            threshold=ANY_SCORE,
        )
        found.append(replace(item, subgroups=groups))
    return tuple(found)
