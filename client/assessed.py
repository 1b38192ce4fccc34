"""Says which of a study's findings a hospital does not assess, and under what name it may have meant them."""

import difflib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from shared.protocol import Task


def not_assessed(targets: Sequence[str], findings: Collection[str]) -> Iterator[str]:
    """Say of each target that is no key of [data.findings] that it is not assessed here, with the nearest key.

    A key that is another of the study's targets is no misspelling.
    """
    others = {finding.casefold(): finding for finding in findings if finding not in targets}
    for target in targets:
        if target not in findings:
            near = difflib.get_close_matches(target.casefold(), others, n=1, cutoff=0.7)
            meant = f" Did you mean '{others[near[0]]}', which [data.findings] has?" if near else ""
            yield f"The study's '{target}' is not in [data.findings] and counts as not assessed at this site.{meant}"


def assessed(
    task: Task, findings: Collection[str], labels_NK: npt.NDArray[np.float32], *, min_cell: int
) -> Iterator[bool]:
    """Tell of each target whether [data.findings] has it; classes are assessed all together.

    Where `min_cell` is 1, so that any count may leave, a column without any label is not assessed either. Elsewhere one
    labelled patient would be told by that.

    Images of several hospitals in one place, as a simulation's pooled model has them, have labels beyond one
    hospital's settings. At a hospital there is no label without a column, so that no patient decides.
    """
    for target, labels_N in zip(task.targets, labels_NK.T, strict=True):
        labelled = not bool(np.isnan(labels_N).all())
        yield task.exclusive or labelled or (target in findings and min_cell > 1)
