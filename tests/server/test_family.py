"""One family, adjusted once: no kind of test drowns another, and what is shown of a site is shown of all."""

import numpy as np
import pytest
from scipy.special import expit

from client.evaluation import evidence_on
from server.comparisons import compare
from server.family import Kind, adjusted
from shared.domain_shift import holm
from shared.protocol import Evaluation
from shared.scores import ScoredUnits, lower_edges


def test_one_kind_alone_is_plain_holm() -> None:
    """Without corners and subgroups the family is that of the sites."""
    raw = {("a", "x"): 0.01, ("a", "y"): 0.04, ("a", "z"): 0.03}
    assert list(adjusted({Kind.SITES: raw, Kind.IMAGES: {}}).values()) == pytest.approx(holm([0.01, 0.04, 0.03]))
    assert adjusted({}) == {}


def test_many_corners_do_not_drown_a_site() -> None:
    """Ninety corners of which none shows anything cost two sites no more than half of the error."""
    sites = {("a", "sensitivity", "north"): 0.012, ("a", "sensitivity", "south"): 0.9}
    corners = {("a", "mark", "north", str(place)): 0.5 for place in range(90)}
    found = adjusted({Kind.SITES: sites, Kind.IMAGES: corners})
    assert found["a", "sensitivity", "north"] == pytest.approx(0.012 * 2 * 2)
    assert found["a", "sensitivity", "north"] < 0.05 < holm([*sites.values(), *corners.values()])[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_error_is_kept(seed: int) -> None:
    """Where nothing is there, any p at all falls below .05 in about 5 of 100 families, and not in more."""
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(400):
        kinds = {
            kind: {(kind.value, str(place)): float(p) for place, p in enumerate(rng.random(size))}
            for kind, size in zip(Kind, (9, 40, 12), strict=True)
        }
        alarms += min(adjusted(kinds).values()) < 0.05
    assert alarms <= 33  # 20 are to be expected, with a standard deviation of 4.4


def test_a_site_that_differs_is_a_spread_that_differs() -> None:
    """Among many sites one low one may be shown while the test of all of them is not: then its p is the spread's."""
    rng = np.random.default_rng(4)
    threshold = float(lower_edges(bins=64)[30])

    def evidence(shift: float):
        positive = np.arange(120) < 50
        logits = rng.normal(-1.5 + 3.5 * positive + shift, 1.5)
        units = ScoredUnits(scores_M=expit(logits), positive_M=positive, patients_M=np.arange(120))
        return evidence_on(units, bins=64, confidence=0.95, threshold=threshold)

    test = {f"site{place}": evidence(-1.3 if place == 0 else 0.0) for place in range(12)}
    raw = compare("opacity", test, wish=Evaluation(), seed=0)
    found = raw.adjusted(adjusted({Kind.SITES: raw.raw()}))
    least = min(one.adjusted_p for one in found.differences["sensitivity"])
    spread = found.spread["sensitivity"]
    assert spread is not None
    assert spread.adjusted_p <= least < 0.05
    assert {one.site for one in found.differences["sensitivity"]} == set(test) == set(found.targets)
