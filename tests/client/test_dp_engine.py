"""Sampling, images and constants of a private step: the patient is the unit, whoever has how many images."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from client.dp_engine import Patients, PrivateSteps
from client.noise import SecretStreams
from shared.privacy import PrivacyPlan

STEPS = 3000

IMAGES = [1, 2, 3, 5, 8, 13, 21, 30]
"""Images of each patient."""


def plan(**other) -> PrivacyPlan:
    """Give a plan with a rate that no patient's number of images resembles."""
    values = {
        "sample_rate": 0.3,
        "noise_multiplier": 2.0,
        "steps_per_round": STEPS,
        "rounds": 1,
        "delta": 1e-5,
        "clip": 0.5,
        "images_per_patient": 1,
        "expected_patients": 50,
    }
    return PrivacyPlan(**(values | other))


def steps(*, images=IMAGES, **other) -> PrivateSteps:
    """Give the steps of a site whose patients have so many images each, in mixed order."""
    patients_N = np.random.default_rng(1).permutation(np.repeat(np.arange(len(images)), images))
    rows = np.arange(len(patients_N))
    secret = SecretStreams(key=bytes(32), task_id="task", arrays_digest="digest")
    return PrivateSteps(plan=plan(**other), patients=Patients.of(rows, patients_N), streams=secret, noise=secret)


def owners(private: PrivateSteps) -> np.ndarray:
    """Give the patient of each row."""
    owner = np.empty(len(private.patients.rows_N), int)
    owner[private.patients.rows_N] = np.repeat(np.arange(len(private.patients)), private.patients.count_P)
    return owner


def inclusion_is_poisson(taken_SP: np.ndarray, rate: float) -> bool:
    """Tell whether steps take each patient with the rate, and independently of the others and of other steps.

    Each patient's count and the spread of the batch's size are tested at 1e-3 in all.
    """
    number, patients = taken_SP.shape
    counts_hold = all(
        stats.binomtest(int(count), number, rate).pvalue > 1e-3 / patients for count in taken_SP.sum(axis=0)
    )
    sizes = taken_SP.sum(axis=1)
    spread = ((sizes - rate * patients) ** 2).sum() / (patients * rate * (1 - rate))
    low, high = stats.chi2.ppf([5e-4, 1 - 5e-4], number)
    correlation = np.corrcoef(taken_SP[1:].ravel(), taken_SP[:-1].ravel())[0, 1]
    return bool(counts_hold and low < spread < high and abs(correlation) < 4 / taken_SP.size**0.5)


def taken(private: PrivateSteps) -> np.ndarray:
    """Run all steps and tell who took part in each (steps, patients)."""
    owner, found = owners(private), np.zeros((STEPS, len(private.patients)))
    for step in range(STEPS):
        who = owner[private.sample(step).rows_PK[:, 0]]
        assert len(set(who)) == len(who), "a patient came twice in one step"
        found[step, who] = 1
    return found


def test_inclusion_is_poisson_whatever_the_number_of_images() -> None:
    """Patients with 1 to 30 images take part with one rate, independently of each other and of other steps."""
    assert inclusion_is_poisson(taken(steps()), 0.3)


def test_sampling_by_images_is_caught() -> None:
    """Were the image the unit, a patient with 30 would take part 30 times as often as one with 1: the test sees it."""
    rng, found = np.random.default_rng(2), np.zeros((STEPS, len(IMAGES)))
    owner = np.repeat(np.arange(len(IMAGES)), IMAGES)
    for step in range(STEPS):
        found[step, owner[rng.random(len(owner)) < 0.3]] = 1
    assert not inclusion_is_poisson(found, 0.3)


@pytest.mark.parametrize("how", ["fixed size", "shuffled epochs"])
def test_sampling_that_is_not_poisson_is_caught(how) -> None:
    """Batches of a fixed size, or epochs in which each patient comes once, have the right rate and are still told."""
    rng, patients = np.random.default_rng(3), 10
    found, order = np.zeros((STEPS, patients)), np.arange(patients)
    for step in range(STEPS):
        if how == "fixed size":
            found[step, rng.choice(patients, 3, replace=False)] = 1
        else:
            order = rng.permutation(patients) if step % 10 == 0 else np.roll(order, 3)
            found[step, order[:3]] = 1
    assert not inclusion_is_poisson(found, 0.3)


def test_each_image_of_a_patient_is_equally_likely() -> None:
    """One image of a patient's is drawn without regard to its place."""
    private = steps(images=[6, 1], sample_rate=1.0)
    rows = np.array([private.sample(step).rows_PK[:, 0] for step in range(STEPS)])
    own = rows[np.isin(rows, private.patients.rows_N[:6])]
    assert len(own) == STEPS
    assert stats.chisquare(np.unique(own, return_counts=True)[1]).pvalue > 1e-3


