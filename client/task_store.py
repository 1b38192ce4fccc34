"""Durable memory of one study's tasks: what was begun, and each reply as it left, so that it can be sent again.

What was begun limits what may still be asked, so it stands in the site's audit log, which is only ever added to, holds
nothing of a patient, and which no command removes. The replies are the hospital's to remove (`site purge`): a task
whose reply is gone is refused, and never computed again, as another cohort's answer would tell who was taken out.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from shared.audit import DEPARTURE, REFUSAL, AuditLog, told
from shared.errors import StorageError, TaskError
from shared.messages import DeliverTask, EvaluateTask, LandmarksTask, ReadyTask, Refusal, Task
from shared.parameters import digest
from shared.storage import atomic_file

EVENT: Final = "task begun"

DAY = timedelta(days=1)

_BEGIN: Final = "begin "
"""Before what a task asks for: the log's kinds without it are what has left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A task that was begun, whether or not it was finished.

    `request` is the digest of all that it asked, `split` what an evaluation scores. `line` is its place in the site's
    audit log, 0 in the list of an earlier version, which is older than the log's tasks.
    """

    task_id: str
    request: str
    run_id: str
    round: int
    kind: str
    split: str
    at: str
    line: int = 0

    @property
    def when(self) -> datetime:
        """The moment at which it was begun, in UTC."""
        return datetime.fromisoformat(self.at)


def uncharged(_: str) -> bool:
    """Say of every task that no ledger has charged it: the study has no [privacy]."""
    return False


class TaskStore:
    """Remembers tasks; everything is synced to disk before the caller goes on.

    `folder` has the replies, and the list of tasks that an earlier version wrote. `audit` is the site's log, of which
    nobody else has an open copy; `study` is the digest by which this study's tasks are found in it. `charged` tells
    whether the privacy ledger has charged a task id: one that is charged and was never begun here was forgotten by a
    log that was lost or is older than the ledger, and is refused.

    A task id belongs to the first request that was begun under it: the same request may come again and gets the same
    bytes, another one is refused, whenever the agent died in between. Rounds and evaluations are counted by what was
    begun, not by what was sent.

    `now` tells the time, and `steady` seconds that no correction of the clock changes, but a new start does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: Callable[[], datetime],
        audit: AuditLog,
        study: str,
        charged: Callable[[str], bool] = uncharged,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open a folder, or begin one.

        Raises:
            StorageError: the list of tasks cannot be read, or the audit log's chain is broken.
        """
        self._folder = folder
        self._now = now
        self._audit = audit
        self._study = study
        self._charged = charged
        self._steady = steady
        self._begun_here: dict[str, float] = {}
        self._begun = {task.task_id: task for task in read_begun(folder, audit=audit.path, study=study)}
        self._answered = set(_answered(audit.path))

    @property
    def begun(self) -> Sequence[Begun]:
        """Every task that was begun, in that order."""
        return tuple(self._begun.values())

    def is_of_today(self, task: Begun) -> bool:
        """Tell whether a task was begun in the last 24 hours, by either clock.

        One that was put forward makes nothing older that was begun since this start.
        """
        recent = self._steady() - self._begun_here.get(task.task_id, -math.inf) < DAY.total_seconds()
        return recent or task.when > self._now() - DAY

    def begin(self, task: Task, request: str) -> None:
        """Bind a task id to its request; nothing happens if it is bound to it already.

        Raises:
            TaskError: the id belongs to another request, or was charged before and is not known.
            StorageError: the list cannot be written; the task must not be worked on then.
        """
        header = task.header
        if self._known(header.task_id, request):
            return
        if self._charged(header.task_id):
            raise TaskError(
                Refusal.ID_REUSED,
                "the privacy ledger has charged this task, and the audit log does not know that it was begun: the log "
                "was lost, or is older than the ledger. Put the newest copy back.",
            )
        begun = Begun(
            task_id=header.task_id,
            request=request,
            run_id=header.run_id,
            round=header.round,
            kind=str(header.kind),
            split=str(task.split) if isinstance(task, EvaluateTask) else "",
            at=self._now().isoformat(),
        )
        self._audit.append(
            EVENT,
            study=self._study,
            task=begun.task_id,
            request=request,
            run=begun.run_id,
            round=begun.round,
            kind=_BEGIN + begun.kind,
            split=begun.split,
            at=begun.at,
        )
        self._begun[begun.task_id] = replace(begun, line=self._audit.lines)
        self._begun_here[begun.task_id] = self._steady()

    def answer(self, task_id: str, request: str) -> list[bytes] | None:
        """Give the reply that was kept for this request, or None if there is none yet.

        Raises:
            TaskError: the id belongs to another request, or its reply has left and was removed since.
            StorageError: the reply cannot be read as it was written.
        """
        known, path = self._known(task_id, request), self._reply(task_id)
        if not path.exists():
            if task_id in self._answered:
                raise TaskError(
                    Refusal.ID_REUSED,
                    "this task was answered, and its reply was removed since; it is not computed again. Ask the "
                    "coordinator to run the study anew, under a run id of its own.",
                )
            return None
        if not known:
            return None
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                frames = [file.read(size) for size in head["frames"]]
                rest, sizes = file.read(1), [len(frame) for frame in frames]
                whole = not rest and head == {"request": request, "frames": sizes}
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise StorageError(f"{path}: this stored reply cannot be read as it was written. Keep it and ask why.")
        return frames

    def keep(self, task_id: str, request: str, frames: Sequence[bytes]) -> None:
        """Store a reply, synced; only then may it be recorded as a departure, and sent.

        Raises:
            StorageError: the disk is full or cannot be written; the reply must not be sent then.
        """
        with atomic_file(self._reply(task_id)) as part, part.open("wb") as file:
            file.write(json.dumps({"request": request, "frames": [len(frame) for frame in frames]}).encode() + b"\n")
            file.writelines(frames)
        self._answered.add(task_id)

    def _known(self, task_id: str, request: str) -> bool:
        known = self._begun.get(task_id)
        if known is not None and known.request != request:
            raise TaskError(Refusal.ID_REUSED, "another request came under the id of a task that was begun before")
        return known is not None

    def _reply(self, task_id: str) -> Path:
        return self._folder / "replies" / f"{task_id}.reply"


def request_digest(task: Task) -> str:
    """SHA-256 of all that a task asks: the same however its frames were cut, another if a single bit differs."""
    total = hashlib.sha256(repr(task.header).encode())
    if isinstance(task, EvaluateTask):
        total.update(str(task.split).encode())
    if isinstance(task, EvaluateTask | DeliverTask):
        total.update(repr(task.thresholds).encode())
    if isinstance(task, DeliverTask):
        total.update(repr(task.own).encode())
        for name, text in sorted(task.documents.items()):
            total.update(f"\x1f{name}\x1f{hashlib.sha256(text).hexdigest()}".encode())
    if not isinstance(task, ReadyTask | LandmarksTask):
        total.update(digest(task.arrays).encode())
    return total.hexdigest()


def read_begun(folder: Path, *, audit: Path, study: str) -> Sequence[Begun]:
    """Read which of a study's tasks were begun, without touching anything: the agent may be at work.

    Raises:
        StorageError: the audit log's chain is broken, or what an earlier version wrote is no list of tasks.
    """
    return (*_of_earlier_version(folder / "tasks.jsonl"), *_of_audit(audit, study))


def _of_audit(audit: Path, study: str) -> Iterator[Begun]:
    for entry in told(audit):
        if entry["event"] == EVENT and entry["study"] == study:
            yield Begun(
                task_id=entry["task"],
                request=entry["request"],
                run_id=entry["run"],
                round=entry["round"],
                kind=entry["kind"].removeprefix(_BEGIN),
                split=entry["split"],
                at=entry["at"],
                line=entry["line"],
            )


def _answered(audit: Path) -> Iterator[str]:
    """Name the tasks of which a reply has left."""
    for entry in told(audit):
        if entry["event"] == DEPARTURE and entry["kind"] != REFUSAL:
            yield str(entry["task"])


def _of_earlier_version(path: Path) -> Sequence[Begun]:
    """Read the list that each study had in a file of its own; a last line without its end told of nothing."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    try:
        return tuple(Begun(**json.loads(line)) for line in lines if line.endswith(b"\n"))
    except (ValueError, TypeError):
        raise StorageError(f"{path}: this is not a list of tasks. Keep it and ask why.") from None
