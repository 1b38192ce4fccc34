"""A study over real processes: disturbed, restored from a backup, and in the end the very bits of the simulation."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.delivery import MODEL
from server.backup import backup, restore
from server.round_records import read_rounds
from server.run_folder import RunFolder
from simulations import chaos
from simulations.chaos import Following
from simulations.compartments import OneUser
from simulations.faults import Fault, courier_at_work, kill
from simulations.local_federation import LocalFederation

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

QUICK = {
    "OMP_NUM_THREADS": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
    "PYTHONPATH": str(Path(__file__).with_name("quick")),
}
DEADLINES = {"deadlines": {"ready_minutes": 5.0, "round_minutes": 8.0, "deliver_minutes": 3.0}}
PATIENCE_SECONDS = 400


@pytest.fixture(scope="module")
def simulation(
    tiny_study: Path, hospitals_on_disk: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Begin the same study's simulation, on one thread as the agents are; it goes on beside the federation."""
    folder = tmp_path_factory.mktemp("simulated")
    hospitals = shutil.copytree(hospitals_on_disk, folder / "hospitals")
    command = [Path(sys.executable).with_name("polyclinic"), "simulate", tiny_study, "--device", "cpu"]
    command += ["--sites", hospitals, "--out", folder / "run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | QUICK) as it:
        yield it, folder / "run"
        it.kill()


@pytest.fixture(scope="module")
def simulated(simulation: tuple["subprocess.Popen[bytes]", Path]) -> Path:
    """Give the folder of the finished simulation."""
    process, run = simulation
    assert process.wait(PATIENCE_SECONDS) == 0
    return run


@dataclass
class Story:
    """What a disturbed federation left behind."""

    run: RunFolder
    sites: Path
    faults: list[str]
    finished: Sequence[Mapping[str, Any]]
    said: list[str]


MOMENTS = dict(zip(("courier", "agent", "ServerApp"), np.random.default_rng(11).uniform(0.0, 1.0, 3), strict=True))
"""Seconds after the fault's process began to work on its task."""


@pytest.fixture(scope="module")
def story(
    tiny_study: Path,
    hospitals_on_disk: Path,
    tmp_path_factory: pytest.TempPathFactory,
    simulation: object,
    request: pytest.FixtureRequest,
) -> Story:
    """Run a study of two rounds; kill courier, agent and ServerApp in round 1, lose the coordinator in round 2.

    Flower notices after a minute that a courier died. The ServerApp that is killed meanwhile asks again when it is
    back, so that this test does not wait for that minute; `make chaos` does.
    """
    from shared.protocol import read_protocol

    folder = tmp_path_factory.mktemp("federation")
    hospitals = shutil.copytree(hospitals_on_disk, folder / "hospitals")
    said: list[str] = []
    faults: list[str] = []
    capture = request.config.pluginmanager.getplugin("capturemanager")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
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
        following = Following(federation, said)
        await_that = partial(following.await_that, patience_seconds=PATIENCE_SECONDS)

        def strike(victim: str, site: str, began: Callable[[], bool]) -> None:
            fault = Fault(victim=victim, site=site, after_seconds=MOMENTS[victim])
            await_that(began, f"{fault} works")
            time.sleep(fault.after_seconds)
            await_that(lambda: kill(federation, fault), f"{fault} can be killed")
            faults.append(str(fault))
            with capture.global_and_fixture_disabled():
                terminal.write_line(
                    f"\nkill -9 of {fault}, {fault.after_seconds:.2f} s after it was at work; "
                    f"stage {chaos.stage(run)}, {len(read_rounds(run.path))} rounds finished"
                )

        await_that(lambda: chaos.stage(run) == "rounds", "the rounds begin")
        strike("courier", "south", lambda: courier_at_work(federation, "south"))
        strike("agent", "north", lambda: courier_at_work(federation, "north"))
        strike("ServerApp", "", lambda: True)
        await_that(lambda: len(read_rounds(run.path)) == 1, "round 1 is finished")
        backup(federation.place, folder / "backup.tar.gz")
        await_that(lambda: courier_at_work(federation, "north"), "round 2 is under way")
        run.stopped.touch()  # so that nobody waits for the SuperLink to come back; the backup has it not
        federation.stop_coordinator()
        assert following.ended(PATIENCE_SECONDS) is None, "\n".join(said)
        finished = read_rounds(run.path)
        shutil.rmtree(federation.place.path)
        restore(folder / "backup.tar.gz", federation.place)
        faults.append("coordinator lost and restored")
        federation.start_coordinator()
        again = Following(federation, said)
        assert again.ended(PATIENCE_SECONDS) is None, "\n".join(said)
    return Story(run=run, sites=folder / "all" / "sites", faults=faults, finished=finished, said=said)


def next_run(federation: LocalFederation) -> Path:
    from server.coordinator import run_name

    return federation.place.runs / run_name(federation.protocol)


def facts(results: Path) -> dict[str, Any]:
    """Read what a run found, without where and how fast it ran."""
    found = json.loads(results.read_text())
    return {key: found[key] for key in ("study", "selected", "operating_point", "sites", "pooled", "domain_shift")}


def test_the_final_model_is_the_simulations_bit_for_bit(story: Story, simulated: Path) -> None:
    """Over TLS, proxy, SuperLink, links, couriers and agents, three of them killed, no bit of it changes."""
    assert story.faults == ["south courier", "north agent", "ServerApp", "coordinator lost and restored"]
    assert story.run.model.read_bytes() == (simulated / "model.safetensors").read_bytes()


def test_the_metrics_of_each_site_are_the_simulations(story: Story, simulated: Path) -> None:
    """Counts, intervals, operating point, patient flow: what the report says is what the simulation's says."""
    assert facts(story.run.results) == facts(simulated / "results.json")
    assert "north" in story.run.report.read_text()


def test_a_backup_restored_on_an_empty_folder_goes_on_in_the_middle(story: Story) -> None:
    """The copy was made while the run went on; after the loss round 1 stays as it was, and round 2 is played again."""
    records = read_rounds(story.run.path)
    assert story.finished == records[:1]
    assert [(record["round"], record["lost"]) for record in records] == [(1, False), (2, False)]
    assert sum("died" in line for line in story.said) >= 1


def test_every_hospital_has_the_final_model_and_the_results(story: Story) -> None:
    """The last task of a study delivers both, and no page; the model is the one of the coordinator's run."""
    final = load_file(story.run.model)
    for site in ("north", "south"):
        (delivered,) = (story.sites / site).rglob(MODEL)
        arrays = load_file(delivered)
        assert arrays.keys() == final.keys()
        assert all(np.array_equal(arrays[name], final[name]) for name in final)
        assert delivered.with_name("results.json").read_bytes() == story.run.results.read_bytes()
        assert not delivered.with_name("report.html").exists()


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
