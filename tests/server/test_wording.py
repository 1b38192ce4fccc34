"""Numbers, absences and warnings as words."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from server import wording
from server.finding_result import FindingResult, Why, absent
from server.results import StudyResult, Weights
from server.wording_warnings import no_warning, warnings
from shared.domain_shift import Heterogeneity, SiteDifference
from shared.operating_point import OperatingPoint


def _headlines(result: StudyResult) -> list[str]:
    return [one.headline for one in warnings(result)]


def _text(result: StudyResult, headline: str) -> str:
    return next(one.text for one in warnings(result) if one.headline == headline)


def _only(result: StudyResult, tests: Mapping[str, FindingResult]) -> StudyResult:
    """Keep one finding and these sites' test results."""
    sites = {site: {"test": {"pneumonia": test}} for site, test in tests.items()}
    study = replace(result.study, findings=("pneumonia",))
    return replace(result, study=study, sites=sites, patient_flow={}, rounds=())


def test_suppressed_undefined_and_zero_are_three_different_things() -> None:
    """Each absence has words of its own, and none of them is a number."""
    assert wording.absence(Why.SUPPRESSED) == "suppressed (fewer than the hospital's minimum)"
    assert wording.absence(Why.NO_POSITIVES) == "not defined: no positives"
    assert (wording.count(None), wording.count(0), wording.count(12_345)) == ("suppressed", "0", "12,345")
    assert len({wording.absence(why) for why in (*Why, None)}) == len(Why) + 1


@pytest.mark.parametrize(
    ("number", "decimals", "words"),
    [(-0.1234, 3, "−0.123"), (0.02, 3, "+0.020"), (0.0, 1, "0.0"), (-0.0004, 3, "0.000"), (0.04, 1, "0.0")],
)
def test_a_difference_has_its_sign_and_nothing_has_none(number: float, decimals: int, words: str) -> None:
    """A loss is printed with a minus, a gain with a plus, and what rounds to nothing with neither."""
    assert wording.signed(number, decimals) == words


@pytest.mark.parametrize(
    ("p", "words"), [(0.00001, "p < 0.001"), (0.001, "p = 0.001"), (0.0312, "p = 0.031"), (0.4, "p = 0.40")]
)
def test_a_p_value_is_never_zero(p: float, words: str) -> None:
    """A very small p is printed as below 0.001, since a permutation test never shows 0."""
    assert wording.p_value(p) == words


