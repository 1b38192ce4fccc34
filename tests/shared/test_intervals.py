"""Intervals agree with independent implementations, and cover what they promise at small n."""

from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from shared.intervals import Auc, auc, binned_auc, clopper_pearson, clopper_pearson_p, newcombe, wilson, wilson_p
from shared.metrics import Count, Proportion, ScoreHistogram, confusion
from shared.scores import ScoredUnits

Z = float(norm.ppf(0.975))


def units_of(positives: np.ndarray, negatives: np.ndarray, patients: np.ndarray | None = None) -> ScoredUnits:
    scores = np.concatenate((positives, negatives)).astype(np.float64)
    owners = np.arange(scores.size) if patients is None else patients
    return ScoredUnits(scores_M=scores, positive_M=np.arange(scores.size) < len(positives), patients_M=owners)


def auc_of(units: ScoredUnits, confidence: float = 0.95) -> Auc:
    found = auc(units, confidence=confidence)
    assert found
    return found


def wilson_of(count: Count, confidence: float = 0.95) -> Proportion:
    found = wilson(count, confidence=confidence)
    assert found
    return found


def wins(positive: float, negative: float) -> float:
    return float(positive > negative) + 0.5 * float(positive == negative)


def obuchowski(units: ScoredUnits) -> float:
    """Obuchowski 1997, eq. 3 to 6, as printed: loops over patients, O(n m)."""
    pairs = list(zip(units.scores_M, units.positive_M, units.patients_M, strict=True))
    positives = [(score, owner) for score, truth, owner in pairs if truth]
    negatives = [(score, owner) for score, truth, owner in pairs if not truth]
    m, n = len(positives), len(negatives)
    value = sum(wins(x, y) for x, _ in positives for y, _ in negatives) / (m * n)
    x_components: dict[int, list[float]] = {}
    y_components: dict[int, list[float]] = {}
    for x, owner in positives:
        x_components.setdefault(owner, []).append(sum(wins(x, y) for y, _ in negatives) / n)
    for y, owner in negatives:
        y_components.setdefault(owner, []).append(sum(wins(x, y) for x, _ in positives) / m)

    def off(components: dict[int, list[float]], owner: int) -> float:
        mine = components.get(owner, [])
        return sum(mine) - len(mine) * value

    i10, i01, owners = len(x_components), len(y_components), set(x_components) | set(y_components)
    s10 = i10 / ((i10 - 1) * m) * sum(off(x_components, owner) ** 2 for owner in x_components)
    s01 = i01 / ((i01 - 1) * n) * sum(off(y_components, owner) ** 2 for owner in y_components)
    s11 = len(owners) / (len(owners) - 1) * sum(off(x_components, o) * off(y_components, o) for o in owners)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def delong(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """DeLong 1988: the sample variances of the structural components, O(n m)."""
    won = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    v10, v01 = won.mean(axis=1), won.mean(axis=0)
    return float(won.mean()), float(v10.var(ddof=1) / len(positives) + v01.var(ddof=1) / len(negatives))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (27, 30), (1, 7), (950, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_that_of_statsmodels(k: int, n: int, confidence: float) -> None:
    """The interval is that of statsmodels, at 0 and n too, where the value itself is an end."""
    low, high = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    found = wilson_of(Count(k=k, n=n), confidence)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert (found.value, found.k, found.n) == (k / n, k, n)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_proportion_of_nothing_is_undefined() -> None:
    """0 of 0 has no interval, and no difference from anything."""
    assert wilson(Count(k=0, n=0), confidence=0.95) is None
    assert newcombe(Count(k=0, n=0), Count(k=1, n=2), confidence=0.95) is None
    assert newcombe(Count(k=1, n=2), Count(k=0, n=0), confidence=0.95) is None


def test_wilson_coverage_at_thirty() -> None:
    """At n = 30 the exact coverage is .974 at p = .9 and about .84 at worst, as Wilson's interval has it."""
    intervals = [wilson_of(Count(k=k, n=30)) for k in range(31)]

    def coverage(p: float) -> float:
        held = [k for k, one in enumerate(intervals) if one.low <= p <= one.high]
        return sum(comb(30, k) * p**k * (1 - p) ** (30 - k) for k in held)

    assert coverage(0.9) == pytest.approx(0.974, abs=0.001)
    assert min(coverage(p) for p in np.linspace(0.8, 0.999, 2000)) == pytest.approx(0.84, abs=0.01)


def test_wilson_divides_n_by_the_design_effect() -> None:
    """With a design effect of 2, 54 of 60 has the interval of 27 of 30 and still says 54 of 60."""
    wide, plain = wilson_of(Count(k=54, n=60, design_effect=2.0)), wilson_of(Count(k=27, n=30))
    assert (wide.low, wide.high) == pytest.approx((plain.low, plain.high))
    assert (wide.k, wide.n) == (54, 60)


def test_wilson_covers_where_exams_repeat() -> None:
    """With 40 patients of 3 exams, alike within a patient, the adjusted interval covers .92; the plain one fails."""
    rng = np.random.default_rng(1922)
    patients, held, held_plainly = np.repeat(np.arange(40), 3), [], []
    for _ in range(1500):
        ability = rng.beta(0.85 * 0.25, 0.15 * 0.25, 40)
        scores = np.repeat(0.0, 120) + (rng.random(120) < np.repeat(ability, 3))
        units = ScoredUnits(scores_M=scores, positive_M=patients >= 0, patients_M=patients)
        found = confusion(units, threshold=0.5).sensitivity
        adjusted, plain = wilson_of(found), wilson_of(Count(k=found.k, n=found.n))
        held.append(adjusted.low <= 0.85 <= adjusted.high)
        held_plainly.append(plain.low <= 0.85 <= plain.high)
    assert np.mean(held) > 0.92
    assert np.mean(held_plainly) < 0.87


@pytest.mark.parametrize(
    ("a", "b"), [((56, 70), (48, 80)), ((9, 10), (3, 10)), ((10, 10), (0, 20)), ((0, 10), (0, 20))]
)
def test_newcombe_is_that_of_statsmodels(a: tuple[int, int], b: tuple[int, int]) -> None:
    """The interval of a difference is that of statsmodels' 'newcomb'; the first is in Newcombe's own table II."""
    low, high = confint_proportions_2indep(*a, *b, method="newcomb", compare="diff", alpha=0.05)
    found = newcombe(Count(k=a[0], n=a[1]), Count(k=b[0], n=b[1]), confidence=0.95)
    assert found
    assert found.value == pytest.approx(a[0] / a[1] - b[0] / b[1])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    if a == (56, 70):
        assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("seed", range(6))
def test_auc_and_variance_are_delongs(seed: int) -> None:
    """AUC and variance equal scikit-learn's and a direct DeLong, with ties, where each patient has one exam."""
    rng = np.random.default_rng(seed)
    positives, negatives = rng.normal(1, 1, 23).round(1), rng.normal(0, 1, 31).round(1)
    found = auc_of(units_of(positives, negatives))
    value, variance = delong(positives, negatives)
    assert found.value == pytest.approx(value, abs=1e-14)
    assert found.value == pytest.approx(roc_auc_score([1] * 23 + [0] * 31, [*positives, *negatives]), abs=1e-12)
    assert found.variance == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_variance_with_repeated_patients_is_obuchowskis(seed: int) -> None:
    """The variance equals Obuchowski's formula, with patients who have exams of both classes."""
    rng = np.random.default_rng(seed)
    positives, negatives = rng.normal(1, 1, 25).round(1), rng.normal(0, 1, 40).round(1)
    units = units_of(positives, negatives, rng.integers(0, 22, 65))
    assert auc_of(units).variance == pytest.approx(obuchowski(units), rel=1e-12)


def test_obuchowski_without_repetition_is_delong() -> None:
    """One exam a patient makes the clustered formula DeLong's."""
    rng = np.random.default_rng(8)
    positives, negatives = rng.normal(1, 1, 12), rng.normal(0, 1, 15)
    assert obuchowski(units_of(positives, negatives)) == pytest.approx(delong(positives, negatives)[1], rel=1e-12)


def newcombe_variance(t: float, m: float, n: float) -> float:
    """Newcombe 2006, method 5: Hanley and McNeil's variance with both m - 1 and n - 1 as (m + n) / 2 - 1."""
    q1, q2, mean = t / (2 - t), 2 * t**2 / (1 + t), (m + n) / 2
    return (t * (1 - t) + (mean - 1) * (q1 - t**2) + (mean - 1) * (q2 - t**2)) / (m * n)


@pytest.mark.parametrize("seed", range(4))
def test_the_ends_lie_z_standard_deviations_away(seed: int) -> None:
    """At both ends |AUC - t| is z standard deviations, of the larger of DeLong's and Newcombe's variance."""
    rng = np.random.default_rng(seed)
    m, n = 12, 90
    found = auc_of(units_of(rng.normal(1.5, 1 + seed % 2, m), rng.normal(0, 1, n)))
    assert found.variance
    larger = max(1.0, found.variance / newcombe_variance(found.value, m, n))
    for end in (found.low, found.high):
        deviation = sqrt(larger * newcombe_variance(end, m, n))
        assert abs(found.value - end) == pytest.approx(Z * deviation, rel=1e-6)


def test_a_perfect_auc_has_an_interval() -> None:
    """At an AUC of 1 the interval is Newcombe's, from .86 for 15 against 15, and at 0 it is the mirror image."""
    high, low = np.arange(15) + 100.0, np.arange(15) + 0.0
    perfect, worst = auc_of(units_of(high, low)), auc_of(units_of(low, high))
    assert (perfect.value, perfect.high, perfect.variance) == (1.0, 1.0, 0.0)
    assert 1 - perfect.low == pytest.approx(Z * sqrt(newcombe_variance(perfect.low, 15, 15)), rel=1e-6)
    assert 0.85 < perfect.low < 0.87
    assert (worst.value, worst.low) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - perfect.low, abs=1e-9)


def test_a_perfect_auc_counts_patients_not_exams() -> None:
    """Fifteen exams of five patients a class, all told apart, show what five exams would."""
    high, low = np.arange(15) + 100.0, np.arange(15) + 0.0
    repeated = auc_of(units_of(high, low, np.repeat(np.arange(10), 3)))
    assert repeated.low == pytest.approx(auc_of(units_of(high[:5], low[:5])).low, abs=1e-9)


def test_one_patient_of_a_class_has_an_interval() -> None:
    """A class of one patient has no DeLong variance, and an interval that says how little that is."""
    found = auc_of(units_of(np.array([0.5, 0.6]), np.arange(9) / 10, np.array([0, 0, *range(1, 10)])))
    assert found.variance is None
    assert found.low < 0.3
    assert found.high > 0.85


def test_constant_scores_show_nothing() -> None:
    """A model that says the same of everyone has an AUC of .5 and a wide interval."""
    found = auc_of(units_of(np.zeros(10), np.zeros(12)))
    assert (found.value, found.variance) == (0.5, 0.0)
    assert found.low < 0.3
    assert found.high > 0.7


def test_a_variance_is_never_below_zero() -> None:
    """Where each of 17 patients has a healthy and an ill exam of equal score, nothing can vary, rounding included."""
    found = auc_of(units_of(np.arange(17) / 7, np.arange(17) / 7, np.tile(np.arange(17), 2)))
    assert (found.value, found.variance) == (0.5, 0.0)


def test_auc_without_a_class_is_undefined() -> None:
    """Without positives, or without negatives, there is no AUC."""
    assert auc(units_of(np.zeros(0), np.ones(3)), confidence=0.95) is None
    assert auc(units_of(np.ones(3), np.zeros(0)), confidence=0.95) is None


HISTOGRAMS = {
    "many ties": ((0, 3, 8, 20), (30, 9, 4, 0)),
    "told apart": ((0, 0, 0, 15), (12, 3, 0, 0)),
    "the wrong way round": ((9, 0, 0, 0), (0, 2, 0, 8)),
    "one bin": ((0, 11, 0, 0), (0, 7, 0, 0)),
    "one positive": ((0, 0, 1, 0), (3, 4, 5, 6)),
}


@pytest.mark.parametrize(("positives", "negatives"), HISTOGRAMS.values(), ids=HISTOGRAMS)
def test_the_auc_of_bins_is_that_of_their_units(positives: tuple[int, ...], negatives: tuple[int, ...]) -> None:
    """Bin by bin, value, variance and interval are those of as many single units of equal scores."""
    bins = np.arange(4)
    found = binned_auc(ScoreHistogram(positives=positives, negatives=negatives), confidence=0.9)
    single = auc_of(units_of(np.repeat(bins, positives), np.repeat(bins, negatives)), confidence=0.9)
    assert found
    assert found.value == single.value
    assert found.variance == (None if single.variance is None else pytest.approx(single.variance, rel=1e-12))
    assert (found.low, found.high) == pytest.approx((single.low, single.high), rel=1e-9)


def test_the_auc_of_bins_takes_no_memory_for_units() -> None:
    """A registry's hundred million units are sums of a few bins."""
    found = binned_auc(ScoreHistogram(positives=(10**7, 4 * 10**7), negatives=(4 * 10**7, 10**7)), confidence=0.95)
    assert found
    assert found.value == pytest.approx(0.8)
    assert found.high - found.low < 1e-3


def test_the_auc_of_bins_without_a_class_is_undefined() -> None:
    """Without positives, or without negatives, there is no AUC."""
    assert binned_auc(ScoreHistogram(positives=(0, 0), negatives=(3, 1)), confidence=0.95) is None
    assert binned_auc(ScoreHistogram(positives=(1, 2), negatives=(0, 0)), confidence=0.95) is None


@pytest.mark.parametrize(
    ("m", "n", "area", "spread"),
    [(15, 15, 0.9, 1), (15, 15, 0.97, 1), (15, 15, 0.97, 2), (15, 150, 0.9, 2), (30, 300, 0.99, 2), (30, 30, 0.99, 1)],
)
def test_auc_covers_at_small_n(m: int, n: int, area: float, spread: float) -> None:
    """The interval covers at least .91 of true AUCs where DeLong's own covers less than .9 (at 30 and 300, .55)."""
    rng = np.random.default_rng(1988)
    shift = norm.ppf(area) * sqrt(1 + spread**2)
    held, held_plainly = [], []
    for _ in range(600):
        found = auc_of(units_of(rng.normal(shift, spread, m), rng.normal(0, 1, n)))
        assert found.variance is not None
        held.append(found.low <= area <= found.high)
        held_plainly.append(abs(found.value - area) <= Z * sqrt(found.variance))
    assert np.mean(held) >= 0.91
    assert np.mean(held_plainly) < 0.9


def test_auc_covers_where_exams_repeat() -> None:
    """With 20 patients of 3 exams in each class, alike within a patient, the interval covers at least .92."""
    rng = np.random.default_rng(1997)
    patients, shift, held = np.repeat(np.arange(40), 3), norm.ppf(0.9) * sqrt(2), []
    for _ in range(600):
        scores = sqrt(0.7) * np.repeat(rng.normal(size=40), 3) + sqrt(0.3) * rng.normal(size=120)
        found = auc_of(units_of(scores[:60] + shift, scores[60:], patients))
        held.append(found.low <= 0.9 <= found.high)
    assert np.mean(held) >= 0.92


def test_auc_is_not_wider_than_it_need_be() -> None:
    """With 300 against 300 units at .85 the interval is within a tenth of DeLong's."""
    rng = np.random.default_rng(5)
    found = auc_of(units_of(rng.normal(1.47, 1, 300), rng.normal(0, 1, 300)))
    assert found.variance
    assert found.high - found.low < 1.1 * 2 * Z * sqrt(found.variance)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("effect", [1.0, 1.7])
def test_a_p_below_alpha_is_a_value_outside_the_interval(confidence: float, effect: float) -> None:
    """Each test is the one that its interval inverts, for every count of 25 and many values, whatever the effect."""
    alpha = 1 - confidence
    for k in range(26):
        count = Count(k=k, n=25, design_effect=effect)
        for at in np.linspace(0.02, 0.98, 25).tolist():
            for interval, p in ((wilson, wilson_p), (clopper_pearson, clopper_pearson_p)):
                found = interval(count, confidence=confidence)
                assert found
                if min(abs(found.low - at), abs(found.high - at)) > 1e-6:
                    assert (p(count, at=at) < alpha) == (not found.low <= at <= found.high)
