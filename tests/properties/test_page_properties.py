"""Whatever sites released, no two sentences of a page contradict each other, and none makes news of silence."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markupsafe import escape

from client.evaluation import evidence_on
from server import wording
from server.admission import Refused
from server.alternatives import Alternatives
from server.checkpoint import RunState
from server.environment import environment
from server.explanation import Pattern
from server.report import render
from server.results import StudyResult
from server.study_results import study_result
from server.study_run import Conclusion
from server.summary import Standing, least_safe, stands, tied
from server.wording_explanation import NONE_SHOWN, statement
from server.wording_shift import leading_sentence
from server.wording_summary import answers
from server.wording_warnings import no_warning, warnings
from shared.evidence import Evidence, Withheld
from shared.messages import EvaluateReply
from shared.operating_point import choose
from shared.scores import ScoredUnits, lower_edges
from shared.weights import WeightsProvenance

SITES = ("east", "north", "south", "west")
THRESHOLD = float(lower_edges(bins=64)[28])
ELSEWHERE = ("east", "north")

site = st.fixed_dictionaries(
    {
        "positives": st.integers(0, 70),
        "negatives": st.integers(0, 70),
        "apart": st.floats(-2, 6),
        "shift": st.sampled_from([0.0, 0.0, -2.0, 2.0]),
        "held": st.sampled_from(["no", "no", "no", "withheld", "refused"]),
    }
)
study = st.fixed_dictionaries(
    {
        "sites": st.lists(site, min_size=1, max_size=4),
        "alone": st.booleans(),
        "left_out": st.booleans(),
        "classes": st.booleans(),
        "target": st.sampled_from([0.5, 0.8, 0.95]),
        "at_least": st.sampled_from([5, 20]),
        "seed": st.integers(0, 2**16),
    }
)


def evidence(drawn: dict[str, Any], rng: np.random.Generator) -> Evidence | Withheld:
    """Give the evidence of one site's units, or hold it back."""
    if drawn["held"] == "withheld":
        return Withheld()
    positive = np.arange(drawn["positives"] + drawn["negatives"]) < drawn["positives"]
    logits = rng.normal(-2 + drawn["apart"] * positive + drawn["shift"], 1.5)
    units = ScoredUnits(
        scores_M=1 / (1 + np.exp(-logits)), positive_M=positive, patients_M=np.arange(len(positive)) // 2
    )
    return evidence_on(units, bins=64, confidence=0.95, threshold=THRESHOLD)


def conclusion(drawn: dict[str, Any], rng: np.random.Generator, names: tuple[str, ...]) -> Conclusion:
    """Conclude a study in which every target has like evidence."""

    def replies() -> dict[str, EvaluateReply | Refused]:
        found: dict[str, EvaluateReply | Refused] = {}
        for name, one in zip(SITES, drawn["sites"], strict=False):
            items = tuple(evidence(one, rng) for _ in names)
            found[name] = Refused(reason="no_reply") if one["held"] == "refused" else EvaluateReply(evidence=items)
        return found

    validation, test, points = replies(), replies(), {}
    for place, name in enumerate(names):
        items = [reply.evidence[place] for reply in validation.values() if isinstance(reply, EvaluateReply)]
        known = [item.histogram for item in items if isinstance(item, Evidence) and item.histogram.n_pos]
        if known:
            point = choose(sum(known[1:], start=known[0]), target=drawn["target"], claim="point", confidence=0.95)
            points[name] = point
    state = RunState(round=1, model={}, history=[record(names)])
    return Conclusion(state=state, chosen=1, model={}, operating_point=points, validation=validation, test=test, own={})


def record(names: tuple[str, ...]) -> dict[str, Any]:
    """Give the record of a round in which nobody was refused."""
    nothing = {"pooled_auc": dict.fromkeys(names), "site_auc": {name: {} for name in names}}
    return {"round": 1, "lost": False, "seconds": 1.0, "sites": {}, "validation": nothing}


