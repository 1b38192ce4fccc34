"""Forest plots and ROC curves: each site beside the others, and all of them together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.figures import (
    GRID,
    INK,
    MUTED,
    PAPER,
    SMALL_PX,
    TARGET,
    WIDTH,
    Axes,
    Board,
    SiteMark,
    board,
    write,
)
from shared.bounded import exactly

_ROW = 30
_NAMES = 104  # pixels kept for the sites' names, left of the plot
_NUMBERS = 124  # and for the numbers, right of it
_LONGEST_NAME = 15  # characters that fit into _NAMES; the whole name is in the tip and in the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its interval; bounds are None where no interval can be given."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """One line of a forest plot. Without an estimate, `numbers` says why in words and nothing is drawn.

    `mark` is None for all sites together, which is drawn as a diamond as wide as its interval.
    """

    name: str
    mark: SiteMark | None
    ranked: bool
    estimate: Estimate | None
    numbers: str
    tip: str


def forest(
    rows: Sequence[ForestRow], *, name: str, title: str, description: str, target: float | None, percent: bool
) -> str:
    """Draw one line a row, top to bottom, on an axis that ends at 1; `target` is a dashed line."""
    height = _ROW * len(rows) + 52
    with board(name=name, width=WIDTH, height=height, title=title, description=description) as page:
        axes = page.axes(left=_NAMES, right=_NUMBERS, top=20, bottom=32)
        axes.set_xlim(_start(rows, target), 1.0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        _ticks(axes, percent=percent)
        if target is not None:
            _target(axes, target)
        for place, row in enumerate(rows):
            _row(page, axes, place, row)
    return page.svg


def fitting(name: str) -> str:
    """Cut a name to what fits beside a plot."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _start(rows: Sequence[ForestRow], target: float | None) -> float:
    """Begin the axis a tenth below what is drawn, so that no interval is cut off."""
    estimates = [row.estimate for row in rows if row.estimate]
    lows = [one.value if one.low is None else one.low for one in estimates]
    lowest = min([*lows, 0.8 if target is None else target])
    return max(0.0, math.floor(lowest * 10 - 1e-9) / 10)


def _ticks(axes: Axes, *, percent: bool) -> None:
    start = axes.get_xlim()[0]
    step = 0.1 if start >= 0.7 else 0.2 if start >= 0.4 else 0.25
    places = [1 - step * back for back in range(8) if 1 - step * back >= start - 1e-9]
    axes.set_xticks(places, [f"{place:.0%}" if percent else f"{place:.2f}" for place in places])
    axes.set_yticks([])


def _target(axes: Axes, target: float) -> None:
    axes.axvline(target, color=TARGET, linewidth=1.5, dashes=(4, 3))
    write(
        axes,
        target,
        -0.5,
        f"target {exactly(target * 100)} %",
        dx=3,
        dy=6,
        color=TARGET,
        fontsize=SMALL_PX,
        ha="center",
    )


def _row(page: Board, axes: Axes, place: int, row: ForestRow) -> None:
    start, end = axes.get_xlim()
    look: dict[str, Any] = {"color": INK if row.ranked else MUTED, "va": "center"}
    page.tip(
        write(
            axes,
            start,
            place,
            fitting(row.name),
            dx=2 - _NAMES,
            weight="bold" if row.mark is None else "normal",
            **look,
        ),
        row.tip,
    )
    if row.estimate is None:
        over_target = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
        write(axes, start, place, row.numbers, dx=4, fontsize=10.5, style="italic", bbox=over_target, **look)
        return
    write(axes, end, place, row.numbers, dx=_NUMBERS - 2, ha="right", fontsize=SMALL_PX, **look)
    if row.mark is None:
        _diamond(page, axes, place, row, row.estimate)
    else:
        _whisker(page, axes, place, row, row.mark, row.estimate)


def _diamond(page: Board, axes: Axes, place: int, row: ForestRow, estimate: Estimate) -> None:
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    corners = [low, estimate.value, high, estimate.value], [place, place - 0.26, place, place + 0.26]
    (shape,) = axes.fill(*corners, facecolor=INK, edgecolor=INK, linewidth=1, zorder=3)
    page.tip(shape, row.tip)


