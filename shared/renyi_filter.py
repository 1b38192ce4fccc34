"""The limit on a hospital's privacy loss over studies that are chosen one after the other: a Rényi filter of one order.

The claim (Feldman and Zrnic 2021, "Individual Privacy Accounting via a Rényi Filter", fully adaptive composition and
the filter that follows from it): fix an order α > 1 and a budget B before anything is released. Let mechanism t, chosen
with all earlier outputs in view, be (α, ρ_t)-Rényi private given those outputs. If the t-th mechanism runs only where
ρ_1 + ... + ρ_t ≤ B, everything that was ever released is together (α, B)-Rényi private.

The order is a function of the limit alone, and so is B: the largest value that implies (ε, δ) at that order. An order
that is picked afterwards, as the best of several, is not covered by the theorem. Changing a limit in view of what a
study gave is not covered either.
"""

import math
from dataclasses import dataclass

ORDERS = (*map(float, range(2, 21)), 24.0, 28.0, 32.0, 40.0, 48.0, 64.0, 80.0, 96.0, 128.0, 192.0, 256.0)
"""The Rényi orders at which a plan is looked at; whole, since there the loss of sampled noise is a finite sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyLimit:
    """What a hospital allows over all studies: (ε, δ) for each patient, who is added or removed."""

    epsilon: float
    delta: float

    @property
    def order(self) -> float:
        """The filter's order: where the most loss of Gaussian noise fits, whose Rényi curve is α times a constant.

        Composed studies come near such a line, so that the order is near the best one when the budget is spent.
        """
        return max(ORDERS, key=lambda order: self._budget(order) / order)

    @property
    def budget(self) -> float:
        """The filter's budget: Rényi loss at `order` that implies (ε, δ), and no less; 0 where none does."""
        return max(0.0, self._budget(self.order))

    def allows(self, spent: float) -> bool:
        """Tell whether so much Rényi loss at `order`, all studies added, keeps the limit."""
        return spent <= self.budget

    def share(self, loss: float) -> float:
        """Tell how much of the budget a Rényi loss at `order` is; above 1 exactly where `allows` says no."""
        if self.allows(loss):
            return min(1.0, loss / self.budget) if self.budget else 0.0
        return max(math.nextafter(1.0, 2.0), loss / self.budget) if self.budget else math.inf

    def gaussian_epsilon(self, spent: float) -> float:
        """Give the ε at δ that a study of Gaussian noise without sampling may still ask for.

        Sampled plans of many steps come near it; a plan of few, rare steps may be allowed less.
        """
        return self.equivalent_epsilon(max(0.0, self.budget - spent))

    def equivalent_epsilon(self, loss: float) -> float:
        """Give the ε at δ of one study of Gaussian noise without sampling that costs just so much."""
        return gaussian_epsilon(math.sqrt(2 * loss / self.order), self.delta)

    def _budget(self, order: float) -> float:
        return self.epsilon - implied_epsilon(0.0, order=order, delta=self.delta)


def implied_epsilon(loss: float, *, order: float, delta: float) -> float:
    """Turn a Rényi loss at one order into the ε of (ε, δ) that it implies.

    Balle et al. 2020, "Hypothesis Testing Interpretations and Rényi Differential Privacy", theorem 21.
    """
    return loss + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Give the exact ε at δ of Gaussian noise whose mean moves by `mu` standard deviations with one patient.

    Balle and Wang 2018, "Improving the Gaussian Mechanism", theorem 8: δ(ε) falls in ε; found by halving, from above.
    """
    if mu == 0:
        return 0.0
    low, high = 0.0, 1.0
    while high < MOST_EPSILON and gaussian_delta(mu, high) > delta:
        high *= 2
    if high >= MOST_EPSILON:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


MOST_EPSILON = 512.0
"""Beyond it exp(ε) leaves the range of a float, and no one is protected."""


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Give δ(ε) = Φ(μ/2 − ε/μ) − exp(ε) Φ(−μ/2 − ε/μ) (Balle and Wang 2018, theorem 8)."""
    return _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu)


def pure_renyi(epsilon: float, order: float) -> float:
    """Give the Rényi loss of any mechanism that is (ε, 0)-private, such as the noise on counts.

    The worst such mechanism is randomised response: Bun and Steinke 2016, "Concentrated Differential Privacy", proof of
    proposition 3.3: log((sinh(αε) − sinh((α − 1)ε)) / sinh ε) / (α − 1).
    """
    if epsilon == 0:
        return 0.0
    # (e^{αε} + e^{(1−α)ε + ...}) is written in logs, so that nothing overflows: p e^{(α−1)ε} + (1−p) e^{−(α−1)ε}
    # with p = e^ε / (1 + e^ε), which is the same (randomised response).
    likely = -math.log1p(math.exp(-epsilon))
    grows, falls = likely + (order - 1) * epsilon, likely - epsilon - (order - 1) * epsilon
    return (grows + math.log1p(math.exp(falls - grows))) / (order - 1)


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
