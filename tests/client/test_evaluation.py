"""A split becomes counts and histograms over the study's units, and nothing finer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score

from client.evaluation import evaluate_split, score
from client.site_data import Records, Rows
from shared.errors import TaskError
from shared.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 70
"""More than two forward batches."""


class Features:
    """Gives each row fixed features."""

    def __init__(self) -> None:
        self.features = torch.randn(COUNT, 512, generator=torch.Generator().manual_seed(1))
        self.asked: list[int] = []

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        self.asked += rows.tolist()
        return self.features[torch.from_numpy(rows)]


def records(targets: int, *, exclusive: bool = False) -> Records:
    """Give two images an exam and two exams a patient; two thirds test, the others validate."""
    rng = np.random.default_rng(2)
    images = np.arange(COUNT)
    labels = rng.integers(0, 2, (COUNT // 2 + 1, targets))[images // 2]
    if exclusive:
        labels = np.eye(targets)[rng.integers(0, targets, COUNT // 2 + 1)][images // 2]
    side = np.where(images // 4 % 3 == 0, "validation", "test")
    return Records(
        labels_NK=labels.astype(np.float32), patients_N=images // 4, exams_N=images // 2, split_N=side.astype(np.str_)
    )


def evaluate(tiny: Any, known: Records, *, targets: int = 1, thresholds: Any = (), **task: Any) -> Any:
    """Score the test split with a fresh model; give bench, inputs, protocol and evidence."""
    names = [f"target{place}" for place in range(targets)]
    kind = "classes" if task.pop("exclusive", False) else "findings"
    protocol = tiny.protocol(task={kind: names} | task)
    bench, inputs = tiny.bench(protocol), Features()
    evidence = evaluate_split(
        bench,
        inputs,
        known,
        split=Split.TEST,
        start="head",
        task=protocol.task,
        evaluation=protocol.evaluation,
        thresholds=thresholds,
    )
    return bench, inputs, evidence


def probabilities(bench: Any, inputs: Features, rows: Any, *, exclusive: bool = False) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        logits = bench.classifier.fc(inputs.features[torch.from_numpy(rows)]).double()
    return (logits.softmax(1) if exclusive else logits.sigmoid()).numpy()


def test_evidence_equals_that_of_scikit_learn(tiny: Any) -> None:
    """Exams by their highest image: AUC, Brier, counts at the threshold, histogram, units, patients by class."""
    known = records(1)
    rows = known.rows(Split.TEST)
    bench, inputs, (evidence,) = evaluate(tiny, known, thresholds=(0.5,))
    assert inputs.asked == rows.tolist()
    exams, first = np.unique(known.exams_N[rows], return_index=True)
    images = probabilities(bench, inputs, rows)[:, 0]
    scores = np.array([images[known.exams_N[rows] == exam].max() for exam in exams])
    truth = known.labels_NK[rows][first, 0] == 1
    assert evidence.auc.value == pytest.approx(roc_auc_score(truth, scores))
    assert evidence.auc.low < evidence.auc.value < evidence.auc.high
    assert evidence.brier == pytest.approx(brier_score_loss(truth, scores))
    tn, fp, fn, tp = confusion_matrix(truth, scores >= 0.5).ravel()
    at = evidence.confusion
    assert (at.tn, at.fp, at.fn, at.tp) == (tn, fp, fn, tp)
    assert (evidence.units, sum(evidence.histogram.positives), sum(evidence.histogram.negatives)) == (
        len(exams),
        truth.sum(),
        (~truth).sum(),
    )
    assert len(evidence.histogram.positives) == 16
    patients = known.patients_N[rows][first]
    assert evidence.patients == len(set(patients))
    assert evidence.positive_patients == len(set(patients[truth]))
    assert evidence.negative_patients == len(set(patients[~truth]))


@pytest.mark.parametrize(("unit", "units"), [("image", 46), ("exam", 23), ("patient", 12)])
def test_units_are_the_studys(tiny: Any, unit: str, units: int) -> None:
    """Images, exams and patients of the same 46 films are 46, 23 and 12 units."""
    _, _, (evidence,) = evaluate(tiny, records(1), unit=unit)
    assert (evidence.units, evidence.patients) == (units, 12)


def test_an_exams_score_is_aggregated_as_the_study_says(tiny: Any) -> None:
    """The mean of an exam's images is not their maximum."""
    by = [evaluate(tiny, records(1), aggregate=how)[2][0].brier for how in ("max", "mean")]
    assert by[0] != by[1]


def test_without_thresholds_there_are_no_counts(tiny: Any) -> None:
    """Counts at a threshold come only with a threshold."""
    assert evaluate(tiny, records(1))[2][0].confusion is None


