"""Tells a person how a deployed run gets on: what each site did, and a line for each finished round."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from server.round_records import read_rounds
from server.run_folder import RunFolder
from server.run_status import RunStatus, SiteStatus, read_status
from shared.amounts import counted
from shared.errors import StorageError

WORTH_TELLING = frozenset({"asked again", "silent", "late", "dropped"})
"""Besides refusals: that a site was asked and answered is told by the round's line."""


class Follower:
    """Reads a run's files again and again, and says what is new; `rounds` are those that it has seen finished."""

    def __init__(self, run: RunFolder, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._status: RunStatus | None = None
        self.rounds = len(read_rounds(self._run.path))

    def pass_over(self) -> None:
        """Take for told where an earlier process left the run: its failure is no news of the one that starts now."""
        with suppress(StorageError):
            self._status = read_status(self._run.status)

    def tell(self) -> None:
        """Say what is new."""
        for record in read_rounds(self._run.path)[self.rounds :]:
            self._say(round_line(record))
            self.rounds += 1
        try:
            status = read_status(self._run.status)
        except StorageError:
            return
        if status is not None:
            for line in news(self._status, status):
                self._say(line)
            self._status = status


def news(before: RunStatus | None, after: RunStatus) -> Iterator[str]:
    """Say what has changed between two looks."""
    if before is None or before.stage != after.stage:
        yield f"{after.stage}: {after.round} of {counted(after.rounds, 'round')} finished"
    for name, site in after.sites.items():
        old = before.sites.get(name, SiteStatus()) if before else SiteStatus()
        if site.approval and site.approval != old.approval:
            yield f"  {name}: {site.approval}, version {site.package}"
        if site.refusal and site.refusal != old.refusal:
            yield f"  {name}: {site.refusal}"
        if site.state in WORTH_TELLING and (site.state, site.since) != (old.state, old.since):
            yield f"  {name}: {site.state}"


def round_line(record: Mapping[str, Any]) -> str:
    """Write a finished round as one line: validation AUC, and each site's loss or why it was left out."""
    shown = ", ".join(
        f"{name} left out ({entry['refusal']})" if entry["refusal"] else f"{name} {_loss(entry['loss_by_epoch'])}"
        for name, entry in record["sites"].items()
    )
    auc = record["validation"]["macro_auc"]
    verdict = (
        "lost: too few sites" if record["lost"] else f"validation AUC {'not known' if auc is None else f'{auc:.3f}'}"
    )
    return f"round {record['round']}: {verdict} | loss of the last epoch {shown} | {record['seconds']:.0f} s"


def table(status: RunStatus) -> list[str]:
    """Write where a run stands, a line a site."""
    lines = [f"{status.stage}, {status.round} of {counted(status.rounds, 'round')} finished, since {status.since}"]
    width = max((len(name) for name in status.sites), default=0)
    for name, site in status.sites.items():
        said = f"{site.approval or 'not heard'} {site.package}".strip()
        lines.append(f"  {name:<{width}}  {site.state:<12} {said:<18} {site.refusal or ''}".rstrip())
    return lines


def how_it_failed(run: RunFolder) -> list[str]:
    """Say why a run failed, and how it goes on; nothing of one that did not."""
    if not run.outcome.exists() or not (why := json.loads(run.outcome.read_text(encoding="utf-8"))["failed"]):
        return []
    return [f"  {why}", "  When that is mended, `polyclinic coordinator resume` goes on after the last finished round."]


def _loss(by_epoch: Sequence[float]) -> str:
    """Write the last epoch's loss; under [privacy] a site tells none."""
    return f"{by_epoch[-1]:.4f}" if by_epoch else "kept private"
