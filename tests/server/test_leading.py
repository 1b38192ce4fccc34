"""What the report says first: marks before a gap, a gap before a share, and nothing where nothing was shown."""

from dataclasses import replace

import numpy as np
import pytest

from server.admission import Reason, Refused
from server.explanation import Explanation, Pattern, Shares
from server.family import Kind, adjusted
from server.leading import Cause, Leading, leading
from server.shortcuts import CornerFinding, CornerFindings, MarkFinding, corner_findings
from server.wording_shift import consistent_with, leading_sentence
from shared.corner_test import shown, shown_area
from shared.description import CORNERS, CornerEffect, CornerTest, Description, MarkTest
from shared.domain_shift import holm
from shared.evidence import Withheld
from shared.gap import Gap, Part
from shared.split import Split

NONE = Part(value=0.0, low=-0.1, high=0.1)


def gap(value: float) -> Gap:
    return Gap(measure="sensitivity", value=value, threshold=NONE, discrimination=NONE, reference=0.1)


def told(pattern: Pattern, p: float, value: float = -0.2) -> Explanation:
    shares = Shares(here=0.5 + value, elsewhere=0.5, ppv_here=None, ppv_elsewhere=None)
    measure = None if pattern in (Pattern.PREVALENCE, Pattern.NONE_SHOWN) else "sensitivity"
    return Explanation(pattern=pattern, measure=measure, p=p, gaps={"sensitivity": gap(value)}, shares=shares)


def corner(p: float, value: float = 1.0, name: str = "upper left", auc_without: float = 0.8) -> CornerFinding:
    return CornerFinding(
        corner=name, value=value, low=value - 0.3, high=value + 0.3, p=p, adjusted_p=p, auc=0.9, auc_without=auc_without
    )


def blanked(**sites: tuple[CornerFinding, ...]) -> CornerFindings:
    return CornerFindings(blanked=sites, marks={})


def marked(p: float, value: float = 0.9, reach: float = 0.08, name: str = "lower left") -> CornerFindings:
    one = MarkFinding(corner=name, value=value, low=value - reach, high=value + reach, p=p, adjusted_p=p)
    return CornerFindings(blanked={}, marks={"e": (one,)})


NO_CORNERS = blanked()

EVERYTHING = {
    "a": told(Pattern.PREVALENCE, 1e-4),
    "b": told(Pattern.DISCRIMINATION, 1e-5, value=0.2),
    "c": told(Pattern.THRESHOLD, 1e-3),
    "d": told(Pattern.NONE_SHOWN, 0.4),
    "e": Explanation(pattern=Pattern.NOT_COMPARED, measure=None, p=None, gaps={}, shares=None),
}


def test_a_mark_leads_then_where_it_is_worse_then_better_then_the_share() -> None:
    """Each leads once what stands before it is taken away."""
    marks = blanked(d=(corner(0.2), corner(0.001, name="lower right")))
    found, left = [leading(EVERYTHING, marks, alpha=0.05)], dict(EVERYTHING)
    while found[-1].site is not None:
        left = {site: one for site, one in left.items() if site != found[-1].site or found[-1].cause is Cause.MARKER}
        found.append(leading(left, NO_CORNERS, alpha=0.05))
    assert [(one.cause, one.site) for one in found] == [
        (Cause.MARKER, "d"),
        (Cause.THRESHOLD, "c"),
        (Cause.DISCRIMINATION, "b"),
        (Cause.PREVALENCE, "a"),
        (Cause.NONE_SHOWN, None),
    ]
    assert (found[0].corner, found[0].p) == ("lower right", 0.001)


def test_where_a_site_falls_short_its_gap_comes_before_all_others() -> None:
    """The summary says where the model misses most; what is said of why is of the same site, whosever p is smaller."""
    gaps = {"north": told(Pattern.UNCLEAR, 1e-6), "south": told(Pattern.DISCRIMINATION, 0.01)}
    for short, site in (((), "north"), (("south",), "south"), (("north", "south"), "north")):
        assert leading(gaps, NO_CORNERS, alpha=0.05, short=short).site == site
        beside = leading(gaps, marked(1e-9), alpha=0.05, short=short).beside
        assert beside is not None
        assert beside.site == site


@pytest.mark.parametrize("p", [0.049, 0.05])
def test_an_adjusted_p_is_not_adjusted_again(p: float) -> None:
    """A p comes from the study's one family: below alpha it leads, whatever kind of test it is of."""
    for candidates in (({"a": told(Pattern.BOTH, p)}, NO_CORNERS), ({}, blanked(a=(corner(p),))), ({}, marked(p))):
        assert (leading(*candidates, alpha=0.05).cause is Cause.NONE_SHOWN) == (p >= 0.05)


def test_a_corner_that_speaks_against_the_disease_does_not_lead() -> None:
    """Only what brings the classes apart can stand in for the disease, and not by a few tenths of a logit."""
    for value, cause in ((0.7, Cause.NONE_SHOWN), (0.9, Cause.MARKER), (-1.0, Cause.NONE_SHOWN)):
        assert leading({}, blanked(a=(corner(1e-9, value=value),)), alpha=0.05).cause is cause


def test_a_corner_without_which_cases_are_told_apart_as_well_does_not_lead() -> None:
    """A head of extreme logits on real films lost half a logit with a corner, and told cases apart better without."""
    for auc_without in (0.9, 0.95):
        seen = blanked(a=(corner(1e-9, auc_without=auc_without),))
        assert leading({}, seen, alpha=0.05).cause is Cause.NONE_SHOWN


