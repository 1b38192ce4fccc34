"""Append-only, hash-chained event log used by both sides."""

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.errors import StorageError

GENESIS = "0" * 64


class AuditLog:
    """A log in which every line carries the hash of the line before it, so that no line can be changed unseen.

    What it cannot show alone: that the newest lines were cut off. Anchor `head` outside for that.
    """

    def __init__(self, path: Path) -> None:
        """Open a log, or begin one.

        Raises:
            StorageError: the log is there and its chain does not hold.
        """
        self._path = path
        self.lines = 0
        self.head = GENESIS
        if path.exists():
            for entry in verify(path):
                self.lines, self.head = entry["line"], entry["hash"]

    def append(self, event: str, **facts: str | int | float | list[str]) -> None:
        """Add one event with its facts and flush it to the operating system.

        Raises:
            StorageError: the line cannot be written.
        """
        entry = {
            "line": self.lines + 1,
            "time": now().isoformat(),
            "event": event,
            **facts,
            "prev": self.head,
        }
        entry["hash"] = _hash(entry)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
                log.flush()
                os.fdatasync(log.fileno())
        except OSError as fault:
            raise StorageError(
                f"{self._path}: the audit log cannot be written ({fault.strerror}). Free the disk."
            ) from None
        self.lines, self.head = self.lines + 1, str(entry["hash"])


def now() -> datetime:
    """Tell the time, in UTC: the one clock of what is recorded at a site."""
    return datetime.now(UTC)


def verify(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log as far as its chain holds.

    Raises:
        StorageError: at the first line that was changed, removed, inserted or cut short.
    """
    before = GENESIS
    with path.open("rb") as log:
        for number, line in enumerate(log, start=1):
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


def _hash(entry: dict[str, Any]) -> str:
    content = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