@pytest.fixture(scope="module")
def made(tiny: Any) -> Any:
    """Give `made(drawn)`: the result of a drawn study."""

    def of(drawn: dict[str, Any]) -> StudyResult:
        names = ("normal", "effusion") if drawn["classes"] else ("opacity",)
        rng = np.random.default_rng(drawn["seed"])
        protocol = tiny.protocol(
            task={"classes": list(names)} if drawn["classes"] else {"findings": list(names)},
            evaluation={
                "target_sensitivity": drawn["target"],
                "min_positives_to_rank": drawn["at_least"],
                "score_bins": 64,
            },
        )
        others = [name for name in ELSEWHERE if name in SITES[: len(drawn["sites"])]]
        return study_result(
            protocol,
            conclusion(drawn, rng, names),
            {},
            {},
            WeightsProvenance(source="file", sha256="0" * 64, sentence="From a file."),
            environment(torch.device("cpu"), seed=0),
            alternatives=Alternatives(
                local={name: conclusion(drawn, rng, names) for name in others} if drawn["alone"] else {},
                unseen={name: conclusion(drawn, rng, names) for name in others} if drawn["left_out"] else {},
            ),
            seeded=True,
        )

    return of


calm = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
tried = settings(max_examples=25, suppress_health_check=calm)
drawn_whole = settings(max_examples=8, suppress_health_check=calm)  # a page takes a second to draw


@tried
@given(drawn=study)
def test_no_two_sentences_contradict_each_other(made: Any, drawn: dict[str, Any]) -> None:
    """What is shown of a site is shown in every place that speaks of it, and what is not is claimed in none."""
    result: StudyResult = made(drawn)
    alpha, heads = result.study.significance, [one.headline for one in warnings(result)]
    for finding in result.explanations:
        shift = result.domain_shift
        shown = {name: result.measures_standing_out(name, finding) for name in result.site_names}
        for name, told in result.explanations[finding].items():
            said = statement(told, standing_out=shown[name])
            if told.pattern is Pattern.NOT_COMPARED:
                assert not shown[name]
                continue
            assert (said == NONE_SHOWN) == (told.p is not None and told.p >= alpha)
            if shown[name]:
                assert said != NONE_SHOWN
                assert all(measure in said.lower() for measure in shown[name])
                assert any(head.startswith(f"{name} stands out: ") and finding in head for head in heads)
        for measure, whole in shift.heterogeneity[finding].items():
            if whole is None:
                continue
            differs = "more than chance" in wording.heterogeneity(whole, measure=measure, significance=alpha)
            assert differs or not any(measure in measures for measures in shown.values())
        lead = shift.leading[finding]
        if any(shown.values()):
            assert lead.site is not None
        assert ("shown to stand out" in leading_sentence(lead)) <= (lead.site is None)


@tried
@given(drawn=study)
def test_the_first_answers_agree_with_each_other(made: Any, drawn: dict[str, Any]) -> None:
    """Where, how sure and why speak of one site by one adjustment; what is sure is below the target."""
    result: StudyResult = made(drawn)
    where, sure, why, _ = answers(result)
    worst = least_safe(result)
    if worst is None:
        assert (where.short, sure.short, why.short) == ("Not known", "Not at all", "Not known")
        return
    told = result.explanations[worst.finding][worst.site]
    assert (sure.short == "Sure that it falls short") == (worst.standing is Standing.SHORT)
    if worst.standing is Standing.SHORT:
        found = worst.test.sensitivity
        assert found is not None
        assert found.high < (worst.target or 0)
        assert where.short == f"At {wording.names((worst.site, *tied(result, worst)))}"
    differs = "sensitivity" in result.measures_standing_out(worst.site, worst.finding)
    assert ("by more than chance explains" in sure.text) == differs
    if differs:
        assert "No difference" not in why.text
        assert "not shown to differ" not in why.short
    if told.pattern is Pattern.NONE_SHOWN and worst.standing is Standing.SHORT:
        assert "they may fall short as well" in why.text


SILENT = (
    "othing stands out",
    "No site was shown to differ",
    "every ranked site reached",
    "every site reached",
    "No hospital is below the target",
    "No two sites",
    "No model was trained",
)
"""Sentences that would make good news of no news."""


