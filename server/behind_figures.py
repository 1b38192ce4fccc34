"""The numbers behind the curves: what a reader of the figures would read off them, as rows of tables."""

from dataclasses import dataclass

import numpy as np

from server.calibration_points import calibration_points
from server.figures_calibration import CalibrationPoint
from server.finding_result import FindingResult
from server.results import StudyResult

ALARMS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""False-alarm rates at which the ROC curves are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRow:
    """One site's sensitivity at each of ALARMS, straight from bin edge to bin edge, and its calibration points."""

    site: str
    ranked: bool
    sensitivities: tuple[float, ...]
    calibration: tuple[CalibrationPoint, ...]


def curve_rows(tests: list[tuple[str, FindingResult]], *, confidence: float) -> list[CurveRow]:
    """Read the curves of every site that has any, in the order given."""
    rows = []
    for site, test in tests:
        rates = test.histogram.roc() if test.histogram else None
        if test.histogram is None or rates is None:
            continue
        rows.append(
            CurveRow(
                site=site,
                ranked=test.ranked,
                sensitivities=tuple(float(np.interp(alarm, rates[0], rates[1])) for alarm in ALARMS),
                calibration=tuple(calibration_points(test.histogram, name=site, confidence=confidence)),
            )
        )
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One round at one site: its loss, and its validation AUC of every finding; None where it is not known."""

    round: int
    site: str
    loss: float | None
    aucs: tuple[float | None, ...]


def training_rows(result: StudyResult) -> list[TrainingRow]:
    """Read the training curves, round by round and site by site."""
    return [
        TrainingRow(
            round=one.round,
            site=site,
            loss=one.sites[site].loss if site in one.sites else None,
            aucs=tuple(
                one.validation[finding].sites.get(site) if finding in one.validation else None
                for finding in result.study.findings
            ),
        )
        for one in result.rounds
        for site in result.site_names
    ]
