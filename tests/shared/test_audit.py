"""Tests of shared/audit.py: no line of the log can be changed, removed or added in the middle unseen."""

import hashlib
import json
import os
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.audit import GENESIS, AuditLog, verify
from shared.errors import StorageError


@pytest.fixture
def log(tmp_path):
    """Give a log of three events."""
    log = AuditLog(tmp_path / "site" / "audit.jsonl")
    log.append("started", version="1")
    log.append("departure", what=["loss", "flow"], bytes=12)
    log.append("refused", code="storage")
    return log


@pytest.fixture
def path(log, tmp_path):
    """Give the path of that log."""
    return tmp_path / "site" / "audit.jsonl"


def test_events_are_read_back_in_order_with_their_facts(log, path):
    """Each entry has its number, time, event, facts and the hash of the one before."""
    entries = list(verify(path))
    assert [entry["event"] for entry in entries] == ["started", "departure", "refused"]
    assert [entry["line"] for entry in entries] == [1, 2, 3]
    assert entries[1]["what"] == ["loss", "flow"]
    assert datetime.fromisoformat(entries[0]["time"]).utcoffset().total_seconds() == 0
    assert [entry["prev"] for entry in entries] == [GENESIS, entries[0]["hash"], entries[1]["hash"]]
    assert (log.lines, log.head) == (3, entries[2]["hash"])


def test_a_log_goes_on_where_it_was(log, path):
    """A process that starts again continues the chain."""
    again = AuditLog(path)
    assert (again.lines, again.head) == (log.lines, log.head)
    again.append("started")
    assert [entry["line"] for entry in verify(path)] == [1, 2, 3, 4]


def test_a_new_log_is_empty(tmp_path):
    """Nothing is written before the first event."""
    log = AuditLog(tmp_path / "audit.jsonl")
    assert (log.lines, log.head) == (0, GENESIS)
    assert not (tmp_path / "audit.jsonl").exists()


def forged(entry):
    """Change a fact and its own hash with it, so that only the next line can tell."""
    content = {key: value for key, value in entry.items() if key != "hash"} | {"event": "nothing happened"}
    return content | {"hash": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


@pytest.mark.parametrize(
    ("tampered", "line"),
    [
        (lambda entry: [json.dumps(entry | {"event": "nothing happened"})], 2),
        (lambda entry: [json.dumps(forged(entry))], 3),
        (lambda _: [], 2),
        (lambda entry: [json.dumps(entry)] * 2, 3),
        (lambda entry: [json.dumps(entry)[:-5]], 2),
        (lambda _: ["[]"], 2),
        (lambda _: ["{}"], 2),
        (lambda _: [""], 2),
        (lambda entry: [json.dumps(entry | {"line": 7})], 2),
    ],
    ids=["changed", "forged", "removed", "repeated", "cut", "a list", "no facts", "emptied", "renumbered"],
)
def test_a_tampered_line_is_found(path, tampered, line):
    """The chain breaks at the line, or at the one after it, and everything before still reads."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *tampered(json.loads(lines[1])), lines[2]]) + "\n")
    entries = verify(path)
    for _ in range(line - 1):
        next(entries)
    with pytest.raises(StorageError, match=f"chain breaks at line {line}. Keep the file"):
        next(entries)
    with pytest.raises(StorageError, match="chain breaks"):
        AuditLog(path)


def test_bytes_that_are_no_text_break_the_chain(path):
    """A damaged disk is a broken chain, not a crash."""
    path.write_bytes(path.read_bytes().replace(b'"started"', b'"st\xffrted"'))
    with pytest.raises(StorageError, match="chain breaks at line 1"):
        list(verify(path))


@pytest.mark.parametrize("missing", [1, 2, 40])
def test_a_last_line_cut_short_is_found(path, missing):
    """A crash in the middle of a line is seen at the next start, also where only the line's end is missing."""
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(StorageError, match="chain breaks at line 3"):
        AuditLog(path)


def test_newest_lines_cut_off_show_in_the_head_only(log, path):
    """This is what the log cannot show alone, and why its head is anchored outside."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert AuditLog(path).head != log.head


def test_a_log_that_cannot_be_written_stops_what_it_records(log, tmp_path, monkeypatch):
    """What is not recorded must not happen: the caller gets an error, and the head stays."""

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    head = log.head
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)"):
        log.append("departure")
    assert (log.lines, log.head) == (3, head)


def test_a_folder_that_cannot_be_made_is_said_at_the_first_event(tmp_path):
    """A file where the log's folder should be is a fault of storage too."""
    (tmp_path / "file").write_text("")
    log = AuditLog(tmp_path / "file" / "audit.jsonl")
    with pytest.raises(StorageError, match="cannot be written"):
        log.append("started")


facts = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.one_of(
        st.text(max_size=8), st.integers(), st.floats(allow_nan=False), st.lists(st.text(max_size=3), max_size=2)
    ),
    max_size=3,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(facts, max_size=4))
def test_whatever_is_appended_verifies(tmp_path, events):
    """Any text, number or list survives its way through the file."""
    path = tmp_path / f"{os.urandom(8).hex()}.jsonl"
    log = AuditLog(path)
    for event in events:
        log.append("event", **event)
    entries = list(verify(path)) if events else []
    assert [{key: entry[key] for key in event} for entry, event in zip(entries, events, strict=True)] == events
