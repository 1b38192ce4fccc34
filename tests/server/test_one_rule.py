"""Whoever chooses a threshold for the same units chooses the same: one owner, and one rule where patients repeat."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from client.evaluation import evidence_on
from server.bootstrap import Coordinator
from server.other_thresholds import other_thresholds
from server.own_settings import own_results
from server.validation import operating_points, validation_record
from shared.evidence import Evidence
from shared.messages import DeliverTask, EvaluateReply, EvaluateTask, Header, Kind, decode_task, encode_task
from shared.operating_point import OperatingPoint, choose_on
from shared.scores import ScoredUnits, lower_edges
from shared.split import Split
from shared.tasks import from_floats, to_floats

BINS, PATIENTS, EXAMS = 64, 150, 4


def repeated(seed: int) -> Evidence:
    """Draw exams of which each patient has four, alike in truth and in score."""
    rng = np.random.default_rng(seed)
    positive_P = np.arange(PATIENTS) < 100
    logits_P = rng.normal(-1 + 3 * positive_P, 1.0)
    patients_M = np.repeat(np.arange(PATIENTS), EXAMS)
    scores_M = expit(logits_P[patients_M] + rng.normal(0, 0.3, PATIENTS * EXAMS))
    units = ScoredUnits(scores_M=scores_M, positive_M=positive_P[patients_M], patients_M=patients_M)
    return evidence_on(units, bins=BINS, confidence=0.95, threshold=0.5)


def answers(item: Evidence) -> dict[str, EvaluateReply]:
    return {"north": EvaluateReply(evidence=(item,))}


@pytest.mark.parametrize("claim", ["point", "lower_bound"])
def test_the_five_who_choose_a_threshold_agree(tiny: Any, claim: str) -> None:
    """Of one site's units: the round's, the conclusion's, the table's, the site's need and its own setting."""
    wish = {"claim": claim, "target_sensitivity": 0.85, "own_settings": ["threshold"], "score_bins": BINS}
    protocol = tiny.protocol(evaluation=wish)
    validation, test = repeated(1), repeated(2)
    coordinator = Coordinator(protocol=protocol, initial={}, provenance=None, names_from={"head": []})  # type: ignore[arg-type]
    choose = coordinator.plan(deadline_seconds=1.0).choose
    concluded = operating_points(answers(validation), ("opacity",), choose)
    point = concluded["opacity"]
    assert point is not None
    others = other_thresholds(
        {"north": validation}, {"north": test}, target=0.85, claim=protocol.evaluation.claim, confidence=0.95
    )
    own = own_results(protocol, answers(validation), answers(test), concluded)["opacity"]["north"].threshold
    assert own is not None
    rates = validation_record(answers(validation), ("opacity",), choose)["site_rates"]["opacity"]["north"]
    chosen = {
        "conclusion": point.threshold,
        "table": next(row.point.threshold for row in others.table if row.point.target == 0.85),
        "need": others.own["north"].need.threshold,
        "own": own.point.threshold,
    }
    assert set(chosen.values()) == {point.threshold}, chosen
    edge = lower_edges(bins=BINS).tolist().index(point.threshold)
    assert rates["sensitivity"][0] == sum(validation.histogram.positives[edge:])


def test_repeated_patients_are_one_for_a_claim_on_the_lower_bound() -> None:
    """Four exams of each patient show no more than one: without the rule the threshold would be higher."""
    item = repeated(1)
    asked: dict[str, Any] = {"target": 0.85, "claim": "lower_bound", "confidence": 0.95}
    by_patient = choose_on([item], **asked)
    as_if_new = choose_on([replace(item, positive_patients=item.histogram.n_pos)], **asked)
    assert by_patient is not None
    assert as_if_new is not None
    assert by_patient.threshold < as_if_new.threshold
    assert by_patient.reached.low >= 0.85


def test_no_threshold_is_none_wherever_it_stands(tiny: Any) -> None:
    """Of a target without validation positives: in memory, in both tasks after the wire, and in a list of own ones."""
    nobody = replace(
        repeated(1),
        histogram=replace(repeated(1).histogram, positives=(0,) * BINS),
        positive_patients=0,
        confusion=None,
    )
    found = operating_points(answers(nobody), ("opacity",), Chooser())
    assert found == {"opacity": None}
    thresholds = (None, 0.25)
    header = Header(protocol_digest="d", run_id="r", round=1, site="s", kind=Kind.EVALUATE, detail="")
    for task in (
        EvaluateTask(header=header, arrays={}, split=Split.TEST, thresholds=thresholds),
        DeliverTask(header=replace(header, kind=Kind.DELIVER), arrays={}, thresholds=thresholds, documents={}),
    ):
        assert decode_task(encode_task(task)).thresholds == thresholds  # type: ignore[union-attr]
    assert from_floats(to_floats(thresholds)) == thresholds
    for wrong in ([1.5], [-0.1], [float("inf")]):
        with pytest.raises(ValueError, match="a threshold is a score"):
            from_floats(wrong)


class Chooser:
    """Chooses as a study does."""

    def __call__(self, items: Any) -> OperatingPoint | None:
        return choose_on(items, target=0.9, claim="point", confidence=0.95)
