"""The page: every fact on it, nothing else in it, and the same for those who see, hear, print or shrink it."""

import itertools
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from server.finding_result import Why, absent
from server.report import render, write
from server.results import Baselines, DomainShift, StudyResult
from shared.errors import StorageError

VOID = {"meta", "br", "link", "img"}
LARGEST_PAGE = 1_500_000


class Page(HTMLParser):
    """A page read by its tags: which stand open, in which order, with which attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.region = ""
        self.regions: list[str] = []
        self.words: list[str] = []
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if ("role", "region") in attributes:
            self.region = str(dict(attributes)["aria-label"])
        if tag == "tr":
            self.rows.append("")
            self.regions.append(self.region)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "tr" in self.open and "svg" not in self.open:
            self.rows[-1] += f" {data}"

    @property
    def text(self) -> str:
        """All words, with plain single spaces."""
        return " ".join(" ".join(self.words).split())

    def of(self, attribute: str) -> list[str]:
        """All values of an attribute."""
        return [value for _, found in self.tags if (value := found.get(attribute))]

    def row(self, start: str, *, region: str = "") -> str:
        """Give the first table row that begins with these words, with single spaces; `region` begins its table's."""
        rows = (" ".join(row.split()) for row, of in zip(self.rows, self.regions, strict=True) if of.startswith(region))
        return next(row for row in rows if row.startswith(start))


@pytest.fixture(scope="module")
def text(study_result: StudyResult) -> str:
    """Give the sample study's page."""
    return render(study_result)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    """Give the sample study's page, read by its tags."""
    return Page(text)


def test_equal_results_give_equal_bytes(study_result: StudyResult, text: str) -> None:
    """The page depends on the facts only, and not on the order in which sites were put in."""
    turned = replace(
        study_result,
        sites=dict(reversed(study_result.sites.items())),
        patient_flow=dict(reversed(study_result.patient_flow.items())),
    )
    assert render(turned) == text


def test_the_page_is_small(text: str) -> None:
    """The page can be sent by mail."""
    assert len(text.encode()) < LARGEST_PAGE


def test_the_page_is_well_formed(page: Page) -> None:
    """Every element is closed in order, and no id stands twice."""
    assert (page.open, page.faults) == ([], [])
    assert [name for name, times in Counter(page.of("id")).items() if times > 1] == []


