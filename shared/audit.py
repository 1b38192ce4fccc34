"""Append-only, hash-chained event log used by both sides."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from shared.errors import StorageError
from shared.storage import append_line, atomic_file

GENESIS = "0" * 64

DEPARTURE = "departure"
"""The event of frames that left a site."""

REFUSAL = "refusal"
"""The kind of a departure that is a fixed code and nothing else."""


class AuditLog:
    """A log in which every line carries the hash of the line before it, so that no line can be changed unseen.

    What it cannot show alone: that the newest lines were cut off. Anchor `head` outside for that.

    A line is on the disk before anything that it tells of happens. So a last line that a power loss or a full disk has
    cut short tells of nothing that happened: whoever opens the log to write sets it aside, in a file of its own, and
    the event "torn line" in the chain names that file with its digest.
    """

    def __init__(self, path: Path) -> None:
        """Open a log, or begin one.

        Raises:
            StorageError: the log is there and its chain does not hold, or what is torn cannot be set aside.
        """
        self._path = path
        self._open()

    @property
    def path(self) -> Path:
        """Where the log is kept."""
        return self._path

    def _open(self) -> None:
        self.lines, self.head, self._whole = 0, GENESIS, True
        if self._path.exists():
            content = _read(self._path)
            torn = _torn(content)
            for entry in _chain(self._path, BytesIO(content[: len(content) - len(torn)])):
                self.lines, self.head = entry["line"], entry["hash"]
            if torn:
                self._set_aside(content, torn)

    def _set_aside(self, content: bytes, torn: bytes) -> None:
        """Keep the torn line elsewhere and put its event in its place; a kill in between leaves all as it was."""
        aside = self._path.with_name(f"{self._path.name}.torn-{self.lines + 1}")
        digest = hashlib.sha256(torn).hexdigest()
        line, entry = self._line("torn line", {"bytes": len(torn), "sha256": digest, "kept": aside.name})
        for path, text in ((aside, torn), (self._path, content[: len(content) - len(torn)] + line)):
            with atomic_file(path) as part:
                part.write_bytes(text)
        self.lines, self.head = entry["line"], entry["hash"]

    def append(self, event: str, **facts: str | int | float | list[str]) -> None:
        """Add one event with its facts; it is on the disk when this returns.

        Raises:
            StorageError: the line cannot be written.
        """
        if not self._whole:
            self._open()
        line, entry = self._line(event, facts)
        try:
            append_line(self._path, line)
        except StorageError:
            self._whole = False  # the disk may hold a part of the line: it is set aside before the next one
            raise
        self.lines, self.head = entry["line"], entry["hash"]

    def _line(self, event: str, facts: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Write the next line of the chain, and give what it says."""
        place = {"line": self.lines + 1, "time": now().isoformat(), "event": event}
        entry: dict[str, Any] = {**place, **facts, "prev": self.head}
        entry["hash"] = _hash(entry)
        return json.dumps(entry).encode() + b"\n", entry


def now() -> datetime:
    """Tell the time, in UTC: the one clock of what is recorded at a site."""
    return datetime.now(UTC)


def verify(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log as far as its chain holds.

    Raises:
        StorageError: at the first line that was changed, removed, inserted or cut short.
    """
    with path.open("rb") as log:
        yield from _chain(path, log)


def told(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log that another program may be writing to, none where there is no log.

    A last line that is torn is passed over: it tells of nothing that has happened yet.

    Raises:
        StorageError: the chain does not hold, or the log cannot be read.
    """
    if path.exists():
        content = _read(path)
        yield from _chain(path, BytesIO(content[: len(content) - len(_torn(content))]))


def head_of(path: Path) -> str:
    """Give the hash of a log's last line, GENESIS where there is none: a place in the log that no clock tells.

    Raises:
        StorageError: the chain does not hold, or the log cannot be read.
    """
    head = GENESIS
    for entry in told(path):
        head = entry["hash"]
    return head


def line_of(path: Path, head: str) -> int:
    """Give the number of the line with this hash, 0 where the log has no such line.

    Raises:
        StorageError: the chain does not hold, or the log cannot be read.
    """
    return next((int(entry["line"]) for entry in told(path) if entry["hash"] == head), 0)


def _chain(path: Path, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    before = GENESIS
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            follows = entry["line"] == number and entry["prev"] == before
            holds = follows and entry["hash"] == _hash(entry) and line.endswith(b"\n")
        except (ValueError, KeyError, TypeError):
            holds = False
        if not holds:
            raise StorageError(f"{path}: the audit log's chain breaks at line {number}. Keep the file and ask why.")
        before = entry["hash"]
        yield entry


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise StorageError(f"{path}: the audit log cannot be read ({fault.strerror}). Mend the disk.") from None


def _torn(content: bytes) -> bytes:
    """Give what follows the last line's end; or the last line, if it holds NULs.

    JSON never holds one: they stand where a file's new length had reached the disk and its new blocks had not.
    """
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        return content[whole:]
    last = content[content.rfind(b"\n", 0, whole - 1) + 1 :] if content else b""
    return last if b"\0" in last else b""


def _hash(entry: dict[str, Any]) -> str:
    content = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
