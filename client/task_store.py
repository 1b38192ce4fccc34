"""Durable memory of one study's tasks: what was begun, and each reply as it left, so that it can be sent again."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from shared.errors import StorageError, TaskError
from shared.messages import DeliverTask, EvaluateTask, LandmarksTask, ReadyTask, Refusal, Task
from shared.parameters import digest
from shared.storage import append_line, atomic_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A task that was begun, whether or not it was finished.

    `request` is the digest of all that it asked, `split` what an evaluation scores.
    """

    task_id: str
    request: str
    run_id: str
    round: int
    kind: str
    split: str
    at: str

    @property
    def when(self) -> datetime:
        """The moment at which it was begun, in UTC."""
        return datetime.fromisoformat(self.at)


class TaskStore:
    """Remembers tasks in a folder; everything is synced to disk before the caller goes on.

    A task id belongs to the first request that was begun under it: the same request may come again and gets the same
    bytes, another one is refused, whenever the agent died in between. Rounds and evaluations are counted by what was
    begun, not by what was sent.
    """

    def __init__(self, folder: Path, *, now: Callable[[], datetime]) -> None:
        """Open a folder, or begin one.

        Raises:
            StorageError: the list of tasks cannot be read.
        """
        self._folder = folder
        self._list = folder / "tasks.jsonl"
        self._now = now
        self._begun = {task.task_id: task for task in read_begun(folder)}

    @property
    def begun(self) -> Sequence[Begun]:
        """Every task that was begun, in that order."""
        return tuple(self._begun.values())

    @property
    def now(self) -> datetime:
        """Tell the time by the store's clock."""
        return self._now()

    def begin(self, task: Task, request: str) -> None:
        """Bind a task id to its request; nothing happens if it is bound to it already.

        Raises:
            TaskError: the id belongs to another request.
            StorageError: the list cannot be written; the task must not be worked on then.
        """
        header = task.header
        if self._known(header.task_id, request):
            return
        begun = Begun(
            task_id=header.task_id,
            request=request,
            run_id=header.run_id,
            round=header.round,
            kind=str(header.kind),
            split=str(task.split) if isinstance(task, EvaluateTask) else "",
            at=self._now().isoformat(),
        )
        append_line(self._list, json.dumps(asdict(begun)).encode() + b"\n")
        self._begun[begun.task_id] = begun

    def answer(self, task_id: str, request: str) -> list[bytes] | None:
        """Give the reply that was kept for this request, or None if there is none yet.

        Raises:
            TaskError: the id belongs to another request.
            StorageError: the reply cannot be read as it was written.
        """
        if not self._known(task_id, request) or not (path := self._reply(task_id)).exists():
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
        """Store a reply, synced; only then may it be sent.

        Raises:
            StorageError: the disk is full or cannot be written; the reply must not be sent then.
        """
        with atomic_file(self._reply(task_id)) as part, part.open("wb") as file:
            file.write(json.dumps({"request": request, "frames": [len(frame) for frame in frames]}).encode() + b"\n")
            file.writelines(frames)

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


def read_begun(folder: Path) -> Sequence[Begun]:
    """Read the tasks that were begun, without touching them: the agent may be at work.

    A last line without its end is passed over: nothing was done for its task.

    Raises:
        StorageError: this is no list of tasks.
    """
    path = folder / "tasks.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    try:
        return tuple(Begun(**json.loads(line)) for line in lines if line.endswith(b"\n"))
    except (ValueError, TypeError):
        raise StorageError(f"{path}: this is not a list of tasks. Keep it and ask why.") from None
