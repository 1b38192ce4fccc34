"""The two chained logs of a deployed site, what left and what people decided, and their copy in the system's log."""

import fcntl
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.audit import AuditLog
from shared.errors import StorageError

DEPARTURES = "audit.jsonl"
DECISIONS = "decisions.jsonl"

PRIORITY = 8 * 10 + 6
"""Facility authpriv, severity informational (RFC 5424, 6.2.1)."""


class WitnessedLog(AuditLog):
    """An audit log whose lines the system's log gets too, head included: whoever cuts this one short is found out.

    A system's log that does not answer changes nothing: the line is on this disk.
    """

    def __init__(self, path: Path, *, syslog: Path) -> None:
        super().__init__(path)
        self._syslog = syslog

    def append(self, event: str, **facts: str | int | float | list[str]) -> None:
        """Add one event, and tell the system's log.

        Raises:
            StorageError: the line cannot be written here.
        """
        super().append(event, **facts)
        words: dict[str, Any] = {"line": self.lines, "event": event, **facts, "head": self.head}
        message = f"<{PRIORITY}>polyclinic: {json.dumps(words)}".encode()
        with suppress(OSError), closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as witness:
            witness.setblocking(False)  # a log that is stuck must not stop a round
            witness.connect(str(self._syslog))
            witness.send(message)


@contextmanager
def alone(lock: Path, *, message: str) -> Iterator[None]:
    """Be the only process that holds this lock, for as long as the context is open.

    Raises:
        StorageError: another process holds it; with `message`, which says what that means.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(message) from None
        yield


def record_decision(state: Path, syslog: Path, event: str, **facts: str | int | float | list[str]) -> None:
    """Write what a person decided: an approval, a withdrawal (without a word of whose), new keys, a purge.

    Raises:
        StorageError: it cannot be recorded.
    """
    busy = f"{state}: another command is at work here. Try again in a moment."
    with alone(state / "decisions.lock", message=busy):
        WitnessedLog(state / DECISIONS, syslog=syslog).append(event, **facts)
