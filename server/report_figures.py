"""The report's figures of one study: its facts laid out as forest rows, ROC curves and training curves."""

from collections.abc import Mapping
from typing import Literal

from server import wording
from server.calibration_points import calibration_points
from server.figures import SiteMark
from server.figures_calibration import CalibrationCurve, calibration_curves
from server.figures_differences import DifferenceLine, differences
from server.figures_performance import Estimate, ForestRow, RocCurve, forest, roc
from server.figures_training import Curve, RoundAxis, training_curves
from server.finding_result import FindingResult
from server.report_tables import refused_updates, site_rows, stage_changes
from server.results import StudyResult

Measure = Literal["sensitivity", "specificity", "auc"]
MEASURES: tuple[Measure, ...] = ("sensitivity", "specificity", "auc")
Marks = Mapping[str, SiteMark]
ALL_SITES = "all sites"


def forest_figure(result: StudyResult, finding: str, measure: Measure, *, name: str, marks: Marks) -> str:
    """Draw one measure of one finding at every site and over all of them, with the study's target if it has one."""
    rows = [
        _forest_row(row.site, marks[row.site], row.test, measure, ranked=row.test.ranked)
        for row in site_rows(result, finding)
    ]
    rows.append(_forest_row(ALL_SITES, None, result.of_pool("test", finding), measure, ranked=True))
    point = result.operating_point.get(finding)
    return forest(
        rows,
        name=name,
        title=f"{wording.measure(measure)} for {finding}, by site",
        description="; ".join(row.tip for row in rows),
        target=point.target if point and measure == "sensitivity" else None,
        percent=measure != "auc",
    )


def _forest_row(name: str, mark: SiteMark | None, test: FindingResult, measure: Measure, *, ranked: bool) -> ForestRow:
    one = {"sensitivity": test.sensitivity, "specificity": test.specificity, "auc": test.auc}[measure]
    if one is None:
        words = wording.absence(test.why)
        return ForestRow(name=name, mark=mark, ranked=False, estimate=None, numbers=words, tip=f"{name}: {words}")
    numbers = _plain(one.value, measure)
    if one.low is not None and one.high is not None:
        numbers += f" ({_plain(one.low, measure)}–{_plain(one.high, measure)})"
    return ForestRow(
        name=name,
        mark=mark,
        ranked=ranked,
        estimate=Estimate(value=one.value, low=one.low, high=one.high),
        numbers=numbers,
        tip=f"{name}: {numbers}" + ("" if ranked else ", not ranked"),
    )


def _plain(number: float, measure: Measure) -> str:
    return wording.area(number) if measure == "auc" else wording.hundred(number)


def roc_figure(result: StudyResult, finding: str, *, corner: float, name: str, marks: Marks) -> str:
    """Draw the ROC curve of each site and of all, from their score bins, with the shared operating point on each."""
    tests = [(row.site, row.test) for row in site_rows(result, finding)]
    curves = [_roc_curve(site, marks[site], test, ranked=test.ranked) for site, test in tests]
    curves.append(_roc_curve(ALL_SITES, None, result.of_pool("test", finding), ranked=True))
    drawn = [curve for curve in curves if curve is not None]
    point = result.operating_point.get(finding)
    return roc(
        drawn,
        corner=corner,
        name=name,
        title=f"ROC curves for {finding}, by site" + ("" if corner == 1 else ", upper left corner"),
        description="Test patients. " + "; ".join(curve.tip for curve in drawn),
        target=point.target if point else None,
    )


def _roc_curve(name: str, mark: SiteMark | None, test: FindingResult, *, ranked: bool) -> RocCurve | None:
    rates = test.histogram.roc() if test.histogram else None
    if rates is None:
        return None
    tip, point = name + (f", AUC {wording.area(test.auc.value)}" if test.auc else ""), None
    if test.sensitivity and test.specificity:
        found, cleared = test.sensitivity.value, test.specificity.value
        tip += f"; at the shared threshold sensitivity {wording.percent(found)}, specificity {wording.percent(cleared)}"
        point = (1 - cleared, found)
    return RocCurve(
        mark=mark,
        ranked=ranked,
        false_positive_rates=rates[0].tolist(),
        true_positive_rates=rates[1].tolist(),
        operating_point=point,
        tip=tip,
    )


