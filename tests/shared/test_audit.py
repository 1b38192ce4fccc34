"""Tests of shared/audit.py: no line of the log can be changed, removed or added in the middle unseen."""

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path

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
    """Whoever only reads sees that the chain breaks, also where only the line's end is missing."""
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(StorageError, match="chain breaks at line 3"):
        list(verify(path))


TORN = {
    "its end is missing": lambda line: line[:-1],
    "half of it is missing": lambda line: line[: len(line) // 2],
    "blocks of it are empty": lambda line: b"\0" * 30 + line[30:],
    "all of it is empty": lambda line: b"\0" * len(line),
}


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
@pytest.mark.parametrize("whole_lines", [0, 2])
def test_a_torn_last_line_is_set_aside_and_the_chain_says_so(path, tear, whole_lines):
    """After a power loss the log goes on; what was torn is kept byte for byte, and an event names it."""
    lines = path.read_bytes().splitlines(keepends=True)
    torn = tear(lines[whole_lines])
    path.write_bytes(b"".join(lines[:whole_lines]) + torn)
    log = AuditLog(path)
    log.append("started")
    entries = list(verify(path))
    assert [entry["event"] for entry in entries[whole_lines:]] == ["torn line", "started"]
    told = entries[whole_lines]
    aside = path.with_name(told["kept"])
    assert aside.read_bytes() == torn
    assert (told["bytes"], told["sha256"]) == (len(torn), hashlib.sha256(torn).hexdigest())
    assert b"".join(lines[:whole_lines]) + b"".join(path.read_bytes().splitlines(keepends=True)[-2:]) == (
        path.read_bytes()
    )
    assert (AuditLog(path).lines, sorted(path.parent.iterdir())) == (whole_lines + 2, sorted([path, aside]))


def test_a_torn_line_hides_no_tampering(path):
    """A chain that breaks before its torn end is refused and left as it is; and whole lines are never set aside."""
    changed = path.read_bytes().replace(b"departure", b"arrival")
    for content in (changed[:-9], changed, path.read_bytes().replace(b'"storage"', b'"nothing"')):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="chain breaks"):
            AuditLog(path)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_kill_while_a_torn_line_is_set_aside_loses_nothing(path, monkeypatch):
    """Killed between the two steps, the log is still torn and the next one to open it does both."""
    path.write_bytes(path.read_bytes()[:-9])
    with monkeypatch.context() as patched:
        whole = Path.replace

        def killed(part, target):
            if target == path:
                raise OSError(5, "Input/output error")
            return whole(part, target)

        patched.setattr(Path, "replace", killed)
        with pytest.raises(StorageError):
            AuditLog(path)
    assert AuditLog(path).lines == 3
    assert [entry["event"] for entry in verify(path)] == ["started", "departure", "torn line"]


def test_a_line_that_did_not_fit_on_the_disk_does_not_break_the_chain(log, path, monkeypatch):
    """When there is room again, the same process sets the half-written line aside and goes on."""
    with monkeypatch.context() as patched:

        def full(_descriptor):
            path.write_bytes(path.read_bytes()[:-12])
            raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            log.append("departure")
    log.append("departure")
    assert [entry["event"] for entry in verify(path)][2:] == ["refused", "torn line", "departure"]


def test_newest_lines_cut_off_show_in_the_head_only(log, path):
    """This is what the log cannot show alone, and why its head is anchored outside."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert AuditLog(path).head != log.head


def test_a_log_that_cannot_be_written_stops_what_it_records(log, tmp_path, monkeypatch):
    """What is not recorded must not happen: the caller gets an error, and the head stays."""

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    head = log.head
    monkeypatch.setattr(os, "fsync", fail)
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


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(facts, max_size=4))
def test_whatever_is_appended_verifies(tmp_path, events):
    """Any text, number or list survives its way through the file."""
    path = tmp_path / f"{os.urandom(8).hex()}.jsonl"
    log = AuditLog(path)
    for event in events:
        log.append("event", **event)
    entries = list(verify(path)) if events else []
    assert [{key: entry[key] for key in event} for entry, event in zip(entries, events, strict=True)] == events
