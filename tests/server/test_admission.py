"""What does not answer the task, in form and in kind, does not enter; each refusal has its reason."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from server.admission import Admitted, Reason, Refused, admit_evidence, admit_flow, admit_update, open_reply
from server.site_bounds import Most
from shared.estimates import Calibration, Coefficient, Estimate, ScoreQuality
from shared.evidence import Evidence, Withheld
from shared.messages import (
    WIRE_VERSION,
    Answer,
    Approval,
    EvaluateReply,
    ReadyReply,
    Refusal,
    RefusalReply,
    Reply,
    TrainReply,
    encode_answer,
)
from shared.metrics import Confusion, ScoreHistogram
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.subgroups import GroupEvidence
from simulations.in_process_grid import InProcessGrid

MODEL = {"fc.weight": np.zeros((1, 3), np.float32), "fc.bias": np.zeros(1, np.float32)}


MANY = Most(units=100, patients=100)


def update(arrays: Any = None, **figures: Any) -> TrainReply:
    own = {"loss_by_epoch": (0.5,), "update_norm": 2.0, "images_per_second": 10.0, "seconds": 1.0}
    return TrainReply(update=arrays or {name: array + 1 for name, array in MODEL.items()}, **own | figures)


def evidence(*, bins: int = 4, counted: bool = True, **changes: Any) -> Evidence:
    own: dict[str, Any] = {
        "units": 5,
        "patients": 5,
        "positive_patients": 2,
        "negative_patients": 3,
        "histogram": ScoreHistogram(positives=(0,) * (bins - 1) + (2,), negatives=(3,) + (0,) * (bins - 1)),
        "confusion": Confusion(tp=2, fp=0, tn=3, fn=0) if counted else None,
        "auc": Estimate(value=0.8, low=0.6, high=0.9),
        "brier": 0.2,
    }
    return Evidence(**own | changes)


def ready(counts: ReleasedFlow) -> ReadyReply:
    return ReadyReply(flow=counts, package="0.1.0", approval=Approval.APPROVED)


def flow(*, splits: tuple[str, ...] = ("train", "validation", "test"), targets: int = 1) -> ReleasedFlow:
    counts = ClassCounts(positive_patients=1, negative_patients=1, positive_exams=1, negative_exams=1)
    split = SplitCounts(patients=2, exams=2, classes=(counts,) * targets)
    return ReleasedFlow(found=6, excluded={}, splits=dict.fromkeys(splits, split))


def message(content: RecordDict | Error) -> Message:
    """Give a message as it comes from a site."""
    grid = InProcessGrid({})
    (_,) = grid.push_messages([asked := grid.create_message(RecordDict(), "train", 7, "1")])
    return Message(content, reply_to=asked)


def answered(reply: Reply, *, task_id: str = "task") -> Message:
    return message(encode_answer(Answer(task_id=task_id, reply=reply)))


def test_no_site_writes_a_sentence_by_its_reasons_for_leaving_files_out() -> None:
    """The report that all sites get prints them; those that nobody knows are counted together, under one word."""
    known = {"no_label_row": 3, "not_dicom": None}
    said = {"falsified_labels_were_found_at_north": 2, "call_00491234567_for_a_refund": 1}
    told = admit_flow(ready(replace(flow(), excluded=known | said)), targets=1)
    assert isinstance(told, ReleasedFlow)
    assert told.excluded == known | {"another_reason": 3}
    hidden = admit_flow(ready(replace(flow(), excluded=said | {"a_newer_code": None})), targets=1)
    assert isinstance(hidden, ReleasedFlow)
    assert hidden.excluded == {"another_reason": None}
    assert admit_flow(ready(replace(flow(), excluded=said | {"too_many": 7})), targets=1) == Refused(
        reason=Reason.WRONG_COUNT
    )


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (ready(flow()), ReadyReply),
        (update(), TrainReply),
        (EvaluateReply(evidence=(evidence(), Withheld())), EvaluateReply),
    ],
    ids=["ready", "train", "evaluate"],
)
def test_an_answer_to_the_task_is_opened_and_any_other_kind_refused(reply: Any, kind: Any) -> None:
    """A reply of the kind that was asked for comes back as it was sent; every other kind is malformed."""
    opened = open_reply(answered(reply), task_id="task", kind=kind)
    assert type(opened) is kind
    if kind is not TrainReply:
        assert opened == reply
    for other in {ReadyReply, TrainReply, EvaluateReply} - {kind}:
        assert open_reply(answered(reply), task_id="task", kind=other) == Refused(reason=Reason.MALFORMED)


def test_an_answer_to_another_task_does_not_enter() -> None:
    """A reply of another round, or a replayed one, carries another task's id."""
    refused = Refused(reason=Reason.OTHER_TASK)
    assert open_reply(answered(update(), task_id="other"), task_id="task", kind=TrainReply) == refused
    refusal = answered(RefusalReply(code=Refusal.DATA), task_id="other")
    assert open_reply(refusal, task_id="task", kind=TrainReply) == refused


