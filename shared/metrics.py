"""Mergeable evaluation counts and score histograms, and metrics computed from them.

A site makes them from its own units; adding them up over sites gives what one site with all units would have made.
What cannot be computed is None, never NaN and never 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

from shared.scores import Floats, Integers, ScoredUnits, bin_middles, score_bins


class Undefined(StrEnum):
    """Why a number is None."""

    NO_POSITIVES = "no_positives"
    NO_NEGATIVES = "no_negatives"
    NO_EXAMS = "no_exams"
    TOO_FEW_SITES = "too_few_sites"


def undefined(*, positives: int, negatives: int) -> Undefined | None:
    """Name the class without units; None where both have some, so that sensitivity, specificity and AUC exist."""
    match (positives > 0, negatives > 0):
        case (True, True):
            return None
        case (False, True):
            return Undefined.NO_POSITIVES
        case (True, False):
            return Undefined.NO_NEGATIVES
        case _:
            return Undefined.NO_EXAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """k of n units, and the interval of what k / n estimates."""

    value: float
    low: float
    high: float
    k: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """k of n units, with what their repetition within patients does to the variance of k / n.

    `design_effect` is that variance divided by the one that n independent units would have; at least 1, and 1 where
    no patient has two units.
    """

    k: int
    n: int
    design_effect: float = 1.0

    def __add__(self, other: Self) -> Self:
        """Merge counts of different patients; design effects by n, as in a sample stratified by site."""
        n = self.n + other.n
        weighted = self.n * self.design_effect + other.n * other.design_effect
        return type(self)(k=self.k + other.k, n=n, design_effect=weighted / n if n else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Units called positive and negative at one threshold; the design effects are those of `Count`."""

    tp: int
    fp: int
    tn: int
    fn: int
    positives_design_effect: float = 1.0
    negatives_design_effect: float = 1.0

    @property
    def ppv(self) -> Count:
        """Units called positive that are."""
        return Count(k=self.tp, n=self.tp + self.fp)

    @property
    def npv(self) -> Count:
        """Units called negative that are."""
        return Count(k=self.tn, n=self.tn + self.fn)

    @property
    def sensitivity(self) -> Count:
        """Positives that were called positive."""
        return Count(k=self.tp, n=self.tp + self.fn, design_effect=self.positives_design_effect)

    @property
    def specificity(self) -> Count:
        """Negatives that were called negative."""
        return Count(k=self.tn, n=self.tn + self.fp, design_effect=self.negatives_design_effect)

    def __add__(self, other: Self) -> Self:
        """Merge the counts of different patients."""
        return type(self)(
            tp=self.tp + other.tp,
            fp=self.fp + other.fp,
            tn=self.tn + other.tn,
            fn=self.fn + other.fn,
            positives_design_effect=(self.sensitivity + other.sensitivity).design_effect,
            negatives_design_effect=(self.specificity + other.specificity).design_effect,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedAuc:
    """AUC from score bins, where the order within a bin is lost: `value` counts a tie as half, the bounds as 0 and 1.

    The AUC of the exact scores is never outside the bounds.
    """

    value: float
    lower: float
    upper: float


MOST_LAID_OUT = 1_000_000
"""Units that a histogram is laid out as, at most, whatever it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreHistogram:
    """How many positive and negative units each score bin holds; the bins are those of `score_bins`."""

    positives: tuple[int, ...]
    negatives: tuple[int, ...]

    def __add__(self, other: Self) -> Self:
        """Merge the counts of different units.

        Raises:
            ValueError: the histograms have different numbers of bins.
        """
        return type(self)(
            positives=tuple(a + b for a, b in zip(self.positives, other.positives, strict=True)),
            negatives=tuple(a + b for a, b in zip(self.negatives, other.negatives, strict=True)),
        )

    @property
    def n_pos(self) -> int:
        """Positive units."""
        return sum(self.positives)

    @property
    def n_neg(self) -> int:
        """Negative units."""
        return sum(self.negatives)

    def units(self) -> ScoredUnits:
        """Lay the counts out as units, each with its bin's middle score on the logit scale and a patient of its own.

        More than MOST_LAID_OUT units are laid out as so many, in proportion: no figure of a report changes in a digit
        that is shown, and an interval becomes wider.
        """
        positives, negatives = _in_proportion(self.positives, self.negatives, most=MOST_LAID_OUT)
        middles = 1 / (1 + np.exp(-bin_middles(bins=len(self.positives))))
        scores = np.concatenate((np.repeat(middles, positives), np.repeat(middles, negatives)))
        return ScoredUnits(
            scores_M=scores, positive_M=np.arange(scores.size) < sum(positives), patients_M=np.arange(scores.size)
        )

    def at_bin(self, place: int) -> Confusion:
        """Count with the lower edge of this bin as the threshold."""
        tp, fp = sum(self.positives[place:]), sum(self.negatives[place:])
        return Confusion(tp=tp, fp=fp, fn=self.n_pos - tp, tn=self.n_neg - fp)

    def auc(self) -> BinnedAuc | None:
        """Compute the AUC with its tie bounds; None where a class has no unit (`undefined` says which)."""
        pairs = self.n_pos * self.n_neg
        if not pairs:
            return None
        # Whole numbers of any length up to the one division: rounding never lets the exact AUC slip out of the bounds.
        below = (0, *accumulate(self.negatives))
        won = sum(k * lower for k, lower in zip(self.positives, below, strict=False))
        tied = sum(k * same for k, same in zip(self.positives, self.negatives, strict=True))
        return BinnedAuc(value=(2 * won + tied) / (2 * pairs), lower=won / pairs, upper=(won + tied) / pairs)

    def roc(self) -> tuple[Floats, Floats] | None:
        """Give the false and true positive rates from (0, 0) to (1, 1); None where a class has no unit.

        A threshold above all scores comes first, then every bin's lower edge from the highest down.
        """
        if not self.n_pos or not self.n_neg:
            return None
        false_positives = np.cumsum((0, *reversed(self.negatives)))
        true_positives = np.cumsum((0, *reversed(self.positives)))
        return false_positives / self.n_neg, true_positives / self.n_pos


def _in_proportion(*classes: Sequence[int], most: int) -> list[Sequence[int]]:
    """Scale counts down to `most` in all, each class rounded along its cumulated counts; a class does not vanish."""
    total = sum(map(sum, classes))
    if total <= most:
        return list(classes)
    found: list[Sequence[int]] = []
    for counts in classes:
        up_to = [(one * most + total // 2) // total for one in accumulate(counts, initial=0)]
        scaled = [after - before for before, after in pairwise(up_to)]
        if any(counts) and not any(scaled):
            scaled[max(range(len(counts)), key=counts.__getitem__)] = 1
        found.append(scaled)
    return found


def histogram(units: ScoredUnits, *, bins: int) -> ScoreHistogram:
    """Count units by class and score bin."""
    binned = score_bins(units.scores_M, bins=bins)
    positives = np.bincount(binned[units.positive_M], minlength=bins)
    negatives = np.bincount(binned[~units.positive_M], minlength=bins)
    return ScoreHistogram(positives=tuple(positives.tolist()), negatives=tuple(negatives.tolist()))


def confusion(units: ScoredUnits, *, threshold: float) -> Confusion:
    """Count units by class and call; a unit is called positive where its score >= threshold.

    At a threshold of `lower_edges` the counts equal those of the histogram, unit by unit.
    """
    correct = (units.scores_M >= threshold) == units.positive_M
    of_positives, of_negatives = (
        correct_of(correct[chosen], units.patients_M[chosen]) for chosen in (units.positive_M, ~units.positive_M)
    )
    return Confusion(
        tp=of_positives.k,
        fn=of_positives.n - of_positives.k,
        tn=of_negatives.k,
        fp=of_negatives.n - of_negatives.k,
        positives_design_effect=of_positives.design_effect,
        negatives_design_effect=of_negatives.design_effect,
    )


def predictive_design_effects(units: ScoredUnits, *, threshold: float) -> tuple[float, float]:
    """Give the design effects among the units called positive and among those called negative; 1 where there are none.

    The first is that of the positive predictive value, the second that of the negative one.
    """
    called_M = units.scores_M >= threshold
    correct_M = called_M == units.positive_M
    called, cleared = (
        correct_of(correct_M[chosen], units.patients_M[chosen]).design_effect if chosen.any() else 1.0
        for chosen in (called_M, ~called_M)
    )
    return called, cleared


def brier(units: ScoredUnits) -> float | None:
    """Compute the mean squared difference of score and truth (Brier 1950); None without units."""
    if not units.scores_M.size:
        return None
    return float(np.mean((units.scores_M - units.positive_M) ** 2))


def full_repetition(patients_M: Integers) -> float:
    """Give the design effect if a patient's units were all alike: sum(m^2) / sum(m), m units a patient (Kish 1965)."""
    _, units = np.unique(patients_M, return_counts=True)
    return float(units @ units / units.sum())


def most_repetition(units: int) -> float:
    """Give the largest design effect that `correct_of` can find among so many units.

    With r the residuals of c clusters of m units, sum(r²) <= max|r| sum|r| <= max(m) 2 n s(1 - s), and so the effect is
    at most 2 c/(c - 1) max(m) <= 4 n.
    """
    return max(1.0, 4.0 * units)


def correct_of(correct_M: npt.NDArray[np.bool_], patients_M: Integers) -> Count:
    """Count, with the design effect of Rao and Scott (Biometrics 1992;48:577), sec. 2, never below 1.

    It is exactly 1 where no patient has two units. Where all units agree, or all are one patient's, nothing can be
    learnt of their likeness within patients, and the most is assumed.
    """
    k, n = int(np.count_nonzero(correct_M)), correct_M.size
    _, cluster, units = np.unique(patients_M, return_inverse=True, return_counts=True)
    if units.size == n:
        return Count(k=k, n=n)
    if k in (0, n) or units.size == 1:
        return Count(k=k, n=n, design_effect=full_repetition(patients_M))
    share, clusters = k / n, units.size
    residuals = np.bincount(cluster, weights=correct_M) - share * units
    clustered = clusters / (clusters - 1) * (residuals @ residuals) / n**2
    independent = share * (1 - share) / (n - 1)
    return Count(k=k, n=n, design_effect=max(1.0, float(clustered / independent)))
