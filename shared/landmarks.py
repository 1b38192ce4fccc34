"""Standard intensity landmarks: where a site's images have theirs, their median over sites, and the map onto it.

Nyúl and Udupa (Magn Reson Med 1999;42:1072) bring images onto one intensity scale in two steps: each image's own
percentiles become the ends of the scale, and landmarks in between, here the deciles (Nyúl, Udupa and Zhang, IEEE
Trans Med Imaging 2000;19:143), are moved, piecewise linearly, to where they lie on average. The percentile window
(shared/preprocessing.py) is the first step; this is the second. The average is taken within each site, and the median
over the sites, each counting once, so that no large site is the standard, nor one that has other landmarks or lies.

Background is left out: landmarks are those of the pixels above black, and black stays black, white white.
All arithmetic is in whole numbers or elementwise, so that the map has the same bits at every hospital.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.scores import Floats

TENTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9)
"""The landmarks: deciles of an image's pixels above black."""

LEAST_STEP = 1 / 255
"""How far two neighbouring landmarks must lie apart, one level of an 8-bit image: a scale on which some coincide would
make all that lies between them one grey, and one on which all do would leave a model nothing to see."""

_ROUNDING = 1e-9
"""A mean of positions that are one level apart may miss LEAST_STEP by its last bits."""

Standard = tuple[float, ...]
"""Where the landmarks lie on average, from 0 (black) to 1 (white); empty where images are left as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """Mean positions of the landmarks over patients of one site, one image each, from 0 to 1."""

    positions: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedLandmarks(Landmarks):
    """The same at the site itself, where it is known over how many patients; that number does not leave."""

    patients: int


def summarise(images_NCHW: Iterable[npt.NDArray[np.unsignedinteger]]) -> CountedLandmarks:
    """Average the landmarks of batches of prepared images; an image that is all black has none and does not count."""
    total, count = np.zeros(len(TENTHS)), 0
    for image in (image for batch in images_NCHW for image in batch):
        if (own := _own(image)).size:
            total, count = total + own / _white(image.dtype), count + 1
    return CountedLandmarks(patients=count, positions=tuple((total / count).tolist()) if count else ())


def standard_scale(sites: Iterable[Landmarks]) -> Standard:
    """Give each landmark's median over sites, each of which counts once; empty without any.

    While fewer than half of the sites lie, each lies where honest sites have it or between; of two sites it is their
    mean, and one moves it half of the way. Where each site's landmarks rise by LEAST_STEP, so do their medians.
    """
    positions = [one.positions for one in sites]
    return tuple(np.median(positions, axis=0).tolist()) if positions else ()


def checked(values: Sequence[object]) -> Standard:
    """Take what came from outside as positions of the landmarks.

    Raises:
        ValueError: they are not as many as there are landmarks, no numbers, or do not rise from black to white by
            LEAST_STEP each.
    """
    positions = tuple(float(one) for one in values if isinstance(one, int | float) and not isinstance(one, bool))
    if not len(positions) == len(values) == len(TENTHS) or not rises(positions):
        raise ValueError("the landmarks do not rise from black to white")
    return positions


def rises(positions: Standard) -> bool:
    """Tell whether each landmark lies above the one before, the first above black, and white above the last."""
    steps = np.diff((0.0, *positions, 1.0))
    return bool((steps >= LEAST_STEP - _ROUNDING).all())


def harmonise(images_NCHW: npt.NDArray[np.unsignedinteger], standard: Standard) -> npt.NDArray[Any]:
    """Move each image's own landmarks to the standard ones, piecewise linearly; the type stays.

    An image's channels share one map. Landmarks that coincide in an image go to the mean of where they belong; one
    that is white stays white. An image that is all black stays so.
    """
    mapped = np.empty_like(images_NCHW)
    for place, image in enumerate(images_NCHW):
        mapped[place] = _levels(_own(image), standard, white=_white(image.dtype)).astype(image.dtype)[image]
    return mapped


def _own(image_CHW: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Find an image's landmarks: the lowest level that so many tenths of the pixels above black do not exceed."""
    counts = np.bincount(image_CHW.ravel(), minlength=_white(image_CHW.dtype) + 1)
    counts[0] = 0
    reached, total = np.cumsum(counts), int(counts.sum())
    if not total:
        return np.empty(0, np.int64)
    return np.searchsorted(10 * reached, np.array(TENTHS) * total).astype(np.int64)


def _levels(own: npt.NDArray[np.int64], standard: Standard, *, white: int) -> Floats:
    """Say for every level from black to white what it becomes."""
    levels = np.arange(white + 1, dtype=np.float64)
    if not own.size:
        return levels
    inner = own < white
    knots, place = np.unique(own[inner], return_inverse=True)
    goals = np.bincount(place, weights=np.array(standard)[inner]) / np.bincount(place)
    xs, ys = np.concatenate([[0], knots, [white]]).astype(np.float64), np.concatenate([[0.0], goals, [1.0]])
    piece = np.searchsorted(xs, levels, side="right").clip(1, len(xs) - 1) - 1
    share = (levels - xs[piece]) / (xs[piece + 1] - xs[piece])
    moved: Floats = np.rint((ys[piece] * (1 - share) + ys[piece + 1] * share) * white)
    return moved


def _white(kind: np.dtype[Any]) -> int:
    return int(np.iinfo(kind).max)
