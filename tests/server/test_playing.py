"""A run is followed to its end: started again where its process died, told why where it failed."""

import fcntl
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from server import playing
from server.coordinator import RunOrder, read_order, write_order
from server.coordinator_folder import CoordinatorFolder
from server.fleet import RefusedBySuperLinkError
from server.playing import Player
from server.run_folder import RunFolder
from server.run_status import StatusBoard
from shared.errors import FederationError, StorageError


class FakeFleet:
    """A SuperLink without one: each start begins a thread that holds the run's lock and does what the test says."""

    def __init__(self, run: RunFolder, lives: list[Callable[[], None]]) -> None:
        self.run, self.lives = run, lives
        self.started: list[str] = []
        self.stopped: list[int] = []
        self.faults: list[FederationError] = []
        """What it answers once it has started a run."""

    def nodes(self) -> list[Any]:
        if self.faults and self.started:
            raise self.faults.pop(0)
        return []

    def start(self, bundle: bytes, name: str) -> int:
        self.started.append(name)
        locked = threading.Event()

        def live(work: Callable[[], None]) -> None:
            with self.run.lock.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                locked.set()
                time.sleep(0.1)
                work()

        threading.Thread(target=live, args=(self.lives[len(self.started) - 1],)).start()
        locked.wait(5)
        return len(self.started)

    def stop(self, number: int) -> None:
        self.stopped.append(number)

    def state(self, number: int) -> None:
        return None


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Any, list[str]]]:
    monkeypatch.setattr(playing, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(playing, "START_PAUSE_SECONDS", 0.02)

    def build(*lives: str) -> tuple[Player, FakeFleet, list[str]]:
        place = CoordinatorFolder(path=tmp_path)
        run = RunFolder(path=place.runs / "study")
        run.path.mkdir(parents=True)
        place.bundle.write_bytes(b"")
        write_order(run, RunOrder(run_id="r", flower_run=0))
        said: list[str] = []

        def end(code: int | None, words: str = "") -> Callable[[], None]:
            return lambda: run.outcome.write_text(json.dumps({"failed": words, "exit_code": code}))

        works = {
            "well": end(0),
            "dies": lambda: None,
            "lost": end(None, "the SuperLink went away"),
            "too few": end(16, "1 of 2 sites can take part"),
            "disk": end(15, "the disk is full"),
            "stopped": run.stopped.touch,
        }
        superlink = FakeFleet(run, [works[life] for life in lives])
        return Player(place, run, superlink, say=said.append), superlink, said

    return build


def test_a_run_that_ends_well_is_followed_to_its_end(stage: Any) -> None:
    """It is started once, and the order names Flower's run."""
    player, superlink, _ = stage("well")
    player.play()
    assert superlink.started == ["study"]
    assert read_order(superlink.run) == RunOrder(run_id="r", flower_run=1)


def test_an_earlier_failure_is_no_news_of_the_next_try(stage: Any) -> None:
    """What the process before left in the status is not told as if it had just come."""
    player, superlink, said = stage("well")
    StatusBoard(superlink.run.status, ["north"], rounds=3, now=lambda: datetime.now(UTC)).stage("failed", number=0)
    player.play()
    assert said == []


def test_a_process_that_dies_is_started_again(stage: Any) -> None:
    """Killed, then lost with its SuperLink, then well: three of Flower's runs play one study's run."""
    player, superlink, said = stage("dies", "lost", "well")
    player.play()
    assert len(superlink.started) == 3
    assert sum("died" in line for line in said) == 2
    assert any("went away" in line for line in said)
    assert read_order(superlink.run).run_id == "r"


def test_a_run_whose_process_died_is_left_to_flower(stage: Any) -> None:
    """A link that is just taking in one of its messages would answer one message too late ever after."""
    player, superlink, _ = stage("dies", "dies", "well")
    player.play()
    assert superlink.stopped == []


def test_a_run_that_may_not_have_begun_is_stopped_before_the_next(stage: Any) -> None:
    """Two processes must not play one study's run: who resumes it stops what was started before, once."""
    player, superlink, _ = stage("dies", "well")
    write_order(superlink.run, RunOrder(run_id="r", flower_run=7))
    player.play()
    assert superlink.stopped == [7]


@pytest.mark.parametrize(("life", "kind"), [("too few", FederationError), ("disk", StorageError)])
def test_a_run_that_failed_is_not_started_again(stage: Any, life: str, kind: type[Exception]) -> None:
    """What a person must act on is told as it was, with its exit code."""
    player, superlink, _ = stage(life)
    with pytest.raises(kind):
        player.play()
    assert len(superlink.started) == 1


def test_a_run_that_only_dies_is_given_up(stage: Any) -> None:
    """Five deaths without a finished round between them are enough."""
    player, superlink, _ = stage(*["dies"] * 6)
    with pytest.raises(FederationError, match="died 5 times in a row"):
        player.play()
    assert len(superlink.started) == 5


def test_a_run_that_was_stopped_is_left(stage: Any) -> None:
    """Who follows it says so, and starts nothing."""
    player, superlink, said = stage("stopped")
    player.play()
    assert len(superlink.started) == 1
    assert any("resume" in line for line in said)


def test_a_superlink_that_restarts_is_waited_for(stage: Any) -> None:
    """Both died at once, the run's process and the SuperLink that is to start it again: the run goes on."""
    player, superlink, said = stage("dies", "well")
    superlink.faults = [FederationError("the SuperLink does not answer.")] * 2
    player.play()
    assert len(superlink.started) == 2
    assert sum("Waiting for it" in line for line in said) == 2


def test_a_superlink_that_stays_away_is_told(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever without a word that a person can act on."""
    monkeypatch.setattr(playing, "START_SECONDS", 0.1)
    player, superlink, _ = stage("dies")
    superlink.faults = [FederationError("the SuperLink does not answer.")] * 100
    with pytest.raises(FederationError, match="does not answer"):
        player.play()
    assert len(superlink.started) == 1


def test_a_superlink_that_refuses_is_not_asked_again(stage: Any) -> None:
    """What it refuses now it refuses again."""
    player, superlink, said = stage("dies")
    superlink.faults = [RefusedBySuperLinkError("the SuperLink refused.", code=None)]
    with pytest.raises(RefusedBySuperLinkError):
        player.play()
    assert not any("Waiting" in line for line in said)