@drawn_whole
@given(drawn=study)
def test_absence_of_evidence_is_no_evidence(made: Any, drawn: dict[str, Any]) -> None:
    """Where nothing was compared nothing is said to be alike, and of a site that is not ranked nothing is concluded."""
    result: StudyResult = made(drawn)
    page = render(result)
    if not any(result.compared(finding) for finding in result.study.findings):
        assert [sentence for sentence in SILENT if sentence in page] == []
        assert "No site could be compared" in page
        assert "What stands out is not known" in page or not result.domain_shift.leading
    every = [one for finding in result.study.findings for one in stands(result, finding)]
    if any(one.lacking is None for one in every):
        assert "No hospital is below the target" not in page
        unknown = {one.site for one in every if one.lacking is None}
        judged = re.search(r"Each finding at (.*?) that has enough cases", no_warning(result))
        assert not judged or any(one.lacking is not None for one in every if one.site in judged[1])
        assert all(name in no_warning(result) for name in unknown)
    if result.baselines.local:
        assert "There is no model of a hospital" not in page


few = st.integers(0, 2)
small = st.fixed_dictionaries(
    {
        "sites": st.lists(
            st.fixed_dictionaries(
                {
                    "positives": few,
                    "negatives": few,
                    "apart": st.floats(-2, 6),
                    "shift": st.just(0.0),
                    "held": st.sampled_from(["no", "no", "withheld", "refused"]),
                }
            ),
            min_size=1,
            max_size=2,
        ),
        "alone": st.booleans(),
        "left_out": st.booleans(),
        "classes": st.booleans(),
        "target": st.sampled_from([0.5, 0.95]),
        "at_least": st.sampled_from([1, 2]),
        "seed": st.integers(0, 2**16),
    }
)
ONE_OF_EACH = {
    "sites": [{"positives": 1, "negatives": 1, "apart": 2.0, "shift": 0.0, "held": "no"}],
    "alone": False,
    "left_out": False,
    "classes": False,
    "target": 0.95,
    "at_least": 1,
    "seed": 0,
}

THINGS = "sites|rounds|patients|exams|images|hospitals|positives|negatives|cases|tests|differences|threads|findings"
CLUMSY = (
    rf"(?<![\d.,])1 ({THINGS})\b",
    r"fewer than 1 ",
    r"\bnan\b",
    r"\binf\b",
    r"\bNone\b(?! that)",
    r"\d[eE]-\d",
    r"(?<![\w.])[-\N{MINUS SIGN}+]0(\.0+)?(?![\d.])",
    r"\b0\.0 [kMGT]?B\b",
)
"""What a number of 0 or 1, or none, looks like in a sentence that was written for many."""


@drawn_whole
@given(drawn=small)
@example(drawn=ONE_OF_EACH)
def test_one_of_a_thing_is_no_plural_and_nothing_has_no_sign(made: Any, drawn: dict[str, Any]) -> None:
    """With none, one or two of everything, each number on the page still reads as a person would write it."""
    page = re.sub(r"<style>.*?</style>", "", render(made(drawn)), flags=re.DOTALL)
    shown = [
        re.sub(r"\s+", " ", unescape(part)) for part in re.sub(r"</?(span|b|strong|code)\b[^>]*>", " ", page).split("<")
    ]
    told = [part.partition(">")[2] for part in shown]
    assert [part for part in told for clumsy in CLUMSY if re.search(clumsy, part)] == []


def seen(result: StudyResult) -> Iterator[tuple[str, float]]:
    """Walk over every tested figure of the result, without the code under test."""
    homes = [model.sites[home] for home, model in result.unseen.items()]
    models = [tests for model in result.baselines.local.values() for tests in model.sites.values()]
    for tests in (*(splits["test"] for splits in result.sites.values()), result.pooled["test"], *homes, *models):
        for one in tests.values():
            for measure in ("sensitivity", "specificity", "auc"):
                if (figure := getattr(one, measure)) is not None:
                    yield measure, figure.value


@drawn_whole
@given(drawn=study)
def test_the_worst_figure_of_the_page_is_in_its_summary(made: Any, drawn: dict[str, Any]) -> None:
    """No sensitivity, specificity or AUC on the page is lower than the lowest that its first part names."""
    result: StudyResult = made(drawn)
    page = render(result)
    summary = page[page.index('id="summary"') : page.index("On test patients of all sites together")]
    for measure in ("sensitivity", "specificity", "auc"):
        if values := [value for name, value in seen(result) if name == measure]:
            least = wording.area(min(values)) if measure == "auc" else wording.percent(min(values))
            listed = re.search(rf"<dt>{re.escape(wording.measure(measure))}</dt><dd>(.*?)</dd>", summary, re.I)
            assert listed, measure
            assert str(escape(least)) in listed[1]
