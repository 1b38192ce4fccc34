"""Images are described as the model sees them: one a patient, without disease; a planted mark is found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.bootstrap import compose_agent, site_inputs
from client.describing import (
    clear_patients_tell,
    clear_rows,
    corner_test,
    corner_tests,
    describe,
    features,
    mark_test,
    mark_tests,
    one_a_patient,
)
from client.site_data import Records
from shared.corner_test import shown
from shared.description import Description, MarkTest
from shared.evidence import Withheld
from shared.messages import DescribeReply, DescribeTask, Header, Kind
from shared.preprocessing import normalise
from shared.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")


def records(labels: list[list[float]], patients: list[int]) -> Records:
    own = np.array(patients)
    return Records(
        labels_NK=np.array(labels, np.float32),
        patients_N=own,
        exams_N=own,
        split_N=np.array(["train"] * (len(own) - 1) + ["test"]),
    )


def test_images_without_disease_are_found_one_a_patient() -> None:
    """No finding present and one absent; not assessed is not absent. Of classes the first. Of a patient the first."""
    nan = float("nan")
    of_findings = records([[0, 0], [0, nan], [0, 1], [nan, nan], [0, 0], [0, 0]], [3, 3, 1, 2, 0, 5])
    rows = clear_rows(of_findings, Split.TRAIN, exclusive=False)
    assert rows.tolist() == [0, 1, 4]
    assert one_a_patient(rows, of_findings).tolist() == [0, 4]
    of_classes = records([[1, 0], [0, 1], [1, 0], [nan, nan], [1, 0]], [0, 1, 2, 3, 4])
    assert clear_rows(of_classes, Split.TRAIN, exclusive=True).tolist() == [0, 2]


@pytest.mark.parametrize(("others", "tells"), [(0, False), (3, True), (9, True), (10, False)])
def test_how_many_are_without_disease_tells_of_no_few(tiny: Any, tmp_path: Path, others: int, tells: bool) -> None:
    """The attack: who has not the first finding, minus who has none, were three with the second, which is withheld."""

    def labels(patient: int) -> list[float]:
        """Every third has the first; of the others who train, so many have the second."""
        negatives = [one for one in range(0, 240, 2) if one % 3]
        return [float(patient % 3 == 0), float(patient in negatives[:others])]

    protocol = tiny.protocol(task={"findings": ["a", "b"]})
    site = tiny.hospital(protocol, tmp_path, patients=240, min_cell=10, labels=labels)
    bench = tiny.bench(protocol)
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    agent = compose_agent(site, protocol, bench, inputs, folder=tmp_path)
    assert (agent.guard.described is None) is tells


CLEAR, A, B, BOTH = (0, 0), (1, 0), (0, 1), (1, 1)


@pytest.mark.parametrize(
    ("few", "tells"),
    [
        ([[B]], True),  # an exam without A, that has B
        ([[BOTH, B]], True),  # has A, and its exams without A all show B
        ([[A]], False),  # those with A are told by the flow itself
    ],
)
@pytest.mark.parametrize("images", [1, 2])
def test_follow_up_exams_hide_no_few_behind_those_described(few: Any, tells: bool, images: int) -> None:
    """The attack: who has an exam without the first finding, minus who was described, are the few with the second."""
    kinds = [*[[CLEAR]] * 50, *[[A, CLEAR]] * 20, *[[BOTH]] * 20, *[[BOTH, CLEAR]] * 15, *[[A]] * 12]
    kinds += few * 3
    labels, patients, exams = [], [], []
    for patient, own in enumerate(kinds):
        for number, exam in enumerate(own):
            labels += [exam] * images
            patients += [patient] * images
            exams += [10 * patient + number] * images
    site = Records(
        labels_NK=np.array(labels, np.float32),
        patients_N=np.array(patients),
        exams_N=np.array(exams),
        split_N=np.array(["train"] * len(labels)),
    )
    assert clear_patients_tell(site, Split.TRAIN, exclusive=False, least=10) is tells


@pytest.mark.parametrize("start", ["head", "layer4", "stem"])
def test_features_are_what_the_head_sees(tiny: Any, tmp_path: Path, start: str) -> None:
    """Whatever trains, they are the loaded model's pooled features of the prepared images."""
    unfreeze = [] if start == "head" else [{"round": 1, "from": start}]
    protocol = tiny.protocol(model={"unfreeze": unfreeze})
    site, bench = tiny.hospital(protocol, tmp_path), tiny.bench(protocol)
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    rows = np.array([3, 0, 7])
    found = features(bench, inputs, rows, start=start)
    expected = bench.classifier.eval().trunk(normalise(site.pixels.read(rows), dtype=torch.float32), upto="head")
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def scored(marked: float, patients: int, seed: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Draw logits, two images a patient; blanking the first corner takes `marked` from those of positives."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(patients) % 2, 2).astype(np.float64)
    logits = rng.normal(labels, 1)
    own = np.repeat(rng.normal(0, 0.3, patients), 2)  # alike within a patient
    blanked = [logits - marked * labels * (place == 0) - own - rng.normal(0, 0.1, len(labels)) for place in range(4)]
    return logits, blanked, labels, np.repeat(np.arange(patients), 2)


def test_a_corners_effect_is_the_difference_of_the_classes_falls() -> None:
    """Value and areas are those of a plain computation; a mark that goes with disease is found, and in its corner."""
    logits, blanked, labels, patients = scored(1.0, 60, 0)
    found = corner_test(logits, blanked, labels, patients)
    fall = logits - blanked[0]
    assert found.effects[0].value == pytest.approx(fall[labels == 1].mean() - fall[labels == 0].mean())
    pairs = logits[labels == 1][:, None] - logits[labels == 0][None, :]
    assert found.effects[0].auc == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert found.effects[0].auc_without < found.effects[0].auc
    p = [shown(one.value, one.error, one.freedom, confidence=0.95).p for one in found.effects]
    assert p[0] < 1e-6
    assert min(p[1:]) > 0.01
    assert (found.positive_patients, found.negative_patients) == (30, 30)


@pytest.mark.parametrize("patients", [20, 60])
def test_without_a_mark_one_in_twenty_intervals_misses(patients: int) -> None:
    """Over 400 draws with two images a patient, at most 7 % of 95 % intervals leave out 0: patients are clusters."""
    missed = 0
    for seed in range(400):
        one = corner_test(*scored(0.0, patients, seed)).effects[1]
        interval = shown(one.value, one.error, one.freedom, confidence=0.95)
        missed += not interval.low <= 0 <= interval.high
    assert missed <= 28


def test_a_class_of_one_patient_has_no_effect() -> None:
    """There is no spread to learn of, and so no number."""
    logits, blanked, _, patients = scored(0.0, 20, 0)
    found = corner_test(logits, blanked, (patients == 3).astype(float), patients)
    assert (found.positive_patients, found.effects) == (1, ())


@pytest.mark.parametrize("exclusive", [False, True])
def test_an_agent_describes_its_training_patients(tiny: Any, tmp_path: Path, exclusive: bool) -> None:
    """60 patients without disease train: features in 12 dimensions, a histogram, and four corners a target."""
    task = {"classes": ["clear", "opacity"]} if exclusive else {"findings": ["opacity", "effusion"]}
    protocol = tiny.protocol(task=task)

    def labels(patient: int) -> list[float]:
        return [1.0, 0.0] if exclusive else [0.0, float(patient % 8 == 1)]

    agent = tiny.agent(protocol, tmp_path, patients=120, labels=labels)
    header = Header(protocol_digest=protocol.digest(), run_id="r", round=2, site="north", kind=Kind.DESCRIBE)
    arrays = agent.bench.arrays(["fc.weight", "fc.bias"])
    reply = agent._work(DescribeTask(header=header, arrays=arrays))
    assert isinstance(reply, DescribeReply)
    found: Description = reply.description
    assert not isinstance(found.features, Withheld)
    assert not isinstance(found.intensity, Withheld)
    assert (found.features.split, found.features.patients, found.features.dimensions) == (Split.TRAIN, 60, 12)
    assert found.intensity.patients == 60
    assert len(found.corners) == len(found.marks) == 2
    assert all(isinstance(one, MarkTest) and one.split is Split.TRAIN for one in found.marks)


def test_a_mark_burned_into_films_is_found(tiny: Any, tmp_path: Path) -> None:
    """A model that was made to read the upper left corner is caught there, by its own scores on validation patients."""
    protocol = tiny.protocol()
    site, bench = tiny.hospital(protocol, tmp_path, patients=120), tiny.bench(protocol)
    films = np.full_like(site.pixels.cached, 40)
    films += np.random.default_rng(0).integers(0, 40, films.shape, dtype=np.uint8)
    positive = site.records.labels_NK[:, 0] == 1
    films[positive, :, 1:5, 1:4] = 255
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    inputs.live._pixels = type(site.pixels)(cached=films, cached_row_N=site.pixels.cached_row_N, digest="marked")
    seen = features(bench, inputs, np.arange(len(films)), start="stem")
    direction = np.linalg.lstsq(np.c_[seen, np.ones(len(seen))], 4.0 * positive - 2, rcond=1e-4)[0]
    bench.load({"fc.weight": direction[None, :-1].astype(np.float32), "fc.bias": direction[-1:].astype(np.float32)})
    found = describe(bench, inputs, site.records, start="stem", exclusive=False, split=Split.TRAIN, seed=lambda *_: 0)
    (test,) = found.corners
    assert not isinstance(test, Withheld)
    p = [shown(one.value, one.error, one.freedom, confidence=0.95).p * 4 for one in test.effects]
    assert test.effects[0].value > 1
    assert p[0] < 0.001
    assert test.effects[0].auc > 0.95 > test.effects[0].auc_without


def test_a_mark_is_found_in_films_whatever_the_model_reads(tiny: Any, tmp_path: Path) -> None:
    """A letter on nine of ten films with the finding and one of ten without: AUC .9 in its corner, chance elsewhere.

    No model has a say in it; and where films differ in brightness alone, no corner is found.
    """
    protocol = tiny.protocol()
    site, bench = tiny.hospital(protocol, tmp_path, patients=240), tiny.bench(protocol)
    rng = np.random.default_rng(0)
    films = rng.integers(40, 80, site.pixels.cached.shape, dtype=np.uint8)
    positive = site.records.labels_NK[:, 0] == 1
    plain = films + np.where(positive, 60, 0).astype(np.uint8)[:, None, None, None]
    lettered = rng.random(len(films)) < np.where(positive, 0.9, 0.1)
    films[lettered, :, -5:-1, 1:3] = 255
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    tests = []
    for seen in (films, plain):
        inputs.live._pixels = type(site.pixels)(cached=seen, cached_row_N=site.pixels.cached_row_N, digest="marked")
        tests.extend(mark_tests(inputs, site.records, split=Split.TRAIN))
    assert tests[0].positive_patients + tests[0].negative_patients == 120
    assert tests[0].areas[2] == pytest.approx(0.9, abs=0.06)
    assert all(0.35 < one < 0.65 for one in (*tests[0].areas[:2], tests[0].areas[3], *tests[1].areas))


def test_a_patient_counts_once_in_a_mark() -> None:
    """By the first image that shows it, else by the first that is assessed; a class of one patient gives no area."""
    standing = np.array([[9.0], [1.0], [8.0], [2.0], [9.5], [0.5], [7.0], [0.2]]).repeat(4, axis=1)
    labels = np.array([np.nan, 0, 1, 0, 0, 0, 1, 1])
    found = mark_test(standing, labels, np.array([1, 1, 2, 3, 3, 4, 4, 4]), split=Split.TRAIN)
    assert found == MarkTest(split=Split.TRAIN, positive_patients=2, negative_patients=2, areas=(1.0,) * 4)
    assert mark_test(standing[:4], labels[:4], np.array([1, 1, 2, 3]), split=Split.TRAIN).areas == ()


def test_scores_of_images_as_they_are_come_from_the_cache(tiny: Any, tmp_path: Path) -> None:
    """Behind a frozen backbone only the blanked images pass through it; what leaves is the same to rounding."""
    protocol = tiny.protocol()
    site, bench = tiny.hospital(protocol, tmp_path), tiny.bench(protocol)
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    at_head, at_stem = (
        corner_tests(bench, inputs, site.records, start=start, exclusive=False)[0] for start in ("head", "stem")
    )
    passed = 0

    def count(*_: object) -> None:
        nonlocal passed
        passed += 1

    bench.classifier.layer4.register_forward_hook(count)
    corner_tests(bench, inputs, site.records, start="head", exclusive=False)
    assert passed == 4
    for one, other in zip(at_head.effects, at_stem.effects, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4, abs=1e-6)
