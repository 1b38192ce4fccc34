"""From released evidence to facts: merged counts, intervals, who stands out, and why a number is not there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from server.admission import Refused
from server.alternatives import Alternatives
from server.checkpoint import RunState
from server.environment import environment
from server.finding_result import Why
from server.results import StudyResult
from server.results_json import from_json, to_json
from server.study_results import study_result
from server.study_run import Conclusion
from shared.estimates import Estimate
from shared.evidence import Evidence, Withheld
from shared.intervals import wilson
from shared.messages import EvaluateReply
from shared.metrics import Count, confusion, histogram
from shared.operating_point import OperatingPoint, choose
from shared.protocol import StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.scores import ScoredUnits
from shared.weights import WeightsProvenance

BINS = 16
PROVENANCE = WeightsProvenance(source="none", sha256=None, sentence="Random weights.")


def evidence(
    seed: int, *, positives: int = 40, negatives: int = 60, shift: float = 2.0, threshold: float = 0.5
) -> Evidence:
    """Give the evidence of units whose positives score higher by `shift` on the logit."""
    rng = np.random.default_rng(seed)
    positive = np.arange(positives + negatives) < positives
    logits = rng.standard_normal(len(positive)) + shift * positive - shift / 2
    units = ScoredUnits(
        scores_M=1 / (1 + np.exp(-logits)), positive_M=positive, patients_M=np.arange(len(positive)) // 2 * 2
    )
    return Evidence(
        units=len(positive),
        patients=len(set(units.patients_M)),
        positive_patients=positives // 2,
        negative_patients=negatives // 2,
        histogram=histogram(units, bins=BINS),
        confusion=confusion(units, threshold=threshold),
        auc=Estimate(value=0.8, low=0.7, high=0.9),
        brier=0.1 * (seed + 1),
    )


def reply(*items: Evidence | Withheld) -> EvaluateReply:
    return EvaluateReply(evidence=items)


def record(number: int, **changes: Any) -> dict[str, Any]:
    own = {
        "round": number,
        "lost": False,
        "seconds": 3.0,
        "sites": {
            "north": {
                "refusal": None,
                "loss_by_epoch": [0.6, 0.4],
                "update_norm": 1.5,
                "images_per_second": 50.0,
                "seconds": 2.0,
            },
            "south": {"refusal": "data_unusable"},
        },
        "validation": {
            "macro_auc": 0.7,
            "pooled_auc": {"opacity": 0.7, "effusion": None},
            "site_auc": {"opacity": {"north": 0.75}, "effusion": {}},
        },
    }
    return own | changes


def point(items: list[Evidence]) -> OperatingPoint:
    merged = sum((item.histogram for item in items[1:]), start=items[0].histogram)
    return choose(merged, target=0.95, claim="point", confidence=0.95)


NORTH, SOUTH = evidence(0), evidence(1, shift=0.5, positives=20)


@pytest.fixture
def result(tiny: Any) -> Callable[..., StudyResult]:
    """Give `result(test, ...)`: the facts of a study of opacity and effusion with this test evidence."""

    def of(test: dict[str, Any], *, flows: Any = None, sections: Any = None, **changes: Any) -> StudyResult:
        protocol: StudyProtocol = tiny.protocol(
            **{"task": {"findings": ["opacity", "effusion"]}, "model": {"unfreeze": [{"round": 2, "from": "layer4"}]}}
            | (sections or {})
        )
        history = [record(1), record(2, lost=True)]
        own: dict[str, Any] = {
            "state": RunState(round=2, model={}, history=history, best=(1, 0.7)),
            "chosen": 2,
            "model": {},
            "operating_point": {"opacity": point([NORTH])},
            "validation": {"north": reply(NORTH, Withheld())},
            "test": test,
            "own": {},
        }
        descriptions = changes.pop("descriptions", {})
        others = {name: changes.pop(name) for name in ("local", "pooled", "twin", "receipts") if name in changes}
        seeded = changes.pop("seeded", True)
        return study_result(
            protocol,
            Conclusion(**own | changes),
            flows or {},
            descriptions,
            PROVENANCE,
            environment(torch.device("cpu"), seed=0),
            alternatives=Alternatives(**others),
            seeded=seeded,
        )

    return of


def test_a_sites_facts_are_those_that_it_released(result: Any) -> None:
    """Units, patients, counts with Wilson intervals at the site's design effects, its own AUC and Brier score."""
    found = result({"north": reply(NORTH, NORTH)}).of_site("north", "test", "opacity")
    at = NORTH.confusion
    assert at is not None
    assert (found.units, found.patients, found.positives, found.negatives) == (100, NORTH.patients, 40, 60)
    assert found.sensitivity == wilson(at.sensitivity, confidence=0.95)
    assert found.specificity == wilson(at.specificity, confidence=0.95)
    assert (found.auc.value, found.auc.low, found.auc.high, found.auc.ties) == (0.8, 0.7, 0.9, None)
    assert (found.brier, found.histogram, found.ranked, found.why) == (0.1, NORTH.histogram, True, None)


