"""The page says what calls are worth, whether scores are probabilities, and what other thresholds would do."""

import re
from dataclasses import replace

import pytest

from server import wording
from server.calibration_points import calibration_points
from server.report import render
from server.results import StudyResult
from shared.metrics import ScoreHistogram


def words_of(page: str) -> str:
    """Take the tags out, and squeeze the space."""
    body = page.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def words(study_result: StudyResult) -> str:
    """Give the sample study's page as words."""
    return words_of(render(study_result))


def test_every_predictive_value_stands_on_the_page_with_its_counts(words: str, study_result: StudyResult) -> None:
    """PPV and NPV of each site and of all, with k of n."""
    for site in (*study_result.site_names, None):
        test = study_result.of_site(site, "test", "pneumonia") if site else study_result.of_pool("test", "pneumonia")
        for one in (test.ppv, test.npv):
            if one:
                low_high = f"{one.low * 100:.1f} to {one.high * 100:.1f}"
                assert f"{one.value * 100:.1f} % {low_high} {one.k} of {one.n}" in words


def test_calibration_stands_on_the_page_with_its_interval(words: str, study_result: StudyResult) -> None:
    """Slope and intercept with both ends; a minus is a minus."""
    quality = study_result.of_site("st_marys", "test", "pneumonia").quality
    assert quality
    assert quality.calibration
    for one in (quality.calibration.slope, quality.calibration.intercept):
        value, low, high = (wording.coefficient(number) for number in (one.value, one.low, one.high))
        assert f"{value} {low} to {high}" in words


def test_the_table_of_targets_and_each_sites_need_stand_on_the_page(words: str, study_result: StudyResult) -> None:
    """Each target with its threshold, and each site's own threshold with its interval."""
    others = study_result.other_thresholds["pneumonia"]
    for row in others.table:
        assert f"{row.point.target * 100:g} % {wording.threshold(row.point.threshold)}" in words
    for own in others.own.values():
        shown = [wording.threshold(value) for value in (own.need.threshold, own.need.low, own.need.high)]
        assert f"{shown[0]} {shown[1]} to {shown[2]}" in words
    for one in others.benefit:
        assert f"one miss = {(1 - one.threshold) / one.threshold:.1f} alarms" in words


def test_intervals_that_rest_on_weak_theory_are_named(words: str, study_result: StudyResult) -> None:
    """An AUC above .95, or from fewer than 30 of a class, is to be read with caution, and the page says whose."""
    caution = words.partition("Read these AUC intervals with caution")[2].partition("ROC curves")[0]
    assert "island_clinic (fewer than 30 in a class" in caution
    assert "st_marys" not in caution
    rows = [("a", study_result.of_site("st_marys", "test", "pneumonia"))]
    assert wording.auc_cautions(rows) == ""


def test_a_run_without_other_thresholds_still_has_a_page(study_result: StudyResult) -> None:
    """Where no site released validation counts there is no table, and the page holds."""
    assert "Net benefit per 100" not in words_of(render(replace(study_result, other_thresholds={})))


def test_points_of_a_calibration_curve_hold_every_unit_once() -> None:
    """Groups of neighbouring bins add up to all units, rise along the score, and are not smaller than ten units."""
    histogram = ScoreHistogram(positives=(0, 1, 2, 5, 9, 20), negatives=(30, 20, 10, 5, 2, 0))
    points = calibration_points(histogram, name="north", confidence=0.95)
    counts = [tuple(map(int, re.search(r"(\d+) of (\d+)", one.tip).groups())) for one in points]
    assert (sum(k for k, _ in counts), sum(n for _, n in counts)) == (37, 104)
    assert min(n for _, n in counts) >= 10
    assert [one.score for one in points] == sorted(one.score for one in points)
    assert calibration_points(ScoreHistogram(positives=(0, 0), negatives=(0, 0)), name="x", confidence=0.95) == []


def test_thresholds_near_the_ends_can_be_told_apart() -> None:
    """0 is written 0, and a threshold of .00034 isn't."""
    assert [wording.threshold(value) for value in (0, 0.00034, 0.269, 0.9997)] == ["0", "0.00034", "0.269", "0.99970"]
