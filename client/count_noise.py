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
    """Add noise to each count of a histogram, and give the nearest counts from 0 on that have the noised total.

    `sensitivity` is the most by which one patient, added or removed, changes all that is noised for this ε. Cut off
    at 0 one by one, many near-empty bins would add up to patients who are not there; so what is cut off is taken from
    the others (see `nearest_counts`). That looks at noised counts alone, and costs no privacy.

    Raises:
        PrivacyError: ε is so small that no count would be left to see.
    """
    return nearest_counts([count + discrete_laplace(epsilon, sensitivity, words) for count in counts])


def nearest_counts(noised: Sequence[int]) -> list[int]:
    """Give whole numbers from 0 on with the same total, as near as can be; all 0 where that total is below 0.

    The least squares solution lowers all by one amount and cuts off at 0 (Duchi et al. 2008, "Efficient Projections
    onto the l1-Ball", figure 1). Its fractions go to the bins that are owed most, the earlier of equals first.
    """
    total = max(0, sum(noised))
    if not total:
        return [0] * len(noised)
    running, lowered = 0, 0.0
    for place, value in enumerate(sorted(noised, reverse=True), start=1):
        running += value
        if value <= (running - total) / place:
            break
        lowered = (running - total) / place
    wanted = [max(0.0, value - lowered) for value in noised]
    counts = [int(value) for value in wanted]
    owed = sorted(range(len(noised)), key=lambda place: counts[place] - wanted[place])
    for place in owed[: total - sum(counts)]:
        counts[place] += 1
    return counts


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
