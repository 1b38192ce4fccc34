"""A study's privacy plan and what it costs, composed by Opacus' accountants; pure, and fixed before round 1."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from shared.errors import PrivacyError
from shared.private_study import LEAST_CLIP, MOST_CLIP
from shared.renyi_filter import ORDERS, PrivacyLimit, gaussian_epsilon

Accountant = Literal["prv", "rdp"]
"""How a plan's ε is computed: numerically (Gopi et al. 2021), or from its Rényi curve (Mironov et al. 2019)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """What DP-SGD does at one site in one study, to the last step: decided before round 1, and never changed.

    Each step takes each training patient with probability `sample_rate`, clips what the patient adds to L2 norm `clip`,
    and adds Gaussian noise of standard deviation `noise_multiplier` × `clip` to the sum. That is all that the ε rests
    on, for the adjacency "a patient is added or removed".

    `expected_patients` is the site's public, rounded size. It sets the rate once, before round 1, and stands in
    denominators. Each patient is taken with exactly that rate however many patients there really are, so that an ε is
    true where the public size is wrong; the update is then a little too large or too small, no more.
    """

    sample_rate: float
    noise_multiplier: float
    steps_per_round: int
    rounds: int
    delta: float
    clip: float
    images_per_patient: int
    expected_patients: int

    LEAST_CLIP: ClassVar[float] = LEAST_CLIP
    MOST_CLIP: ClassVar[float] = MOST_CLIP

    def __post_init__(self) -> None:
        """Refuse what no accountant could count.

        Raises:
            PrivacyError: a value is out of its range.
        """
        whole = (self.steps_per_round, self.rounds, self.images_per_patient, self.expected_patients)
        if not (
            0 < self.sample_rate <= 1
            and 0 <= self.noise_multiplier < math.inf
            and 0 < self.delta < 1
            and self.LEAST_CLIP <= self.clip <= self.MOST_CLIP
            and min(whole) >= 1
        ):
            raise PrivacyError(
                "A privacy plan has a value out of its range (rate in (0, 1], noise from 0 on, δ in (0, 1), a clip "
                f"from {LEAST_CLIP:g} to {MOST_CLIP:g}, whole numbers from 1 on). Correct [privacy] in the study."
            )

    @property
    def steps(self) -> int:
        """Number of steps of all planned rounds."""
        return self.steps_per_round * self.rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerPlan(PrivacyPlan):
    """A plan of an earlier version, with a clip that fp32 does not keep to: it is counted, and no round is trained."""

    LEAST_CLIP: ClassVar[float] = math.nextafter(0, 1)
    MOST_CLIP: ClassVar[float] = math.nextafter(math.inf, 0)


def rounded_size(patients: int, *, rounding: int) -> int:
    """Round a number of training patients to the public size: the nearest multiple, and one multiple at least."""
    return max(1, (patients + rounding // 2) // rounding) * rounding


def sampling(*, batch_size: int, local_epochs: int, expected_patients: int) -> tuple[float, int]:
    """Give the sample rate, and the steps of a round in which a patient is expected `local_epochs` times."""
    rate = min(1.0, batch_size / expected_patients)
    return rate, max(1, round(local_epochs / rate))


def make_plan(
    *,
    epsilon: float,
    delta: float,
    clip: float,
    batch_size: int,
    local_epochs: int,
    rounds: int,
    images_per_patient: int,
    expected_patients: int,
    accountant: Accountant,
    limit: PrivacyLimit | None = None,
) -> PrivacyPlan:
    """Derive a site's whole plan from what the study declares and the site's public size; the noise is calibrated.

    `limit` is the hospital's, over all studies: the noise is raised until a study that asks for no more than the limit
    fits it (see `calibrate`).

    Raises:
        PrivacyError: no noise keeps the target.
    """
    rate, steps = sampling(batch_size=batch_size, local_epochs=local_epochs, expected_patients=expected_patients)
    return PrivacyPlan(
        sample_rate=rate,
        noise_multiplier=calibrate(
            sample_rate=rate,
            steps=steps * rounds,
            epsilon=epsilon,
            delta=delta,
            accountant=accountant,
            limit=limit,
        ),
        steps_per_round=steps,
        rounds=rounds,
        delta=delta,
        clip=clip,
        images_per_patient=images_per_patient,
        expected_patients=expected_patients,
    )


def plan_epsilon(plan: PrivacyPlan, accountant: Accountant, *, rounds: int | None = None) -> float:
    """Give an upper bound of the plan's ε at its own δ, over all planned rounds or the first few; inf without noise."""
    steps = plan.steps_per_round * (plan.rounds if rounds is None else rounds)
    return _epsilon(plan.sample_rate, plan.noise_multiplier, steps, plan.delta, accountant)


def plan_renyi(plan: PrivacyPlan, order: float, *, rounds: int | None = None) -> float:
    """Give the plan's Rényi loss at one order, over all planned rounds or as many as were run."""
    steps = plan.steps_per_round * (plan.rounds if rounds is None else rounds)
    return renyi(plan.sample_rate, plan.noise_multiplier, steps, order)


