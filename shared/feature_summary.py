"""Features of one site's patients in a public projection, as mean and covariance, and the distance of two such sums."""

from dataclasses import dataclass

import numpy as np

from shared.scores import Floats
from shared.split import Split

LEAST_DIMENSIONS, MOST_DIMENSIONS = 8, 32
"""Below the first nothing is shown; more than the second are never projected to."""

PATIENTS_A_DIMENSION = 5
"""With 2,048 features and 100 patients two halves of one site are told apart without an error; with so many patients a
dimension what is left of that is corrected for (`shared/site_identifiability.py`)."""

HALVES = 50
"""Random halves of a site's own patients that its split null rests on."""

NULL_QUANTILE = 0.95

_CONDITION = 1e12
"""A covariance of a worse condition has no inverse worth the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSummary:
    """Mean and covariance over patients, one image each, of the features in the first p projected dimensions.

    `covariance` is its lower triangle row by row, so that fewer dimensions are the first entries of both. `split_null`
    has for p = 8, 9, ... the .95 quantile of the Fréchet distance between random halves of these patients. `split`
    says whose patients they are.
    """

    split: Split
    patients: int
    mean: tuple[float, ...]
    covariance: tuple[float, ...]
    split_null: tuple[float, ...]

    @property
    def dimensions(self) -> int:
        """In how many dimensions it is."""
        return len(self.mean)

    def moments(self, dimensions: int) -> tuple[Floats, Floats]:
        """Give mean (p,) and covariance (p, p) in the first dimensions."""
        square = np.zeros((dimensions, dimensions))
        lower = np.tril_indices(dimensions)
        square[lower] = self.covariance[: len(lower[0])]
        return np.array(self.mean[:dimensions]), square + np.tril(square, -1).T

    def null(self, dimensions: int) -> float:
        """Give the split null in the first dimensions."""
        return self.split_null[dimensions - LEAST_DIMENSIONS]


def dimensions(patients: int) -> int:
    """How many dimensions so many patients can bear."""
    return min(MOST_DIMENSIONS, patients // PATIENTS_A_DIMENSION)


def project(features_ND: Floats, *, seed: int) -> Floats:
    """Project features to MOST_DIMENSIONS standard normal directions that follow from the study's seed, known to all.

    Distances are kept on average (Johnson and Lindenstrauss 1984); no statistic of any data is in the directions.
    """
    width = features_ND.shape[1]
    directions = np.random.default_rng(seed).standard_normal((width, MOST_DIMENSIONS)) / np.sqrt(width)
    projected: Floats = features_ND.astype(np.float64) @ directions
    return projected


def summarise(projected_ND: Floats, *, split: Split, seed: int) -> FeatureSummary:
    """Sum up projected features, one row a patient, in as many dimensions as they bear; in none below the least."""
    patients, p = len(projected_ND), dimensions(len(projected_ND))
    if p < LEAST_DIMENSIONS:
        return FeatureSummary(split=split, patients=patients, mean=(), covariance=(), split_null=())
    own = projected_ND[:, :p]
    return FeatureSummary(
        split=split,
        patients=patients,
        mean=tuple(own.mean(axis=0).tolist()),
        covariance=tuple(np.cov(own.T)[np.tril_indices(p)].tolist()),
        split_null=_split_null(own, seed=seed),
    )


def _split_null(own_ND: Floats, *, seed: int) -> tuple[float, ...]:
    """Cut the patients into halves again and again; a Cholesky factor's first entries are that of fewer dimensions."""
    rng, half, width = np.random.default_rng(seed), len(own_ND) // 2, own_ND.shape[1]
    orders = [rng.permutation(len(own_ND)) for _ in range(HALVES)]
    sides = [np.stack([own_ND[order[part]] for order in orders]) for part in (slice(half), slice(half, None))]
    means, covariances, factors = zip(*(_moments(side_HND) for side_HND in sides), strict=True)
    found = []
    for p in range(LEAST_DIMENSIONS, width + 1):
        one, other = (factor[:, :p, :p] for factor in factors)
        cross = np.linalg.svd(one.transpose(0, 2, 1) @ other, compute_uv=False).sum(axis=1)
        traces = sum(np.trace(covariance[:, :p, :p], axis1=1, axis2=2) for covariance in covariances)
        found.append(((means[0] - means[1])[:, :p] ** 2).sum(axis=1) + traces - 2 * cross)
    return tuple(np.maximum(np.quantile(found, NULL_QUANTILE, axis=1), 0).tolist())


def _moments(sides_HND: Floats) -> tuple[Floats, Floats, Floats]:
    """Give means, covariances and Cholesky factors of each half; a trace of ridge keeps a flat feature from failing."""
    means = sides_HND.mean(axis=1)
    centred = sides_HND - means[:, None]
    covariances = centred.transpose(0, 2, 1) @ centred / (sides_HND.shape[1] - 1)
    ridge = 1e-9 * np.trace(covariances, axis1=1, axis2=2) + np.finfo(float).tiny
    return means, covariances, np.linalg.cholesky(covariances + ridge[:, None, None] * np.eye(sides_HND.shape[2]))


def frechet(one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> float:
    """Give the squared Fréchet distance of two normal distributions (Dowson and Landau, J Multivar Anal 1982;12:450).

    |m1 - m2|² + tr(C1) + tr(C2) - 2 tr((C1 C2)^½), the last from the singular values of C1^½ C2^½.
    """
    (mean, covariance), (other_mean, other_covariance) = one, other
    cross = np.linalg.norm(_root(covariance) @ _root(other_covariance), ord="nuc")
    distance = np.sum((mean - other_mean) ** 2) + np.trace(covariance) + np.trace(other_covariance) - 2 * cross
    return max(0.0, float(distance))


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


LEAST_SPREAD = 1e-9
"""Patients who are all alike along the rule are told as if they spread so little: no quotient by it is infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discriminant:
    """Fisher's linear rule between two sites, by their pooled covariance S (Fisher, Ann Eugen 1936;7:179).

    `distance` is the squared Mahalanobis distance d'S⁻¹d of their means, `spreads` each site's own variance along the
    rule S⁻¹d where the pooled one is 1, and `chances` what each site's mean adds to the distance by chance,
    tr(S⁻¹C/n): together pN/(n1 n2) where the sites spread alike.
    """

    distance: float
    spreads: tuple[float, float]
    chances: tuple[float, float]


def discriminant(one: FeatureSummary, other: FeatureSummary, *, dimensions: int) -> Discriminant | None:
    """Give the rule in the first dimensions; None where the pooled covariance cannot be inverted."""
    (mean, covariance), (other_mean, other_covariance) = one.moments(dimensions), other.moments(dimensions)
    freedom = one.patients + other.patients - 2
    pooled = ((one.patients - 1) * covariance + (other.patients - 1) * other_covariance) / freedom
    if np.linalg.cond(pooled) > _CONDITION:
        return None
    apart = mean - other_mean
    rule = np.linalg.solve(pooled, apart)
    distance = float(apart @ rule)
    parts = ((covariance, one.patients), (other_covariance, other.patients))
    along = [max(float(rule @ own @ rule) / distance, LEAST_SPREAD) if distance > 0 else 1.0 for own, _ in parts]
    chances = [float(np.trace(np.linalg.solve(pooled, own))) / patients for own, patients in parts]
    return Discriminant(distance=distance, spreads=(along[0], along[1]), chances=(chances[0], chances[1]))
