"""Equal sites pass the tests at their level, and a site that differs is named."""

from itertools import product
from math import comb, prod

import numpy as np
import pytest
from scipy.stats import fisher_exact
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from shared import domain_shift
from shared.domain_shift import DRAWS, Heterogeneity, heterogeneity, holm, site_differences
from shared.intervals import newcombe
from shared.metrics import Count


def sites(*counts: tuple[int, int]) -> dict[str, Count]:
    return {f"site{place}": Count(k=k, n=n) for place, (k, n) in enumerate(counts)}


def heterogeneity_of(*counts: tuple[int, int], seed: int = 1) -> Heterogeneity:
    found = heterogeneity(sites(*counts), seed=seed)
    assert found
    return found


def every_table(*counts: tuple[int, int]) -> tuple[float, int]:
    """Go through all tables with these margins, in whole numbers: p by Pearson's chi-square, and how many tables."""
    n = [size for _, size in counts]
    observed, total, scale = tuple(k for k, _ in counts), sum(k for k, _ in counts), int(np.lcm.reduce(n))

    def statistic(table: tuple[int, ...]) -> int:
        return sum(k * k * (scale // size) for k, size in zip(table, n, strict=True))

    tables = [table for table in product(*(range(size + 1) for size in n)) if sum(table) == total]
    ways = [prod(comb(size, k) for k, size in zip(table, n, strict=True)) for table in tables]
    as_far = sum(way for way, table in zip(ways, tables, strict=True) if statistic(table) >= statistic(observed))
    return as_far / comb(sum(n), total), len(tables)


@pytest.mark.parametrize(
    "counts",
    [
        ((9, 10), (9, 10), (5, 10)),
        ((3, 4), (7, 9), (1, 6), (5, 5)),
        ((0, 3), (3, 3)),
        ((12, 13), (2, 7), (6, 6)),
        ((1, 2), (2, 4), (4, 8)),
        ((1, 5), (5, 5), (5, 7)),  # two tables are equally far, but not in the last bit of a float
    ],
)
def test_p_is_that_of_all_tables(counts: tuple[tuple[int, int], ...]) -> None:
    """Up to the limit p is exact: that of a count in whole numbers over every table with the same margins."""
    found = heterogeneity_of(*counts)
    p, tables = every_table(*counts)
    assert found.p == pytest.approx(p, rel=1e-12)
    assert (found.permutations, found.exact) == (tables, True)


def test_two_sites_of_one_size_give_fishers_p() -> None:
    """With two sites of one size the test is Fisher's."""
    assert heterogeneity_of((17, 20), (9, 20)).p == pytest.approx(fisher_exact([[17, 3], [9, 11]]).pvalue)


def test_drawn_tables_agree_with_all_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tables are drawn, p is within 4 standard errors of the exact one, the same for the same seed, never 0."""
    counts = ((27, 30), (38, 41), (20, 30))
    exact = heterogeneity_of(*counts)
    assert exact.exact
    monkeypatch.setattr(domain_shift, "MAX_TABLES", 10)
    drawn = heterogeneity_of(*counts)
    assert (drawn.exact, drawn.permutations) == (False, DRAWS)
    assert drawn.p == pytest.approx(exact.p, abs=4 * (exact.p * (1 - exact.p) / DRAWS) ** 0.5)
    assert drawn == heterogeneity_of(*counts)
    assert drawn.p != heterogeneity_of(*counts, seed=2).p
    assert heterogeneity_of((300, 300), (0, 300), (150, 300)).p == 1 / (DRAWS + 1)


def test_the_limit_is_the_number_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly as many tables as the limit are still gone through; one fewer allowed, and they are drawn."""
    counts = ((3, 4), (7, 9), (1, 6))
    _, tables = every_table(*counts)
    monkeypatch.setattr(domain_shift, "MAX_TABLES", tables)
    assert heterogeneity_of(*counts).exact
    monkeypatch.setattr(domain_shift, "MAX_TABLES", tables - 1)
    assert not heterogeneity_of(*counts).exact


def test_many_large_sites_are_drawn_quickly() -> None:
    """Forty sites of hundreds of units have more tables than can be listed, and still get a p."""
    counts = {f"{place:02}": Count(k=450 + place % 3, n=500) for place in range(40)}
    found = heterogeneity(counts, seed=0)
    assert found
    assert not found.exact
    assert found.p > 0.99


def test_q_and_i2_are_those_of_statsmodels() -> None:
    """Q and I squared are statsmodels' on the logits with 1/2 added to each cell."""
    counts = np.array([(27, 30), (38, 41), (20, 30), (5, 5)])
    k, n = counts[:, 0] + 0.5, counts[:, 1] - counts[:, 0] + 0.5
    expected = combine_effects(np.log(k / n), 1 / k + 1 / n)
    found = heterogeneity_of(*map(tuple, counts.tolist()))
    assert found.q == pytest.approx(expected.q)
    assert found.i2 == pytest.approx(max(0.0, expected.i2))
    assert found.sites - 1 == expected.df == 3


def test_sites_that_agree() -> None:
    """Equal proportions have p = 1, Q = 0 and an I squared of 0; so have sites where all units are right."""
    for counts in (((8, 10), (8, 10)), ((10, 10), (10, 10), (10, 10))):
        found = heterogeneity_of(*counts)
        assert (found.p, found.i2) == (pytest.approx(1.0), 0.0)
        assert found.q == pytest.approx(0.0, abs=1e-12)


def test_sites_without_units_are_left_out_and_counted() -> None:
    """A site with n = 0 says nothing, changes nothing, and is counted."""
    with_empty, without = heterogeneity_of((9, 10), (0, 0), (4, 10)), heterogeneity_of((9, 10), (4, 10))
    assert (with_empty.p, with_empty.q, with_empty.sites, with_empty.left_out) == (without.p, without.q, 2, 1)


def test_one_site_cannot_differ() -> None:
    """With fewer than two sites that have units there is no test, and nobody to differ from."""
    for counts in ({}, sites((3, 4)), sites((3, 4), (0, 0))):
        assert heterogeneity(counts, seed=1) is None
        assert site_differences(counts, confidence=0.95, seed=1) == ()


def test_the_order_of_sites_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sites in another order give the same numbers, drawn ones too."""
    monkeypatch.setattr(domain_shift, "MAX_TABLES", 10)
    counts = sites((27, 30), (38, 41), (20, 30))
    turned = dict(reversed(counts.items()))
    assert heterogeneity(counts, seed=3) == heterogeneity(turned, seed=3)
    assert site_differences(counts, confidence=0.9, seed=3) == site_differences(turned, confidence=0.9, seed=3)


def test_level_of_the_test_at_small_n() -> None:
    """Equal sites of 8, 12 and 30 units with a sensitivity of .9 are called different in at most 5 % of studies."""
    rng, n = np.random.default_rng(1925), np.array([8, 12, 30])
    drawn = [tuple(rng.binomial(n, 0.9).tolist()) for _ in range(1500)]
    p = {k: heterogeneity_of(*zip(k, n.tolist(), strict=True)).p for k in set(drawn)}
    assert 0.02 < np.mean([p[k] <= 0.05 for k in drawn]) < 0.065


def test_repeated_patients_do_not_make_sites_differ() -> None:
    """Counts are divided by the design effect: twice the exams of the same patients show no more than half of them."""
    twice = {"a": Count(k=36, n=40, design_effect=2.0), "b": Count(k=26, n=40, design_effect=2.0)}
    half = heterogeneity(twice, seed=1)
    assert half
    assert half.p == heterogeneity_of((18, 20), (13, 20)).p
    assert half.p > heterogeneity_of((36, 40), (26, 40)).p


def test_a_design_effect_leaves_a_site_at_least_one_unit() -> None:
    """Three exams of one patient are one unit, not none."""
    found = heterogeneity({"a": Count(k=3, n=3, design_effect=9.0), "b": Count(k=1, n=4)}, seed=1)
    assert found
    assert found.p == heterogeneity_of((1, 1), (1, 4)).p


def test_the_site_that_stands_out_is_marked() -> None:
    """Of four sites the one with .6 against .95 elsewhere has a small p and an interval below 0."""
    counts = sites((57, 60), (57, 60), (36, 60), (56, 60))
    found = {one.site: one for one in site_differences(counts, confidence=0.95, seed=1)}
    odd = found["site2"]
    assert [site for site, one in found.items() if one.p < 0.01 and one.difference < 0] == ["site2"]
    others = newcombe(Count(k=36, n=60), Count(k=170, n=180), confidence=0.95)
    assert others
    assert (odd.difference, odd.low, odd.high) == (others.value, others.low, others.high)
    assert odd.p == pytest.approx(every_table((36, 60), (170, 180))[0], rel=1e-6, abs=0)
    assert odd.high < 0


def test_adjusted_p_is_holms() -> None:
    """The adjusted p values are statsmodels' 'holm'; equal weights change nothing, whatever they are."""
    found = site_differences(sites((9, 10), (30, 41), (20, 30), (5, 5), (12, 30)), confidence=0.95, seed=1)
    raw = [one.p for one in found]
    assert holm(raw) == pytest.approx(multipletests(raw, method="holm")[1])
    assert holm(raw, weights=[0.2] * 5) == pytest.approx(holm(raw))
    assert [one.site for one in found] == [f"site{place}" for place in range(5)]
    assert holm([]) == []


def test_holms_weights_are_those_of_the_paper() -> None:
    """By hand, after section 4: the smallest p / weight first, each times the weight that is left."""
    # p / weight: .02, .04 and .06; what is left before each: 1, .5 and .25.
    assert holm([0.01, 0.01, 0.015], weights=[0.5, 0.25, 0.25]) == pytest.approx([0.02, 0.02, 0.02])
    assert holm([0.01, 0.03, 0.015], weights=[0.5, 0.25, 0.25]) == pytest.approx([0.02, 0.03, 0.03])