def test_several_images_are_different_and_weigh_one_patient() -> None:
    """With K images a patient they are K different ones, or all there are; their weights add up to 1."""
    private = steps(sample_rate=1.0, images_per_patient=4)
    sample, owner = private.sample(0), owners(private)
    assert sample.rows_PK.shape == (len(IMAGES), 4)
    assert sample.weights_PK.sum(1) == pytest.approx(1)
    for patient, (rows, weights) in enumerate(zip(sample.rows_PK, sample.weights_PK, strict=True)):
        assert set(owner[rows]) == {patient}
        drawn = rows[weights > 0]
        assert len(set(drawn)) == len(drawn) == min(4, IMAGES[patient])
    assert private.sample(1).rows_PK.tolist() != sample.rows_PK.tolist()


def test_a_larger_k_than_any_patient_has_is_filled_up() -> None:
    """Where nobody has K images, all of them are used and the rest weighs nothing."""
    sample = steps(images=[1, 2], sample_rate=1.0, images_per_patient=5).sample(0)
    assert sample.rows_PK.shape == (2, 5)
    assert sample.weights_PK.tolist() == [[1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0]]


def test_virtual_batches_cut_between_patients() -> None:
    """A step in parts is the same step, and a patient's images stay together."""
    sample = steps(sample_rate=1.0, images_per_patient=3).sample(0)
    parts = list(sample.virtual_batches(images=7))
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    assert np.concatenate([part.rows_PK for part in parts]).tolist() == sample.rows_PK.tolist()


def released(private: PrivateSteps, total: torch.Tensor, *, step: int = 0) -> torch.Tensor:
    """Release a copy of a sum."""
    copy = total.clone()
    private.release(copy, step)
    return copy


def test_a_step_without_patients_is_as_noisy_as_any() -> None:
    """Nobody took part, or there is nobody at all: noise is released, of the same scale."""
    nobody = steps(images=[1, 1], sample_rate=1e-12)
    empty = nobody.sample(0)
    assert (len(empty), list(empty.virtual_batches(images=8))) == (0, [])
    noise = released(nobody, torch.zeros(20_000)) * (0.5 * 1e-12 * 50)
    assert float(noise.std()) == pytest.approx(2.0 * 0.5, rel=0.03)


def denominator_is_constant(release) -> bool:
    """Tell whether what a sum is divided by stays the same, however large the sum and whoever took part."""
    sums = [torch.full((1000,), value) for value in (0.0, 1.0, 40.0)]
    first, *others = (release(total.clone()) for total in sums)
    return all(
        torch.allclose(other - first, total / (0.5 * 0.3 * 50), rtol=1e-3, atol=1e-4)
        for other, total in zip(others, sums[1:], strict=True)
    )


def test_denominators_are_the_plans() -> None:
    """A sum is divided by clip × rate × public size, at sites of 2 and of 8 patients alike."""
    for images in ([1, 1], IMAGES):
        assert denominator_is_constant(partial(released, steps(images=images)))


def test_a_denominator_of_the_batch_is_caught() -> None:
    """Dividing by how many took part, which a sum gives away, fails the test above."""
    private = steps()

    def by_batch(total: torch.Tensor) -> torch.Tensor:
        took_part = 1 + float(total.max())
        return released(private, total) * (0.3 * 50) / took_part

    assert not denominator_is_constant(by_batch)


def test_a_twin_without_noise_is_exact() -> None:
    """Noise 0 (ε infinite) leaves the sum as it is, divided by the constants."""
    total = torch.rand(100)
    assert torch.allclose(released(steps(noise_multiplier=0.0), total), total / (0.5 * 0.3 * 50))


def test_steps_differ_and_a_restart_repeats_them() -> None:
    """Noise and patients are new in each step; the same round begun again has the same."""
    private, total = steps(), torch.zeros(100)
    assert torch.equal(released(private, total), released(steps(), total))
    assert not torch.equal(released(private, total), released(private, total, step=1))
    samples = [private.sample(step).rows_PK.tolist() for step in (0, 1, 0)]
    assert samples[0] == samples[2] != samples[1]


def test_grouping_keeps_every_row_with_its_patient() -> None:
    """Only the rows that were given are there, each with its own patient."""
    patients = Patients.of(np.array([5, 1, 4]), np.array([9, 7, 9, 9, 7, 2]))
    assert patients.count_P.tolist() == [1, 2]
    assert patients.rows_N.tolist() == [5, 1, 4]
    assert patients.number_P.tolist() == [2, 7]
