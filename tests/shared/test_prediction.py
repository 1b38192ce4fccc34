"""A prediction interval agrees with statsmodels' random effects, and holds as many new hospitals as it says it does."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t
from statsmodels.stats.meta_analysis import combine_effects

from shared.metrics import Count
from shared.prediction import MIN_SITES, SPREADS, Prediction, prediction

COUNTED = [(88, 100), (140, 200), (45, 50), (99, 150), (60, 64), (70, 90)]
APART = {f"site{place}": Count(k=k, n=n) for place, (k, n) in enumerate(COUNTED)}


def predicted(counts: dict[str, Count], confidence: float = 0.95) -> Prediction:
    found = prediction(counts, confidence=confidence, seed=1)
    assert found
    return found


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_it_is_that_of_statsmodels(confidence: float) -> None:
    """Mean, tau and ends are those of Paule and Mandel's fit with Hartung and Knapp's variance."""
    k, n = (np.array([getattr(one, part) for one in APART.values()]) for part in ("k", "n"))
    y, v = np.log((k + 0.5) / (n - k + 0.5)), 1 / (k + 0.5) + 1 / (n - k + 0.5)
    fit = combine_effects(y, v, method_re="iterated")
    found = predicted(APART, confidence)
    assert found.spread == pytest.approx(np.sqrt(fit.tau2), rel=1e-4)
    assert logit(found.value) == pytest.approx(fit.mean_effect_re, rel=1e-4)
    variance = max(1.0, fit.scale_hksj_re) / fit.weights_re.sum()
    reach = t.ppf((1 + confidence) / 2, len(y) - 2) * np.sqrt(fit.tau2 + variance)
    assert found.low == pytest.approx(expit(fit.mean_effect_re - reach), rel=1e-4)
    assert found.high == pytest.approx(expit(fit.mean_effect_re + reach), rel=1e-4)


def test_fewer_than_five_sites_predict_nothing() -> None:
    """A site without units does not count."""
    five = dict(list(APART.items())[:MIN_SITES])
    assert predicted(five).sites == MIN_SITES
    assert prediction({**five, "site0": Count(k=0, n=0)}, confidence=0.95, seed=1) is None


def test_its_own_coverage_is_true() -> None:
    """Studies drawn from scratch, one at a time, hold as many new hospitals as is printed, within chance."""
    rng, held = np.random.default_rng(5), []
    found = predicted(APART)
    n = [count.n for count in APART.values()]
    centre = logit(found.value)
    for spread in (SPREADS[1], SPREADS[3]):
        share = []
        for draw in range(150):
            true = expit(rng.normal(centre, spread, len(n)))
            found_in = rng.binomial(n, true)
            pairs = enumerate(zip(found_in, n, strict=True))
            counts = {f"{place:02d}": Count(k=int(k), n=size) for place, (k, size) in pairs}
            one = prediction(counts, confidence=0.95, seed=draw)
            assert one
            new = expit(rng.normal(centre, spread, 200))
            share.append(float(((one.low <= new) & (new <= one.high)).mean()))
        held.append(np.mean(share))
    assert found.lowest_coverage - 0.03 <= min(held)
    assert max(held) <= found.highest_coverage + 0.03
    assert 0.8 <= found.lowest_coverage <= found.highest_coverage <= 1


def test_repeated_patients_count_once() -> None:
    """Four times the units at a design effect of 4 predict what a quarter of them does."""
    repeated = {site: Count(k=4 * one.k, n=4 * one.n, design_effect=4.0) for site, one in APART.items()}
    assert predicted(repeated) == predicted(APART)


def test_alike_sites_have_no_spread() -> None:
    """Where sites differ by less than chance, tau is 0 and the interval is not a point."""
    found = predicted({f"site{i}": Count(k=90, n=100) for i in range(6)})
    assert found.spread == 0
    assert found.low < 0.88 < found.value < 0.92 < found.high


def test_all_right_everywhere_is_not_certain() -> None:
    """A sensitivity of 1 at every site leaves room for less at the next."""
    found = predicted({f"site{i}": Count(k=20, n=20) for i in range(5)})
    assert found.low < 0.95 < found.high <= 1
