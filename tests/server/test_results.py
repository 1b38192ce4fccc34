"""What StudyResult states, what it leaves unsaid and why, and that results.json holds it exactly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.finding_result import AreaUnderCurve, FindingResult, Why, absent, finding_result
from server.results import Baselines, SiteRound, StudyResult
from server.results_json import from_json, read, to_json, write
from server.summary import Standing, stands
from shared.domain_shift import SiteDifference
from shared.errors import StorageError
from shared.metrics import Proportion, ScoreHistogram


def _share(k: int, n: int) -> Proportion | None:
    return Proportion(value=k / n, low=0.0, high=1.0, k=k, n=n) if n else None


def _measured(positives: int, negatives: int, *, found: int = 0, threshold: bool = True) -> FindingResult:
    return finding_result(
        units=positives + negatives,
        patients=positives + negatives,
        sensitivity=_share(found, positives) if threshold else None,
        specificity=_share(0, negatives) if threshold else None,
        auc=None,
        brier=None,
        histogram=ScoreHistogram(positives=(positives,), negatives=(negatives,)),
        min_positives_to_rank=30,
    )


@pytest.mark.parametrize(
    ("positives", "negatives", "why"),
    [(5, 5, None), (0, 5, Why.NO_POSITIVES), (5, 0, Why.NO_NEGATIVES), (0, 0, Why.NO_EXAMS)],
)
def test_an_undefined_number_says_why(positives: int, negatives: int, why: Why | None) -> None:
    """A class without a unit makes numbers undefined, and names the class."""
    assert _measured(positives, negatives).why is why


def test_without_an_operating_point_cases_are_counted_all_the_same() -> None:
    """Where no threshold could be chosen, positives and negatives are still counted, and the reason is named."""
    unknown = _measured(40, 50, threshold=False)
    assert (unknown.positives, unknown.negatives, unknown.sensitivity) == (40, 50, None)
    assert unknown.why is Why.NO_OPERATING_POINT
    assert _measured(0, 50, threshold=False).why is Why.NO_POSITIVES


def test_zero_found_is_zero_and_not_undefined() -> None:
    """A site that finds none of its positives has a sensitivity of 0, not an absent one."""
    none_found = _measured(40, 40)
    assert none_found.sensitivity is not None
    assert (none_found.sensitivity.value, none_found.why) == (0.0, None)


@pytest.mark.parametrize(("positives", "ranked"), [(29, False), (30, True), (31, True)])
def test_a_site_ranks_from_the_studys_minimum_on(positives: int, ranked: bool) -> None:
    """Exactly the minimum of positives is enough to be ranked; one fewer is not."""
    assert _measured(positives, 10).ranked is ranked


def test_a_site_without_negatives_is_not_ranked() -> None:
    """A site whose specificity is undefined is not compared, however many positives it has."""
    assert not _measured(100, 0).ranked


def test_a_suppressed_result_holds_no_number() -> None:
    """What is suppressed is wholly absent: no count, no proportion, no histogram, not even a zero."""
    hidden = absent(Why.SUPPRESSED)
    numbers = (hidden.units, hidden.patients, hidden.positives, hidden.sensitivity, hidden.auc, hidden.histogram)
    assert set(numbers) == {None}
    assert not hidden.ranked


def test_a_site_that_sent_nothing_says_so(study_result: StudyResult) -> None:
    """A site that is in the rounds only still has a result: no reply."""
    silent = SiteRound(
        refusal="no_reply", loss=None, loss_by_epoch=(), update_norm=None, seconds=None, images_per_second=None
    )
    first = replace(study_result.rounds[0], sites={**study_result.rounds[0].sites, "absent_site": silent})
    result = replace(study_result, rounds=(first, *study_result.rounds[1:]), pooled={})
    assert result.site_names == tuple(sorted((*study_result.site_names, "absent_site")))
    assert result.of_site("absent_site", "test", "pneumonia").why is Why.NO_REPLY
    assert result.of_pool("test", "pneumonia").why is Why.NO_REPLY


def test_ranked_sites_below_the_target_are_the_ones_that_are(study_result: StudyResult) -> None:
    """A ranked site below the target is one; an unranked, a suppressed and a good one are not."""
    tests = {"low": _measured(100, 9, found=90), "good": _measured(100, 9, found=95), "few": _measured(5, 9)}
    sites = {site: {"test": {"pneumonia": test}} for site, test in tests.items()}
    result = replace(study_result, sites=sites, patient_flow={}, rounds=())
    assert [one.site for one in stands(result, "pneumonia") if one.standing is Standing.BELOW] == ["low"]
    unknown = stands(replace(result, operating_point={}), "pneumonia")
    assert {one.standing for one in unknown} == {Standing.UNKNOWN}


def test_sites_stand_out_by_their_adjusted_p_largest_first(study_result: StudyResult) -> None:
    """A small raw p is not enough to stand out, and the site that is farthest off comes first."""

    def off(site: str, by: float, adjusted_p: float) -> SiteDifference:
        return SiteDifference(site=site, difference=by, low=by - 0.1, high=by + 0.1, p=0.001, adjusted_p=adjusted_p)

    ones = (off("a", 0.02, 0.01), off("b", -0.3, 0.0499), off("c", -0.9, 0.05))
    shift = replace(study_result.domain_shift, differences={"pneumonia": {"sensitivity": ones}})
    assert [one.difference.site for one in replace(study_result, domain_shift=shift).standing_out] == ["b", "a"]


def test_results_json_comes_back_exactly(study_result: StudyResult, golden_result: Path) -> None:
    """Reading a results.json and writing it again gives the same result and the same bytes."""
    text = golden_result.read_text(encoding="utf-8")
    assert to_json(study_result) == text
    assert from_json(text, where="golden") == study_result


@settings(max_examples=40)
@given(
    value=st.floats(0, 1),
    bounds=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    note=st.text(),
    counts=st.lists(st.integers(0, 2**53), max_size=5),
)
def test_every_number_and_text_survives_json(
    study_result: StudyResult, value: float, bounds: tuple[float, float] | None, note: str, counts: list[int]
) -> None:
    """Floats come back bit by bit, and so do counts, empty lists and any text."""
    histogram = ScoreHistogram(positives=tuple(counts), negatives=tuple(counts))
    auc = AreaUnderCurve(value=value, low=None, high=value, method=note, ties=bounds)
    one = replace(absent(Why.SUPPRESSED), auc=auc, histogram=histogram)
    result = replace(study_result, sites={note: {"test": {"pneumonia": one}}}, notes=(note,), pooled={}, rounds=())
    result = replace(result, baselines=Baselines(local={}, pooled=None))
    assert from_json(to_json(result), where="here") == result


def test_equal_results_give_equal_bytes(study_result: StudyResult) -> None:
    """The order in which sites were put in does not show in results.json."""
    turned = replace(study_result, sites=dict(reversed(study_result.sites.items())))
    assert to_json(turned) == to_json(study_result)


def test_a_list_of_counts_is_one_line(study_result: StudyResult) -> None:
    """Score-bin counts stand on one line, so that a person can read the file."""
    bins = len(study_result.sites["northgate"]["test"]["pneumonia"].histogram.positives)  # type: ignore[union-attr]
    line = next(line for line in to_json(study_result).splitlines() if '"positives": [' in line)
    assert len(json.loads(line.split(":", 1)[1].rstrip(","))) == bins


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_its_place(study_result: StudyResult, number: float) -> None:
    """NaN has no place in results.json: the writer says which field holds it."""
    broken = replace(study_result, rounds=(replace(study_result.rounds[0], seconds=number),))
    with pytest.raises(ValueError, match=r"result\.rounds\[0\]\.seconds"):
        to_json(broken)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data | {"schema": 99}, "schema 99"),
        (lambda data: data | {"schema": 2}, "schema 2, and this version reads schema 3. Run the study again"),
        (lambda data: {key: data[key] for key in data if key != "schema"}, "schema None"),
        (lambda data: {key: data[key] for key in data if key != "weights"}, "missing or unknown field: weights"),
        (lambda data: data | {"secret": 1}, "missing or unknown field: secret"),
        (lambda data: data | {"notes": "a sentence"}, "result.notes holds str"),
        (lambda data: data | {"privacy": []}, "result.privacy holds list"),
        (lambda data: data | {"selected": {"round": True, "why": ""}}, "result.selected.round holds bool"),
        (lambda data: data | {"study": data["study"] | {"exclusive": 1}}, "result.study.exclusive holds int"),
        (lambda data: data | {"domain_shift": data["domain_shift"] | {"distances": 1}}, "distances holds int"),
        (lambda data: [data], "schema None"),
    ],
)
def test_a_foreign_file_is_refused_by_its_fault(golden_result: Path, spoil: object, says: str) -> None:
    """A results.json of another schema, or with a wrong field, is refused with the place of the fault."""
    data = spoil(json.loads(golden_result.read_text(encoding="utf-8")))  # type: ignore[operator]
    with pytest.raises(StorageError) as refusal:
        from_json(json.dumps(data), where="results.json")
    assert says in str(refusal.value)


def test_an_unknown_reason_and_a_wrong_length_are_refused(golden_result: Path) -> None:
    """Values that fit their JSON type but not their field are refused too."""
    text = golden_result.read_text(encoding="utf-8")
    with pytest.raises(StorageError, match="lost"):
        from_json(text.replace('"why": "suppressed"', '"why": "lost"'), where="results.json")
    data = json.loads(text)
    data["pooled"]["test"]["pneumonia"]["auc"]["ties"] = [0.1, 0.2, 0.3]
    with pytest.raises(StorageError, match="ties holds 3 items, not 2"):
        from_json(json.dumps(data), where="results.json")


def test_a_half_written_or_missing_file_is_an_error_that_says_what_to_do(golden_result: Path, tmp_path: Path) -> None:
    """Half a file, no file and bytes that are no text each give a StorageError with its path and the next step."""
    path = tmp_path / "results.json"
    for content in (golden_result.read_bytes()[:1000], b"\xff\xfe\x00", None):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        next_step = "--resume" if content is not None else "Name the folder of a run"
        with pytest.raises(StorageError, match=rf"results\.json.*{next_step}"):
            read(path)


def test_write_and_read_a_file(study_result: StudyResult, tmp_path: Path) -> None:
    """What was written is read back equal, and nothing else is left in the folder."""
    write(study_result, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == study_result
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("{", '{"notes": "\u009b31mcsi \u202erlo", "notes": [],', "one key two values"),
        ('"seconds": ', '"seconds": ' + "9" * 400, "too large to reckon with"),
        ('"seconds": ', '"seconds": 1e999', "too large to reckon with"),
        ("{", '{"a": ' + "[" * 100_000 + "]" * 100_000 + ",", "nested too deep"),
    ],
    ids=["a key twice", "400 digits", "infinite", "abyss"],
)
def test_results_from_outside_are_refused_in_words(
    golden_result: Path, tmp_path: Path, before: str, after: str, says: str
) -> None:
    """A hospital makes its page of a file that others have written: it is checked as it is read, and once."""
    text, path = golden_result.read_text(encoding="utf-8"), tmp_path / "results.json"
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(StorageError, match=says):
        read(path)


def test_results_of_any_size_are_not_read_whole(tmp_path: Path) -> None:
    """A file of a terabyte is refused after its first megabytes."""
    path = tmp_path / "results.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StorageError, match="larger than is taken in"):
        read(path)
