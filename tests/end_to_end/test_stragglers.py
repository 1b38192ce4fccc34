"""`make chaos`: a site that answers too late, and one that vanishes for a whole round and comes back for the next."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.coordinator import run_name
from server.round_records import read_rounds
from server.run_folder import RunFolder
from simulations import chaos
from simulations.chaos import Following
from simulations.compartments import OneUser
from simulations.faults import courier_at_work
from simulations.local_federation import LocalFederation

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(3600),  # PATIENCE_SECONDS ends a run that does not go on, and says what it said last
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

QUICK = {"OMP_NUM_THREADS": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
DEADLINE_SECONDS = 90
"""A minute and a half stands for the hours that a round may take."""

DEADLINES = {"deadlines": {"ready_minutes": 10.0, "round_minutes": DEADLINE_SECONDS / 60, "deliver_minutes": 5.0}}

PATIENCE_SECONDS = 900.0


@pytest.fixture(scope="module")
def records(tiny: Any, hospitals_on_disk: Path) -> Sequence[Mapping[str, Any]]:
    """Run four rounds: south's agent stands still in round 1, south is gone in round 3, and is back before round 4."""
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="stragglers") as name:
        folder = Path(name)
        hospitals = shutil.copytree(hospitals_on_disk, folder / "hospitals")
        with LocalFederation(
            folder / "all",
            tiny.protocol(federation={"rounds": 4, "min_sites": 1}),
            hospitals,
            compartments=OneUser(),
            variables=QUICK,
            settings=DEADLINES,
            say=said.append,
        ) as federation:
            run = RunFolder(path=federation.place.runs / run_name(federation.protocol))
            programs = federation.programs

            following = Following(federation, said)
            await_that = partial(following.await_that, patience_seconds=PATIENCE_SECONDS)
            await_that(lambda: chaos.stage(run) == "rounds", "the rounds begin")
            await_that(lambda: courier_at_work(federation, "south"), "south's courier has round 1's task")
            programs.running["south-agent"].send_signal(signal.SIGSTOP)
            time.sleep(DEADLINE_SECONDS + 5)
            programs.running["south-agent"].send_signal(signal.SIGCONT)
            await_that(lambda: len(read_rounds(run.path)) == 2, "round 2 is finished")
            for role in ("agent", "link", "courier"):
                programs.running[f"south-{role}"].kill()
            federation.stop_site("south")  # before anybody starts them again
            await_that(lambda: len(read_rounds(run.path)) == 3, "round 3 is finished without south")
            federation.start_site("south")
            assert following.ended(PATIENCE_SECONDS) is None, "\n".join(said)
            return read_rounds(run.path)


def refusals(records: Sequence[Mapping[str, Any]], site: str) -> list[bool]:
    return [record["sites"][site]["refusal"] is not None for record in records]


def test_a_site_that_vanishes_rejoins_in_the_next_round(records: Sequence[Mapping[str, Any]]) -> None:
    """Rounds that it missed are not lost and not repeated; it trains in the first one after it is back."""
    assert refusals(records, "south") == [True, False, True, False]
    assert refusals(records, "north") == [False] * 4
    assert not any(record["lost"] for record in records)


def test_a_late_reply_is_counted_and_dropped(records: Sequence[Mapping[str, Any]]) -> None:
    """South's update of round 1 came while round 1 was evaluated: it is no part of the model, and round 2 counts it."""
    assert [record["late_replies"].get("south", 0) for record in records[:2]] == [0, 1]
