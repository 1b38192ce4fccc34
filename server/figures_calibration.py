"""Calibration curves: how often the finding is there, against how likely the scores say it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.figures import GRID, INK, MUTED, SMALL_PX, WIDTH, Axes, Board, SiteMark, board, write


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPoint:
    """Units of like score: their mean score, and the share of positives among them with its interval."""

    score: float
    share: float
    low: float
    high: float
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCurve:
    """One site's points from the lowest score up; `mark` None: all sites together, the only one with intervals."""

    mark: SiteMark | None
    ranked: bool
    points: Sequence[CalibrationPoint]


def calibration_curves(curves: Sequence[CalibrationCurve], *, name: str, title: str, description: str) -> str:
    """Draw all curves on one square; on the diagonal the scores are probabilities."""
    with board(name=name, width=WIDTH, height=WIDTH + 16, title=title, description=description) as page:
        axes = page.axes(left=52, right=16, top=20, bottom=48)
        steps = [step / 5 for step in range(6)]
        axes.set_xticks(steps, [f"{step:.0%}" for step in steps])
        axes.set_yticks(steps, [f"{step:.0%}" for step in steps])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.5)
        write(axes, 0.02, 0.96, "more frequent than scored", color=MUTED, fontsize=SMALL_PX)
        write(axes, 0.98, 0.03, "less frequent", color=MUTED, fontsize=SMALL_PX, ha="right")
        axes.set_xlabel("score", color=MUTED, fontsize=SMALL_PX)
        axes.set_ylabel("share that has it", color=MUTED, fontsize=SMALL_PX)
        for curve in sorted(curves, key=lambda curve: (curve.mark is None, curve.ranked)):
            _curve(page, axes, curve)
    return page.svg


def _curve(page: Board, axes: Axes, curve: CalibrationCurve) -> None:
    colour = INK if curve.mark is None else curve.mark.colour
    shape = "d" if curve.mark is None else curve.mark.shape
    scores, shares = [one.score for one in curve.points], [one.share for one in curve.points]
    axes.plot(scores, shares, color=colour, linewidth=1.5, linestyle="-" if curve.ranked else (0, (2, 2)))
    for one in curve.points:
        if curve.mark is None:
            axes.plot([one.score, one.score], [one.low, one.high], color=colour, linewidth=1.5)
        (mark,) = axes.plot([one.score], [one.share], color=colour, marker=shape, markersize=6, clip_on=False, zorder=3)
        page.tip(mark, one.tip)
