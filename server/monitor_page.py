"""The live page: a run's progress and each site's figures as they stand, without a script; it reloads itself."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from server import wording
from server.figures import SiteMark, site_key, site_marks
from server.figures_training import Curve, RoundAxis, training_curves
from server.live_run import LiveRun, LiveSite
from server.report import page_environment

_HERE = Path(__file__).parent

RELOAD_SECONDS = 10

STAGES = {
    "readiness": "asking the sites whether they are ready",
    "rounds": "training",
    "conclusion": "testing the chosen model",
    "delivery": "sending model and report to the sites",
    "finished": "finished",
    "failed": "failed",
}

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def overview(runs: Sequence[LiveRun], *, now: datetime) -> str:
    """Make the page that lists the runs."""
    return _rendered("monitor_runs.html.j2", runs=runs, now=now)


def live(run: LiveRun, *, now: datetime) -> str:
    """Make a run's page; every name in it is escaped, and nothing is fetched."""
    marks = site_marks([site.name for site in run.sites])
    keys = {name: f"key-{place}" for place, name in enumerate(marks)}
    return _rendered(
        "monitor_run.html.j2",
        run=run,
        now=now,
        keys=keys,
        drawn_keys=[Markup(site_key(marks[name], name=key)) for name, key in keys.items()],  # noqa: S704  # our figure
        figures=[(title, Markup(svg)) for title, svg in _figures(run, marks)] if run.records else [],  # noqa: S704
        findings=run.protocol.task.targets,
    )


def ago(moment: str, now: datetime) -> str:
    """Say how long ago an ISO 8601 moment was, in the largest unit that fits: 3 minutes ago."""
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    for size, unit in _UNITS:
        if seconds >= size:
            many = seconds // size
            return f"{many} {unit}{'s' if many != 1 else ''} ago"
    return "now"


def byte_count(number: int) -> str:
    """Write a size in the unit that a person would use: 44.7 MB."""
    size = float(number)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def trouble(site: LiveSite) -> str:
    """Say in one line what is wrong with a site, "" where nothing is."""
    if site.refusal:
        return f"its last reply could not be used: {wording.code(site.refusal)}"
    if site.state in ("silent", "asked again"):
        return {"silent": "no reply by the deadline", "asked again": "no reply yet, asked again"}[site.state]
    return "its reply came too late" if site.state == "late" else ""


def _rendered(template: str, **facts: Any) -> str:
    environment = page_environment()
    environment.filters.update(ago=ago, byte_count=byte_count, address=lambda name: quote(name, safe=""))
    css = (_HERE / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        css=Markup(css),  # noqa: S704  # our own file
        reload=RELOAD_SECONDS,
        stages=STAGES,
        trouble=trouble,
        **facts,
    )


def _figures(run: LiveRun, marks: Mapping[str, SiteMark]) -> list[tuple[str, str]]:
    along = RoundAxis(rounds=[record["round"] for record in run.records], chosen=None, stages={})
    found = []
    if any(_loss(record, site) is not None for record in run.records for site in marks):
        curves = [_curve(site, mark, [_loss(record, site) for record in run.records]) for site, mark in marks.items()]
        found.append(_figure("Training loss", curves, along, "loss", 2))
    for place, finding in enumerate(run.protocol.task.targets):
        for measure in ("sensitivity", "specificity"):
            curves = [
                _curve(site, mark, [_rate(record, finding, site, measure) for record in run.records])
                for site, mark in marks.items()
            ]
            title = f"{finding}: {measure} on validation patients"
            found.append(_figure(title, curves, along, f"{measure}-{place}", 2, most=1.0))
    return found


def _figure(
    title: str, curves: list[Curve], along: RoundAxis, name: str, decimals: int, *, most: float = math.inf
) -> tuple[str, str]:
    said = "; ".join(f"{curve.name} {_last(curve, decimals)}" for curve in curves)
    description = f"By round and site; last values: {said}."
    svg = training_curves(
        curves, along, name=name, title=title, description=description, decimals=decimals, refused=(), most=most
    )
    return title, svg


def _curve(site: str, mark: SiteMark, values: list[float | None]) -> Curve:
    return Curve(name=site, mark=mark, values=values)


def _last(curve: Curve, decimals: int) -> str:
    known = [value for value in curve.values if value is not None]
    return f"{known[-1]:.{decimals}f}" if known else "none"


def _loss(record: Mapping[str, Any], site: str) -> float | None:
    losses = record["sites"].get(site, {}).get("loss_by_epoch")
    return float(losses[-1]) if losses else None


def _rate(record: Mapping[str, Any], finding: str, site: str, measure: str) -> float | None:
    right, total = record["validation"].get("site_rates", {}).get(finding, {}).get(site, {}).get(measure, (0, 0))
    return right / total if total else None
