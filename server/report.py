"""The HTML report: StudyResult in, one self-contained page out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from server import (
    privacy_words,
    report_tables,
    wording,
    wording_case_mix,
    wording_classes,
    wording_drift,
    wording_explanation,
    wording_limits,
    wording_lowest,
    wording_new_hospital,
    wording_own,
    wording_remedies,
    wording_scale,
    wording_shift,
    wording_summary,
    wording_warnings,
    wording_worth,
)
from server.behind_figures import ALARMS, CurveRow, curve_rows, training_rows
from server.class_matrix import class_matrices
from server.cross_site import MatrixRow, matrix
from server.drift import Drift
from server.figures import site_key, site_marks
from server.finding_result import FindingResult
from server.other_thresholds import OtherThresholds
from server.report_figures import (
    ALL_SITES,
    MEASURES,
    Marks,
    calibration_figure,
    forest_figure,
    loss_figure,
    receipt_figure,
    roc_figure,
    validation_figure,
)
from server.results import StudyResult
from server.target import Target
from shared.description import CORNERS
from shared.storage import atomic_file

_HERE = Path(__file__).parent
_FILTERS = (
    "absence",
    "area",
    "area_range",
    "code",
    "count",
    "level",
    "measure",
    "p_number",
    "percent",
    "percent_range",
    "signed",
)  # the words of wording.py that the template uses most


def render(result: StudyResult, *, moved: Drift | None = None) -> str:
    """Make the page: no script, nothing fetched, every name escaped; equal results give equal bytes.

    With `moved` it also shows each site against itself of an earlier run.
    """
    return page_environment().get_template("report.html.j2").render(_context(result), drift=moved)


def write(result: StudyResult, path: Path, *, moved: Drift | None = None) -> None:
    """Write the page to a file; a reader sees the old page or the new one, never a part.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    page = render(result, moved=moved)
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingSection:
    """One finding's figures and rows; `anchor` is its name in the page's addresses."""

    name: str
    target: Target
    anchor: str
    rows: list[report_tables.SiteRow]
    comparisons: list[report_tables.Comparison]
    differences: list[report_tables.DifferenceRow]
    matrix: list[MatrixRow]
    curves: list[CurveRow]
    twins: list[report_tables.TwinRow]
    forests: list[tuple[str, Markup]]
    roc: Markup
    roc_corner: Markup
    validation: Markup
    calibration: Markup
    receipts: Markup
    others: OtherThresholds | None
    others_target: float | None
    shared_threshold: float | None
    quality_rows: list[tuple[str, FindingResult]]

    @property
    def auc_rows(self) -> list[tuple[str, FindingResult]]:
        """Each site's own test result, without that of all sites."""
        return self.quality_rows[:-1]


def page_environment() -> Environment:
    """Give what makes pages of the templates in this folder; every name in them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({name: getattr(wording, name) for name in _FILTERS})
    return environment


def _context(result: StudyResult) -> dict[str, Any]:
    marks = site_marks(result.site_names)
    keys = {site: f"key-{place}" for place, site in enumerate((*marks, ALL_SITES))}
    return {
        "result": result,
        "study": result.study,
        "words": wording,
        "privacy": privacy_words,
        "why": wording_explanation,
        "mixed": wording_case_mix,
        "classed": wording_classes,
        "matrices": class_matrices(result),
        "images": wording_shift,
        "corners": CORNERS,
        "worth": wording_worth,
        "limits": wording_limits,
        "summary": wording_summary,
        "lowest": wording_lowest,
        "no_warning": wording_warnings.no_warning(result),
        "elsewhere": wording_new_hospital,
        "remedy": wording_remedies,
        "moves": wording_drift,
        "scale": wording_scale,
        "owns": wording_own,
        "css": Markup((_HERE / "report.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
        "drawn_keys": [_drawn(site_key(marks.get(site), name=name)) for site, name in keys.items()],
        "keys": keys,
        "warnings": _warnings(result),
        "sections": [_section(result, place, marks) for place in range(len(result.study.findings))],
        "loss": _drawn(loss_figure(result, name="loss", marks=marks)),
        "refused": report_tables.refused_updates(result),
        "reasons": report_tables.exclusion_reasons(result),
        "mean": report_tables.mean,
        "took_part": report_tables.took_part,
        "unassessed": report_tables.unassessed,
        "alarms": ALARMS,
        "training_rows": training_rows(result),
    }


def _warnings(result: StudyResult) -> list[wording_warnings.Warn]:
    """List what limits the numbers' use, what images and corners say included; the grave first."""
    images = [
        wording_warnings.Warn(headline=head, text=text, grave=False) for head, text in wording_shift.warnings(result)
    ]
    return sorted([*wording_warnings.warnings(result), *images], key=lambda one: not one.grave)


def _section(result: StudyResult, place: int, marks: Marks) -> FindingSection:
    finding = result.study.findings[place]
    rows, point = report_tables.site_rows(result, finding), result.operating_point.get(finding)
    tests = [(row.site, row.test) for row in rows] + [(ALL_SITES, result.of_pool("test", finding))]
    anchor = f"finding-{place + 1}"  # a finding's own name may hold what an address may not
    return FindingSection(
        name=finding,
        target=Target(name=finding, exclusive=result.study.exclusive),
        anchor=anchor,
        rows=rows,
        comparisons=report_tables.comparisons(result, finding),
        differences=report_tables.difference_rows(result, finding),
        matrix=matrix(result, finding),
        curves=curve_rows(tests, confidence=result.study.confidence),
        twins=report_tables.twin_rows(result, finding),
        forests=[
            (measure, _drawn(forest_figure(result, finding, measure, name=f"{anchor}-{measure}", marks=marks)))
            for measure in MEASURES
        ],
        roc=_drawn(roc_figure(result, finding, corner=1.0, name=f"{anchor}-roc", marks=marks)),
        roc_corner=_drawn(roc_figure(result, finding, corner=0.5, name=f"{anchor}-corner", marks=marks)),
        validation=_drawn(validation_figure(result, finding, name=f"{anchor}-validation", marks=marks)),
        calibration=_drawn(calibration_figure(result, finding, name=f"{anchor}-calibration", marks=marks)),
        receipts=_drawn(receipt_figure(result, finding, name=f"{anchor}-receipts", marks=marks)),
        others=result.other_thresholds.get(finding),
        others_target=point.target if point else None,
        shared_threshold=point.threshold if point else None,
        quality_rows=tests,
    )


def _drawn(svg: str) -> Markup:
    """Pass a figure into the page as it is: ElementTree wrote it, and escaped every text in it."""
    return Markup(svg)  # noqa: S704