def test_findings_are_judged_each_at_its_own_threshold(tiny: Any) -> None:
    """At 0 everything is called positive, at 1 nothing, in the study's order of findings."""
    _, _, (low, high) = evaluate(tiny, records(2), targets=2, thresholds=(0.0, 1.0))
    assert (low.confusion.fn, low.confusion.tn) == (0, 0)
    assert (high.confusion.tp, high.confusion.fp) == (0, 0)


def test_classes_share_their_probability(tiny: Any) -> None:
    """Scores of classes are a softmax, whose class probabilities add up to 1; those of findings are not."""
    known = records(3, exclusive=True)
    rows = known.rows(Split.TEST)
    for exclusive in (True, False):
        bench, inputs, _ = evaluate(tiny, known, targets=3, exclusive=exclusive)
        scores = score(bench, inputs, rows, start="head", exclusive=exclusive, targets=3)  # type: ignore[arg-type]
        # The last bits of a product depend on how many rows it has, and not on every machine.
        np.testing.assert_allclose(scores, probabilities(bench, inputs, rows, exclusive=exclusive), rtol=1e-5)
        assert np.allclose(scores.sum(axis=1), 1) == exclusive


def test_what_was_not_assessed_is_no_unit(tiny: Any) -> None:
    """A finding that a site did not label has no unit, and a half-labelled one those that it has."""
    known = records(2)
    known.labels_NK[:, 1] = np.nan
    known.labels_NK[: COUNT // 2, 0] = np.nan
    _, _, (half, none) = evaluate(tiny, known, targets=2, thresholds=(0.5, 0.5))
    assert 0 < half.units < 23
    assert (none.units, none.patients, none.auc, none.brier) == (0, 0, None, None)


def test_an_empty_split_has_no_evidence(tiny: Any) -> None:
    """A site without test patients answers with zero units; the guard then withholds it."""
    known = records(1)
    known.split_N[:] = "train"
    _, inputs, (evidence,) = evaluate(tiny, known, thresholds=(0.5,))
    assert (evidence.units, evidence.auc, inputs.asked) == (0, None, [])


def test_evaluating_trains_nothing(tiny: Any) -> None:
    """The model is scored in evaluation mode, even after training, and its statistics do not move."""
    protocol = tiny.protocol(model={"norm": "batch", "dropout": 0.5})
    bench, inputs = tiny.bench(protocol), Features()
    bench.classifier.train()
    once, again = (
        score(bench, inputs, np.arange(COUNT), start="head", exclusive=False, targets=1)  # type: ignore[arg-type]
        for _ in range(2)
    )
    np.testing.assert_array_equal(once, again)
    assert not bench.classifier.training


def test_no_image_can_turn_an_answer_into_a_refusal(tiny: Any) -> None:
    """Whatever a model gives for one image, it is counted: no number in the middle, what is infinite at an end."""
    protocol = tiny.protocol()
    for value, place in ((torch.nan, 8), (torch.inf, 15), (-torch.inf, 0)):
        bench, inputs = tiny.bench(protocol), Features()
        with torch.no_grad():
            bench.classifier.fc.weight.fill_(1.0)
            bench.classifier.fc.bias.zero_()
        inputs.features[:] = value
        (found,) = evaluate_split(
            bench,
            inputs,  # type: ignore[arg-type]
            records(1),
            split=Split.TEST,
            start="head",
            task=protocol.task,
            evaluation=protocol.evaluation,
            thresholds=(0.5,),
        )
        counts = np.add(found.histogram.positives, found.histogram.negatives)
        assert np.flatnonzero(counts).tolist() == [place]


def test_thresholds_must_fit_the_study(tiny: Any) -> None:
    """One threshold for two findings is refused as malformed."""
    with pytest.raises(TaskError) as refusal:
        evaluate(tiny, records(2), targets=2, thresholds=(0.5,))
    assert refusal.value.code == "malformed"


def test_a_real_hospital_is_scored_from_its_pixels(tiny: Any, tmp_path: Path) -> None:
    """Through images and backbone, scores are those of one forward pass in the same batches."""
    protocol = tiny.protocol()
    agent = tiny.agent(protocol, tmp_path)
    rows = agent.records.rows(Split.TEST)
    scores = score(agent.bench, agent.inputs, rows, start="layer4", exclusive=False, targets=1)
    with torch.no_grad():
        hidden = agent.inputs.evaluation(rows, start="stem")
        expected = agent.bench.classifier(hidden).double().sigmoid().numpy()
    np.testing.assert_array_equal(scores, expected)
