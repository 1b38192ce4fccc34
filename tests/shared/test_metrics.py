"""Counts and histograms, and the metrics that are computed from them."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score, roc_curve

from shared.metrics import (
    BinnedAuc,
    Confusion,
    Count,
    ScoreHistogram,
    Undefined,
    brier,
    confusion,
    full_repetition,
    histogram,
    undefined,
)
from shared.scores import ScoredUnits, lower_edges, score_bins

BINS = 64


def some_units(*, n: int = 300, seed: int = 3, patients: int | None = None) -> ScoredUnits:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    owners = np.arange(n) if patients is None else rng.integers(0, patients, n)
    return ScoredUnits(
        scores_M=1 / (1 + np.exp(-rng.normal(positive * 2.0, 1.5))), positive_M=positive, patients_M=owners
    )


def nobody() -> ScoredUnits:
    return ScoredUnits(scores_M=np.zeros(0), positive_M=np.zeros(0, dtype=bool), patients_M=np.zeros(0, dtype=np.int64))


def test_binned_auc_is_that_of_binned_scores() -> None:
    """The AUC of a histogram is scikit-learn's AUC of the bin numbers, and the exact one is within its bounds."""
    units = some_units()
    binned = histogram(units, bins=BINS).auc()
    assert binned
    numbers = score_bins(units.scores_M, bins=BINS)
    assert binned.value == pytest.approx(roc_auc_score(units.positive_M, numbers), abs=1e-12)
    assert binned.lower < roc_auc_score(units.positive_M, units.scores_M) < binned.upper


def test_tie_bounds_by_hand() -> None:
    """Ties lost, halved and won: 1 pair won and 2 tied of 4 give .25, .5 and .75."""
    histogram = ScoreHistogram(positives=(0, 1, 1), negatives=(0, 1, 1))
    assert histogram.auc() == BinnedAuc(value=0.5, lower=0.25, upper=0.75)


def test_roc_is_that_of_binned_scores() -> None:
    """The rates are scikit-learn's on the bin numbers, where bins hold units, and run from (0, 0) to (1, 1)."""
    units = some_units()
    rates = histogram(units, bins=BINS).roc()
    assert rates
    numbers = score_bins(units.scores_M, bins=BINS)
    expected_fpr, expected_tpr, at = roc_curve(units.positive_M, numbers, drop_intermediate=False)
    places = [0, *(BINS - at[1:].astype(int))]
    assert rates[0][places] == pytest.approx(expected_fpr)
    assert rates[1][places] == pytest.approx(expected_tpr)
    assert [(rate[0], rate[-1], rate.size) for rate in rates] == [(0, 1, BINS + 1)] * 2


def test_counts_at_a_threshold_are_sklearns() -> None:
    """TP, FP, TN and FN are those of scikit-learn's confusion matrix, with `score >= threshold` as positive."""
    units = some_units()
    (tn, fp), (fn, tp) = confusion_matrix(units.positive_M, units.scores_M >= 0.4)
    counts = confusion(units, threshold=0.4)
    assert counts == Confusion(tp=tp, fp=fp, tn=tn, fn=fn)
    assert (counts.sensitivity, counts.specificity) == (Count(k=tp, n=tp + fn), Count(k=tn, n=tn + fp))


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_counts_at_an_edge_are_the_histograms(precision: type) -> None:
    """At each bin edge, counting scores gives the histogram's numbers, with scores on and beside the edges."""
    edges = lower_edges(bins=BINS)
    near = np.concatenate((edges, edges.astype(np.float32), np.nextafter(edges, 0), np.nextafter(edges, 1)))
    scores = near.astype(precision).astype(np.float64)
    units = ScoredUnits(scores_M=scores, positive_M=np.arange(scores.size) % 3 == 0, patients_M=np.arange(scores.size))
    binned = histogram(units, bins=BINS)
    for place, edge in enumerate(edges.tolist()):
        counts = confusion(units, threshold=edge)
        assert (counts.tp, counts.fp) == (sum(binned.positives[place:]), sum(binned.negatives[place:]))


def test_brier_is_sklearns() -> None:
    """The Brier score is scikit-learn's, and None where there is nothing to score."""
    units = some_units()
    assert brier(units) == pytest.approx(brier_score_loss(units.positive_M, units.scores_M))
    assert brier(nobody()) is None


def test_nothing_is_counted_as_nothing() -> None:
    """No units give counts of 0 and an AUC and a curve of None, not of 0 or NaN."""
    empty = histogram(nobody(), bins=BINS)
    assert (empty.n_pos, empty.n_neg, empty.auc(), empty.roc()) == (0, 0, None, None)
    assert confusion(nobody(), threshold=0.5) == Confusion(tp=0, fp=0, tn=0, fn=0)
    assert Count(k=0, n=0) + Count(k=0, n=0) == Count(k=0, n=0)


