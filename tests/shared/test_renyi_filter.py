"""The filter over studies: its figures agree with another library, and its limit holds."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, LaplaceDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant, compute_epsilon

from shared.renyi_filter import (
    MOST_EPSILON,
    ORDERS,
    PrivacyLimit,
    gaussian_delta,
    gaussian_epsilon,
    implied_epsilon,
    pure_renyi,
)

LIMITS = [
    PrivacyLimit(epsilon=epsilon, delta=delta) for epsilon in (0.5, 1.0, 6.0, 10.0) for delta in (1e-3, 1e-5, 1e-8)
]


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_the_budget_implies_the_limit_and_no_more(limit: PrivacyLimit) -> None:
    """Another library turns the whole budget, at the filter's order, into just the limit's ε."""
    epsilon, _ = compute_epsilon([limit.order], [limit.budget], limit.delta)
    assert epsilon == pytest.approx(limit.epsilon, rel=1e-9)
    assert limit.allows(limit.budget)
    assert not limit.allows(limit.budget * 1.0001)


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_gaussian_studies_that_fill_the_budget_keep_the_limit(limit: PrivacyLimit) -> None:
    """The exact ε of Gaussian noise that uses all of it is below the limit, and within a fifth of it."""
    mu = math.sqrt(2 * limit.budget / limit.order)
    truth = PLDAccountant(value_discretization_interval=1e-3).compose(GaussianDpEvent(1 / mu)).get_epsilon(limit.delta)
    assert 0.8 * limit.epsilon < truth <= limit.epsilon
    assert limit.gaussian_epsilon(0.0) == pytest.approx(truth, abs=2e-3)
    assert limit.gaussian_epsilon(limit.budget) == limit.gaussian_epsilon(limit.budget * 2) == 0


def test_the_order_depends_on_the_limit_alone_and_is_the_best_for_gaussian_noise() -> None:
    """No other order of the grid would let more Gaussian noise's loss through."""
    for limit in LIMITS:
        per_order = [(limit.epsilon - implied_epsilon(0.0, order=o, delta=limit.delta)) / o for o in ORDERS]
        assert limit.order == ORDERS[int(np.argmax(per_order))]


def test_a_limit_that_nothing_keeps_allows_nothing() -> None:
    """An ε too small for its δ has no budget, and not a negative one."""
    limit = PrivacyLimit(epsilon=1e-6, delta=1e-9)
    assert limit.budget == 0
    assert not limit.allows(1e-9)


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.309, 4.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_the_epsilon_of_gaussian_noise_is_exact(mu: float, delta: float) -> None:
    """It agrees with the distribution of the loss by PLD, and gives δ back."""
    found = gaussian_epsilon(mu, delta)
    truth = PLDAccountant(value_discretization_interval=1e-3).compose(GaussianDpEvent(1 / mu)).get_epsilon(delta)
    assert found == pytest.approx(truth, abs=1e-3)
    assert gaussian_delta(mu, found) == pytest.approx(delta, rel=1e-4)


def test_gaussian_noise_at_the_ends_of_the_scale() -> None:
    """Infinite noise costs nothing; next to none protects nobody, and overflows nothing."""
    assert gaussian_epsilon(0.0, 1e-5) == 0
    assert gaussian_epsilon(1e-6, 1e-5) < 1e-6
    assert gaussian_epsilon(100.0, 1e-5) == math.inf
    assert gaussian_delta(1.0, MOST_EPSILON) >= 0


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("order", [1.25, 2.0, 7.0, 64.0])
def test_the_loss_of_pure_privacy_is_that_of_randomised_response(epsilon: float, order: float) -> None:
    """Written out as a sum over the two answers; never above ε, nor above Laplace noise's bound inverted."""
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    total = p**order * (1 - p) ** (1 - order) + (1 - p) ** order * p ** (1 - order)
    assert pure_renyi(epsilon, order) == pytest.approx(math.log(total) / (order - 1), rel=1e-9)
    assert pure_renyi(epsilon, order) <= min(epsilon, order * epsilon**2 / 2) + 1e-12
    assert pure_renyi(0.0, order) == 0


def test_pure_privacy_overflows_nothing() -> None:
    """A large ε at a large order is ε itself."""
    assert pure_renyi(50.0, 256.0) == pytest.approx(50.0, rel=0.01)


def test_laplace_noise_costs_no_more_than_the_worst_pure_mechanism() -> None:
    """Another library's Rényi loss of Laplace noise is below the bound at every order of the grid."""
    other = RdpAccountant(list(ORDERS)).compose(LaplaceDpEvent(1 / 0.7))
    assert all(theirs <= pure_renyi(0.7, o) + 1e-9 for theirs, o in zip(other._rdp, ORDERS, strict=True))
