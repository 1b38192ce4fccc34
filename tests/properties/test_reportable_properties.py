"""Whatever a site may send and is admitted can be written into results and report: no error, no overflow, no memory."""

import json
import resource
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from server.admission import (
    LARGEST_FIGURE,
    Admitted,
    Refused,
    admit_description,
    admit_evidence,
    admit_flow,
    admit_update,
    open_reply,
)
from server.alternatives import Alternatives
from server.bootstrap import Coordinator, compose
from server.checkpoint import RunState
from server.finish import write_findings
from server.own_settings import own_results
from server.results_json import read
from server.run_folder import RunFolder
from server.site_bounds import MOST, bounds
from server.study_run import Conclusion
from server.validation import operating_points, released, validation_record
from shared.description import CORNERS, LARGEST, CornerEffect, CornerTest, Description, MarkTest
from shared.estimates import FARTHEST, Calibration, Coefficient, Estimate, ScoreQuality
from shared.evidence import Evidence, Withheld
from shared.feature_summary import LEAST_DIMENSIONS, FeatureSummary, dimensions
from shared.intensity import BINS as INTENSITY_BINS
from shared.intensity import IntensitySummary
from shared.messages import Answer, Approval, DescribeReply, EvaluateReply, ReadyReply, Reply, TrainReply, encode_answer
from shared.metrics import Confusion, ScoreHistogram, most_repetition
from shared.protocol import StudyProtocol
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.split import Split
from shared.subgroups import AXES, GroupEvidence
from simulations.in_process_grid import InProcessGrid

