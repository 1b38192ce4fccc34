"""The one-page summary says where, how sure, why and whether it was worth it, and never more than is known."""

import re
from dataclasses import replace
from typing import Any

import pytest

from server.finding_result import FindingResult, Why, absent
from server.image_shift import Distance, SitePair
from server.leading import Cause, Leading
from server.report import render
from server.results import StudyResult
from server.subgroup_results import SubgroupResult, Subgroups
from server.summary import Standing, least_safe, stands
from server.wording_limits import not_for
from server.wording_summary import answers, hospital_lines
from server.wording_warnings import warnings
from shared.domain_shift import SiteDifference
from shared.intervals import wilson, wilson_p
from shared.metrics import Count


def only(study_result: StudyResult, finding: str, rates: dict[str, tuple[int, int]], **changes: Any) -> StudyResult:
    """Keep one finding, and give sites other counts of positives found."""
    sites = {}
    for site, splits in study_result.sites.items():
        test: FindingResult = splits["test"][finding]
        if site in rates:
            k, n = rates[site]
            found = wilson(Count(k=k, n=n), confidence=0.95)
            test = replace(test, sensitivity=found, positives=n, ranked=n >= 30)
        sites[site] = {"test": {finding: test}}
    study = replace(study_result.study, findings=(finding,))
    targets = {
        site: wilson_p(
            Count(k=test.sensitivity.k, n=test.sensitivity.n), at=study_result.operating_point[finding].target
        )
        for site, splits in sites.items()
        if (test := splits["test"][finding]).ranked and test.sensitivity
    }
    shift = replace(changes.pop("domain_shift", study_result.domain_shift), targets={finding: targets})
    return replace(study_result, study=study, sites=sites, domain_shift=shift, **changes)


def shorts(result: StudyResult) -> list[str]:
    return [one.short for one in answers(result)]


def test_the_samples_four_answers(study_result: StudyResult) -> None:
    """The planted site is named with its misses; the interval, the pattern and the receipts bear it out."""
    where, sure, why, worth = answers(study_result)
    assert (where.short, sure.short) == ("At st_marys", "Sure that it falls short")
    assert where.text == (
        "It missed 16 of 84 exams with pneumonia: a sensitivity of 81.0\N{NO-BREAK SPACE}%, where "
        "95\N{NO-BREAK SPACE}% was wished. Of hillcrest and island_clinic it cannot be said: too few cases, or none "
        "known."
    )
    assert "71.3 to 87.9" in sure.text
    assert "by more than chance explains (p < 0.001, adjusted)" in sure.text
    assert why.short == "Cases are told apart less well there"
    assert "is consistent with" in why.text
    assert "caused by" not in why.text
    assert worth.short == "Yes in 4 of 8 comparisons, no in 1"
    assert worth.text == (
        "In AUC better than training alone at northgate and riverside. "
        "In AUC worse than training alone at st_marys (pneumonia). "
        "No difference in AUC from training alone was shown at st_marys (effusion). "
        "Too few cases to say at island_clinic."
    )


@pytest.mark.parametrize(
    ("k", "n", "standing", "sure"),
    [
        (40, 50, Standing.SHORT, "Sure that it falls short"),
        (46, 50, Standing.BELOW, "Not sure that it falls short"),
        (49, 50, Standing.REACHED, "As sure as the interval is narrow"),
        (20, 29, Standing.TOO_FEW, None),
    ],
)
def test_a_standing_is_that_of_value_and_interval(
    study_result: StudyResult, k: int, n: int, standing: Standing, sure: str | None
) -> None:
    """Short: the whole interval lies below the target; below: only the value; few cases conclude nothing."""
    others = {"northgate": (100, 100), "riverside": (100, 100)}
    result = only(study_result, "pneumonia", {**others, "st_marys": (k, n)})
    found = {one.site: one.standing for one in stands(result, "pneumonia")}
    assert found["st_marys"] is standing
    assert found["hillcrest"] is Standing.UNKNOWN
    if sure:
        assert shorts(result)[1] == sure


