"""Paired differences by site, on either side of nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.figures import INK, MUTED, PAPER, SMALL_PX, WIDTH, Axes, Board, SiteMark, board, write
from server.figures_performance import fitting
from shared.paired import Paired

_ROW, _NAMES = 30, 104


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceLine:
    """One site's paired difference."""

    name: str
    mark: SiteMark
    ranked: bool
    difference: Paired
    tip: str


def differences(lines: Sequence[DifferenceLine], *, name: str, title: str, description: str) -> str:
    """Draw one line a site, top to bottom, on an axis with 0 in its middle."""
    height = _ROW * len(lines) + 70
    reach = max(0.02, *(max(-line.difference.low, line.difference.high) for line in lines)) * 1.05
    with board(name=name, width=WIDTH, height=height, title=title, description=description) as page:
        axes = page.axes(left=_NAMES, right=14, top=28, bottom=42)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=5)
        axes.axvline(0, color=INK, linewidth=1.2)
        write(axes, 0, -0.5, "alone is better", dx=-8, dy=8, ha="right", color=MUTED, fontsize=SMALL_PX)
        write(axes, 0, -0.5, "federated is better", dx=8, dy=8, color=MUTED, fontsize=SMALL_PX)
        axes.set_xlabel("difference of AUC", color=MUTED, fontsize=SMALL_PX)
        for place, line in enumerate(lines):
            _line(page, axes, place, line, reach=reach)
    return page.svg


def _line(page: Board, axes: Axes, place: int, line: DifferenceLine, *, reach: float) -> None:
    """Draw a site that is not ranked hollow, grey and dashed, as in the other figures."""
    colour = line.mark.colour if line.ranked else MUTED
    label = write(
        axes, -reach, place, fitting(line.name), dx=2 - _NAMES, va="center", color=INK if line.ranked else MUTED
    )
    page.tip(label, line.tip)
    ends, style = [line.difference.low, line.difference.high], "-" if line.ranked else (0, (2, 2))
    axes.plot(ends, [place, place], color=colour, linewidth=2, linestyle=style)
    (value,) = axes.plot(
        [line.difference.difference],
        [place],
        color=colour,
        marker=line.mark.shape,
        markersize=8,
        markerfacecolor=colour if line.ranked else PAPER,
        markeredgecolor=colour,
        zorder=3,
    )
    page.tip(value, line.tip)
