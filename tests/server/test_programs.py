"""Long-lived programs are kept running: what died is started again, and nothing of what was started is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from server import programs as module
from server.programs import Programs

WITH_A_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "a").write(f"{child.pid}\\n")
time.sleep(60)
"""
"""Starts one process, as a proxy its workers and Flower's superexec its apps, notes its number, and stays."""

OWNER = """
import os, sys, time
from pathlib import Path
from server import programs
programs.STOP_SECONDS = 1.0
made = programs.Programs(Path(sys.argv[1]) / "logs", os.environ)
for name in ("first", "second"):
    made.start(name, [sys.executable, "-c", *sys.argv[2:], str(Path(sys.argv[1]) / name)])
print(*(process.pid for process in made.running.values()), flush=True)
time.sleep(60)
"""
"""Owns two such programs, and does not live to stop them."""

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WITH_A_CHILD


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    made = Programs(tmp_path / "logs", os.environ)
    yield made
    made.stop()


def await_that(moment: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not moment():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_program_comes_back_without_what_it_had_started(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orphan, such as a worker of a proxy, would keep the port that the program's next life needs."""
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.1)
    noted, said = tmp_path / "children", []
    noted.touch()
    programs.start("parent", [sys.executable, "-c", WITH_A_CHILD, str(noted)])
    await_that(lambda: noted.read_text().count("\n") == 1)
    programs.running["parent"].send_signal(signal.SIGKILL)

    def back() -> bool:
        programs.revive(said.append)
        return noted.read_text().count("\n") == 2

    await_that(back)
    first, second = map(int, noted.read_text().split())
    assert not lives(first)
    assert lives(second)
    assert any("parent ended with -9" in line for line in said)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("program", [WITH_A_CHILD, STUBBORN], ids=["willing", "stubborn"])
def test_programs_end_with_an_owner_that_is_killed(tmp_path: Path, program: str) -> None:
    """SIGKILL lets nobody clean up: what it had started, and what that had started, ends all the same."""
    notes = [tmp_path / name for name in ("first", "second")]
    with subprocess.Popen([sys.executable, "-c", OWNER, tmp_path, program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        started = [int(pid) for pid in owner.stdout.readline().split()]
        await_that(lambda: all(note.exists() and note.read_text().endswith("\n") for note in notes))
        started += [int(note.read_text()) for note in notes]
        assert all(map(lives, started))
        owner.kill()
    await_that(lambda: not any(map(lives, started)))


def test_what_has_ended_is_not_held_any_more(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it died or was stopped: its number may be another program's by the time that the owner is killed."""
    held: set[int] = set()
    switch = SimpleNamespace(hold=held.add, release=held.discard, close=lambda: held.add(0))
    monkeypatch.setattr(module, "DeadMansSwitch", lambda **_: switch)
    programs.start("dies", [sys.executable, "-c", ""])
    programs.start("stays", [sys.executable, "-c", "import time; time.sleep(60)"])
    dies, stays = (programs.running[name] for name in ("dies", "stays"))
    assert held == {dies.pid, stays.pid}
    dies.wait()
    programs.revive(lambda _: None)
    assert held == {stays.pid}
    programs.stop()
    assert held == {0}, "not closed, or something is still held"


def test_a_program_that_keeps_dying_young_is_started_less_and_less_often(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link is refused (305) for a minute after its crash: the pauses double up to a limit, and go on."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    starts: list[float] = []
    programs.start("link", ["false"])
    start = programs.start

    def noted(*words: object) -> None:
        starts.append(clock[0])
        start(*words)

    monkeypatch.setattr(Programs, "start", lambda _, *words: noted(*words))
    while clock[0] < 200:
        programs.running["link"].wait()
        programs.revive(lambda _: None)
        clock[0] += 0.5
    pauses = [after - before for before, after in zip([0.0, *starts], starts, strict=False)]
    assert pauses[:4] == pytest.approx([2, 4, 8, 16], abs=1)
    assert pauses[4:] == pytest.approx([32] * len(pauses[4:]), abs=1)
