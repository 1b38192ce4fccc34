"""What to expect in a new hospital: a prediction interval of a proportion over hospitals, with its own coverage.

The model is random effects on the logit scale (Higgins, Thompson and Spiegelhalter, J R Stat Soc A 2009;172:137): each
hospital has its own true proportion, spread normally on the logit scale, and a new hospital's is drawn from the same.
It says nothing of a hospital that is not like these.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr
from scipy.stats import t

from shared.metrics import Count
from shared.scores import Floats

MIN_SITES = 5
"""With fewer the spread between hospitals is a guess: with 3, an interval of 95 % is as wide as the whole range."""

SPREADS = (0.1, 0.3, 0.6, 1.0)
"""Standard deviations between hospitals, on the logit scale, for which the coverage is simulated."""

DRAWS = 1000
_BISECTIONS, _WIDEST = 40, 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The mean proportion over hospitals and the interval of a new one's, over `sites` hospitals; `spread` is tau.

    `lowest_coverage` and `highest_coverage` are the shares of new hospitals that such intervals held in DRAWS simulated
    studies of the same sizes and mean for each of SPREADS: how far the interval keeps its promise.
    """

    value: float
    low: float
    high: float
    sites: int
    spread: float
    lowest_coverage: float
    highest_coverage: float


def prediction(counts: Mapping[str, Count], *, confidence: float, seed: int) -> Prediction | None:
    """Predict a new hospital's proportion; None with fewer than MIN_SITES that have units.

    n is divided by the design effect first (Rao and Scott, Biometrics 1992;48:577).
    """
    known = [counts[site] for site in sorted(counts) if counts[site].n]
    if len(known) < MIN_SITES:
        return None
    n_S = np.array([max(1.0, count.n / count.design_effect) for count in known])
    k_S = np.array([count.k / count.n for count in known]) * n_S
    mean, tau, low, high = (float(one[0]) for one in _interval(k_S[None, :], n_S, confidence=confidence))
    covered = [_coverage(mean, spread, n_S, confidence=confidence, seed=seed) for spread in SPREADS]
    return Prediction(
        value=float(expit(mean)),
        low=float(expit(low)),
        high=float(expit(high)),
        sites=len(known),
        spread=tau,
        lowest_coverage=min(covered),
        highest_coverage=max(covered),
    )


def _interval(k_DS: Floats, n_S: Floats, *, confidence: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Give mean, tau and both ends on the logit scale, draw by draw.

    Logits with 1/2 added to each cell; tau squared of Paule and Mandel (J Res Natl Bur Stand 1982;87:377); the mean's
    variance of Hartung and Knapp (Stat Med 2001;20:3875), never below that of the model (Roever et al., BMC Med Res
    Methodol 2015;15:99); Student's t with S - 2 degrees of freedom.
    """
    y_DS = np.log((k_DS + 0.5) / (n_S - k_DS + 0.5))
    v_DS = 1 / (k_DS + 0.5) + 1 / (n_S - k_DS + 0.5)
    sites = n_S.size
    lower, upper = np.zeros(len(y_DS)), np.full(len(y_DS), _WIDEST)
    for _ in range(_BISECTIONS):
        middle = (lower + upper) / 2
        too_small = _weighted(y_DS, v_DS, middle)[1] > sites - 1
        lower, upper = np.where(too_small, middle, lower), np.where(too_small, upper, middle)
    tau2 = np.where(_weighted(y_DS, v_DS, np.zeros(len(y_DS)))[1] <= sites - 1, 0.0, (lower + upper) / 2)
    mean, q, weights = _weighted(y_DS, v_DS, tau2)
    variance = np.maximum(1.0, q / (sites - 1)) / weights
    reach = t.ppf((1 + confidence) / 2, sites - 2) * np.sqrt(tau2 + variance)
    return mean, np.sqrt(tau2), mean - reach, mean + reach


def _weighted(y_DS: Floats, v_DS: Floats, tau2_D: Floats) -> tuple[Floats, Floats, Floats]:
    """Give the weighted mean, its Q and the sum of weights, draw by draw."""
    w_DS = 1 / (v_DS + tau2_D[:, None])
    total = w_DS.sum(axis=1)
    mean = (w_DS * y_DS).sum(axis=1) / total
    return mean, (w_DS * (y_DS - mean[:, None]) ** 2).sum(axis=1), total


def _coverage(mean: float, spread: float, n_S: Floats, *, confidence: float, seed: int) -> float:
    """Simulate studies of these sizes, and give the share of new hospitals that their intervals hold."""
    rng = np.random.default_rng(seed)
    whole_S = np.maximum(1, np.round(n_S)).astype(np.int64)
    centre = float(np.clip(mean, logit(0.01), logit(0.99)))
    true_DS = expit(rng.normal(centre, spread, (DRAWS, n_S.size)))
    k_DS = rng.binomial(whole_S, true_DS).astype(np.float64)
    _, _, low, high = _interval(k_DS, whole_S.astype(np.float64), confidence=confidence)
    return float((ndtr((high - centre) / spread) - ndtr((low - centre) / spread)).mean())