def _whisker(page: Board, axes: Axes, place: int, row: ForestRow, mark: SiteMark, estimate: Estimate) -> None:
    """Draw interval and value; a site that is not ranked is hollow, grey and dashed."""
    colour = mark.colour if row.ranked else MUTED
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2, linestyle=_style(row))
    (value,) = axes.plot(
        [estimate.value],
        [place],
        color=colour,
        marker=mark.shape,
        markersize=8,
        markerfacecolor=colour if row.ranked else PAPER,
        markeredgecolor=colour,
        clip_on=False,
        zorder=3,
    )
    page.tip(value, row.tip)


@dataclass(frozen=True, slots=True, kw_only=True)
class RocCurve:
    """False-positive and true-positive rates in step, and where the shared threshold lies; `mark` None: all sites."""

    mark: SiteMark | None
    ranked: bool
    false_positive_rates: Sequence[float]
    true_positive_rates: Sequence[float]
    operating_point: tuple[float, float] | None
    tip: str


def roc(
    curves: Sequence[RocCurve], *, corner: float, name: str, title: str, description: str, target: float | None
) -> str:
    """Draw all curves on one square, the pooled curve in ink; the marks are the shared operating point.

    Each site's is in its own colour, dashed and with a hollow mark where it is not ranked.
    `corner` is the side of what is shown, from the upper left: 1 for the whole square, less to look closer.
    """
    with board(name=name, width=WIDTH, height=WIDTH + 16, title=title, description=description) as page:
        axes = page.axes(left=52, right=16, top=20, bottom=48)
        steps = [corner * step / 5 for step in range(6)]
        axes.set_xticks(steps, [f"{step:.0%}" for step in steps])
        axes.set_yticks([1 - step for step in steps], [f"{1 - step:.0%}" for step in steps])
        axes.set_xlim(-0.01 * corner, corner)
        axes.set_ylim(1 - corner, 1 + 0.01 * corner)
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
        axes.set_xlabel("1 − specificity (false alarms)", color=MUTED, fontsize=SMALL_PX)
        axes.set_ylabel("sensitivity (found)", color=MUTED, fontsize=SMALL_PX)
        if target is not None:
            axes.axhline(target, color=TARGET, linewidth=1, dashes=(4, 3))
            write(
                axes,
                corner,
                target,
                f"target {exactly(target * 100)} %",
                dy=-12,
                color=TARGET,
                fontsize=SMALL_PX,
                ha="right",
            )
        for curve in sorted(curves, key=lambda curve: (curve.mark is None, curve.ranked)):
            _curve(page, axes, curve, corner=corner)
    return page.svg


def _curve(page: Board, axes: Axes, curve: RocCurve, *, corner: float) -> None:
    colour = INK if curve.mark is None else curve.mark.colour
    width = 2.5 if curve.mark is None else 1.6
    rates = curve.false_positive_rates, curve.true_positive_rates
    (line,) = axes.plot(*rates, color=colour, linewidth=width, linestyle=_style(curve))
    page.tip(line, curve.tip)
    if curve.operating_point is not None and _in_view(curve.operating_point, corner):
        (point,) = axes.plot(
            *([at] for at in curve.operating_point),
            color=colour,
            marker="d" if curve.mark is None else curve.mark.shape,
            markersize=10,
            markerfacecolor=colour if curve.ranked else PAPER,
            markeredgecolor=PAPER if curve.ranked else colour,
            clip_on=False,
            zorder=4,
        )
        page.tip(point, curve.tip)


def _in_view(point: tuple[float, float], corner: float) -> bool:
    """Tell whether a mark lies in what is shown: marks are not clipped, so that one on the edge is whole."""
    false_positive_rate, true_positive_rate = point
    return false_positive_rate <= corner and true_positive_rate >= 1 - corner


def _style(drawn: ForestRow | RocCurve) -> Any:
    """Dash the lines of a site that is not ranked."""
    return "-" if drawn.ranked else (0, (2, 2))
