"""Puts the model that came with a task on the bench: what trains in its round, and all else as it was approved."""

from collections.abc import Collection

import numpy as np

from client.workbench import Workbench
from shared.errors import TaskError
from shared.messages import DeliverTask, DescribeTask, EvaluateTask, Refusal, TrainTask
from shared.parameters import NamedArrays, chunks
from shared.split import Split


def load_model(
    bench: Workbench,
    task: TrainTask | EvaluateTask | DescribeTask | DeliverTask,
    *,
    trains: Collection[str],
    ever_trains: Collection[str],
) -> None:
    """Let the bench hold the study's own start, and over it the arrays of `trains`, those of the task's round.

    A task to train, and a look at a round's model, brings just these; a task about the model that the study ends with
    brings `ever_trains`, all that train in any round, of which those that do not train up to its round are as they
    were at the start. So nothing that an earlier task brought or trained is left, and whatever is computed before the
    first stage that trains is computed by the approved weights.

    Raises:
        TaskError: the task brings other arrays, of another shape, or with elements that are not finite.
    """
    if not any(task.arrays.keys() == set(names) for names in _allowed(task, trains, ever_trains)):
        raise TaskError(Refusal.WRONG_FORM, "the task's arrays are not those that such a task of the study brings")
    check_finite(task.arrays)
    start = bench.start(task.arrays.keys() - set(trains))
    if any(not _same(task.arrays[name], array) for name, array in start.items()):
        raise TaskError(Refusal.OTHER_WEIGHTS, "an array that has not trained yet is not as the study starts with it")
    bench.restart({name: array for name, array in task.arrays.items() if name in trains})


def check_finite(arrays: NamedArrays) -> None:
    """Refuse a model with an element that is not finite.

    Raises:
        TaskError: it has one.
    """
    if not all(np.isfinite(chunk).all() for array in arrays.values() for _, chunk in chunks(array)):
        raise TaskError(Refusal.NOT_FINITE, "the model that came in has elements that are not finite")


def _allowed(
    task: TrainTask | EvaluateTask | DescribeTask | DeliverTask, trains: Collection[str], ever_trains: Collection[str]
) -> list[Collection[str]]:
    match task:
        case TrainTask():
            return [trains]
        case EvaluateTask(split=Split.VALIDATION, thresholds=()):
            return [trains, ever_trains]
        case _:
            return [ever_trains]


def _same(array: np.ndarray, start: np.ndarray) -> bool:
    return array.shape == start.shape and np.array_equal(array, start.astype(array.dtype))
