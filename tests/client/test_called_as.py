"""Which class is called which: right counts, and none that tells of fewer than min_cell patients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from client.called_as import MemberCalls, called_as, suppress_calls
from client.egress import EgressGuard
from client.evaluation import evidence_on
from client.site_data import Records
from shared.audit import AuditLog
from shared.called_as import CalledAs
from shared.errors import EgressError
from shared.evidence import Evidence, Withheld
from shared.messages import EvaluateReply, EvaluateTask, Header, Kind, decode_answer
from shared.protocol import Task
from shared.split import Split
from shared.wire import from_frames

CLASSES = ("normal", "viral", "bacterial")


def row(*cells: list[int]) -> MemberCalls:
    """Give a row of which each cell lists its units' patients."""
    return MemberCalls(units=tuple(map(len, cells)), patients=tuple(map(frozenset, cells)))


def records(true_N: np.ndarray[Any, Any], *, patients_N: np.ndarray[Any, Any] | None = None) -> Records:
    count = len(true_N)
    return Records(
        labels_NK=np.eye(3, dtype=np.float32)[true_N],
        patients_N=np.arange(count) if patients_N is None else patients_N,
        exams_N=np.arange(count) // 2,
        split_N=np.array(["test"] * count),
    )


@pytest.mark.parametrize("unit", ["image", "exam"])
def test_rows_equal_those_of_scikit_learn(unit: Any) -> None:
    """By image, and by exam of two images of one class whose scores are averaged."""
    rng = np.random.default_rng(3)
    true_N = np.repeat(rng.integers(0, 3, 60), 2)
    scores_NK = rng.dirichlet([1, 1, 1], 120)
    task = Task(classes=CLASSES, unit=unit, aggregate="mean")
    found = [called_as(scores_NK, records(true_N), np.arange(120), place, task=task).units for place in range(3)]
    truth, scores = (true_N, scores_NK) if unit == "image" else (true_N[::2], scores_NK.reshape(60, 2, 3).mean(axis=1))
    assert np.array_equal(np.array(found), confusion_matrix(truth, scores.argmax(axis=1), labels=[0, 1, 2]))


def test_a_class_that_nobody_has_is_a_row_of_nothing() -> None:
    """No unit, no call, and no failure."""
    found = called_as(np.full((4, 3), 1 / 3), records(np.zeros(4, int)), np.arange(4), 2, task=Task(classes=CLASSES))
    assert found.units == (0, 0, 0)


@pytest.mark.parametrize(
    ("cells", "left"),
    [
        (([*range(40)], [*range(40, 52)], []), (40, 12, 0)),
        (([*range(40)], [40, 41], []), (None, None, 0)),  # the two would follow from the class and the forty
        (([*range(40)], [40, 41], [*range(50, 59)]), (40, None, None)),  # eleven patients in two cells
        (([*range(40)], [40, 41], [50, 51, 52]), (None, None, None)),  # five are not enough together
        (([7] * 30, [*range(20)], []), (None, None, 0)),  # thirty units of one patient
        (([*range(3)], [], []), (None, None, None)),  # an empty cell hides it
    ],
)
def test_small_cells_and_what_they_would_follow_from_are_withheld(cells: Any, left: Any) -> None:
    """At min_cell 10; cells count patients, whatever units they have."""
    assert suppress_calls(row(*cells), min_cell=10, count_rounding=1) == CalledAs(units=left)


cell = st.lists(st.integers(0, 60), max_size=40)


@given(cells=st.lists(cell, min_size=2, max_size=6), min_cell=st.integers(1, 15), to=st.sampled_from([1, 1, 5, 25]))
def test_no_cell_or_difference_tells_of_few(cells: list[list[int]], min_cell: int, to: int) -> None:
    """Each shown cell is of enough patients; a class less its shown cells is none, or several cells of enough."""
    before = row(*cells)
    after = suppress_calls(before, min_cell=min_cell, count_rounding=to)
    assert after
    assert type(after) is CalledAs
    hidden = [place for place, units in enumerate(after.units) if units is None]
    for units, patients, shown in zip(before.units, before.patients, after.units, strict=True):
        if shown is not None:
            assert (shown == 0) == (units == 0)
            assert shown == units // to * to
            assert not units or len(patients) >= min_cell
    assert sum(units or 0 for units in after.units) <= sum(before.units)
    if hidden:
        assert len(hidden) > 1
        together = frozenset().union(*(before.patients[place] for place in hidden))
        assert len(together) >= min_cell or len(hidden) == len(cells)


def guard(path: Path, **more: Any) -> EgressGuard:
    return EgressGuard(min_cell=10, audit=AuditLog(path / "audit.jsonl"), exclusive=True, wire="fp32", **more)


def left(guard: EgressGuard, true_N: np.ndarray[Any, Any], called_N: np.ndarray[Any, Any]) -> Any:
    """Give what leaves of each class, where each image is called the second."""
    known, every = records(true_N), np.arange(len(true_N))
    scores_NK, task = np.eye(3)[called_N] * 0.8 + 0.1, Task(classes=CLASSES, unit="image")
    items = []
    for place in range(3):
        units = known.units(scores_NK[:, place], every, place, unit="image", aggregate="max")
        item = evidence_on(units, bins=8, confidence=0.95, threshold=0.5)
        kept = {name: getattr(item, name) for name in item.__slots__}
        items.append(Evidence(**kept | {"called_as": called_as(scores_NK, known, every, place, task=task)}))
    header = Header(protocol_digest="0" * 64, run_id="run", round=1, site="north", kind=Kind.EVALUATE)
    asked = EvaluateTask(header=header, arrays={}, split=Split.TEST, thresholds=(0.5,) * 3)
    frames = guard.release(asked, EvaluateReply(evidence=tuple(items)))
    reply = decode_answer(from_frames(frames)).reply
    assert isinstance(reply, EvaluateReply)
    return [None if isinstance(one, Withheld) else one.called_as for one in reply.evidence]


def test_the_guard_holds_back_small_cells_and_rounds_the_others(tmp_path: Path) -> None:
    """What arrives after the wire: cells by their patients, a class of too few none at all, an empty one neither."""
    true_N = np.repeat([0, 1, 2], [60, 40, 30])
    called_N = np.concatenate([np.repeat([0, 1], [45, 15]), np.repeat([1, 2], [37, 3]), np.repeat(2, 30)])
    found = left(guard(tmp_path), true_N, called_N)
    assert [one.units for one in found] == [(45, 15, 0), (0, None, None), (0, 0, 30)]
    rounded = left(guard(tmp_path, count_rounding=7), true_N, called_N)
    assert [one.units for one in rounded] == [(42, 14, 0), (0, None, None), (0, 0, 28)]
    assert left(guard(tmp_path), true_N[:105], called_N[:105]) == [None, None, None]  # five of the third class
    alone = left(guard(tmp_path), true_N[:100], called_N[:100])
    assert (alone[0].units, alone[2]) == ((45, 15, 0), None)  # nobody of the third class: the others are shown


def test_calls_of_nobody_knows_whom_do_not_leave() -> None:
    """A row that does not say who is in it cannot be judged."""
    with pytest.raises(EgressError, match="do not say whose"):
        suppress_calls(CalledAs(units=(40, 40)), min_cell=10, count_rounding=1)
    assert suppress_calls(None, min_cell=10, count_rounding=1) is None
