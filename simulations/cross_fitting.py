"""How surely a patient's site is told from the features themselves, cross-fitted by patient: in simulation alone."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from server.image_shift import CrossFitted
from shared.feature_summary import LEAST_DIMENSIONS, dimensions, project
from shared.scores import Floats

FOLDS, REPEATS, SEED = 5, 20, 0

RIDGE = 0.1
"""Share of the mean variance that is added to each feature's own, where there are more features than patients."""

Rule = Callable[[Floats], npt.NDArray[np.int64]]
"""Gives of each row the place of the site that it looks most like."""


def cross_fitted(features: Mapping[str, Floats], *, seed: int) -> dict[str, dict[str, CrossFitted]]:
    """Compare every two sites' features, one row a patient; `[one][other]`, `one` before `other`.

    `seed` is that of the study's public projection. Pairs of which a site has too few patients to bear the least
    dimensions are left out, as they are of what is released.
    """
    found: dict[str, dict[str, CrossFitted]] = {}
    for one, other in combinations(sorted(features), 2):
        p = min(dimensions(len(features[site])) for site in (one, other))
        if p >= LEAST_DIMENSIONS:
            projected = [project(features[site], seed=seed)[:, :p] for site in (one, other)]
            found.setdefault(one, {})[other] = CrossFitted(
                raw=accuracy([features[one], features[other]], ridge=RIDGE), projected=accuracy(projected, ridge=0.0)
            )
    return found


def accuracy(sites: Sequence[Floats], *, ridge: float) -> float:
    """Give the share of patients whose site is told, each site weighing the same, on folds that were not fitted on.

    Without a ridge it is the mean over REPEATS cuts into folds: then a fit is cheap, and one cut leaves much to chance.
    """
    rng, found = np.random.default_rng(SEED), []
    for _ in range(1 if ridge else REPEATS):
        folds = [rng.permutation(len(data)) % FOLDS for data in sites]
        right: list[list[bool]] = [[] for _ in sites]
        for fold in range(FOLDS):
            rule = discriminant([data[own != fold] for data, own in zip(sites, folds, strict=True)], ridge=ridge)
            for place, (data, own) in enumerate(zip(sites, folds, strict=True)):
                right[place] += (rule(data[own == fold]) == place).tolist()
        found.append(np.mean([np.mean(one) for one in right]))
    return float(np.mean(found))


def discriminant(fit: Sequence[Floats], *, ridge: float) -> Rule:
    """Fit Fisher's linear rule with equal priors (Fisher, Ann Eugen 1936;7:179).

    With fewer patients than features it goes by way of the patients' own Gram matrix (Woodbury), which gives the same.
    """
    means = np.stack([data.mean(axis=0) for data in fit])
    within = np.concatenate([data - mean for data, mean in zip(fit, means, strict=True)])
    (patients, width), freedom = within.shape, len(within) - len(fit)
    level = ridge * np.mean(np.sum(within**2, axis=0)) / freedom
    if ridge and patients < width:
        gram = within @ within.T / freedom + level * np.eye(patients)
        directions = (means - (within.T @ np.linalg.solve(gram, within @ means.T)).T / freedom) / level
    else:
        directions = np.linalg.solve(within.T @ within / freedom + level * np.eye(width), means.T).T
    offsets = np.sum(directions * means, axis=1) / 2
    return lambda rows: np.argmax(rows @ directions.T - offsets, axis=1)
