"""A new hospital is told what to expect, or why nobody can say: from models that never saw it, if these were run."""

from dataclasses import replace
from typing import Any

import pytest

from server.alternatives import Alternatives
from server.new_hospital import NewHospital, new_hospital
from server.report import render
from server.results import StudyResult
from server.wording_limits import not_for
from server.wording_new_hospital import expectation
from shared.metrics import Count

COUNTS = {f"site{place}": Count(k=80 + place, n=100) for place in range(6)}


def told(counts: dict[str, Count], *, unseen: bool) -> NewHospital:
    return new_hospital({"sensitivity": counts, "specificity": {}}, unseen=unseen, confidence=0.9, seed=0)


def test_the_sentence_has_interval_basis_and_promise() -> None:
    """Level, hospitals, what they rest on and how often such intervals held stand in it."""
    found = told(COUNTS, unseen=True).predictions["sensitivity"]
    assert found
    said = expectation(told(COUNTS, unseen=True), measure="sensitivity", confidence=0.9)
    assert f"between {found.low * 100:.1f} and {found.high * 100:.1f}" in said
    assert "90\N{NO-BREAK SPACE}% prediction interval over 6 hospitals" in said
    assert "never saw the hospital" in said
    assert f"held {found.lowest_coverage * 100:.0f} to {found.highest_coverage * 100:.0f}" in said
    assert "hopeful" in expectation(told(COUNTS, unseen=False), measure="sensitivity", confidence=0.9)


def test_too_few_sites_say_so() -> None:
    """Below five there is no number at all."""
    few = told(dict(list(COUNTS.items())[:4]), unseen=False)
    said = expectation(few, measure="sensitivity", confidence=0.95)
    assert said == (
        "No sensitivity can be predicted for a new hospital: 4 sites have counts, and it takes 5 to see how far "
        "hospitals lie apart."
    )
    assert "1 site has" in expectation(replace(few, sites=1), measure="sensitivity", confidence=0.95)


def test_the_page_shows_each_site_left_out(study_result: StudyResult) -> None:
    """Beside the federated model's numbers stand those of the model without the site; too few sites predict nothing."""
    page = render(study_result)
    section = page[page.index('id="new-hospital"') : page.index('id="worth"')]
    out = study_result.unseen["st_marys"].sites["st_marys"]["pneumonia"]
    assert out.auc
    assert f"{out.auc.value:.3f}" in section
    assert section.count("No sensitivity can be predicted for a new hospital: 4 sites have counts") == 1
    assert "No site was left out" in render(replace(study_result, unseen={}))
    assert 'id="new-hospital"' not in render(replace(study_result, new_hospital={}))


def test_the_summary_tells_other_hospitals(study_result: StudyResult) -> None:
    """Where a prediction can be made, it stands on the first page."""
    result = replace(study_result, new_hospital={"pneumonia": told(COUNTS, unseen=True)})
    assert any("At any other hospital for pneumonia before a look" in one for one in not_for(result))
    nothing = replace(result, unseen={})
    assert "At any other hospital for effusion: nothing was measured there." in not_for(nothing)
    (left_out,) = [one for one in not_for(result) if one.startswith("At any other hospital for effusion")]
    assert "effusion: a model had an AUC of 0.935 at a hospital that it never saw (riverside, lowest of 3)." in left_out


@pytest.mark.parametrize("known", [True, False])
def test_counts_are_of_models_that_never_saw_the_site(known: bool) -> None:
    """Of each left-out run only the site that was left out is counted, and none without an operating point."""

    def conclusion(found: int) -> Any:
        from types import SimpleNamespace

        from shared.evidence import Evidence
        from shared.messages import EvaluateReply
        from shared.metrics import Confusion, ScoreHistogram

        item = Evidence(
            units=20,
            patients=20,
            positive_patients=10,
            negative_patients=10,
            histogram=ScoreHistogram(positives=(10 - found, found), negatives=(5, 5)),
            confusion=Confusion(tp=found, fp=5, tn=5, fn=10 - found),
            auc=None,
            brier=None,
        )
        test = {site: EvaluateReply(evidence=(item,)) for site in ("north", "south")}
        return SimpleNamespace(test=test, operating_point={"opacity": object() if known else None})

    shared, others = conclusion(9), Alternatives(unseen={"north": conclusion(3), "south": conclusion(4)})
    counted = others.counts(shared, 0, "opacity")["sensitivity"]
    assert {site: count.k for site, count in counted.items()} == ({"north": 3, "south": 4} if known else {})
    seen = Alternatives().counts(shared, 0, "opacity")["sensitivity"]
    assert {site: count.k for site, count in seen.items()} == ({"north": 9, "south": 9} if known else {})