def calibrate(
    *,
    sample_rate: float,
    steps: int,
    epsilon: float,
    delta: float,
    accountant: Accountant,
    limit: PrivacyLimit | None = None,
) -> float:
    """Find the least noise multiplier, rounded up, with which all steps together stay within (ε, δ).

    A hospital's limit over all studies is kept in Rényi terms, which read a little higher than PRV. So that a study
    that asks for no more than the limit is never refused by it, the noise is also enough for the limit's filter: such a
    study fits an untouched ledger. Where the limit has room to spare, that changes nothing.

    Raises:
        PrivacyError: the target cannot be reached with any noise.
    """

    def cost(noise: float) -> float:
        """Give the larger of the shares of the target and of the limit that so much noise uses up; at most 1 fits."""
        of_target = _epsilon(sample_rate, noise, steps, delta, accountant) / epsilon
        if limit is None or epsilon > limit.epsilon:
            return of_target
        return max(of_target, limit.share(renyi(sample_rate, noise, steps, limit.order)))

    high = _enough_by_renyi(sample_rate, steps, epsilon, delta)
    while (high_cost := cost(high)) > 1:
        high *= 1.25
        if high > MOST_NOISE:
            raise PrivacyError(
                f"No noise reaches ε = {epsilon:g} at δ = {delta:g} over {steps:,} steps. Ask for fewer rounds, or for "
                "a larger ε in [privacy]."
            )
    return _rounded_up(_least(cost, high, high_cost), cost)


def renyi(sample_rate: float, noise_multiplier: float, steps: int, order: float) -> float:
    """Give the Rényi loss at one order of Gaussian noise on a Poisson sample (Mironov, Talwar and Zhang 2019)."""
    from opacus.accountants.analysis.rdp import compute_rdp  # here, because it imports all of Opacus, for seconds

    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    return float(compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=steps, orders=float(order)))


def _epsilon(sample_rate: float, noise: float, steps: int, delta: float, accountant: Accountant) -> float:
    """Bound ε; PRV is taken where it is lower than the Rényi bound, which holds as well."""
    if steps == 0:
        return 0.0
    if noise == 0:
        return math.inf
    by_renyi = _renyi_epsilon(sample_rate, noise, steps, delta)
    if accountant == "rdp" or by_renyi > MOST_PRV_EPSILON:
        return by_renyi
    if sample_rate == 1:
        # Without sampling the sum of all steps is one Gaussian mechanism: exact, and no grid is needed.
        return gaussian_epsilon(math.sqrt(steps) / noise, delta)
    return min(by_renyi, _prv_epsilon(sample_rate, noise, steps, delta))


def _renyi_epsilon(sample_rate: float, noise: float, steps: int, delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent  # here, because it imports all of Opacus, for seconds

    losses = [renyi(sample_rate, noise, steps, order) for order in ORDERS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the grid's last: the bound holds at any order
        epsilon, _ = get_privacy_spent(orders=list(ORDERS), rdp=losses, delta=delta)
    return max(0.0, float(epsilon))


@lru_cache(maxsize=4096)
def _prv_epsilon(sample_rate: float, noise: float, steps: int, delta: float) -> float:
    """Give Opacus' upper bound by privacy loss random variables; inf where its grid is not fine enough to tell."""
    from opacus.accountants import PRVAccountant  # here, because it imports all of Opacus, for seconds

    accountant = PRVAccountant()
    accountant.history = [(noise, sample_rate, steps)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            epsilon = float(accountant.get_epsilon(delta, eps_error=PRV_ERROR))
        except (RuntimeError, ValueError):  # what Opacus raises where the grid is too coarse
            return math.inf
    return epsilon if math.isfinite(epsilon) else math.inf


MOST_PRV_EPSILON = 100.0
"""Above it the grid of PRV needs more memory than the figure is worth."""

PRV_ERROR = 0.01
"""What PRV adds to ε for its grid (Gopi et al. 2021); Opacus' own choice."""

LEAST_NOISE, MOST_NOISE = 0.01, 1e6

PRECISION = 5e-4
"""Relative: what of the target may be left unused; the noise is found from above."""


def _least(cost: Callable[[float], float], high: float, high_cost: float) -> float:
    """Find the least noise that costs at most 1, from one that does, in few steps: an accountant is slow to ask.

    Costs fall with noise much like a power of it, so that each step goes where the line through the last two, in
    logarithms, reaches the middle of what is precise enough; never out of the bracket, and halving it where it fails.
    """
    low, low_cost = high, high_cost
    while low_cost <= 1 and low > LEAST_NOISE:
        high, high_cost = low, low_cost
        if high_cost >= 1 - PRECISION:
            return high
        low = high * max(0.5, min(0.97, high_cost**0.9 * 0.995))
        low_cost = cost(low)
    if low_cost <= 1:
        return low
    while high - low > PRECISION / 4 * high and high_cost < 1 - PRECISION:
        slope = math.log(low_cost / high_cost) / math.log(high / low)
        aim = low * (low_cost / (1 - PRECISION / 2)) ** (1 / slope) if 0 < slope < math.inf else 0.0
        middle = aim if low < aim < high else (low + high) / 2
        found = cost(middle)
        if found > 1:
            low, low_cost = middle, found
        else:
            high, high_cost = middle, found
    return high


def _rounded_up(noise: float, cost: Callable[[float], float]) -> float:
    """Round to four decimals upwards; numerical accountants waver in the last digits, so it is checked again."""
    rounded = math.ceil(noise * 1e4) / 1e4
    while cost(rounded) > 1:
        rounded = round(rounded + 1e-4, 4)
    return rounded


def _enough_by_renyi(sample_rate: float, steps: int, epsilon: float, delta: float) -> float:
    """Find a noise that is enough by the Rényi curve, which is quick; PRV needs a little less."""
    low, high = LEAST_NOISE, 1.0
    while _epsilon(sample_rate, high, steps, delta, "rdp") > epsilon and high < MOST_NOISE:
        low, high = high, high * 2
    while high - low > 0.02 * high:
        middle = (low + high) / 2
        enough = _epsilon(sample_rate, middle, steps, delta, "rdp") <= epsilon
        low, high = (low, middle) if enough else (middle, high)
    return high