@pytest.mark.parametrize(
    ("items", "words"), [((), ""), (("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")]
)
def test_names_are_listed_as_a_person_would(items: tuple[str, ...], words: str) -> None:
    """One name stands alone, two are joined, and three have a comma."""
    assert wording.names(items) == words


def test_an_interval_that_is_not_there_says_so() -> None:
    """A missing bound is not printed as a number."""
    assert wording.percent_range(None, 0.9) == wording.area_range(0.9, None) == "no interval"
    assert wording.percent_range(0.75, 1.0) == "75.0 to 100.0"


def test_random_weights_are_the_first_warning(study_result: StudyResult) -> None:
    """A study that fell back to random weights says so before all else; one that did not, does not."""
    first = warnings(study_result)[0]
    assert (first.headline, first.grave) == ("Started from random weights, not pretrained ones", True)
    found = Weights(source="file", sha256="0" * 64, sentence="From a file.")
    assert first.headline not in _headlines(replace(study_result, weights=found))


def test_a_site_that_stands_out_is_named_with_difference_interval_and_p(study_result: StudyResult) -> None:
    """The warning holds the difference in points, its interval and the adjusted p; lower is graver than higher."""

    def off(site: str, by: float) -> SiteDifference:
        return SiteDifference(site=site, difference=by, low=by - 0.1, high=by + 0.1, p=0.001, adjusted_p=0.012)

    both = {"pneumonia": {"sensitivity": (off("north", 0.1), off("south", -0.2))}}
    result = replace(study_result, domain_shift=replace(study_result.domain_shift, differences=both))
    text = _text(result, "south stands out: sensitivity for pneumonia is lower than elsewhere")
    assert "−20.0\N{NO-BREAK SPACE}points" in text
    assert "interval −30.0 to −10.0\N{NO-BREAK SPACE}points; p = 0.012, adjusted over all" in text
    grave = {one.headline.split()[0]: one.grave for one in warnings(result) if "stands out" in one.headline}
    assert grave == {"south": True, "north": False}


def test_a_pooled_operating_point_that_hides_a_site_is_a_warning(study_result: StudyResult) -> None:
    """The warning names the target and what each ranked site that fell short reached, with its counts."""
    text = _text(study_result, "A pooled operating point hides sites: pneumonia")
    assert "95\N{NO-BREAK SPACE}%" in text
    assert "st_marys reached only" in text
    assert " of 84)" in text
    assert "island_clinic" not in text
    assert "northgate" not in text


def test_no_warning_where_every_ranked_site_reached_the_target(study_result: StudyResult) -> None:
    """A study without a fault has no warning at all, and what that means names who was judged."""
    good = study_result.of_site("northgate", "test", "pneumonia")
    calm = _only(study_result, {"northgate": good})
    none = SiteDifference(site="northgate", difference=0.0, low=-0.1, high=0.1, p=0.9, adjusted_p=1.0)
    calm = replace(
        calm,
        weights=Weights(source="none", sha256=None, sentence=""),
        notes=(),
        domain_shift=replace(calm.domain_shift, differences={"pneumonia": {"sensitivity": (none,)}}),
    )
    assert warnings(calm) == []
    assert no_warning(calm) == (
        "No site was shown to differ from the others. Each finding at northgate that has enough cases reached the "
        "target. With few cases, real differences go unseen."
    )
    alone = replace(calm, domain_shift=replace(calm.domain_shift, differences={}))
    assert _headlines(alone) == ["No site could be compared: pneumonia"]


def test_a_target_that_was_missed_on_validation_is_a_warning(study_result: StudyResult) -> None:
    """Under a lower-bound claim it is the bound that has to reach the target, and a missing point is told too."""
    point = study_result.operating_point["pneumonia"]
    strict = OperatingPoint(threshold=0.0, target=0.99, claim="lower_bound", reached=point.reached)
    missed = replace(study_result, operating_point={"pneumonia": strict})
    assert "No threshold reaches 99\N{NO-BREAK SPACE}%" in _text(missed, "The target cannot be reached: pneumonia")
    assert "No site released validation counts" in _text(missed, "No operating point: effusion")
    assert not [headline for headline in _headlines(study_result) if "cannot be reached" in headline]


def test_sites_that_the_pooled_numbers_lack_are_named_once(study_result: StudyResult) -> None:
    """Findings that lack the same site for the same reason share a warning; another reason has its own."""
    texts = [one.text for one in warnings(study_result) if one.headline.startswith("Not every site")]
    assert texts == [
        "Those for pneumonia and effusion are without hillcrest: suppressed (fewer than the hospital's minimum)."
    ]
    gone = _only(study_result, {"a": absent(Why.NO_REPLY), "b": absent(Why.NOT_ASSESSED), "c": absent(Why.NO_REPLY)})
    texts = [one.text for one in warnings(gone) if one.headline.startswith("Not every site")]
    assert texts == [
        "Those for pneumonia are without b: not assessed at this site.",
        "Those for pneumonia are without a and c: no reply from the site.",
    ]


def test_lost_rounds_and_notes_are_warnings(study_result: StudyResult) -> None:
    """Rounds in which the model stood still are counted, and each note stands as it is, after what is grave."""
    rounds = (replace(study_result.rounds[0], lost=True), *study_result.rounds[1:])
    result = replace(study_result, rounds=rounds)
    assert "in 1 of 12 rounds" in _text(result, "Rounds were lost")
    last = warnings(result)[-1]
    assert (last.text, last.grave) == (study_result.notes[0], False)


def test_the_headline_states_the_pooled_facts(study_result: StudyResult) -> None:
    """The sentence holds the pooled counts and both rates; where they are absent it says why."""
    test = study_result.of_pool("test", "pneumonia")
    assert test.sensitivity is not None
    assert test.specificity is not None
    sentence = wording.headline(study_result, "pneumonia")
    assert sentence == (
        f"Of {test.positives} exams with pneumonia, the model found {wording.percent(test.sensitivity.value)}; "
        f"of {test.negatives} without, it cleared {wording.percent(test.specificity.value)}."
    )
    hidden = replace(study_result, pooled={"test": {"pneumonia": absent(Why.SUPPRESSED)}})
    assert "is suppressed" in wording.headline(hidden, "pneumonia")


@pytest.mark.parametrize(("p", "shown"), [(0.049, "differs by more than chance"), (0.05, "No difference")])
def test_heterogeneity_in_words_says_what_it_does_not_show(p: float, shown: str) -> None:
    """A small p is no cause and no culprit, and a large one is no proof of likeness."""
    one = Heterogeneity(p=0.001, adjusted_p=p, q=3.0, i2=0.3, sites=3, left_out=1, permutations=1_500, exact=True)
    text = wording.heterogeneity(one, measure="sensitivity", significance=0.05)
    assert shown in text
    assert "not" in text
    assert wording.permutations(one) == "all 1,500"
    assert "can show nothing" in wording.permutations(replace(one, permutations=1))
    assert wording.permutations(replace(one, exact=False)) == "1,500 drawn"


def test_an_unranked_site_says_why(study_result: StudyResult) -> None:
    """Too few positives is a reason with its numbers; a class without units is its own."""
    few = study_result.of_site("island_clinic", "test", "pneumonia")
    none = study_result.of_site("island_clinic", "test", "effusion")
    assert wording.why_not_ranked(few, min_positives_to_rank=30) == "not ranked: 12 positives, fewer than 30"
    assert wording.why_not_ranked(none, min_positives_to_rank=30) == "not defined: no positives"
