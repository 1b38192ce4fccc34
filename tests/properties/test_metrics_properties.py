"""What holds of counts, histograms, thresholds and intervals whatever the scores."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from shared.intervals import auc, wilson
from shared.metrics import Confusion, Count, ScoreHistogram, confusion, histogram
from shared.operating_point import choose
from shared.scores import ScoredUnits, lower_edges, unit_scores

BINS = 16

counts = st.integers(0, 10**6)
bins = st.lists(counts, min_size=BINS, max_size=BINS).map(tuple)
histograms = st.builds(ScoreHistogram, positives=bins, negatives=bins)
confusions = st.builds(Confusion, tp=counts, fp=counts, tn=counts, fn=counts)
edges = st.sampled_from(lower_edges(bins=BINS).tolist())
scores = st.one_of(
    st.floats(0, 1),
    st.floats(0, 1, width=32),
    edges,
    edges.map(np.float32).map(float),
    edges.map(lambda edge: float(np.nextafter(edge, 0))),
    edges.map(lambda edge: float(np.nextafter(edge, 1))),
)
rows = st.lists(st.tuples(scores, st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def units_of(rows: list[tuple[float, bool, int]]) -> ScoredUnits:
    score, positive, patient = zip(*rows, strict=True)
    return ScoredUnits(scores_M=np.array(score), positive_M=np.array(positive), patients_M=np.array(patient))


@given(histograms, histograms, histograms)
def test_histograms_merge_in_any_order(a: ScoreHistogram, b: ScoreHistogram, c: ScoreHistogram) -> None:
    """Merging is associative and commutative, so that the order in which sites answer does not matter."""
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@given(confusions, confusions, confusions)
def test_confusions_merge_in_any_order(a: Confusion, b: Confusion, c: Confusion) -> None:
    """Merging counts of independent units is associative and commutative."""
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@given(rows, rows)
def test_merging_is_counting_together(a: list[tuple[float, bool, int]], b: list[tuple[float, bool, int]]) -> None:
    """Two sites' histograms and counts, added, are those of all their units at one site."""
    together, apart = units_of(a + b), (units_of(a), units_of(b))
    assert histogram(together, bins=BINS) == histogram(apart[0], bins=BINS) + histogram(apart[1], bins=BINS)
    one, sum_ = (
        confusion(together, threshold=0.5),
        confusion(apart[0], threshold=0.5) + confusion(apart[1], threshold=0.5),
    )
    assert (one.tp, one.fp, one.tn, one.fn) == (sum_.tp, sum_.fp, sum_.tn, sum_.fn)


@given(rows)
def test_the_exact_auc_is_within_the_tie_bounds(rows: list[tuple[float, bool, int]]) -> None:
    """The AUC from bins with its bounds holds the exact AUC, without any tolerance."""
    units = units_of(rows)
    exact, binned = auc(units, confidence=0.95), histogram(units, bins=BINS).auc()
    assert (exact is None) == (binned is None)
    if exact and binned:
        assert binned.lower <= exact.value <= binned.upper
        assert binned.lower <= binned.value <= binned.upper
        assert np.isclose(exact.value, roc_auc_score(units.positive_M, units.scores_M), atol=1e-12)


@given(rows, st.integers(0, BINS - 1))
def test_counting_at_an_edge_is_reading_the_histogram(rows: list[tuple[float, bool, int]], place: int) -> None:
    """At a bin edge, a site's count of its scores is the histogram's, though scores lie on the edge."""
    units, edge = units_of(rows), float(lower_edges(bins=BINS)[place])
    counted, binned = confusion(units, threshold=edge), histogram(units, bins=BINS)
    assert (counted.tp, counted.fp) == (sum(binned.positives[place:]), sum(binned.negatives[place:]))


@given(rows.filter(lambda rows: any(row[1] for row in rows)), st.floats(0.01, 1))
def test_the_threshold_reaches_the_target_and_none_above_does(
    rows: list[tuple[float, bool, int]], target: float
) -> None:
    """A point claim is always met, by the site's own count, and by no higher edge."""
    units = units_of(rows)
    point = choose(histogram(units, bins=BINS), target=target, claim="point", confidence=0.95)
    found = confusion(units, threshold=point.threshold).sensitivity
    assert (found.k, found.n) == (point.reached.k, point.reached.n)
    assert point.met
    for edge in lower_edges(bins=BINS)[lower_edges(bins=BINS) > point.threshold].tolist():
        higher = confusion(units, threshold=edge).sensitivity
        assert higher.k / higher.n < target


@given(st.integers(1, 500), st.data(), st.floats(1, 5), st.floats(0.6, 0.999))
def test_an_interval_holds_its_value(n: int, data: st.DataObject, design_effect: float, confidence: float) -> None:
    """Wilson's interval lies in [0, 1], holds the value, and is never a point."""
    k = data.draw(st.integers(0, n))
    found = wilson(Count(k=k, n=n, design_effect=design_effect), confidence=confidence)
    assert found
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@given(rows)
def test_an_auc_interval_holds_its_value(rows: list[tuple[float, bool, int]]) -> None:
    """The AUC's interval lies in [0, 1], holds the value, and is never a point, whoever repeats."""
    found = auc(units_of(rows), confidence=0.95)
    if found:
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high
        assert found.variance is None or found.variance >= 0


@given(rows)
def test_turning_the_scores_mirrors_the_auc(rows: list[tuple[float, bool, int]]) -> None:
    """With every score s as 1 - s (and no ties made by rounding) the AUC and its interval are mirrored at .5."""
    units = units_of([(round(score, 3), positive, patient) for score, positive, patient in rows])
    turned = ScoredUnits(
        scores_M=(1 - units.scores_M).round(3), positive_M=units.positive_M, patients_M=units.patients_M
    )
    plain, mirrored = auc(units, confidence=0.95), auc(turned, confidence=0.95)
    if plain and mirrored:
        expected = (1 - plain.value, 1 - plain.high, 1 - plain.low)
        assert np.allclose((mirrored.value, mirrored.low, mirrored.high), expected, atol=1e-9)


@given(rows, st.randoms(use_true_random=False), st.sampled_from(["max", "mean"]))
def test_units_do_not_depend_on_the_order_of_images(rows: list[tuple[float, bool, int]], random, aggregate) -> None:
    """Images in another order give the same units."""
    turned = list(rows)
    random.shuffle(turned)
    first, second = (
        unit_scores(
            [row[0] for row in order],
            [row[1] for row in order],
            exams_N=np.array([row[2] for row in order]),
            patients_N=np.array([row[2] // 2 for row in order]),
            unit="exam",
            aggregate=aggregate,
        )
        for order in (rows, turned)
    )
    assert np.allclose(first.scores_M, second.scores_M, atol=1e-15)
    assert np.array_equal(first.positive_M, second.positive_M)
    assert np.array_equal(first.patients_M, second.patients_M)