def test_why_a_number_is_undefined() -> None:
    """The reason names the class that has no units."""
    assert undefined(positives=2, negatives=3) is None
    assert undefined(positives=0, negatives=3) is Undefined.NO_POSITIVES
    assert undefined(positives=2, negatives=0) is Undefined.NO_NEGATIVES
    assert undefined(positives=0, negatives=0) is Undefined.NO_EXAMS


def test_histograms_of_different_studies_do_not_merge() -> None:
    """Histograms with different bins cannot be added by mistake."""
    with pytest.raises(ValueError, match="zip"):
        ScoreHistogram(positives=(1,), negatives=(1,)) + ScoreHistogram(positives=(1, 2), negatives=(1, 2))


def test_design_effect_is_the_ratio_of_variances() -> None:
    """The design effect is the variance of the ratio estimator over patients, divided by that of independent units."""
    units = some_units(n=400, patients=120)
    counts = confusion(units, threshold=0.4)
    chosen = np.flatnonzero(units.positive_M)
    correct, p = units.scores_M[chosen] >= 0.4, counts.tp / chosen.size
    owners = sorted(set(units.patients_M[chosen].tolist()))
    squares = 0.0
    for owner in owners:
        mine = correct[units.patients_M[chosen] == owner]
        squares += (mine.sum() - p * mine.size) ** 2
    variance = len(owners) / (len(owners) - 1) * squares / chosen.size**2
    expected = variance / (p * (1 - p) / (chosen.size - 1))
    assert counts.positives_design_effect == pytest.approx(max(1.0, expected))


def test_units_that_are_alike_count_as_their_patients() -> None:
    """Three equal units a patient have a design effect of about 3, exactly 3 where all units of the class agree."""
    owners = np.repeat(np.arange(40), 3)
    half = ScoredUnits(scores_M=np.repeat(np.arange(40) % 2, 3) * 0.8, positive_M=owners >= 0, patients_M=owners)
    assert confusion(half, threshold=0.5).positives_design_effect == pytest.approx(3 * 40 / 39 * 119 / 120)
    assert confusion(half, threshold=0.0).positives_design_effect == 3.0
    assert confusion(half, threshold=0.0).negatives_design_effect == 1.0


def test_one_patient_is_one_unit() -> None:
    """Units of a single patient, some right and some wrong, weigh as one."""
    units = ScoredUnits(
        scores_M=np.array([0.2, 0.9, 0.9]), positive_M=np.ones(3, dtype=bool), patients_M=np.zeros(3, dtype=np.int64)
    )
    assert confusion(units, threshold=0.5).positives_design_effect == 3.0


def test_design_effects_merge_by_size() -> None:
    """The merged design effect is the mean over sites, weighted by n; a site without units has no say."""
    merged = Count(k=1, n=10, design_effect=1.0) + Count(k=20, n=30, design_effect=2.0) + Count(k=0, n=0)
    assert merged == Count(k=21, n=40, design_effect=1.75)
    one = Confusion(tp=1, fn=9, tn=0, fp=0, positives_design_effect=1.0)
    two = Confusion(tp=20, fn=10, tn=5, fp=5, positives_design_effect=2.0, negatives_design_effect=1.5)
    assert one + two == Confusion(tp=21, fn=19, tn=5, fp=5, positives_design_effect=1.75, negatives_design_effect=1.5)


def test_full_repetition_by_hand() -> None:
    """Patients with 1, 2 and 3 units: (1 + 4 + 9) / 6."""
    assert full_repetition(np.array([5, 6, 6, 9, 9, 9])) == pytest.approx(14 / 6)


def test_counts_of_any_size_have_an_auc_and_no_memory() -> None:
    """Near 2^62 the sums are whole numbers still, where 64 bits gave an AUC of 0; laid out are a million units."""
    large = 2**62
    skewed = ScoreHistogram(positives=(0, large), negatives=(large, 0))
    area = skewed.auc()
    assert area is not None
    assert (area.value, area.lower, area.upper) == (1.0, 1.0, 1.0)
    mixed = ScoreHistogram(positives=(10**11, 3 * 10**11), negatives=(10**10, 0))
    laid_out = mixed.units()
    assert laid_out.scores_M.size == 1_000_000
    assert laid_out.positive_M.sum() == round(1e6 * 4 / 4.1)
    assert (laid_out.scores_M[laid_out.positive_M] < 0.5).sum() == round(1e6 / 4.1)


def test_a_rare_class_does_not_vanish_where_units_are_laid_out_in_proportion() -> None:
    """One positive of 10^9 units is still one."""
    rare = ScoreHistogram(positives=(0, 0, 1), negatives=(10**9, 0, 0)).units()
    assert rare.positive_M.sum() == 1
