"""What could be tried follows from validation units, and is priced on test units; nothing is asked for idly."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from client.evaluation import evidence_on
from server.comparisons import compare
from server.explanation import Explanation, explanations
from server.family import Kind, adjusted
from server.finding_result import FindingResult, Why, absent
from server.other_thresholds import other_thresholds
from server.receipt import Receipt
from server.remedies import Remedies, Scale, harmonising, remedies
from server.report import render
from server.results import StudyResult
from server.target import Target
from server.wording_remedies import sentences
from shared.evidence import Evidence
from shared.paired import Paired
from shared.protocol import Evaluation, Images
from shared.score_calibration import recalibrated, recalibration
from shared.scores import ScoredUnits, lower_edges

THRESHOLD = float(lower_edges(bins=64)[27])
OPACITY = Target(name="opacity", exclusive=False)
LOOKED_AT: FindingResult = replace(absent(Why.NO_POSITIVES), units=40)


def units(seed: int, n: int, *, shift: float = 0.0, apart: float = 3.0, extreme: float = 1.0) -> ScoredUnits:
    """Draw units whose scores are probabilities, moved by `shift` on the logit and stretched by `extreme`."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.4
    latent = rng.normal(apart * positive, 1)
    true = logit(0.4) + apart * latent - apart**2 / 2
    return ScoredUnits(scores_M=expit(shift + extreme * true), positive_M=positive, patients_M=np.arange(n))


def evidence(seed: int, n: int, **planted: float) -> Evidence:
    return evidence_on(units(seed, n, **planted), bins=64, confidence=0.95, threshold=THRESHOLD)


def tried(**planted: float) -> Remedies:
    """Look at `south`, which has what is planted, beside three sites that have nothing."""
    calm = ("east", "north", "west")
    sides = [
        {site: evidence(10 * side + place, 400) for place, site in enumerate(calm)}
        | {"south": evidence(10 * side + 7, 400, **planted)}
        for side in (1, 2)
    ]
    compared = compare("opacity", sides[1], wish=Evaluation(), seed=1)
    family = adjusted({Kind.SITES: compared.raw()})
    told: dict[str, Explanation] = explanations(compared.adjusted(family), threshold=THRESHOLD, confidence=0.95, seed=1)
    others = other_thresholds(sides[0], sides[1], target=0.95, claim="point", confidence=0.95)
    found = remedies(
        sides[0],
        sides[1],
        threshold=THRESHOLD,
        others=others,
        explained=told,
        apart={"north", "south"},
        scale=Scale.LANDMARKS,
        min_positives=30,
        confidence=0.95,
    )
    assert set(found) == {*calm, "south"}
    return found["south"]


def test_lower_scores_ask_for_a_threshold_and_a_calibration() -> None:
    """Where only scores lie lower, another threshold finds more at a price, and no layers are asked for."""
    found = tried(shift=-2.0)
    assert found.own_point
    assert found.own_point.threshold < THRESHOLD
    assert found.own_point.found_after > found.own_point.found_before
    assert found.own_point.alarms_after >= found.own_point.alarms_before
    assert found.recalibrated
    assert found.recalibrated.intercept == pytest.approx(2.0, abs=0.6)
    assert found.recalibrated.after < found.recalibrated.before
    assert not found.own_layers


def test_a_lower_curve_asks_for_layers() -> None:
    """Where cases are told apart less well, own layers are asked for."""
    assert tried(apart=1.0).own_layers


def test_scores_that_are_too_extreme_ask_for_a_calibration_alone() -> None:
    """A slope of a half is found, and the Brier score falls; neither threshold nor layers need be asked for."""
    found = tried(extreme=2.0)
    assert found.recalibrated
    assert found.recalibrated.slope == pytest.approx(0.5, abs=0.15)
    assert found.recalibrated.after < found.recalibrated.before
    assert not found.own_layers


def test_recalibration_is_that_of_scikit_learn() -> None:
    """Intercept and slope are those of an unpenalised logistic regression on the logit."""
    drawn = units(3, 500, shift=-1.0, extreme=1.5)
    fitted = recalibration(drawn)
    model = LogisticRegression(C=1e9, max_iter=1000).fit(
        np.clip(logit(drawn.scores_M), -8, 8)[:, None], drawn.positive_M
    )
    assert fitted == pytest.approx((float(model.intercept_[0]), float(model.coef_[0, 0])), abs=1e-3)
    assert fitted
    after = recalibrated(drawn.scores_M, intercept=fitted[0], slope=fitted[1])
    assert after.mean() == pytest.approx(drawn.positive_M.mean(), abs=1e-6)


