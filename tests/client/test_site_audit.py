"""Every line of a deployed site's logs is in the system's log too, and two commands never write at once."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.site_audit import DECISIONS, WitnessedLog, alone, record_decision
from shared.audit import verify
from shared.errors import StorageError


@pytest.fixture
def syslog(tmp_path: Path) -> Iterator[socket.socket]:
    """Give a system's log: a datagram socket that a test can read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as witness:
        witness.bind(str(tmp_path / "log"))
        witness.settimeout(5)
        yield witness


def test_the_systems_log_gets_each_line_and_the_chains_head(syslog: socket.socket, tmp_path: Path) -> None:
    """Whoever cuts the newest lines off the file is found out by the head that the other log has."""
    log = WitnessedLog(tmp_path / "audit.jsonl", syslog=tmp_path / "log")
    log.append("departure", kind="train", bytes=3)
    log.append("departure", kind="refusal")
    heard = [syslog.recv(4096).decode() for _ in range(2)]
    assert all(line.startswith("<86>polyclinic: {") for line in heard)
    facts = [json.loads(line.partition(": ")[2]) for line in heard]
    assert facts[0] == {"line": 1, "event": "departure", "kind": "train", "bytes": 3, "head": facts[0]["head"]}
    assert [entry["hash"] for entry in verify(tmp_path / "audit.jsonl")] == [fact["head"] for fact in facts]


def test_a_system_without_a_log_changes_nothing(tmp_path: Path) -> None:
    """The line is on this disk."""
    log = WitnessedLog(tmp_path / "audit.jsonl", syslog=tmp_path / "none")
    log.append("departure")
    assert len(list(verify(tmp_path / "audit.jsonl"))) == 1


def test_a_system_whose_log_is_stuck_does_not_stop_a_round(syslog: socket.socket, tmp_path: Path) -> None:
    """A full socket is given up at once."""
    log = WitnessedLog(tmp_path / "audit.jsonl", syslog=tmp_path / "log")
    for _ in range(300):
        log.append("departure", what=["x" * 2000])
    assert log.lines == 300


def test_decisions_of_several_commands_are_one_chain(tmp_path: Path) -> None:
    """Each opens the log anew; while one writes, another waits for its turn by failing."""
    for event in ("keys drawn", "study approved"):
        record_decision(tmp_path, tmp_path / "none", event, by="Dr. Data")
    assert [entry["event"] for entry in verify(tmp_path / DECISIONS)] == ["keys drawn", "study approved"]
    with (
        alone(tmp_path / "decisions.lock", message="x"),
        pytest.raises(StorageError, match="another command is at work"),
    ):
        record_decision(tmp_path, tmp_path / "none", "study approved")
