"""A site's numbers are bounded by its own flow: by each split's count, or by what follows from the others."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import Reason, Refused, admit_evidence, admit_flow
from server.site_bounds import MOST, bounds
from shared.estimates import Estimate
from shared.evidence import Evidence
from shared.messages import Approval, EvaluateReply, ReadyReply
from shared.metrics import ScoreHistogram
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.split import Split

HIDDEN = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)


def flow(
    *, train: int | None = 700, validation: int | None = 150, test: int | None = 150, exams: int = 1, found: Any = None
) -> ReleasedFlow:
    sizes = {Split.TRAIN: train, Split.VALIDATION: validation, Split.TEST: test}
    splits = {
        str(split): SplitCounts(patients=size, exams=None if size is None else size * exams, classes=(HIDDEN,))
        for split, size in sizes.items()
    }
    return ReleasedFlow(found=found, excluded={}, splits=splits)


def ready(flow: ReleasedFlow) -> ReadyReply:
    return ReadyReply(flow=flow, package="0.1.0", approval=Approval.APPROVED)


def evidence(positives: int, negatives: int) -> EvaluateReply:
    item = Evidence(
        units=positives + negatives,
        patients=positives + negatives,
        positive_patients=positives,
        negative_patients=negatives,
        histogram=ScoreHistogram(positives=(0, positives), negatives=(negatives, 0)),
        confusion=None,
        auc=Estimate(value=1.0, low=0.9, high=1.0),
        brier=0.1,
    )
    return EvaluateReply(evidence=(item,))


def verdict(tiny: Any, reply: EvaluateReply, told: ReleasedFlow, **sections: Any) -> Any:
    most = bounds(told, tiny.protocol(**sections))[Split.TEST]
    return admit_evidence(reply, targets=1, bins=2, thresholds=(), axes=(), most=most)


HALF = 4_999_000
TOO_MANY = Refused(reason=Reason.TOO_MANY)


def test_evidence_of_a_hundred_thousand_million_units_does_not_enter(tiny: Any) -> None:
    """A site of 150 test exams sends 10^11: the report would have asked for 745 GiB, after all rounds."""
    assert verdict(tiny, evidence(10**11, 10**11), flow()) == TOO_MANY
    assert verdict(tiny, evidence(2**62, 2**62), flow()) == TOO_MANY
    honest = evidence(50, 100)
    assert verdict(tiny, honest, flow()) is honest


def test_an_archive_may_grow_a_little_and_no_more(tiny: Any) -> None:
    """One in ten, or twenty, more than the flow said: studies run for weeks, and an agent reads its folder anew."""
    assert verdict(tiny, evidence(85, 85), flow()) != TOO_MANY
    assert verdict(tiny, evidence(86, 85), flow()) == TOO_MANY


@pytest.mark.parametrize(("unit", "most"), [("exam", 450 + 45), ("patient", 150 + 20), ("image", 2000 + 200)])
def test_units_are_counted_as_the_study_counts(tiny: Any, unit: str, most: int) -> None:
    """By exams, by patients, or by the files that were found."""
    told = flow(exams=3, found=2000)
    assert bounds(told, tiny.protocol(task={"findings": ["opacity"], "unit": unit}))[Split.TEST].units == most


def test_a_suppressed_split_is_bounded_by_the_others(tiny: Any) -> None:
    """700 training patients at .7 leave about 150 for the test split, and not ten thousand."""
    most = bounds(
        flow(validation=None, test=None), tiny.protocol(split={"train": 0.7, "validation": 0.15, "test": 0.15})
    )
    assert 150 < most[Split.TEST].patients < 500


def test_a_flow_that_hides_all_bounds_evidence_to_what_a_hospital_hides(tiny: Any) -> None:
    """A split is hidden where it has fewer patients than min_cell: it was bounded by ten million."""
    hidden = flow(train=None, validation=None, test=None)
    protocol = tiny.protocol(split={"train": 0.7, "validation": 0.15, "test": 0.15})
    for told in (hidden, flow(train=0, validation=None, test=None)):
        assert all(most.patients < 200 for most in bounds(told, protocol).values())
    assert verdict(tiny, evidence(HALF, HALF), hidden) == TOO_MANY
    assert verdict(tiny, evidence(HALF, HALF), hidden, privacy={"epsilon": 3.0}) == TOO_MANY


@pytest.mark.parametrize("sections", [{}, {"privacy": {"epsilon": 3.0}}])
@pytest.mark.parametrize("told", [flow(train=90), flow(train=90, validation=None, test=None), flow(train=None)])
def test_no_split_is_larger_than_what_was_agreed_of_its_site(tiny: Any, told: ReleasedFlow, sections: Any) -> None:
    """Also where the site hides it, or the fractions would allow more; an archive may grow a little."""
    found = bounds(told, tiny.protocol(**sections), largest=100)
    assert all(most.patients <= 120 for most in found.values())


def test_under_privacy_the_public_size_bounds_all(tiny: Any) -> None:
    """The flow has nothing but that; exams and noise have room, and a hundred thousand million have not."""
    told = flow(validation=None, test=None)
    sections = {"privacy": {"epsilon": 3.0}, "split": {"train": 0.7, "validation": 0.15, "test": 0.15}}
    assert verdict(tiny, evidence(10**11, 3), told, **sections) == TOO_MANY
    honest = evidence(50, 100)
    assert verdict(tiny, honest, told, **sections) is honest
    most = bounds(told, tiny.protocol(**sections))[Split.TEST]
    assert 150 < most.patients < 600


@given(train=st.integers(10, 100_000), seed=st.integers(0, 2**32))
def test_an_honest_split_never_exceeds_its_bound(train: int, seed: int, tiny: Any) -> None:
    """A split drawn by the study's fractions is within what follows from the training patients alone."""
    rng = np.random.default_rng(seed)
    protocol = tiny.protocol(split={"train": 0.7, "validation": 0.15, "test": 0.15})
    sizes = rng.multinomial(round(train / 0.7), (0.7, 0.15, 0.15))
    told = flow(train=int(sizes[0]), validation=None, test=None)
    most = bounds(told, protocol)
    assert sizes[1] <= most[Split.VALIDATION].patients
    assert sizes[2] <= most[Split.TEST].patients
    whole = bounds(flow(train=int(sizes[0]), validation=int(sizes[1]), test=int(sizes[2])), protocol)
    assert all(size <= whole[split].patients for size, split in zip(sizes, Split, strict=True))


