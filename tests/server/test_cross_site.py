"""The cross-site matrix has every model at every site, and says where a model only guesses."""

from dataclasses import replace

import pytest

from server.cross_site import matrix
from server.finding_result import Why
from server.results import BaselineModel, Baselines, StudyResult
from server.wording_worth import HOTTEST, heat, missing, models_away


def test_every_model_is_at_every_site(study_result: StudyResult) -> None:
    """Federated, pooled, then each site's own; values are those of results.json, and one cell of each is at home."""
    rows = matrix(study_result, "pneumonia")
    sites = study_result.site_names
    assert [row.name for row in rows] == ["federated", "pooled", *(f"{site} alone" for site in sites)]
    for row in rows[2:]:
        assert [cell.site for cell in row.cells] == list(sites)
        assert [cell.site for cell in row.cells if cell.home] == [row.home]
        for cell in row.cells:
            assert cell.auc == study_result.baselines.local[str(row.home)].sites[cell.site]["pneumonia"].auc


def test_the_mean_leaves_out_what_is_not_there(study_result: StudyResult) -> None:
    """A site whose evidence is suppressed has no AUC, and does not count as 0."""
    row = matrix(study_result, "pneumonia")[0]
    known = [cell.auc.value for cell in row.cells if cell.auc]
    assert len(known) == 4
    assert row.mean == pytest.approx(sum(known) / 4)
    assert [missing(cell.why) for cell in row.cells if not cell.auc] == ["suppressed"]
    assert [missing(why) for why in (Why.NO_POSITIVES, Why.NO_REPLY, None)] == [
        "not defined",
        "no reply",
        "not defined",
    ]
    empty = replace(study_result, sites={**study_result.sites, "northgate": {}})
    assert {missing(cell.why) for cell in matrix(empty, "effusion")[0].cells if not cell.auc} == {
        "suppressed",
        "no reply",
        "not defined",
    }


def test_guessing_elsewhere_is_said(study_result: StudyResult) -> None:
    """A model whose interval reaches down to 0.5 at another site is not shown to be better than guessing there."""
    model = study_result.baselines.local["northgate"]
    there = model.sites["riverside"]["pneumonia"]
    assert there.auc
    lost = replace(there, auc=replace(there.auc, value=0.53, low=0.44, high=0.62))
    sites = {**model.sites, "riverside": {**model.sites["riverside"], "pneumonia": lost}}
    baselines = Baselines(local={"northgate": BaselineModel(operating_point={}, sites=sites)}, pooled=None)
    told = dict(models_away(matrix(replace(study_result, baselines=baselines), "pneumonia")))
    assert "from 0.530 (riverside)" in told["northgate"]
    assert told["northgate"].endswith("Not shown to be better than guessing at riverside.")
    calm = dict(models_away(matrix(study_result, "pneumonia")))
    assert "guessing" not in calm["northgate"]


def test_one_other_site_is_named_once() -> None:
    """Of two sites there is no range elsewhere."""
    assert heat(1.0) == HOTTEST
    assert heat(0.5) == heat(0.3) == 0


def test_only_text_of_enough_contrast_stands_on_the_heat() -> None:
    """Ink on the darkest cell stands at least 4.5:1 (WCAG 2.2, 1.4.3), in light and in dark."""
    for ink, paper, hot in (("1a2126", "ffffff", "2f9fb3"), ("e7edf0", "12181c", "1d7285")):
        ground = [
            HOTTEST / 100 * int(hot[i : i + 2], 16) + (1 - HOTTEST / 100) * int(paper[i : i + 2], 16) for i in (0, 2, 4)
        ]
        lights = sorted(_luminance(one) for one in (ground, [int(ink[i : i + 2], 16) for i in (0, 2, 4)]))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def _luminance(rgb: list[float]) -> float:
    parts = [one / 255 for one in rgb]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
