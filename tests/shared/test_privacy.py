"""Privacy plans: what they cost agrees with another library's accountants, and the noise keeps the target."""

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from shared.errors import PrivacyError
from shared.privacy import (
    PrivacyPlan,
    calibrate,
    make_plan,
    plan_epsilon,
    plan_renyi,
    rounded_size,
    sampling,
)
from shared.renyi_filter import ORDERS, PrivacyLimit

PLAN = PrivacyPlan(
    sample_rate=0.1,
    noise_multiplier=1.5,
    steps_per_round=10,
    rounds=20,
    delta=1e-5,
    clip=0.3,
    images_per_patient=1,
    expected_patients=350,
)


def event(plan: PrivacyPlan, rounds: int) -> SelfComposedDpEvent:
    """Say the same in another library's words."""
    step = PoissonSampledDpEvent(plan.sample_rate, GaussianDpEvent(plan.noise_multiplier))
    return SelfComposedDpEvent(step, plan.steps_per_round * rounds)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "rounds"),
    [(0.1, 1.5, 10, 20), (0.02, 0.9, 50, 4), (0.5, 6.0, 2, 40), (1.0, 7.6364, 1, 100), (1.0, 3.0, 4, 1)],
)
def test_epsilon_agrees_with_another_library(rate: float, noise: float, steps: int, rounds: int) -> None:
    """PRV never reads lower than the exact distribution of the loss by PLD (here 5e-4 fine), nor 2 % higher."""
    plan = replace(PLAN, sample_rate=rate, noise_multiplier=noise, steps_per_round=steps, rounds=rounds)
    truth = PLDAccountant(value_discretization_interval=5e-4).compose(event(plan, rounds)).get_epsilon(plan.delta)
    found = plan_epsilon(plan, "prv")
    assert truth - 1e-3 <= found <= truth * 1.02 + 1e-3
    assert found <= plan_epsilon(plan, "rdp")


@pytest.mark.parametrize("rate", [0.03, 0.4, 1.0])
def test_renyi_losses_agree_with_another_library(rate: float) -> None:
    """At every order of the grid, for rounds as many as were run."""
    plan = replace(PLAN, sample_rate=rate, noise_multiplier=2.0)
    other = RdpAccountant(list(ORDERS)).compose(event(plan, 7))
    assert np.allclose([plan_renyi(plan, order, rounds=7) for order in ORDERS], other._rdp, rtol=1e-6)


def test_no_noise_is_no_privacy_and_no_round_costs_nothing() -> None:
    """The two ends of the scale."""
    assert plan_epsilon(replace(PLAN, noise_multiplier=0.0), "prv") == math.inf
    assert plan_renyi(replace(PLAN, noise_multiplier=0.0), 2.0) == math.inf
    assert plan_epsilon(PLAN, "prv", rounds=0) == plan_renyi(PLAN, 2.0, rounds=0) == 0
    assert plan_epsilon(replace(PLAN, noise_multiplier=1e-3), "prv") > 1000


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
@pytest.mark.parametrize(("rate", "steps", "epsilon"), [(1.0, 100, 6.0), (0.1, 400, 3.0), (0.05, 20, 1.0)])
def test_calibrated_noise_keeps_the_target_and_wastes_none(
    accountant: str, rate: float, steps: int, epsilon: float
) -> None:
    """ε is never above the target, and 2 % less noise would break it."""
    noise = calibrate(sample_rate=rate, steps=steps, epsilon=epsilon, delta=1e-5, accountant=accountant)
    plan = replace(PLAN, sample_rate=rate, noise_multiplier=noise, steps_per_round=steps, rounds=1)
    assert plan_epsilon(plan, accountant) <= epsilon
    assert plan_epsilon(replace(plan, noise_multiplier=noise * 0.98), accountant) > epsilon