BINS = 8
TARGETS = ("opacity", "effusion")
SITES = ("east", "north", "west")
MODEL = {"fc.weight": np.ones(3, np.float32)}
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""An example takes seconds, and shrinking one minutes."""

NO_MORE_MEMORY = 1 << 30
"""Bytes by which the process may grow over all examples: what a site counts up to is laid out nowhere."""

edges = st.sampled_from((0.0, 1e-9, 0.5, 1 - 1e-9, 1.0)) | st.floats(0, 1)
"""Shares, with those at which a formula divides by nothing."""

SHARES = {"train": 0.5, "validation": 0.25, "test": 0.25}

sizes = st.sampled_from((1, 2, 30, 1000, MOST // 2)) | st.integers(1, MOST // 2)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    low, value, high = sorted(draw(st.tuples(edges, edges, edges)))
    return Estimate(value=value, low=low, high=high)


@st.composite
def coefficients(draw: st.DrawFn) -> Coefficient:
    one = st.sampled_from((-FARTHEST, -1.0, 0.0, 1.0, FARTHEST)) | st.floats(-FARTHEST, FARTHEST)
    low, value, high = sorted(draw(st.tuples(one, one, one)))
    return Coefficient(value=value, low=low, high=high)


@st.composite
def shared_out(draw: st.DrawFn, total: int) -> tuple[int, ...]:
    """Share units out over the score bins, unevenly."""
    cuts = sorted(draw(st.lists(st.integers(0, total), min_size=BINS - 1, max_size=BINS - 1)))
    return tuple(after - before for before, after in zip((0, *cuts), (*cuts, total), strict=True))


def effects(draw: st.DrawFn, units: int) -> float:
    return draw(st.sampled_from((1.0, most_repetition(units))) | st.floats(1, most_repetition(units)))


@st.composite
def confusions(draw: st.DrawFn, positives: int, negatives: int) -> Confusion:
    tp, fp = draw(st.integers(0, positives)), draw(st.integers(0, negatives))
    return Confusion(
        tp=tp,
        fp=fp,
        tn=negatives - fp,
        fn=positives - tp,
        positives_design_effect=effects(draw, positives),
        negatives_design_effect=effects(draw, negatives),
    )


@st.composite
def evidence(draw: st.DrawFn, units: int, *, threshold: float | None) -> Evidence:
    """Draw evidence on at most so many units, at its limits as often as between them."""
    n_pos = draw(st.sampled_from((0, 1, units // 2)) | st.integers(0, units // 2))
    n_neg = draw(st.sampled_from((0, 1, units // 2)) | st.integers(0, units // 2))
    positive = draw(st.sampled_from((min(1, n_pos), n_pos)) | st.integers(min(1, n_pos), n_pos))
    negative = draw(st.sampled_from((min(1, n_neg), n_neg)) | st.integers(min(1, n_neg), n_neg))
    patients = draw(st.integers(max(positive, negative), positive + negative))
    both = bool(n_pos and n_neg)
    quality = ScoreQuality(
        average_precision=draw(st.none() | estimates()),
        brier=draw(st.none() | estimates()),
        calibration=draw(st.none() | st.builds(Calibration, slope=coefficients(), intercept=coefficients())),
        called_design_effect=effects(draw, n_pos + n_neg),
        cleared_design_effect=effects(draw, n_pos + n_neg),
    )
    return Evidence(
        units=n_pos + n_neg,
        patients=patients,
        positive_patients=positive,
        negative_patients=negative,
        histogram=ScoreHistogram(positives=draw(shared_out(n_pos)), negatives=draw(shared_out(n_neg))),
        confusion=draw(confusions(n_pos, n_neg)) if threshold is not None else None,
        auc=draw(estimates()) if both else None,
        brier=draw(edges) if n_pos + n_neg else None,
        quality=draw(st.none() | st.just(quality)),
        subgroups=draw(groups(n_pos, n_neg)) if threshold is not None else (),
    )


@st.composite
def groups(draw: st.DrawFn, n_pos: int, n_neg: int) -> tuple[GroupEvidence, ...]:
    found = []
    for group in draw(st.lists(st.sampled_from(AXES["sex"]), max_size=2, unique=True)):
        positives, negatives = draw(st.integers(0, n_pos // 2)), draw(st.integers(0, n_neg // 2))
        found.append(
            GroupEvidence(
                axis="sex",
                group=group,
                positive_patients=draw(st.integers(min(1, positives), positives)),
                negative_patients=draw(st.integers(min(1, negatives), negatives)),
                confusion=draw(confusions(positives, negatives)),
                auc=draw(estimates()) if positives and negatives else None,
            )
        )
    return tuple(found)


numbers = st.sampled_from((-LARGEST, -1.0, 0.0, 1e-12, 1.0, LARGEST)) | st.floats(-LARGEST, LARGEST)


@st.composite
def features(draw: st.DrawFn, patients: int) -> FeatureSummary | Withheld:
    if dimensions(patients) < LEAST_DIMENSIONS:
        return Withheld()
    p = draw(st.integers(LEAST_DIMENSIONS, min(12, dimensions(patients))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from((0.0, 1e-6, 1.0, 1e5)))
    factor = rng.standard_normal((p, draw(st.sampled_from((1, p))))) * spread
    covariance = factor @ factor.T
    return FeatureSummary(
        split=Split.TRAIN,
        patients=patients,
        mean=tuple(draw(st.lists(numbers, min_size=p, max_size=p))),
        covariance=tuple(covariance[np.tril_indices(p)].tolist()),
        split_null=tuple([draw(st.floats(0, LARGEST))] * (p - LEAST_DIMENSIONS + 1)),
    )


@st.composite
def descriptions(draw: st.DrawFn, patients: int) -> Description:
    positive, negative = draw(st.integers(0, patients)), draw(st.integers(0, patients))
    enough = min(positive, negative) >= 2
    effect = st.builds(
        CornerEffect,
        value=numbers,
        error=st.just(0.0) | st.floats(0, LARGEST),
        freedom=st.integers(1, max(1, positive + negative - 1)),
        auc=edges,
        auc_without=edges,
    )
    corner = CornerTest(
        positive_patients=positive,
        negative_patients=negative,
        effects=tuple(draw(effect) for _ in CORNERS) if enough and draw(st.booleans()) else (),
    )
    mark = MarkTest(
        split=Split.TRAIN,
        positive_patients=positive,
        negative_patients=negative,
        areas=tuple(draw(edges) for _ in CORNERS) if enough and draw(st.booleans()) else (),
    )
    shares = [0.0] * INTENSITY_BINS
    shares[draw(st.integers(0, INTENSITY_BINS - 1))] = 1.0
    intensity = IntensitySummary(patients=patients, shares=tuple(shares), split_null=draw(st.floats(0, LARGEST)))
    return Description(
        features=draw(features(patients)),
        intensity=draw(st.just(intensity) | st.just(Withheld())),
        corners=(corner, Withheld()),
        marks=(mark, Withheld()),
    )


@st.composite
def flows(draw: st.DrawFn) -> ReleasedFlow:
    """Draw splits of about the study's fractions: one that is larger is bounded by the others."""
    splits, found, half = {}, 0, draw(sizes)
    for split in Split:
        patients = max(1, round(2 * half * SHARES[split] * draw(st.floats(0.98, 1.02))))
        exams = min(MOST, patients * draw(st.integers(1, 3)))
        hidden = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)
        all_positive = ClassCounts(
            positive_patients=patients, negative_patients=0, positive_exams=exams, negative_exams=0
        )
        counts = draw(st.sampled_from((hidden, all_positive)))
        splits[str(split)] = SplitCounts(patients=patients, exams=exams, classes=(counts,) * len(TARGETS))
        found += exams
    return ReleasedFlow(found=found, excluded={"empty": draw(st.none() | st.integers(0, found))}, splits=splits)


