"""How the updates of a round become one: their weighted mean, or element by element a median or trimmed mean."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from server.aggregation import StreamingMean
from server.kept_updates import KeptUpdates
from shared.packing import named
from shared.parameters import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A site's share of the whole, and by what its update is multiplied first."""

    share: float
    scale: float


Combine = Callable[[KeptUpdates, Mapping[str, Part]], dict[str, Array]]
"""Combines the updates that were kept of the named sites, in the order of the names."""


def weighted_mean(kept: KeptUpdates, parts: Mapping[str, Part], *, cap: float) -> dict[str, Array]:
    """Add the updates up, each with its share; `cap` as in StreamingMean."""
    mean = StreamingMean(kept.like)
    for site, part in parts.items():
        mean.add_runs(kept.runs(site), share=part.share, scale=part.scale)
    return mean.finish(cap=cap)


def mean_squares(kept: KeptUpdates, parts: Mapping[str, Part], *, cap: float) -> dict[str, Array]:
    """Give the weighted mean of the squares of each element: no site can make it smaller, whatever it sends."""
    mean = StreamingMean(kept.like)
    for site, part in parts.items():
        squares = (np.square(run, dtype=np.float32) for run in kept.runs(site))
        mean.add_runs(squares, share=part.share, scale=part.scale**2)
    return mean.finish(cap=cap)


def median(kept: KeptUpdates, parts: Mapping[str, Part]) -> dict[str, Array]:
    """Give each element's median over the sites, of two middle ones their mean (Yin et al. 2018, definition 1)."""
    return trimmed_mean(kept, parts, trim=0.5)


def trimmed_mean(kept: KeptUpdates, parts: Mapping[str, Part], *, trim: float) -> dict[str, Array]:
    """Give each element's mean without the `trim` × n largest and smallest (Yin et al. 2018, definition 2).

    Every site counts once, whatever its share.
    """
    out = trimmed_sites(len(parts), trim=trim)
    scales_S1 = np.array([part.scale for part in parts.values()], np.float32)[:, None]
    sums = [np.empty(block.elements, np.float32) for block in kept.blocks]
    for number, place, values_SN in kept.pieces(parts):
        inner_SN = np.sort(values_SN * scales_S1, axis=0)[out : len(parts) - out]
        sums[number][place] = inner_SN.mean(axis=0, dtype=np.float64)
    return named(kept.blocks, sums)


def trimmed_sites(sites: int, *, trim: float) -> int:
    """Say how many sites are left out at either end.

    At least one where three or more answered, and one or two always stay: with few sites the fraction would often
    round to none.
    """
    return min(max(1, int(trim * sites)), (sites - 1) // 2)
