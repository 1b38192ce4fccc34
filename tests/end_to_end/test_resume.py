"""A run that is killed at any moment and resumed ends in the very bytes of a run that nobody disturbed."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SETTINGS = (
    *("--set", "federation.rounds=3", "--set", "federation.strategy=fedavgm", "--device", "cpu"),
    *("--set", 'model.unfreeze=[{round=3, from="layer4"}]', "--set", 'model.norm="batch"'),
    *("--set", "augmentation.rotation_degrees=10.0"),
)
"""Rounds in which the head trains and then layer4 as well, with moments at the server, statistics and draws."""

SIMULATE = """
import os, signal, sys
from pathlib import Path
sys.argv = {argv!r}
sys.stdout = sys.stderr = Path({log!r}).open("a")
{before}
from shared.cli import main
main()
"""

DIE_WHILE_SAVING = """
from server import checkpoint
def half(tensors, path, facts, whole=checkpoint.save_file):
    whole(tensors, path, facts)
    os.truncate(path, os.path.getsize(path) // 2)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save_file = half
"""

PATIENCE_SECONDS = 300


class Runs:
    """Starts `polyclinic simulate` in processes of their own, all over one run's folder."""

    def __init__(self, study: Path, folder: Path, hospitals: Path) -> None:
        self.folder = folder / "run"
        self.log = folder / "log.txt"
        sites = shutil.copytree(hospitals, folder / "sites")
        self.command = ["polyclinic", "simulate", study, "--sites", sites, "--out", self.folder, *SETTINGS]

    def start(self, *words: str, before: str = "") -> ForkServerProcess:
        """Start a process in which everything is imported already, but nothing was computed."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["simulations.cli"])
        argv = [str(word) for word in (*self.command, *words)]
        process = context.Process(target=exec, args=(SIMULATE.format(argv=argv, log=str(self.log), before=before),))
        process.start()
        return process

    def kill_when(self, process: ForkServerProcess, moment: Callable[[], bool], delay_seconds: float) -> None:
        """Kill a process some time after a moment; it must still be at work then."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not moment() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay_seconds)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, self.log.read_text()

    def trained(self, site: str) -> int:
        """Count the updates that a hospital has sent."""
        log = self.folder / "sites" / site / "federated" / "audit.jsonl"
        return log.read_text().count('"kind": "train"') if log.exists() else 0

    def rounds(self) -> int:
        """Count the finished rounds."""
        file = self.folder / "rounds.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def facts(self) -> dict[str, Any]:
        """Read what the run found, without how long it took."""
        result = json.loads((self.folder / "results.json").read_text())
        return {key: result[key] for key in ("study", "selected", "operating_point", "sites", "pooled", "domain_shift")}


@pytest.fixture
def runs(tiny_study: Path, hospitals_on_disk: Path, tmp_path: Path) -> Any:
    """Give `runs(name)`; every process computes on one thread (tests/conftest.py), as equal bits ask for."""
    return lambda name: Runs(tiny_study, tmp_path / name, hospitals_on_disk)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has neither fork nor SIGKILL")
def test_a_killed_and_resumed_run_gives_the_same_bytes(runs: Any) -> None:
    """Killed in the first round, in the second one, and while a checkpoint was half-written, then left alone."""
    whole, killed = runs("whole"), runs("killed")
    delays = np.random.default_rng(7).uniform(0.0, 0.05, 2)
    command = [Path(sys.executable).with_name("polyclinic"), *whole.command[1:]]
    with whole.log.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as undisturbed:
        killed.kill_when(killed.start(), lambda: killed.trained("north") == 1, delays[0])
        assert killed.rounds() == 0
        killed.kill_when(killed.start("--resume"), lambda: killed.rounds() == 1, delays[1])
        assert killed.rounds() == 1
        dying = killed.start("--resume", before=DIE_WHILE_SAVING)
        dying.join(PATIENCE_SECONDS)
        assert dying.exitcode == -signal.SIGKILL, killed.log.read_text()
        assert [path.name for path in killed.folder.rglob("*.part")] == ["round-00002.safetensors.part"]
        assert killed.rounds() == 1
        last = killed.start("--resume")
        last.join(PATIENCE_SECONDS)
        assert last.exitcode == 0, killed.log.read_text()

    assert undisturbed.returncode == 0, whole.log.read_text()
    assert (killed.rounds(), whole.rounds()) == (3, 3)
    assert killed.trained("north") >= 5  # two of the updates were lost with the rounds that they were for
    assert (killed.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()
    assert killed.facts() == whole.facts()
    assert not list(killed.folder.rglob("*.part"))
    assert (killed.folder / "report.html").exists()
