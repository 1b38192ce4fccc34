"""The confusion matrix on the page: what sites released, as shares of each class, and nothing that they withheld."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from client.evaluation import evidence_on
from server.admission import Refused
from server.alternatives import Alternatives
from server.checkpoint import RunState
from server.class_matrix import Mistake, class_matrices, mistakes
from server.environment import environment
from server.report import render
from server.results import StudyResult
from server.results_json import from_json, to_json
from server.study_results import study_result
from server.study_run import Conclusion
from server.wording_classes import summary
from shared.called_as import CalledAs
from shared.evidence import Evidence, Withheld
from shared.intervals import wilson
from shared.messages import EvaluateReply
from shared.metrics import Count
from shared.operating_point import OperatingPoint
from shared.scores import ScoredUnits
from shared.weights import WeightsProvenance

CLASSES = ("normal", "viral (mixed)", "bacterial")
CALLED: dict[str, list[tuple[int | None, ...]]] = {
    "northgate": [(30, 10, 0), (4, 16, 0), (0, 0, 50)],
    "riverside": [(60, 0, 0), (None, None, 0), (20, 0, 10)],
}
SIZES = {"northgate": (40, 20, 50), "riverside": (60, 40, 30)}


def evidence(site: str) -> tuple[Evidence, ...]:
    """Give the evidence of a site on each class."""
    true_N, rng = np.repeat([0, 1, 2], SIZES[site]), np.random.default_rng(1)
    found = []
    for place, called in enumerate(CALLED[site]):
        units = ScoredUnits(
            scores_M=rng.random(len(true_N)), positive_M=true_N == place, patients_M=np.arange(len(true_N))
        )
        item = evidence_on(units, bins=64, confidence=0.95, threshold=0.5)
        found.append(replace(item, called_as=CalledAs(units=called)))
    return tuple(found)


@pytest.fixture
def classes(tiny: Any) -> StudyResult:
    """Give a study of three classes: one site whole, one with withheld counts, one that is suppressed."""
    replies: dict[str, EvaluateReply | Refused] = {site: EvaluateReply(evidence=evidence(site)) for site in CALLED}
    replies["hillcrest"] = EvaluateReply(evidence=(Withheld(),) * 3)
    nothing = {"pooled_auc": dict.fromkeys(CLASSES), "site_auc": {name: {} for name in CLASSES}}
    record = {"round": 1, "lost": False, "seconds": 1.0, "sites": {}, "validation": nothing}
    point = OperatingPoint(
        threshold=0.5, target=0.95, claim="point", reached=wilson(Count(k=95, n=100), confidence=0.95)
    )
    conclusion = Conclusion(
        state=RunState(round=1, model={}, history=[record]),
        chosen=1,
        model={},
        operating_point=dict.fromkeys(CLASSES, point),
        validation=replies,
        test=replies,
        own={},
    )
    return study_result(
        tiny.protocol(task={"classes": list(CLASSES)}, evaluation={"score_bins": 64}),
        conclusion,
        {},
        {},
        WeightsProvenance(source="file", sha256="0" * 64, sentence="From a file."),
        environment(torch.device("cpu"), seed=0),
        alternatives=Alternatives(),
        seeded=True,
    )


def test_a_site_has_its_own_rows_and_all_sites_those_that_are_whole(classes: StudyResult) -> None:
    """A row with a withheld count is shown at its site, with what is known, and is no part of the sum."""
    *sites, together = class_matrices(classes)
    own = {one.site: one for one in sites}
    assert not own["hillcrest"].known
    assert [cell.units for cell in own["riverside"].rows[1].called] == [None, None, 0]
    assert [[cell.units for cell in row.called] for row in together.rows] == [[90, 10, 0], [4, 16, 0], [20, 0, 60]]
    assert [row.units for row in together.rows] == [100, 20, 80]
    assert [cell.share for cell in together.rows[2].called] == [0.25, 0.0, 0.75]


def test_the_summary_names_the_class_that_is_most_often_called_another(classes: StudyResult) -> None:
    """Over all sites, and where it is worst."""
    assert mistakes(classes)[0] == Mistake(site="riverside", name="bacterial", called="normal", units=20, of=30)
    assert summary(classes) == (
        "Called another class most often: over all sites, 20 of 80 exams of class bacterial were called normal "
        "(25.0\N{NO-BREAK SPACE}%); at riverside, 20 of 30 exams of class bacterial were called normal "
        "(66.7\N{NO-BREAK SPACE}%)."
    )


def test_the_page_shows_the_matrix(classes: StudyResult) -> None:
    """Each class is a row; what is withheld is said to be; a result without classes has no such section."""
    page = render(classes)
    part = page[page.index('id="classes"') : page.index('id="thresholds"')]
    assert part.count("<table") == 3
    assert part.count('<span class="absent">suppressed</span>') >= 2
    assert "20 exams of class bacterial called normal (25.0\N{NO-BREAK SPACE}%)" in part
    assert 'id="classes"' not in render(replace(classes, study=replace(classes.study, exclusive=False)))


def test_results_json_keeps_the_rows(classes: StudyResult) -> None:
    """Withheld counts are null there, and read back as they were."""
    assert from_json(to_json(classes), where="results.json") == classes


def test_a_study_of_which_nobody_released_a_row_says_nothing_of_it(classes: StudyResult) -> None:
    """No matrix is no matrix of zeros."""
    silent = replace(classes, sites={"hillcrest": classes.sites["hillcrest"]})
    assert class_matrices(silent) == ()
    assert summary(silent) == ""
