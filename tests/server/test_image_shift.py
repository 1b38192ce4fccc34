"""Sites are compared two by two from what they released, beside the spread within each; what is missing says so."""

import numpy as np
import pytest

from server.admission import Reason, Refused, admit_description
from server.family import Kind, adjusted
from server.image_shift import recognitions, share_hypotheses, site_pairs
from server.site_bounds import NOT_TOLD
from server.wording_shift import apart, warnings
from shared.description import Description
from shared.evidence import Evidence, Withheld
from shared.feature_summary import FeatureSummary, summarise
from shared.intensity import IntensitySummary
from shared.intensity import summarise as summarise_intensity
from shared.messages import DescribeReply
from shared.metrics import ScoreHistogram
from shared.site_identifiability import identifiability
from shared.split import Split


def described(seed: int, *, patients: int = 100, away: float = 0.0) -> Description:
    """Describe a site whose features and brightness lie `away` from the others'."""
    rng = np.random.default_rng(seed)
    levels = np.exp(-0.5 * ((np.arange(64) - 30 - 10 * away - rng.normal(0, 1, (patients, 1))) / 8) ** 2)
    features = summarise(rng.standard_normal((patients, 32)) + away, split=Split.TRAIN, seed=0)
    return Description(
        features=features if features.dimensions else Withheld(),
        intensity=summarise_intensity(levels / levels.sum(axis=1, keepdims=True), seed=0),
        corners=(Withheld(),),
        marks=(Withheld(),),
    )


def evidence(positives: int, units: int) -> Evidence:
    histogram = ScoreHistogram(positives=(0, positives), negatives=(units - positives, 0))
    return Evidence(
        units=units,
        patients=units,
        positive_patients=positives,
        negative_patients=units - positives,
        histogram=histogram,
        confusion=None,
        auc=None,
        brier=None,
    )


SITES = {"east": described(0), "north": described(1), "south": described(2, away=1.5)}


def test_the_site_that_lies_apart_is_beyond_the_null_and_the_others_are_not() -> None:
    """Both distances, each beside the larger null of the two; the same whatever the order of the sites."""
    found = {(pair.one, pair.other): pair for pair in site_pairs(SITES)}
    assert found == {(pair.one, pair.other): pair for pair in site_pairs(dict(reversed(SITES.items())))}
    assert set(found) == {("east", "north"), ("east", "south"), ("north", "south")}
    beyond = {key: (pair.brightness.beyond, pair.features.beyond) for key, pair in found.items()}
    assert beyond == {
        ("east", "north"): (False, False),
        ("east", "south"): (True, True),
        ("north", "south"): (True, True),
    }
    here, there = SITES["east"].intensity, SITES["south"].intensity
    assert found["east", "south"].brightness.null == max(here.split_null, there.split_null)


def test_a_pair_is_compared_in_what_the_smaller_site_bears() -> None:
    """100 and 55 patients: 11 dimensions; a site with too few keeps its brightness alone; one that refused is out."""
    sites = {
        "a": described(0),
        "b": described(1, patients=55),
        "c": described(2, patients=30),
        "d": Refused(reason=Reason.NO_REPLY),
        "e": Description(features=Withheld(), intensity=Withheld(), corners=(), marks=()),
    }
    found = {(pair.one, pair.other): pair for pair in site_pairs(sites)}
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert found["a", "b"].dimensions == 11
    assert (found["a", "c"].features, found["a", "c"].dimensions) == (None, None)
    assert found["a", "c"].brightness is not None


def test_recognition_warns_only_where_prevalence_differs(study_result) -> None:
    """South is told for sure; the warning needs that its share of positives differs beyond chance too."""
    alike = {"opacity": {site: evidence(50, 100) for site in SITES}}
    other = {"opacity": {**alike["opacity"], "south": evidence(10, 100)}}
    for test, expected in ((alike, []), (other, ["east", "north"])):
        raw = share_hypotheses(SITES, test, confidence=0.95, seed=0)
        found = recognitions(SITES, adjusted({Kind.IMAGES: raw}), confidence=0.95)
        assert [one.identifiability.almost_sure for one in found] == [False, True, True]
        features = [SITES[site].features for site in ("east", "south")]
        assert found[1].identifiability == identifiability(*features, confidence=0.95)
        warned = [one.one for one in found if one.identifiability.almost_sure and one.prevalence_p < 0.05]
        assert warned == expected
    assert [one.prevalence_p for one in recognitions(SITES, {}, confidence=0.95)] == [None] * 3


def test_the_page_names_the_site_that_lies_apart_and_warns(study_result) -> None:
    """The sample study's st_marys lies apart, is recognised, and has a mark in its corner: three things are said."""
    assert [sentence for sentence in apart(study_result) if sentence.startswith("st_marys's")] == [
        "st_marys's images without disease lie apart in brightness from hillcrest, island_clinic, northgate and "
        "riverside, and in features from island_clinic, northgate and riverside."
    ]
    heads = [headline for headline, _ in warnings(study_result)]
    assert "A corner of st_marys's images speaks for pneumonia" in heads
    recognised = [head for head in heads if head.startswith("A model can recognise")]
    told = {
        f"A model can recognise {one.one} and {one.other}"
        for one in study_result.domain_shift.site_identifiability
        if one.identifiability.low >= 0.9 and one.prevalence_p is not None and one.prevalence_p < 0.05
    }
    assert set(recognised) == told


@pytest.mark.parametrize("fault", ["none", "targets", "marks", "covariance"])
def test_a_description_that_cannot_be_does_not_enter(fault: str) -> None:
    """Another number of targets or of their marks, or a covariance with a negative variance, is of wrong form."""
    item = described(0)
    features = item.features
    assert isinstance(features, FeatureSummary)
    assert isinstance(item.intensity, IntensitySummary)
    broken = FeatureSummary(
        split=features.split,
        patients=features.patients,
        mean=features.mean,
        covariance=(-1.0, *features.covariance[1:]),
        split_null=features.split_null,
    )
    reply = DescribeReply(
        description=Description(
            features=broken if fault == "covariance" else features,
            intensity=item.intensity,
            corners=(Withheld(),),
            marks=() if fault == "marks" else (Withheld(),),
        )
    )
    found = admit_description(reply, targets=2 if fault == "targets" else 1, most=NOT_TOLD)
    assert found == (reply.description if fault == "none" else Refused(reason=Reason.WRONG_COUNT))
    bare = DescribeReply(
        description=Description(features=Withheld(), intensity=Withheld(), corners=(Withheld(),), marks=(Withheld(),))
    )
    assert admit_description(bare, targets=1, most=NOT_TOLD) == bare.description
