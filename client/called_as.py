"""Count as which class each unit of a class was called: a row of the confusion matrix, and how much of it may leave."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.site_data import Records, Rows
from shared.called_as import CalledAs
from shared.errors import EgressError
from shared.protocol import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCalls(CalledAs):
    """A row at the site itself, where it is known whose units are in each cell; that does not leave."""

    patients: tuple[frozenset[int], ...] = field(repr=False)


def called_as(
    scores_NK: npt.NDArray[np.float64], records: Records, rows: Rows, place: int, *, task: Task
) -> MemberCalls:
    """Count the units of class `place` by the class that scores highest, over `rows`, whose scores are given.

    Images become a unit's score class by class, as for every other figure. Of equal scores the first class counts.
    """
    classes = len(task.targets)
    every = [
        records.units(scores_NK[:, other], rows, place, unit=task.unit, aggregate=task.aggregate)
        for other in range(classes)
    ]
    own = every[place]
    called_M = np.argmax(np.stack([one.scores_M for one in every]), axis=0)[own.positive_M]
    patients_M = own.patients_M[own.positive_M]
    return MemberCalls(
        units=tuple(np.bincount(called_M, minlength=classes).tolist()),
        patients=tuple(frozenset(patients_M[called_M == other].tolist()) for other in range(classes)),
    )


def suppress_calls(row: CalledAs | None, *, min_cell: int, count_rounding: int) -> CalledAs | None:
    """Withhold the cells of fewer than `min_cell` patients, and those from which one of them would follow.

    A class's units leave elsewhere, so that they and the cells that are shown give what the others hold together:
    that is two cells or more, of `min_cell` patients or more. A cell that is empty is no secret, as long as it is not
    needed to hide another. What is shown is rounded down to `count_rounding`, so that no row holds more than its class,
    and a cell that would become 0 is withheld.

    Raises:
        EgressError: the row does not say who is in it.
    """
    if row is None:
        return None
    if not isinstance(row, MemberCalls):
        raise EgressError("a class's calls do not say whose they are. Report this: it is a fault of Polyclinic.")
    least = max(1, min_cell)
    hidden = {
        place
        for place, units in enumerate(row.units)
        if units and (len(row.patients[place]) < least or units < count_rounding)
    }
    others = sorted(set(range(len(row.units))) - hidden, key=lambda place: (not row.units[place], row.units[place]))
    while hidden and others and (len(hidden) < 2 or len(_together(row, hidden)) < least):  # a pair
        hidden.add(others.pop(0))
    return CalledAs(
        units=tuple(
            None if place in hidden or units is None else units // count_rounding * count_rounding
            for place, units in enumerate(row.units)
        )
    )


def _together(row: MemberCalls, places: set[int]) -> frozenset[int]:
    return frozenset().union(*(row.patients[place] for place in places))