@pytest.mark.parametrize("code", list(Refusal))
def test_a_sites_own_refusal_keeps_its_code(code: Refusal) -> None:
    """The site's fixed code is the reason, also where it could not read the task and so not its id."""
    for task_id in ("task", ""):
        reply = answered(RefusalReply(code=code), task_id=task_id)
        assert open_reply(reply, task_id="task", kind=TrainReply) == Refused(reason=code)


def test_an_error_of_flowers_is_no_reply() -> None:
    """Flower's error message says nothing of the site; its text is not looked at."""
    lost = message(Error(0, "DOE^JOHN"))
    assert open_reply(lost, task_id="task", kind=TrainReply) == Refused(reason=Reason.NO_REPLY)


def quality(*, slope: float = 1.0, effect: float = 1.0) -> ScoreQuality:
    """Give score quality with one figure of our choice."""
    line = Coefficient(value=slope, low=0.5, high=1.5)
    return ScoreQuality(
        average_precision=None,
        brier=None,
        calibration=Calibration(slope=line, intercept=Coefficient(value=0.0, low=-1.0, high=1.0)),
        called_design_effect=effect,
        cleared_design_effect=1.0,
    )


BROKEN: dict[str, Any] = {
    "loss": update(loss_by_epoch=(0.5, math.nan)),
    "norm": update(update_norm=math.inf),
    "rate": update(images_per_second=math.nan),
    "seconds": update(seconds=-math.inf),
    "auc": EvaluateReply(evidence=(evidence(auc=Estimate(value=math.nan, low=0.1, high=0.9)),)),
    "auc beyond 1": EvaluateReply(evidence=(evidence(auc=Estimate(value=1.0, low=0.1, high=1.5)),)),
    "auc outside its interval": EvaluateReply(evidence=(evidence(auc=Estimate(value=0.5, low=0.6, high=0.9)),)),
    "brier": EvaluateReply(evidence=(evidence(brier=math.nan),)),
    "brier beyond 1": EvaluateReply(evidence=(evidence(brier=1.5),)),
    "design effect": EvaluateReply(
        evidence=(evidence(confusion=Confusion(tp=2, fp=0, tn=3, fn=0, positives_design_effect=math.inf)),)
    ),
    "slope": EvaluateReply(evidence=(evidence(quality=quality(slope=math.nan)),)),
    "slope outside its interval": EvaluateReply(evidence=(evidence(quality=quality(slope=9.0)),)),
    "predictive design effect": EvaluateReply(evidence=(evidence(quality=quality(effect=0.5)),)),
    "units": EvaluateReply(evidence=(evidence(units=6),)),
    "counts": EvaluateReply(evidence=(evidence(confusion=Confusion(tp=1, fp=0, tn=3, fn=0)),)),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_figures_that_no_report_could_print_are_malformed(reply: Any) -> None:
    """A figure that is not finite, out of its range or contradicts another one enters neither history nor results."""
    assert open_reply(answered(reply), task_id="task", kind=type(reply)) == Refused(reason=Reason.MALFORMED)


def test_a_number_that_no_float_holds_is_malformed() -> None:
    """A whole number of 400 digits is a form of garbage, too."""
    content = encode_answer(Answer(task_id="task", reply=update()))
    content["metrics"]["update_norm"] = 10**400  # type: ignore[index]
    assert open_reply(message(content), task_id="task", kind=TrainReply) == Refused(reason=Reason.MALFORMED)


NUMBERS = st.one_of(st.integers(-(10**400), 10**400), st.floats(), st.lists(st.integers(-5, 5), max_size=5))
WORDS = st.sampled_from(["", "1", "task", "query", "train", "evaluate", "refusal", "storage", "arrays", "flow"])

KEYS = (
    *("found", "excluded/x", "split/train", "loss_by_epoch", "update_norm", "images_per_second", "seconds"),
    *("units", "patients", "positives", "negatives", "confusion", "design_effects", "auc", "brier", "withheld"),
    *("predictive_design_effects", "average_precision", "brier_interval", "calibration_slope", "calibration_intercept"),
)


@given(
    state=st.dictionaries(st.sampled_from(["version", "task_id", "kind", "code"]), WORDS),
    records=st.dictionaries(
        st.sampled_from(["flow", "metrics", "evidence0", "evidence7"]),
        st.dictionaries(st.sampled_from(KEYS), NUMBERS),
    ),
    arrays=st.booleans(),
)
def test_garbage_is_refused_and_never_raises(state: Any, records: Any, arrays: bool) -> None:
    """Whatever a site sends in place of a reply, the coordinator has a reason for it and goes on."""
    content = RecordDict({name: MetricRecord(numbers) for name, numbers in records.items()})
    content["state"] = ConfigRecord({"version": WIRE_VERSION, "task_id": "task"} | state)
    if arrays:
        content["arrays"] = ArrayRecord({})
    for kind in (ReadyReply, TrainReply, EvaluateReply):
        opened = open_reply(message(content), task_id="task", kind=kind)
        assert isinstance(opened, Refused | kind)


def admit(reply: TrainReply, **changes: Any) -> Admitted | Refused:
    return admit_update(reply, **{"model": MODEL, "wire": "fp32", "epochs": 1} | changes)


def test_a_good_update_enters_with_its_norm() -> None:
    """The norm is the coordinator's own, not the one that the site says."""
    verdict = admit(update(update_norm=99.0))
    assert isinstance(verdict, Admitted)
    assert verdict.norm == 2.0


VARIANCE = {"bn1.running_var": np.array([2.0, 0.0, 1e-3], np.float32)}


def test_an_update_that_makes_a_variance_negative_does_not_enter() -> None:
    """Under norm = "batch" one such element makes all scores at all sites NaN, at an honest update's norm."""
    refused = Refused(reason=Reason.NEGATIVE_VARIANCE)
    for change in ([-2.1, 0, 0], [0, -1e-6, 0], [0, 0, -2e-3]):
        update_of = {"bn1.running_var": np.array(change, np.float32)}
        assert admit(update(update_of), model=VARIANCE) == refused
    for change in ([-2.0, 0, -1e-3], [-2.001, 5.0, 0]):
        update_of = {"bn1.running_var": np.array(change, np.float32)}
        assert isinstance(admit(update(update_of), model=VARIANCE), Admitted)


WRONG = {
    "a name": {"fc.weight": MODEL["fc.weight"], "bias": MODEL["fc.bias"]},
    "the order": dict(reversed(MODEL.items())),
    "one too many": MODEL | {"more": np.zeros(1, np.float32)},
    "one too few": {"fc.weight": MODEL["fc.weight"]},
    "a shape": MODEL | {"fc.bias": np.zeros((1, 1), np.float32)},
    "a dtype": MODEL | {"fc.bias": np.zeros(1, np.float16)},
}


@pytest.mark.parametrize("arrays", WRONG.values(), ids=WRONG)
def test_an_update_of_another_form_does_not_enter(arrays: Any) -> None:
    """Names, order, shapes and dtypes must be those of the model that was sent."""
    assert admit(update(arrays)) == Refused(reason=Reason.WRONG_FORM)


def test_half_precision_enters_where_it_travels() -> None:
    """With wire = "fp16" an update is fp16, and an fp32 one is refused."""
    half = {name: array.astype(np.float16) for name, array in MODEL.items()}
    assert isinstance(admit(update(half), wire="fp16"), Admitted)
    assert admit(update(), wire="fp16") == Refused(reason=Reason.WRONG_FORM)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_not_finite_refuses_the_update(value: float) -> None:
    """A single NaN would make every weight of every site NaN."""
    broken = {name: array.copy() for name, array in MODEL.items()}
    broken["fc.weight"][0, 2] = value
    assert admit(update(broken)) == Refused(reason=Reason.NOT_FINITE)


def test_evidence_of_the_studys_form_enters() -> None:
    """One entry a target, in the study's bins, with counts exactly where thresholds were sent."""
    for counted in (True, False):
        reply = EvaluateReply(evidence=(evidence(counted=counted), Withheld()))
        assert (
            admit_evidence(reply, targets=2, bins=4, thresholds=(0.5,) * 2 if counted else (), axes=(), most=MANY)
            is reply
        )


@pytest.mark.parametrize(
    "items",
    [(evidence(),), (evidence(),) * 3, (evidence(), evidence(bins=5)), (evidence(), evidence(counted=False)), ()],
    ids=["one too few", "one too many", "other bins", "no counts", "nothing"],
)
def test_evidence_of_another_form_does_not_enter(items: Any) -> None:
    """Other numbers of targets or bins, or missing counts, could not be merged."""
    refused = Refused(reason=Reason.WRONG_COUNT)
    assert (
        admit_evidence(EvaluateReply(evidence=items), targets=2, bins=4, thresholds=(0.5, 0.5), axes=(), most=MANY)
        == refused
    )


def test_counts_that_nobody_asked_for_do_not_enter() -> None:
    """Without thresholds there can be no counts at them."""
    reply = EvaluateReply(evidence=(evidence(),))
    assert admit_evidence(reply, targets=1, bins=4, thresholds=(), axes=(), most=MANY) == Refused(
        reason=Reason.WRONG_COUNT
    )


def test_a_flow_has_every_split_and_target() -> None:
    """A flow without a split, with a strange one, or with other targets does not enter."""
    assert admit_flow(ready(flow()), targets=1) == flow()
    for wrong in (flow(splits=("train",)), flow(splits=("train", "validation", "test", "x")), flow(targets=2)):
        assert admit_flow(ready(wrong), targets=1) == Refused(reason=Reason.WRONG_COUNT)


def test_a_target_without_a_threshold_has_no_counts_and_the_others_have() -> None:
    """None is a threshold that is not there: evidence with counts at it was made with another."""
    thresholds, rules = (0.5, None), {"targets": 2, "bins": 4, "axes": (), "most": MANY}
    right = EvaluateReply(evidence=(evidence(), evidence(counted=False)))
    assert admit_evidence(right, thresholds=thresholds, **rules) is right
    wrong = EvaluateReply(evidence=(evidence(), evidence()))
    assert admit_evidence(wrong, thresholds=thresholds, **rules) == Refused(reason=Reason.WRONG_COUNT)


@pytest.mark.parametrize(
    "figures",
    [
        {"loss_by_epoch": (0.5, 0.5)},
        {"loss_by_epoch": ()},
        {"loss_by_epoch": (0.1,) * 100_000},
        {"loss_by_epoch": (-0.1,)},
        {"loss_by_epoch": (1e300,)},
        {"seconds": -1.0},
        {"seconds": 1e300},
        {"images_per_second": 1e13},
    ],
)
def test_figures_that_nobody_measured_do_not_enter(figures: Any) -> None:
    """One loss an epoch, no time or rate below 0, and none that a page could not show."""
    assert admit(update(**figures)) == Refused(reason=Reason.WRONG_FIGURE)


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "units without a patient": {"patients": 0, "positive_patients": 0, "negative_patients": 0},
    "more patients than units": {"patients": 6, "positive_patients": 2, "negative_patients": 3},
    "a class without its patients": {"positive_patients": 0},
    "classes that do not make up all": {"patients": 5, "positive_patients": 1, "negative_patients": 2},
    "an AUC that is missing": {"auc": None},
    "a design effect beyond its units": {"confusion": Confusion(tp=2, fp=0, tn=3, fn=0, positives_design_effect=1e300)},
    "a slope beyond what can be fitted": {"quality": quality(slope=1e300)},
    "a predictive design effect beyond its units": {"quality": quality(effect=1e300)},
}


