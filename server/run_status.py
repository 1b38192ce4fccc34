"""Where a deployed run stands, site by site: written by the process that runs it, read by commands and the monitor."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from shared.errors import StorageError
from shared.storage import atomic_file

HEARD = ("answered", "late")
"""The states in which a site was heard."""


@dataclass(slots=True, kw_only=True)
class SiteStatus:
    """One site: what happened last to its task, when (ISO 8601), and what it said before round 1.

    `state` is one of: not asked, asked, asked again, answered, silent, late, dropped. `refusal` is the reason why its
    last reply could not be used, and `heard` is when a reply last came, in time or late; "" before the first.
    """

    state: str = "not asked"
    since: str = ""
    heard: str = ""
    package: str = ""
    approval: str = ""
    refusal: str | None = None


@dataclass(slots=True, kw_only=True)
class RunStatus:
    """The stage of a run (readiness, rounds, conclusion, delivery, finished, failed), its round, and its sites."""

    stage: str
    round: int
    rounds: int
    since: str
    sites: dict[str, SiteStatus] = field(default_factory=dict)


class StatusBoard:
    """Keeps a run's status in its file; every change is written whole."""

    def __init__(self, path: Path, sites: Iterable[str], *, rounds: int, now: Callable[[], datetime]) -> None:
        self._path, self._now = path, now
        sites_now = {site: SiteStatus() for site in sites}
        self.status = RunStatus(stage="readiness", round=0, rounds=rounds, since=self._time(), sites=sites_now)
        self._write()

    def stage(self, stage: str, *, number: int) -> None:
        """Begin a stage, after so many finished rounds."""
        self.status.stage, self.status.round, self.status.since = stage, number, self._time()
        self._write()

    def site(self, name: str, state: str) -> None:
        """Note what happened to a site's task."""
        entry = self.status.sites[name]
        entry.state, entry.since = state, self._time()
        if state in HEARD:
            entry.heard = entry.since
        self._write()

    def said(self, name: str, *, package: str, approval: str) -> None:
        """Note what a site said of itself before round 1."""
        entry = self.status.sites[name]
        entry.package, entry.approval = package, approval
        self._write()

    def refused(self, name: str, reason: str | None) -> None:
        """Note why a site's last reply could not be used; None where it was."""
        self.status.sites[name].refusal = reason
        self._write()

    def _time(self) -> str:
        return self._now().isoformat(timespec="seconds")

    def _write(self) -> None:
        with atomic_file(self._path) as part:
            part.write_text(json.dumps(asdict(self.status), indent=1), encoding="utf-8")


def failed(path: Path, *, now: datetime) -> None:
    """Note that a run has failed, at the stage and round where it was; where nothing was noted yet, nothing is.

    Raises:
        StorageError: the file cannot be read or written.
    """
    if (status := read_status(path)) is not None:
        status.stage, status.since = "failed", now.isoformat(timespec="seconds")
        with atomic_file(path) as part:
            part.write_text(json.dumps(asdict(status), indent=1), encoding="utf-8")


def read_status(path: Path) -> RunStatus | None:
    """Read a run's status; None before it has one.

    Raises:
        StorageError: the file is not of this form.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return RunStatus(**data | {"sites": {name: SiteStatus(**entry) for name, entry in data["sites"].items()}})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise StorageError(
            f"{path}: the run's status cannot be read. `polyclinic coordinator resume` writes it anew."
        ) from None
