"""Flower's raw words for a fault of the link are followed by what it means and what to do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.link_words import FAULTS, passed_on

REFUSED = [
    b"INFO: Starting Flower SuperNode\n",
    b'ERROR: {"code":2004,"message":"Failed to activate SuperNode."}\n',
    b"Exit Code: 305\n",
]


def test_a_key_that_is_not_enrolled_is_told_once_with_what_to_do() -> None:
    """After Flower's own line, and not again for the exit code that follows; no line is lost or changed."""
    found = list(passed_on(REFUSED))
    assert [line for line in found if line in REFUSED] == REFUSED
    (told,) = [line.decode() for line in found if line not in REFUSED]
    assert found.index(told.encode()) == 2
    assert "is not enrolled there, or was revoked" in told
    assert "`polyclinic site keys`" in told


@pytest.mark.parametrize("marks", [marks for marks, _ in FAULTS])
def test_each_mark_is_told(marks: tuple[str, ...]) -> None:
    """In any spelling of it, and a line without one is passed on alone."""
    for mark in marks:
        line = f"ERROR: [Errno 98] {mark} somewhere\n".encode()
        assert len(list(passed_on([b"as before\n", line, line]))) == 4
    assert len(list(passed_on([b"Exit Code: 305\n"]))) == 2


def test_a_program_that_takes_the_process_over_is_listened_to(tmp_path: Path) -> None:
    """Its number stays, its last words are passed on though a signal ends it, and the reader ends with it."""
    became = "import sys, time; print('Exit Code: 302', file=sys.stderr, flush=True); time.sleep(60)"
    code = (
        "import os, sys; from client.link_words import listen; listen();"
        f"os.execv(sys.executable, [sys.executable, '-c', {became!r}])"
    )
    log = tmp_path / "log"
    with log.open("wb") as out:
        link = subprocess.Popen([sys.executable, "-c", code], stderr=out, start_new_session=True)
    try:
        until = time.monotonic() + 30
        while b"polyclinic:" not in log.read_bytes() and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(link.pid, 15)
        assert link.wait(timeout=10) == -15
    finally:
        link.kill()
    assert "node key cannot be read" in log.read_text(encoding="utf-8")
    while _reader_lives(link.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _reader_lives(link.pid)


def _reader_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