def test_a_site_that_says_all_its_patients_validate_is_bounded_by_the_fractions(tiny: Any) -> None:
    """Its evidence alone chose the threshold: of a hundred patients, told as 1, 98 and 1, about fifteen validate."""
    protocol = tiny.protocol(split={"train": 0.7, "validation": 0.15, "test": 0.15})
    most = bounds(flow(train=1, validation=98, test=1, exams=100), protocol, largest=100)
    assert most[Split.VALIDATION].patients < 50
    assert most[Split.VALIDATION].units < 5000


def test_noise_on_counts_leaves_room_for_itself_and_little_else(tiny: Any) -> None:
    """The total of all bins is what leaves; a site of 50 patients could tell of 5,209."""
    told, task = flow(train=50, validation=None, test=None), {"findings": ["opacity"], "unit": "patient"}
    protocol = tiny.protocol(task=task, privacy={"epsilon": 3.0, "count_noise_epsilon": 0.1})
    noised, plain = (
        bounds(told, one)[Split.TEST].patients for one in (protocol, tiny.protocol(task=task, privacy={"epsilon": 3.0}))
    )
    kept = 1 - np.exp(-0.1)
    rng = np.random.default_rng(5)
    draws = 2 * protocol.evaluation.score_bins
    noise = (rng.geometric(kept, (10_000, draws)) - rng.geometric(kept, (10_000, draws))).sum(axis=1)
    assert noise.max() < noised - plain < 2.5 * noise.max()


def test_a_flow_larger_than_any_hospital_does_not_enter() -> None:
    """Counts near 2^62 turned a pooled AUC into 0.0 in silence."""
    for size in (MOST + 1, 10**11, 2**62):
        assert admit_flow(ready(flow(train=size)), targets=1) == Refused(reason=Reason.WRONG_COUNT)
    assert admit_flow(ready(flow(train=MOST)), targets=1) == flow(train=MOST)


@pytest.mark.parametrize(
    "counts",
    [
        {"positive_patients": 6, "positive_exams": 5},
        {"positive_patients": 200, "positive_exams": 200},
        {"negative_exams": 10**9},
        {"negative_patients": 2**62, "negative_exams": 2**62},
    ],
)
def test_a_class_is_no_larger_than_its_split(counts: dict[str, int]) -> None:
    """Nor has it more patients than exams."""
    own = {"positive_patients": 5, "negative_patients": 5, "positive_exams": 5, "negative_exams": 5} | counts
    split = SplitCounts(patients=150, exams=150, classes=(ClassCounts(**own),))
    told = ReleasedFlow(found=None, excluded={}, splits={str(name): split for name in Split})
    assert admit_flow(ready(told), targets=1) == Refused(reason=Reason.WRONG_COUNT)


def test_a_site_of_few_patients_tells_of_no_millions_of_exams() -> None:
    """Ten validation patients with ten million exams would be the pooled AUC, and choose the threshold for all."""
    few = {"train": 40, "validation": 10, "test": 10}
    for exams in (101, 1_000_000):
        told = ready(flow(**few, exams=exams, found=10**9))
        assert admit_flow(told, targets=1, largest=60) == Refused(reason=Reason.WRONG_COUNT)
    assert admit_flow(ready(flow(**few, exams=100)), targets=1, largest=60) == flow(**few, exams=100)


@pytest.mark.parametrize(
    ("unit", "frames", "a_patient"),
    [("exam", "one", 100), ("image", "one", 1000), ("image", "all", 10_000), ("patient", "one", 1)],
)
def test_units_are_bounded_by_patients_whatever_was_found(tiny: Any, unit: str, frames: str, a_patient: int) -> None:
    """How many files a site found is its own word alone."""
    images = {} if frames == "one" else {"images": {"frames": frames}}
    protocol = tiny.protocol(task={"findings": ["opacity"], "unit": unit}, **images)
    for told in (flow(test=10, exams=10**5, found=10**9), flow(test=None, exams=10**5, found=10**9)):
        most = bounds(told, protocol)[Split.TEST]
        assert most.units <= max(1.1 * a_patient * most.patients, 20 + a_patient * most.patients)


def test_a_site_that_tells_of_more_patients_than_was_agreed_does_not_take_part() -> None:
    """coordinator.toml may say how many a site can have; weights and bounds are then no site's own invention."""
    assert admit_flow(ready(flow()), targets=1, largest=1000) == flow()
    assert admit_flow(ready(flow()), targets=1, largest=999) == Refused(reason=Reason.NOT_AGREED)


@pytest.mark.parametrize("reason", ["Patient DOE^JOHN", "", "a" * 41, "x-y", "<b>"])
def test_an_exclusion_is_a_code(reason: str) -> None:
    """No site can write a sentence into the patient flow."""
    numbers = flow().to_numbers() | {f"excluded/{reason}": 1}
    with pytest.raises(ValueError, match="no code"):
        ReleasedFlow.from_numbers(numbers)
    assert ReleasedFlow.from_numbers(flow().to_numbers() | {"excluded/no_label_row": 1}).excluded == {"no_label_row": 1}