def test_what_is_not_known_says_why(result: Any) -> None:
    """Withheld, refused, not assessed and without an operating point are four reasons, and none is a zero."""
    empty = evidence(0, positives=0, negatives=0)
    test = {"north": reply(Withheld(), NORTH), "south": reply(empty, empty), "west": Refused(reason="no_reply")}
    facts = result(test)
    assert facts.of_site("north", "test", "opacity").why == Why.SUPPRESSED
    assert facts.of_site("south", "test", "opacity").why == Why.NOT_ASSESSED
    assert facts.of_site("west", "test", "opacity").why == Why.NO_REPLY
    for why in (("north", "opacity"), ("west", "opacity")):
        found = facts.of_site(why[0], "test", why[1])
        assert (found.units, found.positives, found.sensitivity, found.auc, found.ranked) == (None,) * 4 + (False,)
    without_point = facts.of_site("north", "test", "effusion")
    assert (without_point.sensitivity, without_point.specificity) == (None, None)
    assert (without_point.positives, without_point.why) == (40, Why.NO_OPERATING_POINT)


def test_a_finding_that_no_settings_name_is_not_suppressed(result: Any) -> None:
    """At one site it is told as not assessed there, and over all only where every site that answered says so."""
    elsewhere = Withheld(assessed=False)
    facts = result(
        {"north": reply(elsewhere, elsewhere), "south": reply(SOUTH, elsewhere), "west": reply(SOUTH, SOUTH)}
    )
    assert facts.of_site("north", "test", "opacity").why == Why.NOT_ASSESSED
    assert facts.of_pool("test", "opacity").units == 2 * SOUTH.units
    assert facts.of_pool("test", "effusion").units == SOUTH.units
    nowhere = result({"north": reply(NORTH, elsewhere), "south": reply(SOUTH, elsewhere)})
    assert nowhere.of_pool("test", "effusion").why == Why.NOT_ASSESSED
    held = result({"north": reply(NORTH, elsewhere), "south": reply(SOUTH, Withheld())})
    assert held.of_pool("test", "effusion").why == Why.SUPPRESSED


def test_the_pool_is_the_sum_of_what_was_released(result: Any) -> None:
    """Counts and histograms are added, Brier scores weighted by units; who withheld is not in it."""
    test = {"north": reply(NORTH, Withheld()), "south": reply(SOUTH, Withheld()), "west": reply(Withheld(), Withheld())}
    facts = result(test)
    pooled = facts.of_pool("test", "opacity")
    assert (pooled.units, pooled.patients) == (180, NORTH.patients + SOUTH.patients)
    assert pooled.histogram == NORTH.histogram + SOUTH.histogram
    at = NORTH.confusion + SOUTH.confusion
    assert (pooled.sensitivity.k, pooled.sensitivity.n) == (at.tp, 60)
    assert pooled.sensitivity == wilson(at.sensitivity, confidence=0.95)
    assert pooled.brier == pytest.approx((0.1 * 100 + 0.2 * 80) / 180)
    bounds = pooled.histogram.auc()
    assert pooled.auc.value == bounds.value
    assert pooled.auc.ties == (bounds.lower, bounds.upper)
    assert pooled.auc.low < bounds.value < pooled.auc.high
    assert facts.of_pool("test", "effusion").why == Why.SUPPRESSED
    assert facts.of_pool("validation", "opacity").units == 100


