"""What is known of a run while it runs: read from its folder, again each time somebody looks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.results import StudyResult
from server.results_json import read
from server.round_records import FILE, read_rounds
from server.run_folder import RunFolder
from server.run_status import RunStatus, read_status
from shared.errors import StorageError
from shared.protocol import StudyProtocol, read_protocol

Rates = Mapping[str, tuple[int, int]]
"""Sensitivity and specificity of one site as (right, all), on validation units at the round's own threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSite:
    """One site as its last round shows it; None where a figure is not known, and never 0.

    `heard` is when a reply last came, "" before the first; `refusals` counts by reason over all rounds; `last` is the
    record of the last round in which its update was used.
    """

    name: str
    state: str
    heard: str
    package: str
    refusal: str | None
    refusals: Mapping[str, int]
    late: int
    last: Mapping[str, Any]
    rates: Mapping[str, Rates]
    auc: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRun:
    """One run. `stage` is that of its status, "failed" where it ended so; `result` is there once the run has ended."""

    name: str
    protocol: StudyProtocol
    digest: str
    stage: str
    since: str
    failure: str
    records: tuple[Mapping[str, Any], ...]
    sites: tuple[LiveSite, ...]
    result: StudyResult | None

    @property
    def running(self) -> bool:
        """Whether somebody should be at work on it."""
        return self.stage not in ("finished", "failed")

    @property
    def rounds_done(self) -> int:
        """How many rounds were finished."""
        return len(self.records)

    @property
    def lost(self) -> int:
        """In how many of them too few sites could be used."""
        return sum(bool(record["lost"]) for record in self.records)


def run_names(folder: Path) -> list[str]:
    """Name the runs in a folder of runs, the one that changed last first."""
    runs = [path.parent for path in folder.glob("*/protocol.toml")]
    return [run.name for run in sorted(runs, key=_changed, reverse=True)]


def stamp(folder: Path) -> tuple[int, ...]:
    """Say when each of a run's files was last written; equal stamps, equal run."""
    return tuple(_written(path) for path in _files(folder))


def read_run(folder: Path) -> LiveRun:
    """Read a run as it stands now, deployed or simulated, under way or ended.

    Raises:
        PolyclinicError: one of its files is damaged, or of another version.
    """
    run = RunFolder(path=folder)
    protocol, status = read_protocol(run.protocol), read_status(run.status)
    records = read_rounds(folder)
    result = read(run.results) if run.results.exists() else None
    failure = _failure(run.outcome)
    return LiveRun(
        name=folder.name,
        protocol=protocol,
        digest=protocol.digest(),
        stage=_stage(status, failure=failure, ended=result is not None),
        since=status.since if status else "",
        failure=failure,
        records=records,
        sites=tuple(_site(name, status, records) for name in _site_names(status, records)),
        result=result,
    )


def _stage(status: RunStatus | None, *, failure: str, ended: bool) -> str:
    if failure:
        return "failed"
    if status:
        return status.stage
    return "finished" if ended else "rounds"


def _site_names(status: RunStatus | None, records: tuple[Mapping[str, Any], ...]) -> list[str]:
    in_rounds = {site for record in records for site in record["sites"]}
    return sorted(in_rounds | set(status.sites if status else ()))


def _site(name: str, status: RunStatus | None, records: tuple[Mapping[str, Any], ...]) -> LiveSite:
    said = status.sites.get(name) if status else None
    entries = [record["sites"][name] for record in records if name in record["sites"]]
    refusals: dict[str, int] = {}
    for reason in (entry["refusal"] for entry in entries if entry["refusal"]):
        refusals[reason] = refusals.get(reason, 0) + 1
    validation = records[-1]["validation"] if records else {}
    return LiveSite(
        name=name,
        state=said.state if said else "",
        heard=said.heard if said else "",
        package=said.package if said else "",
        refusal=said.refusal if said else entries[-1]["refusal"] if entries else None,
        refusals=refusals,
        late=sum(record.get("late_replies", {}).get(name, 0) for record in records),
        last=next((entry for entry in reversed(entries) if not entry["refusal"]), {}),
        rates={
            finding: {measure: (k, n) for measure, (k, n) in sites[name].items() if n}
            for finding, sites in validation.get("site_rates", {}).items()
            if name in sites
        },
        auc={
            finding: sites[name]
            for finding, sites in validation.get("site_auc", {}).items()
            if sites.get(name) is not None
        },
    )


def _failure(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["failed"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        raise StorageError(f"{path} cannot be read. `polyclinic coordinator resume` writes it anew.") from None


def _files(folder: Path) -> tuple[Path, ...]:
    run = RunFolder(path=folder)
    return run.protocol, run.status, folder / FILE, run.results, run.outcome


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _changed(folder: Path) -> int:
    return max(stamp(folder))