def test_the_largest_shortfall_of_all_findings_comes_first(study_result: StudyResult) -> None:
    """Over findings and ranked sites the one that lacks most is the least safe; unranked ones never are."""
    worst = least_safe(study_result)
    assert worst
    assert (worst.site, worst.finding) == ("st_marys", "pneumonia")
    found = [one for one in stands(study_result, "effusion") if one.lacking is not None]
    assert [one.site for one in found] == ["riverside", "northgate", "st_marys"]
    few = only(study_result, "pneumonia", {"island_clinic": (1, 29), "st_marys": (90, 100)})
    worst = least_safe(few)
    assert worst
    assert worst.site == "st_marys"


def test_a_draw_is_told_and_settled_by_the_interval(study_result: StudyResult) -> None:
    """Two that miss the same share are both named; the one with fewer cases, whose interval is wider, leads."""
    rates = {"northgate": (90, 100), "riverside": (45, 50), "st_marys": (99, 100)}
    where, sure, *_ = answers(only(study_result, "pneumonia", rates))
    assert where.short == "At riverside and northgate"
    assert "At northgate it is as low, and riverside's interval reaches farthest down." in where.text
    assert "interval at riverside" in sure.text


def test_what_cannot_be_said_names_its_finding(study_result: StudyResult) -> None:
    """A site that is known for one finding is not said to be unknown without naming the other."""
    sites = {site: dict(splits) for site, splits in study_result.sites.items()}
    sites["northgate"] = {"test": {**sites["northgate"]["test"], "effusion": absent(Why.NOT_ASSESSED)}}
    where = answers(replace(study_result, sites=sites))[0]
    assert "Of hillcrest and island_clinic it cannot be said" in where.text
    assert "For effusion it cannot be said of northgate: too few cases, or none known." in where.text


def test_where_all_reach_the_target_the_page_says_so(study_result: StudyResult) -> None:
    """Then no hospital is called unsafe; the lowest is still named."""
    rates = dict.fromkeys(("northgate", "riverside", "st_marys"), (99, 100))
    where = answers(only(study_result, "pneumonia", rates | {"riverside": (98, 100)}))[0]
    assert where.short == "None that could be judged is below the target"
    assert where.text.startswith("Lowest at riverside. It missed 2 of 100")


def test_nothing_is_made_up_where_nothing_is_known(study_result: StudyResult) -> None:
    """Without evidence, comparisons or baselines each answer says that it is not known."""
    nothing = {finding: absent(Why.SUPPRESSED) for finding in study_result.study.findings}
    sites = {site: {"test": nothing} for site in study_result.sites}
    result = replace(study_result, sites=sites, explanations={}, receipts={})
    assert shorts(result) == ["Not known", "Not at all", "Not known", "Not measured"]
    assert {line.standing for line in hospital_lines(result, "pneumonia")} == {"not known"}
    assert all("suppressed" in line.numbers for line in hospital_lines(result, "pneumonia"))
    assert shorts(replace(result, operating_point={}))[0] == "Not known"


def test_a_site_that_was_not_compared_is_said_to_be_so(study_result: StudyResult) -> None:
    """Without a test against the others the answer claims no difference."""
    lonely = replace(study_result, domain_shift=replace(study_result.domain_shift, differences={}))
    assert "It could not be compared with other hospitals." in answers(lonely)[1].text


def test_why_says_of_every_finding_what_leads(study_result: StudyResult) -> None:
    """A mark that the model reads at st_marys, one in riverside's images alone, or nothing else."""
    assert (
        "Also consistent with the data: a mark that goes with the disease (effusion: riverside, upper "
        "left); a mark read by the model (pneumonia: st_marys, upper left)."
    ) in answers(study_result)[2].text
    quiet = leading(study_result, effusion=Leading(cause=Cause.NONE_SHOWN, site=None, p=None, compared=3))
    alone = without_more(only(quiet, "effusion", {}))
    assert "Nothing else was shown to stand out." in answers(alone)[2].text
    unknown = answers(replace(alone, explanations={}))[2].text
    assert unknown == "There is not enough evidence to compare hospitals. Nothing else was shown to stand out."