def test_a_pool_of_nothing_assessed_says_so(result: Any) -> None:
    """Sites that all answered without a single assessed unit were not suppressed."""
    empty = evidence(0, positives=0, negatives=0)
    pooled = result({"north": reply(empty, empty)}).of_pool("test", "opacity")
    assert (pooled.why, pooled.units) == (Why.NOT_ASSESSED, None)


def test_a_pool_of_one_class_has_no_auc(result: Any) -> None:
    """Without a positive unit there is no AUC and no sensitivity, but a specificity."""
    clear = evidence(3, positives=0)
    pooled = result({"north": reply(clear, clear)}).of_pool("test", "opacity")
    assert (pooled.auc, pooled.sensitivity, pooled.why) == (None, None, Why.NO_POSITIVES)
    assert pooled.specificity.n == 60


def test_a_pool_without_operating_point_states_no_sensitivity(result: Any) -> None:
    """Effusion has no operating point here: its counts were made at a threshold that nobody chose."""
    pooled = result({"north": reply(NORTH, NORTH)}).of_pool("test", "effusion")
    assert (pooled.sensitivity, pooled.specificity, pooled.positives) == (None, None, 40)
    assert pooled.auc is not None


def test_a_site_with_too_few_positives_is_not_ranked(result: Any) -> None:
    """Twenty positives are shown, and not ranked where thirty are asked for."""
    facts = result({"north": reply(NORTH, NORTH), "south": reply(SOUTH, SOUTH)})
    assert [facts.of_site(site, "test", "opacity").ranked for site in ("north", "south")] == [True, False]


def test_rounds_are_told_as_they_went(result: Any) -> None:
    """Loss, norm and rate of who trained, the code of who did not, what trained, and what was lost."""
    first, second = result({"north": reply(NORTH, NORTH)}).rounds
    assert (first.round, first.lost, first.trained_from, first.seconds) == (1, False, "head", 3.0)
    assert (second.lost, second.trained_from) == (True, "layer4")
    north, south = first.sites["north"], first.sites["south"]
    assert (north.loss, north.loss_by_epoch, north.update_norm) == (0.5, (0.6, 0.4), 1.5)
    assert (north.refusal, north.images_per_second, north.seconds) == (None, 50.0, 2.0)
    assert (south.refusal, south.loss, south.loss_by_epoch) == ("data_unusable", None, ())
    assert (first.validation["opacity"].pooled, first.validation["opacity"].sites) == (0.7, {"north": 0.75})
    assert first.validation["effusion"].pooled is None


@pytest.mark.parametrize(
    ("select", "best", "chosen", "why"),
    [
        ("last", (1, 0.7), 2, "the last round, as the study says"),
        ("best_validation", (1, 0.71234), 1, "highest mean validation AUC (0.712)"),
        ("best_validation", None, 2, "no site released validation evidence"),
    ],
)
def test_the_choice_of_the_round_is_explained(result: Any, select: str, best: Any, chosen: int, why: str) -> None:
    """The report can say which round it is and by what rule."""
    state = RunState(round=2, model={}, history=[], best=best)
    facts = result(
        {"north": reply(NORTH, NORTH)},
        sections={"federation": {"select": select}},
        state=state,
        chosen=chosen,
    )
    assert facts.selected.round == chosen
    assert why in facts.selected.why


