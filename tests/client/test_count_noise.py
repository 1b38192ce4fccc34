"""Noise on counts: its distribution is the one that the guarantee rests on, and each draw is reproducible."""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import chisquare

from client.count_noise import WORD_BITS, _below, _exp_coin, discrete_laplace, drawn_words, noisy_counts
from shared.errors import PrivacyError


def words(seed: int) -> Iterator[int]:
    """Give whole random numbers, the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.integers(0, 2**WORD_BITS, size=4096).tolist()


@pytest.mark.parametrize(("epsilon", "sensitivity"), [(1.0, 1), (0.5, 1), (1.0, 3), (2.5, 2)])
def test_the_noise_is_discrete_laplace(epsilon: float, sensitivity: int) -> None:
    """Its frequencies fit P(z) = (1 − r)/(1 + r) r^|z| with r = exp(−ε/Δ): neighbours differ by a factor of e^(ε/Δ)."""
    source, draws = words(1), 6000
    found = Counter(discrete_laplace(epsilon, sensitivity, source) for _ in range(draws))
    ratio = math.exp(-epsilon / sensitivity)
    most = math.floor(math.log(20 / draws * (1 + ratio) / (1 - ratio)) / math.log(ratio))
    likely = {z: (1 - ratio) / (1 + ratio) * ratio ** abs(z) for z in range(-most, most + 1)}
    expected = [draws * p for p in likely.values()] + [draws * (1 - sum(likely.values()))]
    observed = [found[z] for z in likely] + [sum(n for z, n in found.items() if z not in likely)]
    assert chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize(("numerator", "denominator"), [(0, 1), (1, 1), (1, 3), (999_999, 1_000_000)])
def test_the_coin_falls_with_an_exponential_chance(numerator: int, denominator: int) -> None:
    """Within four standard errors of exp(−n/d)."""
    source, tosses = words(2), 4000
    heads = sum(_exp_coin(numerator, denominator, source) for _ in range(tosses)) / tosses
    chance = math.exp(-numerator / denominator)
    assert abs(heads - chance) <= 4 * math.sqrt(chance * (1 - chance) / tosses)


def test_every_number_below_a_bound_is_as_likely() -> None:
    """Words above the last whole multiple are thrown away, and not folded onto the small numbers."""
    top = 2**WORD_BITS
    assert _below(3, iter([top - 1, top - 2, 4])) == 1  # 2^53 is 2 more than a multiple of 3: its last two words go
    assert _below(3, iter([top - 3])) == 2


def test_counts_get_noise_of_their_own_and_never_fall_below_zero() -> None:
    """Equal counts come out different; what would be negative is 0."""
    found = noisy_counts([100] * 50, epsilon=0.5, sensitivity=1, words=words(3))
    assert len(set(found)) > 5
    assert 98 < np.mean(found) < 102
    assert min(noisy_counts([0] * 200, epsilon=0.5, sensitivity=1, words=words(4))) == 0


def test_the_same_source_draws_the_same() -> None:
    """A release that is made again after a kill has the same noise."""
    assert noisy_counts([5, 6], epsilon=1.0, sensitivity=2, words=words(5)) == noisy_counts(
        [5, 6], epsilon=1.0, sensitivity=2, words=words(5)
    )


def test_words_come_from_uniform_numbers_without_losing_a_bit() -> None:
    """Each asking has a number of its own, so that no stream is begun twice."""
    asked = []

    def uniform(count: int, number: int) -> Iterator[float]:
        asked.append(number)
        return iter([(2**WORD_BITS - 1 - number) * 2.0**-WORD_BITS] * 2)

    source = drawn_words(uniform)
    assert [next(source) for _ in range(4)] == [2**53 - 1, 2**53 - 1, 2**53 - 2, 2**53 - 2]
    assert asked == [0, 1]


def test_an_epsilon_is_never_rounded_up() -> None:
    """Its scale is a fraction with a millionth in it: 1.0000009 is drawn as 1."""
    assert [discrete_laplace(1.0000009, 1, words(6)) for _ in range(20)] == [
        discrete_laplace(1.0, 1, words(6)) for _ in range(20)
    ]


@pytest.mark.parametrize(("epsilon", "sensitivity"), [(1e-7, 1), (1.0, 0)])
def test_what_cannot_be_noised_is_refused_with_a_next_step(epsilon: float, sensitivity: int) -> None:
    """It is neither noise without end nor no noise."""
    with pytest.raises(PrivacyError, match=r"cannot be noised .* Set \[privacy\] count_noise_epsilon"):
        discrete_laplace(epsilon, sensitivity, words(7))
