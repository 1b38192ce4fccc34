"""Subgroups are stated inside each site and over all, and every comparison counts in the adjustment."""

from server.family import Kind, adjusted
from server.report import render
from server.results import StudyResult
from server.subgroup_results import subgroups
from shared.domain_shift import holm, site_differences
from shared.evidence import Evidence
from shared.metrics import Confusion, ScoreHistogram
from shared.protocol import Evaluation
from shared.subgroups import GroupEvidence


def group(axis: str, name: str, tp: int, fn: int, tn: int = 40, fp: int = 10) -> GroupEvidence:
    at = Confusion(tp=tp, fn=fn, tn=tn, fp=fp)
    return GroupEvidence(
        axis=axis, group=name, positive_patients=tp + fn, negative_patients=tn + fp, confusion=at, auc=None
    )


def evidence(*groups: GroupEvidence) -> Evidence:
    return Evidence(
        units=200,
        patients=200,
        positive_patients=100,
        negative_patients=100,
        histogram=ScoreHistogram(positives=(0, 100), negatives=(100, 0)),
        confusion=None,
        auc=None,
        brier=None,
        subgroups=groups,
    )


TEST = {
    "north": evidence(group("sex", "female", 35, 15), group("sex", "male", 48, 2), group("device", "device 1", 50, 9)),
    "south": evidence(group("sex", "female", 45, 5), group("sex", "male", 20, 1), group("device", "device 1", 50, 9)),
    "west": evidence(),
}


def test_each_place_has_its_groups_and_devices_are_not_added() -> None:
    """Counts over all sites are sums; a device is another one at each site; a site without groups has no rows."""
    rows = {(row.site, row.group): row for row in subgroups(TEST, wish=Evaluation(), seed=0).rows}
    assert set(rows) == {
        *((site, name) for site in ("north", "south") for name in ("female", "male", "device 1")),
        (None, "female"),
        (None, "male"),
    }
    together = rows[None, "female"].sensitivity
    assert (together.k, together.n) == (80, 100)


def test_every_comparison_counts_in_the_adjustment() -> None:
    """Women against men at north and over all, both measures; south's 21 men are too few. p is Holm's over eight."""
    found = subgroups(TEST, wish=Evaluation(), seed=0)
    found = found.adjusted("opacity", adjusted({Kind.SUBGROUPS: found.raw("opacity")}))
    raw = {}
    for place, groups in {
        "north": {"female": (35, 15), "male": (48, 2)},
        "all": {"female": (80, 20), "male": (68, 3)},
    }.items():
        counts = {name: Confusion(tp=tp, fn=fn, tn=1, fp=0).sensitivity for name, (tp, fn) in groups.items()}
        for one in site_differences(counts, confidence=0.95, seed=0):
            raw[place, one.site] = one.p
    assert found.comparisons == 8
    ones = [1.0] * 4  # the specificities, which are equal
    expected = holm([*raw.values(), *ones])[:4]
    rows = {(row.site, row.group): row for row in found.rows}
    told = [
        rows[site, name].sensitivity_difference.adjusted_p for site in ("north", None) for name in ("female", "male")
    ]
    assert told == expected
    assert rows["south", "female"].sensitivity_difference is None
    assert rows["north", "device 1"].sensitivity_difference is None


def test_a_study_that_asks_for_none_has_none() -> None:
    """Nothing is stated, and nothing is tested."""
    found = subgroups({"north": evidence()}, wish=Evaluation(), seed=0)
    assert (found.rows, found.comparisons) == ((), 0)


def test_the_page_says_how_many_were_compared(study_result: StudyResult) -> None:
    """The sample study is divided by sex; the page shows the groups and the number of tests."""
    page = render(study_result)
    number = study_result.subgroups["pneumonia"].comparisons
    assert number > 4
    assert f"{number} differences were tested" in page
    assert "<td>female</td>" in page
