"""What is too small to leave does not leave, and does not follow from what does."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.disclosure import round_flow, suppress_evidence, suppress_flow
from client.patient_flow import Exclusion, FileFate, account
from shared.evidence import Evidence, Withheld
from shared.metrics import ScoreHistogram
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts


def evidence(positives: int, negatives: int) -> Evidence:
    """Give evidence on as many patients of each class, one unit each."""
    return Evidence(
        units=positives + negatives,
        patients=positives + negatives,
        positive_patients=positives,
        negative_patients=negatives,
        histogram=ScoreHistogram(positives=(0, positives), negatives=(negatives, 0)),
        confusion=None,
        auc=None,
        brier=None,
    )


def classes(positives: int, negatives: int) -> ClassCounts:
    return ClassCounts(
        positive_patients=positives,
        negative_patients=negatives,
        positive_exams=positives + 2,
        negative_exams=negatives + 2,
    )


def flow(
    *, found: int = 300, excluded: dict[str, int] | None = None, test: int = 40, smallest: int = 20
) -> ReleasedFlow:
    """Give a flow of three splits, where `test` has so many patients and its smallest class so many."""
    splits = {name: SplitCounts(patients=80, exams=90, classes=(classes(40, 40),)) for name in ("train", "validation")}
    own = SplitCounts(patients=test, exams=test, classes=(classes(smallest, 20), classes(20, 20)))
    return ReleasedFlow(found=found, excluded=excluded or {}, splits=splits | {"test": own})


@pytest.mark.parametrize(("positives", "negatives"), [(9, 50), (50, 9), (0, 50), (50, 0), (9, 9), (0, 0)])
def test_evidence_on_too_few_patients_of_a_class_is_withheld_whole(positives: int, negatives: int) -> None:
    """Nine patients of either class at min_cell 10 withhold histogram, counts and metrics together."""
    assert suppress_evidence([evidence(positives, negatives)], min_cell=10, exclusive=False) == (Withheld(),)


@pytest.mark.parametrize(("positives", "negatives"), [(9, 50), (50, 9)])
def test_patients_count_and_not_their_exams(positives: int, negatives: int) -> None:
    """Nine patients with five exams each are nine patients."""
    found = evidence(positives, negatives)
    bins = ScoreHistogram(positives=(0, 5 * positives), negatives=(5 * negatives, 0))
    repeated = replace(found, units=5 * found.units, histogram=bins)
    assert suppress_evidence([repeated], min_cell=10, exclusive=False) == (Withheld(),)


def test_evidence_on_enough_patients_of_each_class_leaves_as_it_is() -> None:
    """Ten patients of each class at min_cell 10 are enough."""
    assert suppress_evidence([evidence(10, 10)], min_cell=10, exclusive=False) == (evidence(10, 10),)


def test_findings_are_withheld_one_by_one() -> None:
    """A finding says nothing of another one: each is judged alone, in the study's order."""
    kept = suppress_evidence([evidence(30, 30), evidence(9, 51), evidence(10, 50)], min_cell=10, exclusive=False)
    assert kept == (evidence(30, 30), Withheld(), evidence(10, 50))


def test_classes_that_exclude_one_another_are_withheld_together() -> None:
    """The units of a small class would follow from those of the others."""
    items = [evidence(30, 30), evidence(9, 51), evidence(21, 39)]
    assert suppress_evidence(items, min_cell=10, exclusive=True) == (Withheld(),) * 3
    assert suppress_evidence(items, min_cell=9, exclusive=True) == tuple(items)


def test_a_class_that_nobody_has_hides_itself_and_no_other() -> None:
    """Of three classes one is empty at this site: the two others are shown. With a small one beside it none is."""
    items = [evidence(40, 30), evidence(30, 40), evidence(0, 70)]
    assert suppress_evidence(items, min_cell=10, exclusive=True) == (*items[:2], Withheld())
    assert suppress_evidence([evidence(70, 0), evidence(0, 70)], min_cell=10, exclusive=True) == (Withheld(),) * 2
    small = [evidence(40, 34), evidence(30, 44), evidence(0, 74), evidence(4, 70)]
    assert suppress_evidence(small, min_cell=10, exclusive=True) == (Withheld(),) * 4


@given(sizes=st.lists(st.integers(0, 40), min_size=2, max_size=6), min_cell=st.integers(1, 15))
def test_no_class_that_somebody_has_follows_from_the_others(sizes: list[int], min_cell: int) -> None:
    """What is shown of classes adds up to what is not: nobody, or nothing is shown at all."""
    total = sum(sizes)
    kept = suppress_evidence([evidence(size, total - size) for size in sizes], min_cell=min_cell, exclusive=True)
    shown = [size for size, item in zip(sizes, kept, strict=True) if isinstance(item, Evidence)]
    if shown:
        assert total - sum(shown) == 0
        assert min(shown) >= min_cell


def test_what_is_withheld_already_stays_so() -> None:
    """The guard never turns withheld evidence into something else."""
    assert suppress_evidence([Withheld()], min_cell=1, exclusive=False) == (Withheld(),)


@pytest.mark.parametrize(("patients", "shown"), [(10, 10), (9, None), (0, None)])
def test_a_splits_patients_and_exams_are_shown_from_min_cell_on(patients: int, shown: int | None) -> None:
    """Ten patients at min_cell 10 are shown; nine or none are suppressed with their exams, and are not zero."""
    split = suppress_flow(flow(test=patients), min_cell=10).splits["test"]
    assert (split.patients, split.exams) == (shown, shown)