figures = st.sampled_from((0.0, 1e-300, 1.0, LARGEST_FIGURE)) | st.floats(0, LARGEST_FIGURE)


@st.composite
def updates(draw: st.DrawFn) -> TrainReply:
    return TrainReply(
        update={"fc.weight": np.full(3, draw(st.sampled_from((0.0, 1e-30, 1.0, 500.0))), np.float32)},
        loss_by_epoch=(draw(figures),),
        update_norm=draw(st.floats(0, 1e300)),
        images_per_second=draw(figures),
        seconds=draw(figures),
    )


def sent(reply: Reply, kind: Any) -> Any:
    """Send a reply through the real encoding."""
    grid = InProcessGrid({})
    (_,) = grid.push_messages([asked := grid.create_message(RecordDict(), "train", 7, "1")])
    message = Message(encode_answer(Answer(task_id="task", reply=reply)), reply_to=asked)
    return open_reply(message, task_id="task", kind=kind)


def admitted(reply: Any, kind: Any, admit: Any, **rules: Any) -> Any:
    """Let a reply in as the coordinator does; what is drawn here is within all bounds, so that it must."""
    opened = sent(reply, kind)
    found = opened if isinstance(opened, Refused) else admit(opened, **rules)
    assert not isinstance(found, Refused), found
    return found


@pytest.fixture(scope="module")
def study(tiny: Any) -> StudyProtocol:
    protocol: StudyProtocol = tiny.protocol(
        task={"findings": list(TARGETS)},
        split=SHARES,
        evaluation={
            "score_bins": BINS,
            "subgroups": ["sex"],
            "own_settings": ["threshold", "calibration"],
            "min_positives_to_rank": 1,
        },
    )
    return protocol


@pytest.fixture(scope="module")
def coordinator(study: StudyProtocol) -> Callable[[], Coordinator]:
    composed, _ = compose(study, weights_file=None)
    return lambda: composed


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Sent:
    """What one site sends in a study of one round; written out it would fill pages."""

    flow: ReleasedFlow
    update: TrainReply
    evidence: dict[Split, EvaluateReply]
    description: Description


@st.composite
def sites(draw: st.DrawFn, thresholds: tuple[float | None, ...]) -> Sent:
    flow = draw(flows())
    sizes = {split: flow.splits[split].patients or 0 for split in Split}
    return Sent(
        flow=flow,
        update=draw(updates()),
        evidence={
            split: EvaluateReply(
                evidence=tuple(
                    draw(st.just(Withheld()) | evidence(sizes[split], threshold=threshold)) for threshold in thresholds
                )
            )
            for split in (Split.VALIDATION, Split.TEST)
        },
        description=draw(descriptions(min(sizes.values()))),
    )


THRESHOLDS = ((0.5, 0.5), (0.5, None), (None, None))

studies = st.sampled_from(THRESHOLDS).flatmap(
    lambda thresholds: st.tuples(
        st.just(thresholds), st.fixed_dictionaries({name: sites(thresholds) for name in SITES})
    )
)


