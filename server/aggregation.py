"""Streaming weighted mean and server optimisers over named arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from shared.packing import PackedArrays, combine, layout, named, pack
from shared.parameters import RUNNING_VARIANCE, Array, NamedArrays

ADAPTIVITY = 1e-3
"""tau of Reddi et al. 2021, Algorithm 2: keeps the adaptive step finite where the second moment is small."""

_AT_REST = np.float32(ADAPTIVITY**2)

ONE = torch.ones(())
"""Rounds nothing: `sum + share × update × 1` rounds product and sum each for itself, as numpy would in two passes."""


def capped_shares(weights: Mapping[str, float], *, cap: float) -> dict[str, float]:
    """Turn weights into shares that add up to 1, none above `cap` (or above 1/n, where n sites can't keep to the cap).

    What a capped site gives up goes to the others in proportion to their weights.
    """
    cap = max(cap, 1 / len(weights))
    shares = dict.fromkeys(weights, cap)
    free, left = dict(weights), 1.0
    while free:
        total = sum(free.values())
        over = [site for site, weight in free.items() if weight / total * left > cap]
        if not over:
            return shares | {site: weight / total * left for site, weight in free.items()}
        for site in over:
            del free[site]
            left -= cap
    return shares


class StreamingMean:
    """Weighted mean of updates that are added one at a time and can then be dropped: one accumulator, in fp32.

    The sum depends on the order of `add`, so callers add in the canonical order of sites.
    """

    def __init__(self, like: NamedArrays) -> None:
        self._blocks = layout(like, dtype=np.float32)
        # numpy asks the system for large pages, torch does not: a tenth of the time of adding.
        ends = accumulate((block.elements for block in self._blocks), initial=0)
        total = np.empty(sum(block.elements for block in self._blocks), np.float32)
        self._sums = [torch.from_numpy(total[slice(*place)]) for place in pairwise(ends)]
        self._shares: list[float] = []

    def add(self, update: NamedArrays, *, share: float, scale: float = 1.0) -> None:
        """Add one site's update, shrunk by `scale` (1: as it is), with its share of the whole."""
        self.add_runs(pack(update).runs, share=share, scale=scale)

    def add_runs(self, runs: Iterable[Array], *, share: float, scale: float) -> None:
        """Add one site's update, of which each block's elements come one after another."""
        factor, begins = share * scale, not self._shares
        self._shares.append(share)
        for total, run in zip(self._sums, runs, strict=True):
            source = from_dlpack(run).float()
            if begins:  # written, where adding to zeros would move twice the bytes
                torch.mul(source, factor, out=total)
            else:
                total.addcmul_(source, ONE, value=factor)

    def finish(self, *, cap: float) -> dict[str, Array]:
        """Hand over the mean, and end.

        The divisor is the shares' sum, or more where a site would otherwise stand for more than `cap` of the step
        because others are missing (docs/decisions/0003): no site ever moves the model by more than `cap` of its update,
        except where fewer than 1/cap sites were asked.
        """
        divisor = max(sum(self._shares), max(self._shares) / cap)
        if divisor != 1:  # it is 1 where no site is missing
            for total in self._sums:
                total /= divisor
        return named(self._blocks, (total.numpy() for total in self._sums))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimiser:
    """How the mean update moves the model: FedAvg's plain addition, FedAvgM, FedAdam or FedYogi.

    Sources: McMahan et al. 2017 (FedAvg); Hsu et al. 2019 (FedAvgM); Reddi et al. 2021, Algorithm 2 (FedAdam, FedYogi),
    without bias correction and with the second moment starting at tau², as there. What the second moment follows there
    is the square of the mean update; in a round it is the mean of the sites' squares (docs/decisions/0021).
    """

    kind: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"]
    lr: float = 1.0
    momentum: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0

    @property
    def adaptive(self) -> bool:
        """Whether it rescales each element by that element's own history."""
        return self.kind in ("fedadam", "fedyogi")

    def gains(self, squares: NamedArrays, state: Mapping[str, Array]) -> dict[str, Array]:
        """Say by what an adaptive step with these squares multiplies each element of the first moment."""
        return {
            name: np.float32(self.lr) / self._root(self._second(state.get(f"v/{name}", _AT_REST), square))
            for name, square in squares.items()
        }

    def step(
        self,
        current: NamedArrays,
        mean: dict[str, Array],
        state: dict[str, Array],
        *,
        squares: NamedArrays | None = None,
    ) -> PackedArrays:
        """Turn the mean update, which is overwritten, into the next model, in the bytes that will travel.

        `squares` is what the second moments follow; without it, the squares of the mean.
        `state` (moments under 'm/' and 'v/' names) is updated in place too. A name without moments starts with them at
        rest, so that stages may join when they are unfrozen.
        """
        for name, update in mean.items():  # before the next model takes memory: moving takes some for a while
            self._move(name, update, state, None if squares is None else squares[name])
            if name.endswith(RUNNING_VARIANCE):  # momentum, or a rounding, may carry it below 0, where scores are NaN
                np.maximum(update, -current[name], out=update)
        return combine(np.add, mean, current, dtype=np.float32)

    def _move(self, name: str, update: Array, state: dict[str, Array], square: Array | None) -> None:
        """Replace a mean update by how far the model is to move."""
        if self.kind == "fedavg":
            return
        first = _moment(f"m/{name}", state, update, rest=0.0)
        if self.kind == "fedavgm":
            first *= np.float32(self.momentum)
            first += update
            np.multiply(first, np.float32(self.lr), out=update)
            return
        second = _moment(f"v/{name}", state, update, rest=_AT_REST)
        first *= np.float32(self.beta1)
        first += np.float32(1 - self.beta1) * update
        second[...] = self._second(second, update * update if square is None else square)
        np.divide(np.float32(self.lr) * first, self._root(second), out=update)

    def _second(self, before: Array | np.float32, square: Array) -> Array:
        step = np.float32(1 - self.beta2) * square
        if self.kind == "fedadam":
            return np.float32(self.beta2) * before + step
        return before - step * np.sign(before - square)

    def _root(self, second: Array) -> Array:
        return np.sqrt(second) + np.float32(ADAPTIVITY)


def _moment(name: str, state: dict[str, Array], update: Array, *, rest: float | np.float32) -> Array:
    if name not in state:
        state[name] = np.full_like(update, rest)
    return state[name]
