"""A study over real processes: disturbed, restored from a backup, and in the end the very bits of the simulation."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.delivery import MODEL
from server.backup import backup, restore
from server.fleet import fleet
from server.playing import stop
from server.run_folder import RunFolder
from simulations.compartments import OneUser
from simulations.local_federation import LocalFederation

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

QUICK = {"OMP_NUM_THREADS": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1"}
DEADLINES = {"deadlines": {"ready_minutes": 5.0, "round_minutes": 8.0, "deliver_minutes": 3.0}}
PATIENCE_SECONDS = 400


def await_that(moment: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not moment():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def children(name: str, parent: int) -> list[int]:
    """List the processes of a name below another one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            above = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if above == parent and name in command:
            found.append(int(entry.name))
    return found


class Following:
    """Plays a federation's run in a thread, as `polyclinic coordinator run` does."""

    def __init__(self, federation: LocalFederation) -> None:
        self.said: list[str] = []
        self.fault: BaseException | None = None
        self._federation = federation
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        try:
            self._federation.run(self.said.append)
        except BaseException as fault:
            self.fault = fault

    def finish(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "\n".join(self.said)
        assert self.fault is None, f"{self.fault!r}\n" + "\n".join(self.said)


@dataclass
class Story:
    """What a disturbed federation left behind."""

    run: RunFolder
    sites: Path
    faults: list[str]
    said: list[str]


@pytest.fixture(scope="module")
def story(tiny_study: Path, hospitals_on_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Run a study of two rounds; kill an agent, a courier and the ServerApp, and restore the coordinator from a backup.

    The moments are drawn once (seed 11), within the seconds after each one's task has begun.
    """
    from shared.protocol import read_protocol

    folder = tmp_path_factory.mktemp("federation")
    hospitals = shutil.copytree(hospitals_on_disk, folder / "hospitals")
    delays = np.random.default_rng(11).uniform(0.0, 1.0, 3)
    said: list[str] = []
    faults: list[str] = []
    with LocalFederation(
        folder / "all",
        read_protocol(tiny_study),
        hospitals,
        compartments=OneUser(),
        variables=QUICK,
        settings=DEADLINES,
        say=said.append,
    ) as federation:
        run = RunFolder(path=next_run(federation))
        programs = federation.programs.running

        def kill(what: str, pid: int) -> None:
            os.kill(pid, signal.SIGKILL)
            faults.append(what)

        following = Following(federation)
        await_that(lambda: clientapps(programs["north-courier"]) != [], "north's courier works")
        time.sleep(delays[0])
        kill("agent", programs["north-agent"].pid)
        await_that(lambda: stage(run) == "rounds", "the rounds begin")
        await_that(lambda: clientapps(programs["south-courier"]) != [], "south's courier works")
        kill("courier", clientapps(programs["south-courier"])[0])
        await_that(lambda: rounds(run) == 1, "round 1 is finished")
        time.sleep(delays[2])
        kill("ServerApp", children("flwr-serverapp", programs["superexec"].pid)[0])
        await_that(lambda: rounds(run) == 2, "round 2 is finished")
        with fleet(federation.place, federation.config) as superlink:
            stop(run, superlink)
        following.finish()
        backup(federation.place, folder / "backup.tar.gz")
        federation.stop_coordinator()
        shutil.rmtree(federation.place.path)
        restore(folder / "backup.tar.gz", federation.place)
        faults.append("coordinator lost and restored")
        federation.start_coordinator()
        again = Following(federation)
        again.finish()
    said += [*following.said, *again.said]
    return Story(run=run, sites=folder / "all" / "sites", faults=faults, said=said)


def clientapps(superexec: subprocess.Popen[bytes]) -> list[int]:
    return children("flwr-clientapp", superexec.pid)


def next_run(federation: LocalFederation) -> Path:
    from server.coordinator import run_name

    return federation.place.runs / run_name(federation.protocol)


def stage(run: RunFolder) -> str:
    return json.loads(run.status.read_text())["stage"] if run.status.exists() else ""


def rounds(run: RunFolder) -> int:
    file = run.path / "rounds.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture(scope="module")
def simulated(tiny_study: Path, hospitals_on_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the same study's simulation, on one thread as the agents are."""
    folder = tmp_path_factory.mktemp("simulated")
    hospitals = shutil.copytree(hospitals_on_disk, folder / "hospitals")
    command = [Path(sys.executable).with_name("polyclinic"), "simulate", tiny_study, "--device", "cpu"]
    command += ["--sites", hospitals, "--out", folder / "run"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | QUICK)
    return folder / "run"


def facts(results: Path) -> dict[str, Any]:
    """Read what a run found, without where and how fast it ran."""
    found = json.loads(results.read_text())
    return {key: found[key] for key in ("study", "selected", "operating_point", "sites", "pooled", "domain_shift")}


def test_the_final_model_is_the_simulations_bit_for_bit(story: Story, simulated: Path) -> None:
    """Over TLS, proxy, SuperLink, links, couriers and agents, with each of them killed once, no bit of it changes."""
    assert story.faults == ["agent", "courier", "ServerApp", "coordinator lost and restored"]
    assert story.run.model.read_bytes() == (simulated / "model.safetensors").read_bytes()


def test_the_metrics_of_each_site_are_the_simulations(story: Story, simulated: Path) -> None:
    """Counts, intervals, operating point, patient flow: what the report says is what the simulation's says."""
    assert facts(story.run.results) == facts(simulated / "results.json")
    assert "north" in story.run.report.read_text()


def test_a_restored_coordinator_repeats_no_finished_round(story: Story) -> None:
    """Both rounds stand there once, neither was lost, and the run was stopped and started again in between."""
    records = [json.loads(line) for line in (story.run.path / "rounds.jsonl").read_text().splitlines()]
    assert [(record["round"], record["lost"]) for record in records] == [(1, False), (2, False)]
    assert any("Stopped" in line for line in story.said)
    assert any("died" in line for line in story.said)


def test_every_hospital_has_the_final_model_and_the_report(story: Story) -> None:
    """The last task of a study delivers both; the model is the one of the coordinator's run."""
    final = load_file(story.run.model)
    for site in ("north", "south"):
        (delivered,) = (story.sites / site).rglob(MODEL)
        arrays = load_file(delivered)
        assert arrays.keys() == final.keys()
        assert all(np.array_equal(arrays[name], final[name]) for name in final)
        assert delivered.with_name("report.html").read_bytes() == story.run.report.read_bytes()


def test_nothing_that_was_started_is_left(story: Story) -> None:
    """Killed and restarted programs included: no process names the federation's folder any more."""
    own = str(story.sites.parent).encode()
    left = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if own in words:
            left.append(entry.name)
    assert left == []
