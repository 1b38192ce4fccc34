"""Score one split and reduce it to counts and histograms."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from client.called_as import called_as
from client.features import gathered
from client.inputs import Inputs
from client.site_data import Records, Rows
from client.subgroup_evidence import group_evidence
from client.workbench import Workbench
from shared.average_precision import average_precision
from shared.errors import TaskError
from shared.estimates import Estimate, ScoreQuality
from shared.evidence import Evidence
from shared.intervals import auc
from shared.messages import Refusal
from shared.metrics import brier, confusion, histogram, predictive_design_effects
from shared.protocol import Evaluation, Task
from shared.score_calibration import brier_score, calibration
from shared.scores import ScoredUnits
from shared.split import Split
from shared.tasks import Thresholds

Witness = Callable[[Split, tuple[ScoredUnits, ...]], None]
"""Is shown the exact scores that evidence was made from. A simulation alone has one (simulations/receipts.py)."""


LARGEST_LOGIT = 1e4
"""A score is 0 or 1 to the last bit of fp64 from a logit of ±745 on: no model's score changes by it."""


def nobody(split: Split, units: tuple[ScoredUnits, ...]) -> None:
    """Show the scores to nobody."""


def evaluate_split(
    bench: Workbench,
    inputs: Inputs,
    records: Records,
    *,
    split: Split,
    start: str,
    task: Task,
    evaluation: Evaluation,
    thresholds: Thresholds,
    witness: Witness = nobody,
) -> tuple[Evidence, ...]:
    """Score one side's images with the loaded model and give the evidence on each target, in the study's order.

    With `thresholds` (one for each target, or None) the counts at them are part of it, and so is what only exact scores
    can say, which is looked at once. Nothing is suppressed here: groups of a target without a threshold are there too,
    so that the guard knows who is in its classes, and lets none of them leave.

    Raises:
        TaskError: `thresholds` are given and are not one for each target.
        DataError: a score is not finite.
    """
    if thresholds and len(thresholds) != len(task.targets):
        raise TaskError(Refusal.MALFORMED, "the task gives another number of thresholds than the study has targets")
    rows = records.rows(split)
    scores_NK = score(bench, inputs, rows, start=start, exclusive=task.exclusive, targets=len(task.targets))
    every = tuple(
        records.units(scores_NK[:, place], rows, place, unit=task.unit, aggregate=task.aggregate)
        for place in range(len(task.targets))
    )
    witness(split, every)
    found = []
    for place, units in enumerate(every):
        item = evidence_for(
            units, bins=evaluation.score_bins, confidence=evaluation.confidence, thresholds=thresholds, place=place
        )
        if thresholds:
            groups = group_evidence(
                scores_NK[:, place],
                records,
                rows,
                place,
                task=task,
                axes=evaluation.subgroups,
                confidence=evaluation.confidence,
                threshold=thresholds[place] or 0.0,
            )
            item = replace(item, subgroups=groups)
        if thresholds and task.exclusive:
            item = replace(item, called_as=called_as(scores_NK, records, rows, place, task=task))
        found.append(item)
    return tuple(found)


@torch.no_grad()
def score(
    bench: Workbench, inputs: Inputs, rows: Rows, *, start: str, exclusive: bool, targets: int
) -> npt.NDArray[np.float64]:
    """Give each image's probabilities (len(rows), K): softmax for classes, a sigmoid each for findings."""
    bench.classifier.eval()

    def scored(batch: Rows) -> torch.Tensor:
        hidden = inputs.evaluation(batch, start=start).to(bench.device)
        with bench.precision():
            logits = bench.classifier.rest(hidden, start=start)
        return probabilities(answerable(logits, most=LARGEST_LOGIT), exclusive=exclusive)

    return gathered(rows, targets, scored)


def answerable(outputs: torch.Tensor, *, most: float) -> torch.Tensor:
    """Give outputs in fp64 that every later step can reckon with: what is not a number as 0, all within ±`most`.

    A finite model may overflow on one image and not on another. If that ended in a refusal, the refusal would tell
    that the image is there; so there is an answer whatever the images are.
    """
    return outputs.double().nan_to_num(nan=0.0, posinf=most, neginf=-most).clamp(-most, most)


def probabilities(logits_NK: torch.Tensor, *, exclusive: bool) -> torch.Tensor:
    """Turn logits into probabilities, in fp64.

    A model of finite weights may overflow on one image. No image may decide whether there is an answer, so that it is
    scored all the same: what is infinite as the largest number there is, what is no number (a difference of two
    infinities) as a logit of 0.
    """
    logits = logits_NK.double().nan_to_num(nan=0.0)
    return logits.softmax(dim=1) if exclusive else logits.sigmoid()


def evidence_for(units: ScoredUnits, *, bins: int, confidence: float, thresholds: Thresholds, place: int) -> Evidence:
    """Give one target's evidence for a task: with thresholds it is the last, and has what is looked at once.

    Where none could be chosen for this target, nobody is called positive and nothing is counted.
    """
    if not thresholds or thresholds[place] is not None:
        threshold = thresholds[place] if thresholds else None
        return evidence_on(units, bins=bins, confidence=confidence, threshold=threshold)
    plain = evidence_on(units, bins=bins, confidence=confidence, threshold=None)
    return replace(plain, quality=score_quality(units, confidence=confidence, threshold=None))


def evidence_on(units: ScoredUnits, *, bins: int, confidence: float, threshold: float | None) -> Evidence:
    """Reduce one target's units to what can be merged, and to what only exact scores can say."""
    area = auc(units, confidence=confidence)
    patients, positive = units.patients_M, units.positive_M
    return Evidence(
        units=len(units.scores_M),
        patients=len(np.unique(patients)),
        positive_patients=len(np.unique(patients[positive])),
        negative_patients=len(np.unique(patients[~positive])),
        histogram=histogram(units, bins=bins),
        confusion=None if threshold is None else confusion(units, threshold=threshold),
        auc=None if area is None else Estimate(value=area.value, low=area.low, high=area.high),
        brier=brier(units),
        quality=None if threshold is None else score_quality(units, confidence=confidence, threshold=threshold),
    )


def score_quality(units: ScoredUnits, *, confidence: float, threshold: float | None) -> ScoreQuality:
    """Compute it once a split, when it is known whether there is a threshold; without one nobody is called positive."""
    called, cleared = (1.0, 1.0) if threshold is None else predictive_design_effects(units, threshold=threshold)
    return ScoreQuality(
        average_precision=average_precision(units, confidence=confidence),
        brier=brier_score(units, confidence=confidence),
        calibration=calibration(units, confidence=confidence),
        called_design_effect=called,
        cleared_design_effect=cleared,
    )