@pytest.mark.parametrize(("rate", "steps", "epsilon"), [(1.0, 100, 6.0), (0.1, 400, 3.0)])
def test_a_study_is_never_refused_by_the_limit_that_it_keeps(rate: float, steps: int, epsilon: float) -> None:
    """Calibrated beside a limit of the study's own ε, the plan fits it; by PRV alone it would not."""
    limit = PrivacyLimit(epsilon=epsilon, delta=1e-5)
    ask = {"sample_rate": rate, "steps": steps, "epsilon": epsilon, "delta": 1e-5, "accountant": "prv"}
    plan = replace(PLAN, sample_rate=rate, steps_per_round=steps, rounds=1)
    alone, both = calibrate(**ask), calibrate(**ask, limit=limit)
    assert not limit.allows(plan_renyi(replace(plan, noise_multiplier=alone), limit.order))
    assert limit.allows(plan_renyi(replace(plan, noise_multiplier=both), limit.order))
    assert calibrate(**ask, limit=PrivacyLimit(epsilon=12 * epsilon, delta=1e-5)) == alone


def test_a_target_out_of_reach_is_refused_with_a_next_step() -> None:
    """δ so small that no noise helps by this accountant's figures."""
    with pytest.raises(PrivacyError, match=r"No noise reaches ε = 1e-09 .* Ask for fewer rounds"):
        calibrate(sample_rate=1.0, steps=1, epsilon=1e-9, delta=1e-5, accountant="rdp")


def test_a_plan_follows_from_the_study_and_the_public_size() -> None:
    """Rate and steps come from the rounded size alone; all rounds are calibrated together."""
    ask = {"epsilon": 6.0, "delta": 1e-5, "clip": 0.3, "batch_size": 64, "local_epochs": 2, "rounds": 3}
    plan = make_plan(**ask, images_per_patient=1, expected_patients=200, accountant="prv")
    assert (plan.sample_rate, plan.steps_per_round, plan.rounds, plan.steps) == (0.32, 6, 3, 18)
    assert 5.9 < plan_epsilon(plan, "prv") <= 6


@pytest.mark.parametrize(
    ("batch", "epochs", "size", "expected"),
    [(32, 1, 350, (32 / 350, 11)), (400, 3, 350, (1.0, 3)), (300, 1, 350, (300 / 350, 1))],
)
def test_a_round_has_steps_for_its_epochs(batch: int, epochs: int, size: int, expected: tuple[float, int]) -> None:
    """A batch as large as the site is everyone, in each step."""
    assert sampling(batch_size=batch, local_epochs=epochs, expected_patients=size) == expected


@pytest.mark.parametrize(("patients", "size"), [(1, 50), (24, 50), (74, 50), (75, 100), (124, 100), (1234, 1250)])
def test_the_public_size_is_a_multiple(patients: int, size: int) -> None:
    """Never 0, which would say that the site is small and divide by it."""
    assert rounded_size(patients, rounding=50) == size


def test_a_wrong_public_size_does_not_make_the_claim_false() -> None:
    """Plans that differ only in the public size cost the same: it is no part of what is charged.

    What is charged is, at order 2, the closed form of one sampled step, log(1 + q²(e^{1/σ²} − 1)) (Mironov et al. 2019,
    section 3.3), in which there is a rate and no number of patients. That the rate is kept for any real number of
    patients is tested where they are drawn.
    """
    one = math.log1p(PLAN.sample_rate**2 * math.expm1(PLAN.noise_multiplier**-2))
    for size in (50, 350, 10_000):
        plan = replace(PLAN, expected_patients=size)
        assert plan_renyi(plan, 2.0) == pytest.approx(plan.steps * one, rel=1e-9)
        assert plan_epsilon(plan, "prv") == plan_epsilon(PLAN, "prv")


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate": 0.0},
        {"sample_rate": 1.1},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"delta": 0.0},
        {"clip": 0.0},
        {"clip": 1e-30},
        {"clip": 9e-7},
        {"clip": 1.1e6},
        {"clip": math.nan},
        {"clip": math.inf},
        {"rounds": 0},
    ],
)
def test_a_plan_that_cannot_be_counted_is_refused(wrong: dict[str, float]) -> None:
    """A value out of its range never becomes a plan."""
    with pytest.raises(PrivacyError, match="out of its range"):
        replace(PLAN, **wrong)