def test_a_splits_classes_are_shown_together_or_not_at_all() -> None:
    """One class of nine patients hides every count of every target of its split, and of no other split."""
    assert suppress_flow(flow(smallest=10), min_cell=10) == flow(smallest=10)
    for smallest in (9, 0):
        hidden = suppress_flow(flow(smallest=smallest), min_cell=10).splits
        assert [count for target in hidden["test"].classes for count in target.all] == [None] * 8
        assert hidden["train"] == flow().splits["train"]


@pytest.mark.parametrize(("files", "shown"), [(10, 10), (9, None), (0, 0)])
def test_an_exclusion_is_shown_from_min_cell_on_or_where_it_did_not_happen(files: int, shown: int | None) -> None:
    """Ten files are shown and nine suppressed; none at all is no secret."""
    assert suppress_flow(flow(excluded={"truncated": files}), min_cell=10).excluded == {"truncated": shown}


@pytest.mark.parametrize(("patients", "nameless", "shown"), [(1, 0, None), (9, 0, None), (9, 1, 12), (10, 0, 12)])
def test_an_exclusion_of_many_files_of_few_patients_is_suppressed(
    patients: int, nameless: int, shown: int | None
) -> None:
    """The attack: twelve files of one withdrawn patient left as 12. What does not say whose it is counts by files."""
    whose = [None] * nameless + [n % patients for n in range(12 - nameless)]
    kept = [FileFate(relative=str(n), patient=100 + n, row=None, reason=None) for n in range(40)]
    files = [FileFate(relative="w", patient=one, row=None, reason=Exclusion.WITHDRAWN) for one in whose]
    found = account(
        files=[*kept, *files],
        rows=(),
        split_N=np.array(["train"] * 40),
        patients_N=np.arange(40),
        exams_N=np.arange(40),
        labels_NK=(np.arange(40) % 2).astype(np.float32)[:, None],
    ).counts()
    left = suppress_flow(found, min_cell=10)
    assert left.excluded["withdrawn"] == shown
    assert left.found is None  # two splits are empty
    assert type(left) is ReleasedFlow


def test_the_files_found_are_hidden_with_a_hidden_exclusion() -> None:
    """Found, kept and all other exclusions would give the hidden one away."""
    assert suppress_flow(flow(excluded={"truncated": 9, "empty": 20}), min_cell=10).found is None
    assert suppress_flow(flow(excluded={"truncated": 0, "empty": 20}), min_cell=10).found == 300


def test_the_files_found_are_hidden_with_a_hidden_split() -> None:
    """Where an exam is a file, found minus exclusions minus the other splits' exams is the hidden split."""
    assert suppress_flow(flow(test=9), min_cell=10).found is None


def test_few_files_are_hidden_themselves() -> None:
    """Nine files found are suppressed like any other count."""
    assert suppress_flow(flow(found=9), min_cell=10).found is None


COUNTS = st.integers(0, 40)


@given(
    counts=st.lists(COUNTS, min_size=9, max_size=9),
    excluded=st.lists(COUNTS, min_size=3, max_size=3),
    min_cell=st.integers(1, 30),
)
def test_no_count_below_min_cell_leaves(counts: list[int], excluded: list[int], min_cell: int) -> None:
    """Whatever the counts: each is exact, or suppressed; 0 leaves only as an exclusion, or where any count may."""
    splits = {
        name: SplitCounts(
            patients=counts[place], exams=counts[place], classes=(classes(counts[place + 3], counts[place + 6]),)
        )
        for place, name in enumerate(("train", "validation", "test"))
    }
    reasons = dict(zip(("truncated", "empty", "no_patient"), excluded, strict=True))
    before = ReleasedFlow(found=sum(counts) + sum(excluded), excluded=reasons, splits=splits)
    after = suppress_flow(before, min_cell=min_cell)
    shown = [after.found, *(split.patients for split in after.splits.values())]
    of_classes = [count for split in after.splits.values() for target in split.classes for count in target.all]
    assert all(count is None or count >= min_cell for count in shown)
    assert all(count is None or count >= (min_cell if min_cell > 1 else 0) for count in of_classes)
    assert all(count is None or count == 0 or count >= min_cell for count in after.excluded.values())
    assert replace(suppress_flow(before, min_cell=0), found=before.found) == before


@given(counts=st.lists(COUNTS, min_size=9, max_size=9), to=st.integers(1, 60), min_cell=st.integers(1, 30))
def test_rounded_counts_are_multiples_and_never_below_the_true_ones(counts: list[int], to: int, min_cell: int) -> None:
    """Up to the next multiple of what the hospital says; nothing stays nothing, and suppressed suppressed."""
    splits = {
        name: SplitCounts(
            patients=counts[place], exams=counts[place], classes=(classes(counts[place + 3], counts[place + 6]),)
        )
        for place, name in enumerate(("train", "validation", "test"))
    }
    shown = suppress_flow(ReleasedFlow(found=500, excluded={"empty": counts[0]}, splits=splits), min_cell=min_cell)
    rounded = round_flow(shown, to=to)
    assert list(_all(rounded)) == [None if count is None else to * math.ceil(count / to) for count in _all(shown)]
    assert round_flow(shown, to=1) == shown


def _all(flow: ReleasedFlow) -> Iterator[int | None]:
    yield from (flow.found, *flow.excluded.values())
    for split in flow.splits.values():
        yield from (split.patients, split.exams, *(count for target in split.classes for count in target.all))


def test_a_finding_that_nobody_has_hides_no_other_where_every_count_may_leave() -> None:
    """With min_cell = 1 a 0 is shown as 0; with 2 the split's classes are hidden together."""
    assert suppress_flow(flow(smallest=0), min_cell=1) == flow(smallest=0)
    hidden = suppress_flow(flow(smallest=0), min_cell=2).splits
    assert any(one.positive_patients is None for split in hidden.values() for one in split.classes)