def test_nothing_else_is_not_said_beside_a_group_or_images_that_stand_out(study_result: StudyResult) -> None:
    """A group whose adjusted p lies below the family's level is named in summary, warnings and limits; images are."""
    quiet = only(
        leading(study_result, effusion=Leading(cause=Cause.NONE_SHOWN, site=None, p=None, compared=3)), "effusion", {}
    )
    quiet = without_more(quiet)
    assert "Nothing else was shown to stand out." in answers(quiet)[2].text
    there = SiteDifference(site="male", difference=-0.54, low=-0.67, high=-0.28, p=0.0001, adjusted_p=0.005)
    male = SubgroupResult(
        site=None,
        axis="sex",
        group="male",
        sensitivity=None,
        specificity=None,
        auc=None,
        sensitivity_difference=None,
        specificity_difference=there,
    )
    female = replace(male, group="female", specificity_difference=replace(there, difference=0.54))
    apart = replace(quiet, subgroups={"effusion": Subgroups(rows=(female, male), comparisons=2)})
    why = answers(apart)[2].text
    assert "A group of patients shown to differ: sex: male over all sites (specificity" in why
    assert "p = 0.005, adjusted" in why
    assert "Nothing else" not in why
    assert [one.headline for one in warnings(apart) if "group" in one.headline] == [
        "A group stands out, sex: male over all sites: specificity for effusion is lower than in the other groups"
    ]
    assert any("For effusion in the group sex: male over all sites" in one for one in not_for(apart))
    chance = replace(male, specificity_difference=replace(there, adjusted_p=0.2))
    shown = replace(quiet, subgroups={"effusion": Subgroups(rows=(chance,), comparisons=1)})
    assert "Nothing else was shown to stand out." in answers(shown)[2].text
    far = SitePair(
        one="northgate", other="riverside", brightness=Distance(value=0.3, null=0.1), features=None, dimensions=None
    )
    images = replace(quiet, domain_shift=replace(quiet.domain_shift, distances=(far,)))
    why = answers(images)[2].text
    assert "Images of northgate and riverside lie apart." in why
    assert "Nothing else" not in why


def without_more(result: StudyResult) -> StudyResult:
    """Leave out all that stands out beside sites' sensitivity: groups, images and differences."""
    shift = replace(result.domain_shift, distances=(), differences={})
    return replace(result, subgroups={}, domain_shift=shift)


def leading(study_result: StudyResult, **leads: Leading) -> StudyResult:
    return replace(study_result, domain_shift=replace(study_result.domain_shift, leading=leads))


def test_why_says_nothing_twice(study_result: StudyResult) -> None:
    """Where the least safe site's own pattern leads it is not told again; a mark there is."""
    one = without_more(only(study_result, "effusion", {}))
    worst = least_safe(one)
    assert worst is not None
    gap = Leading(cause=Cause.DISCRIMINATION, site=worst.site, p=0.01, compared=3)
    assert "Nothing else was shown to stand out." in answers(leading(one, effusion=gap))[2].text
    mark = replace(gap, cause=Cause.MARK, corner="lower left", area=0.1)
    said = answers(leading(one, effusion=mark))[2].text
    assert f"a mark that goes with the absence of the disease ({worst.site}, lower left)." in said


def test_of_many_findings_the_surest_are_named(study_result: StudyResult) -> None:
    """Two, by p, and the number of the others."""
    leads = {
        name: Leading(cause=Cause.BOTH, site="riverside", p=p) for name, p in (("a", 0.03), ("b", 0.01), ("c", 0.02))
    }
    study = replace(study_result.study, findings=("a", "b", "c"))
    text = answers(replace(leading(study_result, **leads), study=study, explanations={}))[2].text
    assert re.search(r"another ROC curve.*\(b: riverside\); .*\(c: riverside\); 1 more are told below\.", text)


