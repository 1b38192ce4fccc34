"""Whatever moment kills a private agent, its ledger shows at least what was spent, and no noise is drawn anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DRIVER = Path(__file__).parent / "killed_agent.py"
EVENTS = 92
"""Moments between two of which the agent can die, in two rounds and their repetitions; a test counts them."""

HANDFUL = (1, 4, 5, 9, 12, 17, 30, 47)
"""Before, during and after the charge, within a round, beside the reply's storage and while it leaves, in both rounds."""


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
    """kill -9 at chosen events and two random times: charged once, the same bytes, and what left leaves again."""
    times = np.random.default_rng(4).uniform(0.1, 0.9, 2).tolist()
    report = kill(tmp_path, [*HANDFUL, *times])
    assert report["wrong"] == []
    assert report["killed"] >= len(HANDFUL)
    assert report["before_the_charge"] >= 2
    assert report["within_a_round"] >= 2
    assert report["events"] == EVENTS


def test_a_charge_that_comes_after_training_is_caught(tmp_path: Path) -> None:
    """The check above is itself tried: an agent that pays when its round is over is found out by a kill within it."""
    report = kill(tmp_path, [8, 10], late="late")
    assert len(report["wrong"]) == 2
    assert all("1 rounds were begun and 0 are charged" in found for found in report["wrong"])


@pytest.mark.nightly
def test_fifty_moments(tmp_path: Path) -> None:
    """kill -9 at 50 seeded moments: 40 events, spread over all, and 10 times of the clock (Show 2 of privacy)."""
    rng = np.random.default_rng(2026)
    moments = [*rng.choice(np.arange(1, EVENTS + 1), 40, replace=False).tolist(), *rng.uniform(0.02, 0.98, 10).tolist()]
    report = kill(tmp_path, moments)
    assert report["wrong"] == []
    assert report["killed"] >= 45
