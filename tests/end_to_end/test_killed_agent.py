"""Whatever moment kills a private agent, its ledger shows at least what was spent, and no noise is drawn anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

DRIVER = Path(__file__).parent / "killed_agent.py"
EVENTS = 84
"""Moments between two of which the agent can die, in two rounds and their repetitions; a test counts them."""


def kill(folder: Path, moments: list[int | float], *, late: str = "in time") -> dict:
    """Kill an agent at each of the moments, let it go on, and give the report."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(folder), json.dumps(moments), late],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_killed_agent_has_paid_for_what_it_spent(tmp_path: Path) -> None:
    """At 50 seeded moments of kill -9: charged once, the same bytes, and what has left leaves again.

    12 events around the first charge, 28 of all others, before, during and after charges, within rounds and while a
    reply is stored and leaves, and 10 times of the clock.
    """
    rng = np.random.default_rng(2026)
    spread = rng.choice(np.arange(13, EVENTS + 1), 28, replace=False).tolist()
    report = kill(tmp_path, [*range(1, 13), *spread, *rng.uniform(0.02, 0.98, 10).tolist()])
    assert report["wrong"] == []
    assert report["killed"] >= 45
    assert report["before_the_charge"] >= 3
    assert report["within_a_round"] >= 15
    assert report["events"] == EVENTS


def test_a_charge_that_comes_after_training_is_caught(tmp_path: Path) -> None:
    """The check above is itself tried: an agent that pays when its round is over is found out by a kill within it."""
    report = kill(tmp_path, [8, 10], late="late")
    assert len(report["wrong"]) == 2
    assert all("1 rounds were begun and 0 are charged" in found for found in report["wrong"])