def test_the_page_runs_and_fetches_nothing(text: str, page: Page) -> None:
    """No script, no event handler, no address outside the page; and a policy that forbids them."""
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "img", "base", "form"})
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert not re.search(r"https?:|//[a-z]|@import", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page.of("content")
    inside = [*page.of("href"), *re.findall(r"url\((#[^)]+)\)", text)]
    assert {address.removeprefix("#") for address in inside} <= set(page.of("id"))
    assert all(address.startswith("#") for address in inside)


def test_headings_form_one_hierarchy(page: Page) -> None:
    """There is one first heading, and no level is skipped on the way down."""
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_figure_is_told_and_every_table_can_be_scrolled(page: Page) -> None:
    """A figure names its title and description, which exist; a table that scrolls takes the keyboard and has a name."""
    figures = [found for tag, found in page.tags if tag == "svg" and found.get("role") == "img"]
    assert len(figures) == 2 * 8 + 1
    identities = set(page.of("id"))
    assert {name for one in figures for name in (one["aria-labelledby"], one["aria-describedby"])} <= identities
    regions = [found for tag, found in page.tags if found.get("class") == "scroll"]
    assert all(one.get("tabindex") == "0" and one.get("aria-label") for one in regions)
    assert len(regions) == sum(tag == "table" for tag, _ in page.tags)


def test_wish_and_fact_stand_side_by_side(study_result: StudyResult, page: Page) -> None:
    """The wished sensitivity, what validation reached and what test reached are printed together, with counts."""
    point = study_result.operating_point["pneumonia"]
    test = study_result.of_pool("test", "pneumonia").sensitivity
    assert test is not None
    words = (
        f"95 % sensitivity wished {point.reached.value:.1%} reached on validation, {point.reached.k} of "
        f"{point.reached.n}, with the threshold {point.threshold:.3f} {test.value:.1%} on test, {test.k} of {test.n}"
    )
    assert re.sub(r"(\d)%", "\\1 %", words) in page.text


def test_every_site_has_its_exact_numbers(study_result: StudyResult, page: Page) -> None:
    """Value, interval and k of n of each measured site stand in its row."""
    for site in ("northgate", "riverside", "st_marys", "island_clinic"):
        row = page.row(site, region="Exact numbers")
        test = study_result.of_site(site, "test", "pneumonia")
        for share in (test.sensitivity, test.specificity):
            assert share is not None
            assert (
                f"{share.value * 100:.1f} % {share.low * 100:.1f} to {share.high * 100:.1f} {share.k} of {share.n}"
                in row
            )
        assert test.auc is not None
        assert f"{test.auc.value:.3f} {test.auc.low:.3f} to {test.auc.high:.3f}" in row


def test_suppressed_undefined_unranked_and_zero_differ(text: str, page: Page) -> None:
    """Each has its own words and its own look; none is shown as another."""
    assert page.row("hillcrest") == "hillcrest suppressed (fewer than the hospital's minimum)"
    assert "not ranked: 12 positives, fewer than 30" in page.row("island_clinic", region="Exact numbers")
    assert text.count("not defined: no positives") >= 2
    assert '<tr class="unranked"><th scope="row"><span class="site">' in text
    assert page.row("left out: truncated").split()[3:] == ["0", "11", "22", "33", "44"]
    assert page.row("left out: no patient").split()[4:] == ["suppressed"] * 5


def test_sites_are_ordered_from_the_lowest_sensitivity(page: Page) -> None:
    """The site that needs looking at comes first; those that are not ranked come last."""
    first = [row.split()[0] for row in page.rows if " of " in row or "suppressed (" in row]
    assert first[:6] == ["st_marys", "riverside", "northgate", "island_clinic", "hillcrest", "all"]


def test_a_federated_model_that_loses_is_printed_so(study_result: StudyResult, page: Page) -> None:
    """At the sample's st_marys the local model is better: the difference is negative and marked as worse."""
    federated = study_result.of_site("st_marys", "test", "pneumonia").auc
    local = study_result.baselines.local["st_marys"].sites["st_marys"]["pneumonia"].auc
    assert federated is not None
    assert local is not None
    assert federated.value < local.value
    row = next(row for row in page.rows if "st_marys" in row and f"−{local.value - federated.value:.3f}" in row)
    assert f"{local.value:.3f}" in row
    assert {"better", "worse"} <= set(page.of("class"))


def test_every_model_is_shown_at_every_site(study_result: StudyResult, page: Page) -> None:
    """The federated, the pooled and each local model have a row with their mean over the sites."""
    for name in ("federated", "pooled", *(f"{site} alone" for site in study_result.site_names)):
        rows = (" ".join(row.split()) for row in page.rows)
        row = next(row for row in rows if re.match(rf"{name} (suppressed|\d)", row))
        assert len(re.findall(r"(?:0\.\d{3}|1\.000) (?:0\.\d{3}|1\.000) to", row)) == 4


def test_refusals_are_listed_with_round_and_reason(page: Page) -> None:
    """Each update that did not enter stands with its round, its site and its reason in words."""
    rows = {" ".join(row.split()) for row in page.rows}
    assert {"3 hillcrest no reply", "7 riverside update not finite"} <= rows


def test_what_one_needs_to_repeat_the_study_is_there(study_result: StudyResult, page: Page) -> None:
    """Digest, seed, versions, device, the declaration and the absence of differential privacy are printed."""
    for fact in (study_result.study.digest, "torch 2.13.0", "cpu, 2 threads, deterministic", "[federation]"):
        assert fact in page.text
    assert "No differential privacy in this study" in page.text


def _pair_renamed(pair: Any, name: str) -> Any:
    return replace(pair, **{end: name for end in ("one", "other") if getattr(pair, end) == "st_marys"})


def test_names_are_text_wherever_they_stand(study_result: StudyResult) -> None:
    """A site or finding that is called like markup stays a name, in tables and figures."""
    evil = "<script>alert(1)</script>"

    def renamed(mapping: dict[str, object]) -> dict[str, object]:
        return {evil if key in ("st_marys", "effusion") else key: value for key, value in mapping.items()}

    shift = study_result.domain_shift
    result = replace(
        study_result,
        sites=renamed(dict(study_result.sites)),
        patient_flow=renamed(dict(study_result.patient_flow)),
        rounds=tuple(replace(one, sites=renamed(dict(one.sites))) for one in study_result.rounds),
        study=replace(study_result.study, name=evil, intended_use=evil, protocol=evil),
        domain_shift=replace(
            shift,
            distances=tuple(_pair_renamed(one, evil) for one in shift.distances),
            site_identifiability=tuple(_pair_renamed(one, evil) for one in shift.site_identifiability),
            corners={finding: renamed(dict(sites)) for finding, sites in shift.corners.items()},
            marks={finding: renamed(dict(sites)) for finding, sites in shift.marks.items()},
            leading={
                finding: replace(one, site=evil, beside=one.beside and replace(one.beside, site=evil))
                for finding, one in shift.leading.items()
            },
        ),
        harmonised=replace(
            study_result.harmonised,
            sites=renamed(dict(study_result.harmonised.sites)),
            absent={"hillcrest": evil},
        ),
        subgroups={
            finding: replace(
                one, rows=tuple(replace(row, site=evil if row.site == "st_marys" else row.site) for row in one.rows)
            )
            for finding, one in study_result.subgroups.items()
        },
        notes=(evil,),
    )
    page = Page(render(result))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.row(evil)


def test_a_study_without_baselines_or_refusals_says_so(study_result: StudyResult) -> None:
    """Nothing is passed over in silence: no baselines, no refusals, nobody who stands out."""
    quiet = tuple(
        replace(one, sites={site: replace(part, refusal=None) for site, part in one.sites.items()})
        for one in study_result.rounds
    )
    result = replace(
        study_result,
        rounds=quiet,
        baselines=Baselines(local={}, pooled=None),
        personal={},
        domain_shift=replace(study_result.domain_shift, differences={}, heterogeneity={}),
    )
    page = Page(render(result))
    assert "There are no baselines in this result" in page.text
    assert "No site's update was refused in any round." in page.text
    assert page.text.count("not tested: fewer than two sites have numbers") == 4
    assert "Each site minus all other sites" not in page.text


def test_a_study_of_which_almost_nothing_is_known_still_has_a_page(study_result: StudyResult) -> None:
    """Everything suppressed, no operating point and one lost round: words everywhere, and no number made up."""
    nothing = {finding: absent(Why.SUPPRESSED) for finding in study_result.study.findings}
    result = replace(
        study_result,
        sites={site: {"test": nothing} for site in study_result.sites},
        pooled={"test": nothing},
        operating_point={},
        rounds=(replace(study_result.rounds[0], lost=True, validation={}),),
        baselines=Baselines(local={}, pooled=study_result.baselines.pooled),
    )
    page = Page(render(result))
    assert (page.open, page.faults) == ([], [])
    assert "No operating point: pneumonia" in page.text
    assert "lost: too few" in page.text
    assert page.row("all sites").split(maxsplit=2)[2].startswith("suppressed (fewer than")
    assert "1 round ·" in page.text


def test_a_study_of_one_site_does_not_pass_for_a_calm_one(study_result: StudyResult) -> None:
    """With nobody to compare with, the page says so, and not that nothing stands out."""
    good = study_result.of_site("northgate", "test", "pneumonia")
    result = replace(
        study_result,
        study=replace(study_result.study, findings=("pneumonia",)),
        weights=replace(study_result.weights, source="file"),
        sites={"northgate": {"test": {"pneumonia": good}}},
        patient_flow={},
        rounds=tuple(replace(one, sites={}, validation={}) for one in study_result.rounds),
        domain_shift=DomainShift(heterogeneity={}, differences={}),
        subgroups={},
        harmonised=None,
        notes=(),
    )
    text = Page(render(result)).text
    assert "No site could be compared: pneumonia" in text
    assert "othing stands out" not in text


def test_a_split_of_which_a_part_is_suppressed_has_no_sum(study_result: StudyResult) -> None:
    """What took part is not summed over splits that are not all known."""
    flow = study_result.patient_flow["northgate"]
    hidden = replace(flow, splits={**flow.splits, "test": replace(flow.splits["test"], patients=None)})
    result = replace(study_result, patient_flow={"northgate": hidden})
    page = Page(render(result))
    assert page.row("took part: patients") == "took part: patients suppressed"
    assert page.row("took part: exams").split()[-1] != "suppressed"


def test_without_an_operating_point_the_curves_still_stand(study_result: StudyResult) -> None:
    """Where no threshold could be chosen the page has AUC and ROC curves, and says why it has no sensitivity."""
    unknown = {
        site: {
            "test": {
                finding: replace(test, sensitivity=None, specificity=None, why=test.why or Why.NO_OPERATING_POINT)
                for finding, test in splits["test"].items()
            }
        }
        for site, splits in (*study_result.sites.items(), ("", study_result.pooled))
    }
    result = replace(study_result, pooled=unknown.pop(""), sites=unknown, operating_point={})
    page = Page(render(result))
    assert "northgate, AUC 0.993" in page.text
    assert "not defined: no operating point" in page.row("northgate", region="Exact numbers")
    assert "at the shared threshold sensitivity" not in page.text


def test_a_value_without_an_interval_is_printed_alone(study_result: StudyResult) -> None:
    """An AUC that has no interval is shown without one, and said to have none."""
    test = study_result.of_pool("test", "pneumonia")
    assert test.auc is not None
    bare = replace(test, auc=replace(test.auc, value=0.875, low=None, high=None))
    page = Page(render(replace(study_result, pooled={"test": {"pneumonia": bare, "effusion": test}})))
    assert "0.875 no interval" in page.row("all sites")
    assert any(words.endswith("all sites: 0.875") for words in page.words)


def test_write_replaces_the_page_whole(study_result: StudyResult, text: str, tmp_path: Path) -> None:
    """The file holds the page and nothing is left beside it; a place that cannot be written is a StorageError."""
    write(study_result, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(StorageError, match="cannot be written"):
        write(
            replace(study_result, study=replace(study_result.study, findings=())), tmp_path / "report.html" / "x.html"
        )


def test_the_case_mix_of_each_site_stands_beside_its_gaps(page: Page) -> None:
    """The shifted site has what its patients explain and what they don't; one with too few cases has nothing."""
    row = page.row("st_marys", region="Case mix")
    assert "−0.103 −0.020 −0.030 to −0.013 −0.083 −0.126 to −0.042 Patients who vary less" in row
    assert page.row("island_clinic", region="Case mix").startswith("island_clinic not compared: too few cases")


def test_a_site_makes_its_own_page_of_a_delivered_file(study_result: StudyResult, tmp_path: Path) -> None:
    """`polyclinic report results.json` needs that file and nothing beside it; a text that does not print is refused."""
    from server.cli import report
    from server.results_json import to_json

    file = tmp_path / "results.json"
    file.write_text(to_json(study_result), encoding="utf-8")
    report(file)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(study_result)
    file.write_text(file.read_text(encoding="utf-8").replace(study_result.study.name, "x\\u202ey"), encoding="utf-8")
    with pytest.raises(StorageError, match="does not print"):
        report(file)