def test_a_mark_in_the_images_leads_and_leaves_the_gap_beside_it() -> None:
    """One that the model was not shown to read says nothing against the sites' numbers: both are said."""
    found = leading(EVERYTHING, marked(1e-6), alpha=0.05)
    assert (found.cause, found.site, found.corner, found.area) == (Cause.MARK, "e", "lower left", 0.9)
    assert found.beside is not None
    assert (found.beside.cause, found.beside.site) == (Cause.THRESHOLD, "c")
    alone = leading({}, marked(1e-6), alpha=0.05)
    assert alone.beside is None
    assert "Beside that, c stands out" in leading_sentence(found)
    assert "Beside" not in leading_sentence(alone)


def test_a_mark_that_the_model_reads_stands_before_one_in_the_images() -> None:
    """No comparison of sites stands then, so that none is put beside it."""
    both = CornerFindings(blanked={"d": (corner(0.01),)}, marks=marked(1e-9).marks)
    found = leading(EVERYTHING, both, alpha=0.05)
    assert (found.cause, found.site, found.beside) == (Cause.MARKER, "d", None)


@pytest.mark.parametrize(("value", "goes_with"), [(0.9, "the disease"), (0.1, "the absence of the disease")])
def test_a_mark_may_go_with_the_absence(value: float, goes_with: str) -> None:
    """A mark on the films of the healthy is as good a shortcut, and is told apart."""
    found = leading({}, marked(1e-6, value), alpha=0.05)
    assert found.cause is Cause.MARK
    assert f"goes with {goes_with} (AUC {value:.3f}" in leading_sentence(found)
    assert consistent_with(found, finding=None) == f"a mark that goes with {goes_with} (e, lower left)"


@pytest.mark.parametrize("value", [0.72, 0.28])
def test_what_may_be_less_than_a_mark_does_not_lead(value: float) -> None:
    """An interval that reaches .65, or .35, is no mark, however small p: findings and windows change corners too."""
    assert leading({}, marked(1e-9, value), alpha=0.05).cause is Cause.NONE_SHOWN
    assert leading({}, marked(1e-9, value, reach=0.06), alpha=0.05).cause is Cause.MARK


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_its_sentence(cause: Cause) -> None:
    """It names the site and says 'consistent with', and never 'caused by'."""
    site = None if cause is Cause.NONE_SHOWN else "south"
    one = Leading(cause=cause, site=site, p=0.01 if site else None, corner="upper left", area=0.9)
    said = leading_sentence(one)
    assert "caus" not in said
    if site:
        assert "south" in said
        assert "consistent with" in said or cause is Cause.UNCLEAR
        assert "(opacity: south" in consistent_with(one, finding="opacity")


def test_corners_are_held_together_by_holm() -> None:
    """Both tests of all corners of all sites that sent any; one that refused, withheld or has no effect is left out."""
    drawn = np.random.default_rng(0)

    def site(first: float) -> Description:
        values = [first, *drawn.normal(0, 0.1, 3)]
        effects = tuple(CornerEffect(value=v, error=0.1, freedom=20, auc=0.9, auc_without=0.85) for v in values)
        test = CornerTest(positive_patients=21, negative_patients=30, effects=effects)
        return Description(
            features=Withheld(), intensity=Withheld(), corners=(Withheld(), test), marks=(Withheld(), mark(0.5))
        )

    def mark(first: float) -> MarkTest:
        return MarkTest(split=Split.TRAIN, positive_patients=40, negative_patients=50, areas=(first, 0.5, 0.6, 0.4))

    empty = CornerTest(positive_patients=1, negative_patients=30, effects=())
    none = MarkTest(split=Split.TRAIN, positive_patients=1, negative_patients=30, areas=())
    sites = {
        "south": site(0.8),
        "north": site(0.0),
        "east": Refused(reason=Reason.NO_REPLY),
        "west": Description(
            features=Withheld(), intensity=Withheld(), corners=(Withheld(), empty), marks=(Withheld(), none)
        ),
    }
    sites["north"] = replace(sites["north"], marks=(Withheld(), mark(0.9)))
    assert corner_findings(sites, 0, confidence=0.9) == CornerFindings(blanked={}, marks={})
    both = corner_findings(sites, 1, confidence=0.9)
    found = both.blanked
    assert {name: [one.corner for one in ones] for name, ones in found.items()} == {
        "north": list(CORNERS),
        "south": list(CORNERS),
    }
    raw = [shown(one.value, 0.1, 20, confidence=0.9) for ones in found.values() for one in ones]
    areas = [
        shown_area(area, positives=40, negatives=50, confidence=0.9)
        for first in (0.9, 0.5)
        for area in (first, 0.5, 0.6, 0.4)
    ]
    assert list(both.marks) == ["north", "south"]
    assert [one.p for kind in (found, both.marks) for ones in kind.values() for one in ones] == pytest.approx(
        [one.p for one in (*raw, *areas)]
    )
    both = both.adjusted("opacity", adjusted({Kind.IMAGES: both.raw("opacity")}))
    found = both.blanked
    told = [one.adjusted_p for kind in (found, both.marks) for ones in kind.values() for one in ones]
    assert told == pytest.approx(holm([one.p for one in (*raw, *areas)]))
    first = both.marks["north"][0]
    assert (first.corner, first.value, first.low, first.high) == ("upper left", 0.9, areas[0].low, areas[0].high)
    assert (found["south"][0].low, found["south"][0].high) == (raw[4].low, raw[4].high)
    assert found["south"][0].adjusted_p < 1e-5 < min(one.adjusted_p for one in found["north"])
