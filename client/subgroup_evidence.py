"""Count one split's units by subgroup: each unit is in exactly one group of an axis."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from client.membership import MemberGroup
from client.site_data import Records, Rows
from shared.estimates import Estimate
from shared.intervals import auc
from shared.metrics import confusion
from shared.protocol import Task
from shared.scores import ScoredUnits, units_of
from shared.subgroups import AXES


def group_evidence(
    scores_N: npt.NDArray[np.float64],
    records: Records,
    rows: Rows,
    place: int,
    *,
    task: Task,
    axes: Sequence[str],
    confidence: float,
    threshold: float,
) -> tuple[MemberGroup, ...]:
    """Count target `place` by group, over `rows`, whose scores are given; groups without a unit are left out.

    A unit whose images are of several groups is "unknown".
    """
    owner_N = units_of(exams_N=records.exams_N[rows], patients_N=records.patients_N[rows], unit=task.unit)
    assessed_N = ~np.isnan(records.labels_NK[rows, place])
    found = []
    for axis, codes_N in _codes(records.groups, axes, rows).items():
        own_N = one_group_a_unit(codes_N, owner_N, assessed_N, unknown=len(AXES[axis]) - 1)
        for code, group in enumerate(AXES[axis]):
            chosen = assessed_N & (own_N == code)
            units = records.units(scores_N[chosen], rows[chosen], place, unit=task.unit, aggregate=task.aggregate)
            if units.scores_M.size:
                owners_M = np.unique(owner_N[chosen])  # in the order of the units
                found.append(_group(units, owners_M, axis, group, confidence=confidence, threshold=threshold))
    return tuple(found)


def _codes(groups: Mapping[str, Rows], axes: Sequence[str], rows: Rows) -> dict[str, Rows]:
    """Take the axes that this site's images were read for; pooled sites' devices have no numbers in common."""
    return {axis: groups[axis][rows] for axis in axes if axis in groups}


def one_group_a_unit(codes_N: Rows, owner_N: Rows, assessed_N: npt.NDArray[np.bool_], *, unknown: int) -> Rows:
    """Give every image the group on which all assessed images of its unit agree, else `unknown`."""
    _, unit_of = np.unique(owner_N, return_inverse=True)
    least = np.full(unit_of.max(initial=-1) + 1, unknown)
    most = np.full(unit_of.max(initial=-1) + 1, -1)
    np.minimum.at(least, unit_of[assessed_N], codes_N[assessed_N])
    np.maximum.at(most, unit_of[assessed_N], codes_N[assessed_N])
    return np.where(least == most, least, unknown)[unit_of]


def _group(
    units: ScoredUnits, owners_M: Rows, axis: str, group: str, *, confidence: float, threshold: float
) -> MemberGroup:
    area = auc(units, confidence=confidence)
    members = np.stack([owners_M, units.patients_M], axis=1)
    return MemberGroup(
        axis=axis,
        group=group,
        positive_patients=len(np.unique(units.patients_M[units.positive_M])),
        negative_patients=len(np.unique(units.patients_M[~units.positive_M])),
        confusion=confusion(units, threshold=threshold),
        auc=None if area is None else Estimate(value=area.value, low=area.low, high=area.high),
        positives=frozenset(map(tuple, members[units.positive_M].tolist())),
        negatives=frozenset(map(tuple, members[~units.positive_M].tolist())),
    )