def test_images_that_lie_apart_ask_for_harmonising_only_with_a_reason() -> None:
    """A site whose images lie apart is told of it where its figures ask for something, and of what is not on yet."""
    assert tried(shift=-2.0).scale == "landmarks"
    assert tried().scale is None
    images = {"window": "percentile", "harmonise": "none"}
    assert harmonising(Images(**images)) == "landmarks"
    assert harmonising(Images(**images | {"harmonise": "landmarks"})) is None
    assert harmonising(Images(**images | {"window": "dicom"})) == "percentile"


def test_few_positives_are_not_asked_about() -> None:
    """A site that is not ranked has no remedies, and one without validation evidence no calibration."""
    item = evidence(1, 400, shift=-2.0)
    others = other_thresholds({}, {"south": item}, target=0.95, claim="point", confidence=0.95)
    wish: dict[str, Any] = {"threshold": THRESHOLD, "others": others, "explained": {}, "confidence": 0.95}
    wish |= {"apart": {"south"}, "scale": Scale.PERCENTILE}
    assert remedies({}, {"south": item}, min_positives=1000, **wish) == {}
    found = remedies({}, {"south": item}, min_positives=30, **wish)["south"]
    assert found == Remedies(own_point=None, recalibrated=None, own_layers=False)
    (said,) = sentences(found, target=OPACITY, unit="exam", layers=None, validation=absent(Why.SUPPRESSED))
    assert said.startswith("Not known: of its validation patients there is no evidence (suppressed")
    (said,) = sentences(found, target=OPACITY, unit="exam", layers=None, validation=LOOKED_AT)
    assert said == "Its validation patients gave no reason to try something, which with few of them says little."


def test_every_price_is_in_the_words() -> None:
    """Gain and price of a threshold, both Brier scores, and whether own layers were tried."""
    found = replace(tried(shift=-2.0), own_layers=True)
    point, again = found.own_point, found.recalibrated
    assert point
    assert again
    again = replace(again, low=-0.02, high=-0.001)
    found = replace(found, recalibrated=again)
    threshold, scores, layers, scale = sentences(found, target=OPACITY, unit="exam", layers=None, validation=LOOKED_AT)
    assert f"{point.found_after - point.found_before} more of {point.positives} exams with opacity" in threshold
    assert f"{point.alarms_after - point.alarms_before} more false alarms among {point.negatives} without" in threshold
    assert f"{again.before:.3f} to {again.after:.3f}" in scores
    assert "would be better" in scores
    assert "was not tried here" in layers
    assert 'harmonise = "landmarks"' in scale
    helped = Receipt(
        units=9,
        positives=5,
        ranked=True,
        auc=Paired(first=0.9, second=0.8, difference=0.1, low=0.05, high=0.15),
        sensitivity=None,
        specificity=None,
    )
    assert sentences(found, target=OPACITY, unit="exam", layers=helped, validation=LOOKED_AT)[2].endswith(
        "they helped."
    )
    unclear = replace(found, recalibrated=replace(again, low=-0.01, high=0.01), own_point=None, own_layers=False)
    assert (
        "neither better nor worse"
        in sentences(unclear, target=OPACITY, unit="exam", layers=None, validation=LOOKED_AT)[0]
    )


def test_the_page_says_what_could_be_tried(study_result: StudyResult) -> None:
    """Every sentence stands there; a study without an operating point has no such section."""
    page = render(study_result)
    assert "own layers" in page.lower()
    for finding, sites in study_result.remedies.items():
        for site, one in sites.items():
            layers = study_result.personal[finding].get(site)
            target, looked_at = Target(name=finding, exclusive=False), study_result.of_site(site, "validation", finding)
            told = sentences(one, target=target, unit="exam", layers=layers, validation=looked_at)
            assert all(str(escape(said)) in page for said in told)
    assert "What could be tried" not in render(replace(study_result, remedies={}))


def test_the_page_shows_the_scale_that_images_were_brought_to(study_result: StudyResult) -> None:
    """Each site's landmarks, those that were held back, the standard, and whose lay farthest; nothing where none is."""
    page = render(study_result)
    assert study_result.harmonised
    assert "st_marys&#39;s lay farthest from it, by 4.0 % of the range" in page
    assert "the median over 4 sites" in page
    assert "held back: too few patients. Its images were brought to the others&#39; standard." in page
    silent = replace(study_result, harmonised=replace(study_result.harmonised, absent={"hillcrest": "no_reply"}))
    told = render(silent)
    assert "not known: no reply. Its images were brought to the others&#39; standard." in told
    assert "held back: too few patients. Its images" not in told
    for own in [*study_result.harmonised.sites.values()]:
        assert all(f">{100 * one:.1f}<" in page for one in (own.positions if own else ()))
    assert "Harmonised intensities</h3>" not in render(replace(study_result, harmonised=None))
