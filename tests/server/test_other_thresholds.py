"""Other thresholds: chosen on validation units, shown on test units, counted exactly."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from server.other_thresholds import other_thresholds
from shared.evidence import Evidence
from shared.intervals import wilson
from shared.metrics import confusion, histogram
from shared.operating_point import choose
from shared.scores import ScoredUnits

BINS = 64


def units(seed: int, *, shift: float = 0.0, n: int = 200) -> ScoredUnits:
    """Draw units whose scores are shifted on the logit scale."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) < n // 4
    return ScoredUnits(
        scores_M=expit(rng.normal(-2 + 3 * positive + shift, 1.2)), positive_M=positive, patients_M=np.arange(n)
    )


def evidence(of: ScoredUnits) -> Evidence:
    return Evidence(
        units=len(of.scores_M),
        patients=len(of.scores_M),
        positive_patients=int(of.positive_M.sum()),
        negative_patients=int((~of.positive_M).sum()),
        histogram=histogram(of, bins=BINS),
        confusion=confusion(of, threshold=0.5),
        auc=None,
        brier=None,
    )


VALIDATION = {"north": units(1), "south": units(2, shift=-2.0)}
TEST = {"north": units(3), "south": units(4, shift=-2.0)}


def looked_at(target: float = 0.8, claim: str = "point"):
    return other_thresholds(
        {site: evidence(one) for site, one in VALIDATION.items()},
        {site: evidence(one) for site, one in TEST.items()},
        target=target,
        claim="point" if claim == "point" else "lower_bound",
        confidence=0.95,
    )


def test_the_table_is_what_each_target_would_give() -> None:
    """Each row's threshold is chosen on merged validation units; test counts at it are exact; the study's is there."""
    found = looked_at(0.8)
    assert [row.point.target for row in found.table] == [0.8, 0.9, 0.95, 0.99]
    merged = evidence(VALIDATION["north"]).histogram + evidence(VALIDATION["south"]).histogram
    for row in found.table:
        assert row.point == choose(merged, target=row.point.target, claim="point", confidence=0.95)
        for site, one in TEST.items():
            exact = confusion(one, threshold=row.point.threshold)
            assert row.sites[site].sensitivity == wilson(exact.sensitivity, confidence=0.95)
            assert row.sites[site].specificity == wilson(exact.specificity, confidence=0.95)
        assert row.pooled.sensitivity
        assert row.pooled.sensitivity.k == sum(rates.sensitivity.k for rates in row.sites.values() if rates.sensitivity)


def test_a_site_with_lower_scores_needs_a_lower_threshold() -> None:
    """South, whose scores lie 2 logits lower, needs a threshold about 2 logits lower; its test counts are at it."""
    own = looked_at(0.9).own
    north, south = (np.log(own[site].need.threshold / (1 - own[site].need.threshold)) for site in ("north", "south"))
    assert north - south == pytest.approx(2.0, abs=0.8)
    assert own["south"].need.low < own["south"].need.threshold <= own["south"].need.high
    exact = confusion(TEST["south"], threshold=own["south"].need.threshold)
    assert own["south"].test.sensitivity == wilson(exact.sensitivity, confidence=0.95)


def test_net_benefit_is_that_of_vickers_and_elkin() -> None:
    """At each weighing: true positives minus false positives times the odds, a unit; beside it treating everyone."""
    one = TEST["north"]
    for found in looked_at().site_benefit["north"]:
        pt, n = found.threshold, 200
        called = one.scores_M >= pt
        tp, fp = int((called & one.positive_M).sum()), int((called & ~one.positive_M).sum())
        assert found.value == pytest.approx(tp / n - fp / n * pt / (1 - pt))
        assert found.treat_all == pytest.approx(50 / n - 150 / n * pt / (1 - pt))
        assert found.low < found.value < found.high
    assert len(looked_at().benefit) == 4


@pytest.mark.parametrize("n", [40, 200])
def test_the_interval_of_net_benefit_covers(n: int) -> None:
    """In samples of 40 and of 200 units, the interval covers at least .92."""
    rng = np.random.default_rng(n)

    def draw(size: int) -> ScoredUnits:
        positive = rng.random(size) < 0.3
        scores = expit(rng.normal(-2 + 3 * positive, 1.2))
        return ScoredUnits(scores_M=scores, positive_M=positive, patients_M=np.arange(size))

    def benefits(of: ScoredUnits):
        item = {"north": evidence(of)}
        return other_thresholds(item, item, target=0.9, claim="point", confidence=0.95).benefit

    truth = [one.value for one in benefits(draw(200_000))]
    held = np.zeros((300, len(truth)))
    for row in held:
        row[:] = [one.low <= value <= one.high for one, value in zip(benefits(draw(n)), truth, strict=True)]
    assert held.mean(axis=0).min() >= 0.92


def test_repeated_patients_widen_what_is_said() -> None:
    """Design effects that a site found at the shared threshold widen its intervals at others."""
    plain = evidence(TEST["north"])
    assert plain.confusion
    repeated = replace(plain, confusion=replace(plain.confusion, positives_design_effect=3.0))
    one, other = (
        other_thresholds({"north": item}, {"north": item}, target=0.9, claim="point", confidence=0.95)
        for item in (plain, repeated)
    )
    assert one.table[0].sites["north"].sensitivity.low > other.table[0].sites["north"].sensitivity.low
    assert one.benefit[0].low > other.benefit[0].low


def test_without_evidence_there_is_nothing() -> None:
    """No released validation positives: no table and no thresholds."""
    found = other_thresholds({}, {}, target=0.9, claim="point", confidence=0.95)
    assert (found.table, found.own, found.benefit, found.site_benefit) == ((), {}, (), {})
