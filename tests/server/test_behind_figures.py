"""Behind each figure stands a table with the same numbers."""

import re
from dataclasses import replace

from sklearn.metrics import roc_curve

from server.behind_figures import ALARMS, curve_rows, training_rows
from server.report import render
from server.results import StudyResult


def test_sensitivities_are_those_of_scikit_learns_curve(study_result: StudyResult) -> None:
    """Each lies between the curve's steps at that false-alarm rate; pooled and unranked sites are there."""
    tests = [(site, study_result.of_site(site, "test", "pneumonia")) for site in study_result.site_names]
    rows = curve_rows(tests, confidence=0.95)
    assert [row.site for row in rows] == ["island_clinic", "northgate", "riverside", "st_marys"]
    for row in rows:
        histogram = study_result.of_site(row.site, "test", "pneumonia").histogram
        assert histogram
        units = histogram.units()
        alarms, found, _ = roc_curve(units.positive_M, units.scores_M, drop_intermediate=False)
        for alarm, sensitivity in zip(ALARMS, row.sensitivities, strict=True):
            assert found[alarms <= alarm].max() <= sensitivity + 1e-12
            assert sensitivity <= found[alarms >= alarm].min() + 1e-12


def test_every_round_has_its_row(study_result: StudyResult) -> None:
    """Loss and AUC of each site and round are those of results.json; what is not known is None."""
    rows = training_rows(study_result)
    assert len(rows) == len(study_result.rounds) * len(study_result.site_names)
    refused = next(row for row in rows if (row.round, row.site) == (3, "hillcrest"))
    assert (refused.loss, refused.aucs) == (None, (None, None))
    row = next(row for row in rows if (row.round, row.site) == (5, "northgate"))
    assert row.loss == study_result.rounds[4].sites["northgate"].loss
    assert row.aucs[1] == study_result.rounds[4].validation["effusion"].sites["northgate"]


def test_each_figure_has_hover_values_and_a_table(study_result: StudyResult) -> None:
    """Every drawing has marks that say their value, and its section a table that holds it."""
    page = render(study_result)
    figures = re.findall(r'<svg viewBox[^>]*role="img".*?</svg>', page, flags=re.DOTALL)
    assert len(figures) == 17
    assert all(figure.count("<title>") >= 2 for figure in figures)
    assert page.count("<summary>The numbers behind these curves</summary>") == 3


def test_a_lost_beginning_has_no_row_of_zeros(study_result: StudyResult) -> None:
    """A round of which nothing is known has empty cells."""
    bare = replace(study_result, rounds=(replace(study_result.rounds[0], sites={}, validation={}),))
    assert {(row.loss, row.aucs) for row in training_rows(bare)} == {(None, (None, None))}
    assert "nan" not in render(bare)


def test_a_private_study_has_no_loss_there(study_result: StudyResult) -> None:
    """Where loss does not leave a site the cells are empty."""
    rounds = tuple(
        replace(one, sites={site: replace(part, loss=None) for site, part in one.sites.items()})
        for one in study_result.rounds
    )
    assert all(row.loss is None for row in training_rows(replace(study_result, rounds=rounds)))