def test_the_hospital_with_the_shift_stands_out(result: Any) -> None:
    """Four alike and one that is worse: heterogeneity is found, and the one is named."""
    alike = {f"site{number}": reply(evidence(number, threshold=0.4), Withheld()) for number in range(4)}
    shifted = {"south": reply(evidence(9, shift=0.2, threshold=0.4), Withheld())}
    shift = result(alike | shifted).domain_shift
    assert set(shift.heterogeneity) == {"opacity"}
    found = shift.heterogeneity["opacity"]["sensitivity"]
    assert found is not None
    assert (found.p < 0.01, found.sites) == (True, 5)
    worst = min(shift.differences["opacity"]["sensitivity"], key=lambda one: one.difference)
    assert (worst.site, worst.adjusted_p < 0.05) == ("south", True)


def test_one_site_is_compared_with_nobody(result: Any) -> None:
    """With a single site there is no heterogeneity, and no difference."""
    shift = result({"north": reply(NORTH, NORTH)}).domain_shift
    assert shift.heterogeneity["opacity"] == {"sensitivity": None, "specificity": None}
    assert shift.differences["opacity"]["sensitivity"] == ()


def test_baselines_are_judged_at_their_own_operating_points(result: Any) -> None:
    """Each local model and the pooled one come with their points and every site's test facts; absent means not run."""
    own = OperatingPoint(
        threshold=0.1,
        target=0.95,
        claim="point",
        reached=wilson(Count(k=9, n=10), confidence=0.95),  # type: ignore[arg-type]
    )
    conclusion = Conclusion(
        state=RunState(round=2, model={}),
        chosen=2,
        model={},
        operating_point={"opacity": own},
        validation={},
        test={"north": reply(NORTH, NORTH), "south": reply(SOUTH, SOUTH)},
        own={},
    )
    facts = result({"north": reply(NORTH, NORTH)}, local={"north": conclusion}, pooled=conclusion)
    for baseline in (facts.baselines.local["north"], facts.baselines.pooled):
        assert baseline.operating_point == {"opacity": own}
        assert set(baseline.sites) == {"north", "south"}
        assert baseline.sites["south"]["opacity"].units == 80
    without = result({"north": reply(NORTH, NORTH)}).baselines
    assert (without.local, without.pooled) == ({}, None)


def test_flows_are_kept_and_absences_noted(result: Any) -> None:
    """A site that refused has no patient flow, and a note says why."""
    flow = ReleasedFlow(found=None, excluded={}, splits={})
    facts = result({"north": reply(NORTH, NORTH)}, flows={"north": flow, "west": Refused(reason="storage")})
    assert facts.patient_flow == {"north": flow}
    assert any("west did not take part: storage." in note for note in facts.notes)


def test_notes_say_what_a_reader_must_know(result: Any) -> None:
    """Random weights and layers kept at the sites are told in a sentence each, and only where it is so."""
    test = {"north": reply(NORTH, NORTH)}
    assert any("random weights" in note for note in result(test).notes)
    assert not any("normalisation" in note for note in result(test).notes)
    sections = {"model": {"weights": "imagenet"}, "federation": {"local_norm": True}}
    notes = result(test, sections=sections).notes
    assert any("normalisation layers" in note for note in notes)
    assert not any("random weights" in note for note in notes)


def test_the_study_is_stated(result: Any, tiny: Any) -> None:
    """Names, rules and digest are the protocol's, and weights say where they come from."""
    facts = result({"north": reply(NORTH, NORTH)})
    assert (facts.study.name, facts.study.findings, facts.study.unit) == ("Tiny", ("opacity", "effusion"), "exam")
    assert (facts.study.exclusive, facts.study.confidence, facts.study.min_positives_to_rank) == (False, 0.95, 30)
    assert len(facts.study.digest) == 64
    assert (facts.weights.source, facts.weights.sentence) == ("none", "Random weights.")
    assert facts.privacy == {}


def test_all_of_it_can_be_written_and_read_back(result: Any) -> None:
    """Whatever was withheld or lost, the facts survive results.json unchanged."""
    empty = evidence(0, positives=0, negatives=0)
    facts = result({"north": reply(NORTH, Withheld()), "south": reply(empty, empty), "west": Refused(reason="storage")})
    assert from_json(to_json(facts), where="test") == facts
