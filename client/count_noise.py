"""Discrete Laplace noise on counts, drawn exactly from whole random numbers, so that no float's gap gives a count away.

Noise Z with P(Z = z) in proportion to exp(−|z| ε / Δ) makes counts (ε, 0)-private where one patient changes them by Δ
in all (Ghosh, Roughgarden and Sundararajan 2012, "Universally Utility-Maximizing Privacy Mechanisms"). It is drawn as
by Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", algorithms 1 and 2: with coins
of rational bias alone.
"""

from collections.abc import Callable, Iterator, Sequence

from shared.errors import PrivacyError

WORD_BITS = 53
"""Bits of one word of the random source: as many as `SecretStreams.uniform` draws."""

_PARTS = 1_000_000
"""ε is rounded down to a whole number of these parts of 1, so that it is a fraction; never up."""

_AT_ONCE = 4096


def noisy_counts(counts: Sequence[int], *, epsilon: float, sensitivity: int, words: Iterator[int]) -> list[int]:
    """Add noise to each count, and give 0 for what falls below it: what a patient may learn of by ε, and no more.

    `sensitivity` is the most by which one patient, added or removed, changes the counts in all. Counts that are cut off
    at 0 are a little too large on average, where they are small beside the noise; cutting costs no privacy.

    Raises:
        PrivacyError: ε is so small that no count would be left to see.
    """
    return [max(0, count + discrete_laplace(epsilon, sensitivity, words)) for count in counts]


def discrete_laplace(epsilon: float, sensitivity: int, words: Iterator[int]) -> int:
    """Draw one number Z with P(Z = z) in proportion to exp(−|z| ε / sensitivity).

    Raises:
        PrivacyError: ε is below a millionth.
    """
    parts, whole = int(epsilon * _PARTS), sensitivity * _PARTS  # the scale is whole / parts
    if parts < 1 or sensitivity < 1:
        raise PrivacyError(
            f"Counts cannot be noised for ε = {epsilon:g} and a patient who changes them by {sensitivity}. Set "
            "[privacy] count_noise_epsilon to 0.000001 or more, or to 0."
        )
    while True:
        low = _below(whole, words)
        if not _exp_coin(low, whole, words):
            continue
        high = 0
        while _exp_coin(1, 1, words):
            high += 1
        size = (low + whole * high) // parts
        negative = _below(2, words) == 1
        if not (negative and size == 0):  # else 0 would come twice as often
            return -size if negative else size


def drawn_words(uniform: Callable[[int, int], Iterator[float]]) -> Iterator[int]:
    """Turn a source of multiples of 2^-53 in [0, 1), asked for so many and by the number of the asking, into words."""
    asked = 0
    while True:
        yield from (int(number * 2**WORD_BITS) for number in uniform(_AT_ONCE, asked))
        asked += 1


def _exp_coin(numerator: int, denominator: int, words: Iterator[int]) -> bool:
    """Toss a coin that is True with probability exp(−numerator / denominator), a fraction up to 1 (algorithm 1)."""
    tosses = 1
    while _below(denominator * tosses, words) < numerator:
        tosses += 1
    return tosses % 2 == 1


def _below(bound: int, words: Iterator[int]) -> int:
    """Draw a whole number of [0, bound), each as likely: words above the last whole multiple are thrown away."""
    most = 2**WORD_BITS - 2**WORD_BITS % bound
    while (word := next(words)) >= most:
        pass
    return word % bound
