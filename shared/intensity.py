"""How bright one site's prepared images are, as a histogram over patients, and the distance between two sites."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.feature_summary import HALVES, NULL_QUANTILE
from shared.scores import Floats

BINS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensitySummary:
    """Mean over patients, one image each, of the shares of pixels from black (first bin) to white (last).

    `split_null` is the .95 quantile of the distance between random halves of these patients.
    """

    patients: int
    shares: tuple[float, ...]
    split_null: float


def image_shares(images_NCHW: npt.NDArray[np.unsignedinteger]) -> Floats:
    """Give each prepared image's shares of pixels by bin, (N, BINS), over the whole range of its type."""
    bins = images_NCHW.astype(np.int64) * BINS // (np.iinfo(images_NCHW.dtype).max + 1)
    flat = bins.reshape(len(bins), -1)
    return np.stack([np.bincount(one, minlength=BINS) for one in flat]) / flat.shape[1]


def summarise(shares_NB: Floats, *, seed: int) -> IntensitySummary:
    """Sum up the images of as many patients; fewer than two have no halves, and a null of 0."""
    rng, half = np.random.default_rng(seed), len(shares_NB) // 2
    found = [0.0]
    for _ in range(HALVES if half else 0):
        order = rng.permutation(len(shares_NB))
        found.append(wasserstein(shares_NB[order[:half]].mean(axis=0), shares_NB[order[half:]].mean(axis=0)))
    return IntensitySummary(
        patients=len(shares_NB),
        shares=tuple(shares_NB.mean(axis=0).tolist()) if len(shares_NB) else (),
        split_null=float(np.quantile(found, NULL_QUANTILE)),
    )


def wasserstein(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Give the 1-D Wasserstein distance of two histograms, as a fraction of the range from black to white.

    It is the area between the two cumulated histograms (Vallender, Theory Probab Appl 1974;18:784).
    """
    apart = np.cumsum(np.asarray(one) - np.asarray(other))
    return float(np.abs(apart).sum() / len(apart))
