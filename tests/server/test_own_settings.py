"""Each site's own threshold and calibration: chosen on its validation units, priced on its test units, shown beside."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from client.evaluation import evidence_on
from server.bootstrap import compose
from server.checkpoint import RunState
from server.model_file import write_model
from server.own_settings import OwnResult, own_results, to_apply
from server.report import render
from server.results import StudyResult
from server.results_json import from_json, to_json
from server.study_run import Conclusion
from shared.evidence import Evidence
from shared.messages import EvaluateReply
from shared.operating_point import OperatingPoint, choose
from shared.own_settings import OwnSettings
from shared.protocol import StudyProtocol
from shared.saved_model import open_model
from shared.scores import ScoredUnits, lower_edges

BINS, TARGET = 512, 0.9
SHIFTS = {"north": 0.0, "south": -1.5}


def units(seed: int, n: int, *, shift: float) -> ScoredUnits:
    """Draw units whose scores lie `shift` too low on the logit, and are too extreme by half."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    latent = rng.normal(1.5 * positive, 1)
    true = logit(0.4) + 1.5 * latent - 1.5**2 / 2
    return ScoredUnits(scores_M=expit(shift + 1.5 * true), positive_M=positive, patients_M=np.arange(n))


DRAWN = {
    (split, site): units(10 * place + number, 600, shift=shift)
    for number, split in enumerate(("validation", "test"))
    for place, (site, shift) in enumerate(SHIFTS.items())
}


def evidence(split: str, site: str, threshold: float) -> Evidence:
    return evidence_on(DRAWN[split, site], bins=BINS, confidence=0.95, threshold=threshold)


@pytest.fixture(scope="module")
def shared() -> OperatingPoint:
    """Choose the shared operating point on both sites together."""
    merged = sum(
        (evidence("validation", site, 0.5).histogram for site in ("south",)),
        start=evidence("validation", "north", 0.5).histogram,
    )
    return choose(merged, target=TARGET, claim="point", confidence=0.95)


def evaluations(split: str, threshold: float) -> dict[str, EvaluateReply]:
    return {site: EvaluateReply(evidence=(evidence(split, site, threshold),)) for site in SHIFTS}


def study(tiny: Any, own: list[str], **wish: Any) -> StudyProtocol:
    protocol: StudyProtocol = tiny.protocol(
        evaluation={"own_settings": own, "target_sensitivity": TARGET, "score_bins": BINS} | wish
    )
    return protocol


def found(tiny: Any, shared: OperatingPoint, own: list[str], **wish: Any) -> dict[str, dict[str, OwnResult]]:
    sides = [evaluations(split, shared.threshold) for split in ("validation", "test")]
    return own_results(study(tiny, own, **wish), *sides, {"opacity": shared})


def test_the_own_threshold_is_the_highest_that_reaches_the_target(tiny: Any, shared: OperatingPoint) -> None:
    """By brute force over every bin edge, unit by unit; and both thresholds' counts on test units are exact."""
    for site, one in found(tiny, shared, ["threshold"])["opacity"].items():
        seen, tested = DRAWN["validation", site], DRAWN["test", site]
        edges = [edge for edge in lower_edges(bins=BINS) if (seen.scores_M[seen.positive_M] >= edge).mean() >= TARGET]
        assert one.threshold
        assert one.calibration is None
        assert one.threshold.point.threshold == max(edges)
        for rates, at in ((one.threshold.shared, shared.threshold), (one.threshold.own, max(edges))):
            called = tested.scores_M >= at
            assert rates.sensitivity
            assert rates.specificity
            assert rates.sensitivity.k == (called & tested.positive_M).sum()
            assert rates.specificity.k == (~called & ~tested.positive_M).sum()


def test_the_own_calibration_is_platts_and_makes_the_line_straight(tiny: Any, shared: OperatingPoint) -> None:
    """Intercept and slope are scikit-learn's on exact scores, within the bins; afterwards they hold 1 and 0."""
    one = found(tiny, shared, ["calibration"])["opacity"]["south"]
    assert one.threshold is None
    assert one.calibration
    assert one.calibration.before
    assert one.calibration.after
    seen, tested = DRAWN["validation", "south"], DRAWN["test", "south"]
    model = LogisticRegression(C=1e9, max_iter=1000).fit(logit(seen.scores_M)[:, None], seen.positive_M)
    intercept, slope = float(model.intercept_[0]), float(model.coef_[0, 0])
    fitted = one.calibration.fitted
    assert (fitted.intercept, fitted.slope) == pytest.approx((intercept, slope), abs=0.02)
    after = expit(intercept + slope * logit(tested.scores_M))
    assert fitted.after == pytest.approx(((after - tested.positive_M) ** 2).mean(), abs=0.002)
    assert fitted.high < 0
    assert one.calibration.before.slope.high < 1
    assert one.calibration.before.intercept.low > 0
    assert one.calibration.after.slope.low < 1 < one.calibration.after.slope.high
    assert one.calibration.after.intercept.low < 0 < one.calibration.after.intercept.high