def calibration_figure(result: StudyResult, finding: str, *, name: str, marks: Marks) -> str:
    """Draw how often the finding is there against the score: each site, and all with intervals."""
    tests = [(row.site, marks[row.site], row.test, row.test.ranked) for row in site_rows(result, finding)]
    curves = [
        CalibrationCurve(
            mark=mark,
            ranked=ranked,
            points=calibration_points(test.histogram, name=site, confidence=result.study.confidence),
        )
        for site, mark, test, ranked in [*tests, (ALL_SITES, None, result.of_pool("test", finding), True)]
        if test.histogram
    ]
    together = next((curve.points for curve in curves if curve.mark is None), [])
    return calibration_curves(
        curves,
        name=name,
        title=f"Calibration for {finding}, by site",
        description="Test patients. " + "; ".join(point.tip for point in together),
    )


def receipt_figure(result: StudyResult, finding: str, *, name: str, marks: Marks) -> str:
    """Draw each site's receipt: the federated model's AUC minus that of the site's own; "" where there is none."""
    owed = result.receipts.get(finding, {})
    rows = [
        DifferenceLine(
            name=row.site,
            mark=marks[row.site],
            ranked=one.ranked,
            difference=one.auc,
            tip=f"{row.site}: {wording.signed(one.auc.difference, 3)} ("
            f"{wording.signed_range(one.auc.low, one.auc.high, 3)})" + ("" if one.ranked else ", not ranked"),
        )
        for row in site_rows(result, finding)
        if (one := owed.get(row.site)) and one.auc
    ]
    if not rows:
        return ""
    return differences(
        rows,
        name=name,
        title=f"Federated minus alone, AUC for {finding}, by site",
        description="; ".join(row.tip for row in rows),
    )


def loss_figure(result: StudyResult, *, name: str, marks: Marks) -> str:
    """Draw each site's mean training loss by round; an update that was refused is a cross at the foot."""
    curves = [
        Curve(name=site, mark=mark, values=[_loss(result, place, site) for place in range(len(result.rounds))])
        for site, mark in marks.items()
    ]
    refused = [
        (one.round, marks[one.site], f"{one.site}, round {one.round}: {wording.code(one.code)}")
        for one in refused_updates(result)
    ]
    return training_curves(
        curves,
        _along(result),
        name=name,
        title="Training loss by round, by site",
        description=_first_and_last(curves, 3) + f". {len(refused)} updates were refused.",
        decimals=2,
        refused=refused,
    )


def validation_figure(result: StudyResult, finding: str, *, name: str, marks: Marks) -> str:
    """Draw the validation AUC of one finding by round: each site's own, and that of all sites together."""
    shown = [one.validation.get(finding) for one in result.rounds]
    curves = [
        Curve(name=site, mark=mark, values=[one.sites.get(site) if one else None for one in shown])
        for site, mark in marks.items()
    ]
    curves.append(Curve(name=ALL_SITES, mark=None, values=[one.pooled if one else None for one in shown]))
    return training_curves(
        curves,
        _along(result),
        name=name,
        title=f"Validation AUC for {finding} by round, by site",
        description=_first_and_last(curves, 3),
        decimals=2,
        refused=[],
        most=1.0,
    )


def _loss(result: StudyResult, place: int, site: str) -> float | None:
    part = result.rounds[place].sites.get(site)
    return part.loss if part else None


def _along(result: StudyResult) -> RoundAxis:
    return RoundAxis(
        rounds=[one.round for one in result.rounds], chosen=result.selected.round, stages=stage_changes(result)
    )


def _first_and_last(curves: list[Curve], decimals: int) -> str:
    """Describe each curve by its first and last value, for those who hear the page."""
    known = {curve.name: [value for value in curve.values if value is not None] for curve in curves}
    return "; ".join(
        f"{name} from {values[0]:.{decimals}f} to {values[-1]:.{decimals}f}" for name, values in known.items() if values
    )