def test_one_finding_counts_hospitals(study_result: StudyResult) -> None:
    """With one finding a receipt is a hospital's."""
    receipts = {"pneumonia": study_result.receipts["pneumonia"]}
    worth = answers(only(study_result, "pneumonia", {}, receipts=receipts))[3]
    assert worth.short == "Yes at 2 of 4 hospitals, no at 1"


def test_no_difference_shown_is_neither_yes_nor_no(study_result: StudyResult) -> None:
    """Where no receipt shows anything, the answer does not read as a no."""
    unsure = {"effusion": {"st_marys": study_result.receipts["effusion"]["st_marys"]}}
    worth = answers(only(study_result, "effusion", {}, receipts=unsure))[3]
    assert worth.short == "Not shown at any hospital"
    assert worth.text == "No difference in AUC from training alone was shown at st_marys."


def test_where_not_to_use_it(study_result: StudyResult) -> None:
    """What falls short, may fall short or is unknown is listed with its misses, the gravest first."""
    listed = not_for(study_result)
    assert listed[0].startswith("Anywhere: it started from random weights")
    assert "At st_marys for pneumonia, with this threshold: it missed 16 of 84 with pneumonia." in listed
    chance = "below the target, which may be chance"
    assert f"At riverside and northgate for effusion before a look at its own cases: {chance}." in listed
    assert "At hillcrest for pneumonia before a look at its own cases: no sensitivity is known." in listed
    assert not any("nothing was measured" in one for one in listed)  # models that never saw a hospital were tested
    assert not_for(replace(study_result, unseen={}))[-3:] == [
        "At any other hospital for pneumonia: nothing was measured there.",
        "At any other hospital for effusion: nothing was measured there.",
        "For anything but the intended use above.",
    ]


def test_false_alarms_and_marks_are_limits_too(study_result: StudyResult) -> None:
    """A hospital whose specificity is lower than elsewhere, and one whose images bear a mark, are named."""
    low = SiteDifference(site="riverside", difference=-0.2, low=-0.3, high=-0.1, p=0.001, adjusted_p=0.004)
    chance = replace(low, site="northgate", adjusted_p=0.2)
    shift = replace(study_result.domain_shift, differences={"pneumonia": {"specificity": (low, chance)}})
    cleared = study_result.of_site("riverside", "test", "pneumonia").specificity
    assert cleared is not None
    listed = not_for(replace(study_result, domain_shift=shift))
    alarms = f"{cleared.n - cleared.k} of {cleared.n} without it were called positive."
    assert f"At riverside for pneumonia, where false alarms harm: {alarms}" in listed
    assert not any("northgate for pneumonia, where false alarms harm" in one for one in listed)
    marks = [one for one in listed if "may rest on a mark in the upper left corner" in one]
    assert [one.split(" for ")[0] for one in marks] == ["At st_marys", "At riverside"]


def test_a_tick_is_not_a_proof(study_result: StudyResult) -> None:
    """A target is reached for sure where all of the interval does; what joining gave has its interval too."""
    others = dict.fromkeys(("northgate", "riverside"), (100, 100))
    sure = only(study_result, "pneumonia", others | {"st_marys": (990, 1000)})
    told = {line.site: line for line in hospital_lines(sure, "pneumonia")}
    assert told["st_marys"].standing == "reaches the target"
    unsure = {line.site: line for line in hospital_lines(only(sure, "pneumonia", {"st_marys": (97, 100)}), "pneumonia")}
    assert unsure["st_marys"].standing == "reaches the target, but not for sure"
    assert re.search(r"joining: .* \(AUC [+\N{MINUS SIGN}].*, .* to .*\)", told["northgate"].joining)


def test_the_summary_stands_first(study_result: StudyResult) -> None:
    """It is the first part of the page, before any other number, and holds every answer and every hospital."""
    page = render(study_result)
    start, end = page.index('id="summary"'), page.index("On test patients of all sites together")
    summary = page[start:end]
    assert start < end
    assert all(one.short in summary and one.question in summary for one in answers(study_result))
    for finding in study_result.study.findings:
        assert all(line.standing in summary for line in hospital_lines(study_result, finding))