def test_repeated_patients_widen_the_interval_after(tiny: Any, shared: OperatingPoint) -> None:
    """Bins do not say whose units they are: four units a patient widen it twofold."""
    plain = evaluations("test", shared.threshold)
    (item,) = plain["south"].evidence
    assert isinstance(item, Evidence)
    repeated = plain | {"south": EvaluateReply(evidence=(replace(item, patients=item.patients // 4),))}
    protocol, seen = study(tiny, ["calibration"]), evaluations("validation", shared.threshold)
    widths = []
    for test in (plain, repeated):
        one = own_results(protocol, seen, test, {"opacity": shared})["opacity"]["south"].calibration
        assert one
        assert one.after
        widths.append(one.after.slope.high - one.after.slope.low)
    assert widths[1] == pytest.approx(2 * widths[0])


def test_nothing_is_chosen_by_few_positives_or_unasked(tiny: Any, shared: OperatingPoint) -> None:
    """Below min_positives_to_rank a site keeps the shared settings; a study that switches nothing on has none."""
    few = found(tiny, shared, ["threshold", "calibration"], min_positives_to_rank=500)
    assert set(few["opacity"].values()) == {OwnResult(threshold=None, calibration=None)}
    assert to_apply(few, "south") == {}
    assert found(tiny, shared, []) == {}


def test_the_models_file_has_every_sites_own(tiny: Any, shared: OperatingPoint, tmp_path: Path) -> None:
    """What the report shows is what `predict --site` finds in the file; the shared threshold stays the study's."""
    protocol = study(tiny, ["threshold", "calibration"])
    coordinator, _ = compose(protocol, weights_file=None)
    conclusion = Conclusion(
        state=RunState(model={}),
        chosen=1,
        model={},
        operating_point={"opacity": shared},
        validation=evaluations("validation", shared.threshold),
        test=evaluations("test", shared.threshold),
        own=found(tiny, shared, ["threshold", "calibration"]),
    )
    write_model(tmp_path / "model.safetensors", coordinator, conclusion)
    facts = open_model(tmp_path / "model.safetensors").facts
    results = found(tiny, shared, ["threshold", "calibration"])
    assert facts.thresholds == {"opacity": shared.threshold}
    assert facts.own == {site: to_apply(results, site) for site in SHIFTS}
    one = results["opacity"]["south"]
    assert one.threshold
    assert one.calibration
    assert facts.own["south"]["opacity"] == OwnSettings(
        threshold=one.threshold.point.threshold,
        calibration=(one.calibration.fitted.intercept, one.calibration.fitted.slope),
    )


def test_the_page_shows_both_beside_the_shared(tiny: Any, shared: OperatingPoint, study_result: StudyResult) -> None:
    """Counts under both thresholds, the price in words, slope before and after; a site without any says why."""
    results = found(tiny, shared, ["threshold", "calibration"])["opacity"]
    one = results["south"]
    sites = {"northgate": one, "st_marys": OwnResult(threshold=None, calibration=None)}
    result = replace(study_result, own={"pneumonia": sites}, own_switched_on=("threshold", "calibration"))
    page = render(result)
    assert one.threshold
    assert one.calibration
    before, after = one.threshold.shared, one.threshold.own
    assert before.sensitivity
    assert after.sensitivity
    assert before.specificity
    assert after.specificity
    for rate in (before.sensitivity, after.sensitivity, before.specificity, after.specificity):
        assert f"{rate.k} of {rate.n}, " in page
    more = after.sensitivity.k - before.sensitivity.k
    alarms = before.specificity.k - after.specificity.k
    assert more > 0
    assert f"finds {more} more of {after.sensitivity.n} exams with the finding" in page
    assert f"raises {alarms} more false alarms among {after.specificity.n} without" in page
    assert f"{one.calibration.fitted.before:.3f} to {one.calibration.fitted.after:.3f}" in page
    assert "): better." in page
    assert "fewer than 30 validation positives" in page
    assert "held back: too few patients" in page
    assert "The shared operating point above stays the study's claim" in page
    assert from_json(to_json(result), where="test") == result
    assert 'id="own"' not in render(study_result)