@pytest.fixture(scope="module")
def memory() -> Iterator[None]:
    """Hold all examples together to a bound on how much the process grows."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < NO_MORE_MEMORY // 1024


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=NO_SHRINKING)
@given(study_sent=studies, claim=st.sampled_from(("point", "lower_bound")))
def test_whatever_is_admitted_can_be_reported(
    study_sent: tuple[tuple[float | None, ...], dict[str, Sent]],
    claim: str,
    coordinator: Callable[[], Coordinator],
    tmp_path_factory: pytest.TempPathFactory,
    memory: None,
) -> None:
    """Flow, updates, evidence with subgroups and descriptions at the limits of what enters: results and report follow.

    What is written is JSON and can be read back; no number overflows on the way, and none is laid out unit by unit.
    """
    thresholds, replies = study_sent
    protocol = coordinator().protocol
    evaluation = protocol.evaluation.model_copy(update={"claim": claim})
    of_claim = replace(coordinator(), protocol=protocol.model_copy(update={"evaluation": evaluation}))
    plan = of_claim.plan(deadline_seconds=1.0)
    joined: dict[str, ReleasedFlow] = {}
    evaluations: dict[Split, dict[str, EvaluateReply]] = {Split.VALIDATION: {}, Split.TEST: {}}
    told: dict[str, Description] = {}
    entries: dict[str, Any] = {}
    for site, one in replies.items():
        ready = ReadyReply(flow=one.flow, package="0.1.0", approval=Approval.APPROVED)
        joined[site] = admitted(ready, ReadyReply, admit_flow, targets=len(TARGETS))
        most = bounds(joined[site], of_claim.protocol)
        for split, reply in one.evidence.items():
            rules: dict[str, Any] = {"targets": len(TARGETS), "bins": BINS, "axes": ("sex",), "most": most[split]}
            evaluations[split][site] = admitted(reply, EvaluateReply, admit_evidence, thresholds=thresholds, **rules)
        described = DescribeReply(description=one.description)
        told[site] = admitted(described, DescribeReply, admit_description, targets=len(TARGETS), most=most)
        entries[site] = entry(admitted(one.update, TrainReply, admit_update, model=MODEL, wire="fp32", epochs=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        record = {
            "round": 1,
            "lost": False,
            "seconds": 1.0,
            "bound": 1.0,
            "sites": entries,
            "late_replies": {},
            "validation": validation_record(evaluations[Split.VALIDATION], TARGETS, plan.choose),
        }
        points = operating_points(evaluations[Split.VALIDATION], TARGETS, plan.choose)
        conclusion = Conclusion(
            state=RunState(round=1, model=MODEL, history=[json.loads(json.dumps(record, allow_nan=False))]),
            chosen=1,
            model=MODEL,
            operating_point=points,
            validation=evaluations[Split.VALIDATION],
            test=evaluations[Split.TEST],
            own=own_results(of_claim.protocol, evaluations[Split.VALIDATION], evaluations[Split.TEST], points),
        )
        run = RunFolder(path=tmp_path_factory.mktemp("run"))
        device = torch.device("cpu")
        write_findings(run, of_claim, conclusion, joined, told, device=device, alternatives=Alternatives(), seeded=True)
    json.loads(run.results.read_text(), parse_constant=_refused)
    assert not {"nan", "inf", "-inf", "nan%", "inf%"} & _words(run.report)
    units = sum(item.units for item in released(evaluations[Split.TEST], 0).values())
    assert read(run.results).pooled["test"]["opacity"].units in (units, None)


def entry(update: Admitted) -> dict[str, Any]:
    """Give what a round's record says of a site (server/rounds.py)."""
    return {
        "refusal": None,
        "loss_by_epoch": list(update.reply.loss_by_epoch),
        "update_norm": update.norm,
        "factor": 1.0,
        "update_bytes": 12,
        "images_per_second": update.reply.images_per_second,
        "seconds": update.reply.seconds,
    }


def _refused(word: str) -> float:
    raise AssertionError(f"results.json holds {word}, which is no JSON")


def _words(page: Path) -> set[str]:
    return set(page.read_text(encoding="utf-8").lower().replace("<", " ").replace(">", " ").split())