@pytest.mark.parametrize("changes", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_evidence_that_contradicts_itself_is_malformed(changes: dict[str, Any]) -> None:
    """Each of these divided something by nothing, or overflowed, when the report was written."""
    reply = EvaluateReply(evidence=(evidence(**changes),))
    assert open_reply(answered(reply), task_id="task", kind=EvaluateReply) == Refused(reason=Reason.MALFORMED)


def test_subgroups_that_were_not_asked_for_or_hold_too_many_do_not_enter() -> None:
    """An axis that the study has not, and groups with more units together than there are."""
    at = Confusion(tp=2, fp=0, tn=3, fn=0)
    group = GroupEvidence(
        axis="sex",
        group="female",
        positive_patients=2,
        negative_patients=3,
        confusion=at,
        auc=Estimate(value=0.5, low=0.0, high=1.0),
    )
    one = EvaluateReply(evidence=(evidence(subgroups=(group,)),))
    rules: dict[str, Any] = {"targets": 1, "bins": 4, "thresholds": (0.5,), "most": MANY}
    assert admit_evidence(one, axes=("sex",), **rules) is one
    assert admit_evidence(one, axes=("age",), **rules) == Refused(reason=Reason.WRONG_COUNT)
    two = EvaluateReply(evidence=(evidence(subgroups=(group, replace(group, group="male"))),))
    assert open_reply(answered(two), task_id="task", kind=EvaluateReply) == Refused(reason=Reason.MALFORMED)
