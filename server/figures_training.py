"""Training curves: loss and validation AUC of each site, round by round."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.figures import GRID, INK, MUTED, SMALL_PX, WIDTH, Axes, Board, SiteMark, board, write

_HEIGHT = 272


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One site's values by round, None where there is none; `mark` is None for all sites together."""

    name: str
    mark: SiteMark | None
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundAxis:
    """What all training figures share: the rounds, the chosen one once there is one, and where more began to train."""

    rounds: Sequence[int]
    chosen: int | None
    stages: Mapping[int, str]


def training_curves(
    curves: Sequence[Curve],
    along: RoundAxis,
    *,
    name: str,
    title: str,
    description: str,
    decimals: int,
    refused: Sequence[tuple[int, SiteMark, str]],
    most: float = math.inf,
) -> str:
    """Draw values by round, which cannot be above `most`.

    `refused` are (round, mark, tip) of updates that did not enter, as crosses at the foot.
    """
    with board(name=name, width=WIDTH, height=_HEIGHT, title=title, description=description) as page:
        axes = page.axes(left=48, right=16, top=28, bottom=44)
        axes.set_xlabel("round", color=MUTED, fontsize=SMALL_PX)
        for curve in curves:
            _curve(page, axes, along.rounds, curve)
        _limits(axes, along.rounds, decimals, most)
        _moments(axes, along)
        for number, mark, tip in refused:
            (cross,) = axes.plot(
                [number], [0.04], marker="x", markersize=8, markeredgewidth=2, color=mark.colour,
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
            page.tip(cross, tip)
    return page.svg


def _curve(page: Board, axes: Axes, rounds: Sequence[int], curve: Curve) -> None:
    """Draw one line; a round without a value is a gap, never a zero."""
    values = [float("nan") if value is None else value for value in curve.values]
    colour, shape, width = (INK, "d", 2.5) if curve.mark is None else (curve.mark.colour, curve.mark.shape, 1.6)
    every = max(1, len(rounds) // 8)
    (line,) = axes.plot(rounds, values, color=colour, linewidth=width, marker=shape, markersize=5, markevery=every)
    page.tip(line, curve.name)


def _limits(axes: Axes, rounds: Sequence[int], decimals: int, most: float) -> None:
    first, last = rounds[0], rounds[-1]
    step = max(1, -(-(last - first) // 8))
    axes.set_xlim(first - 0.3, last + 0.3)
    axes.set_xticks(list(range(first, last + 1, step)))
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(f"{{x:.{decimals}f}}")
    axes.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])  # no 0.975, which two decimals would round
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, most)])
    axes.set_ylim(low, high)


def _moments(axes: Axes, along: RoundAxis) -> None:
    """Mark the chosen round and, where the backbone thaws, the rounds in which more began to train."""
    top: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "fontsize": SMALL_PX}
    for number, stage in along.stages.items():
        axes.axvline(number - 0.5, color=GRID, linewidth=1.5)
        write(axes, number - 0.5, 1, f"{stage} trains", dx=5, dy=-10, color=MUTED, **top)
    if along.chosen is None:
        return
    axes.axvline(along.chosen, color=INK, linewidth=1, dashes=(1, 2))
    write(axes, along.chosen, 1, "chosen", dy=8, color=INK, ha="center", **top)
