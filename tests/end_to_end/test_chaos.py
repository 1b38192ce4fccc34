"""`make chaos`: studies of six rounds with a fault in each, over all six programs and the network between them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.round_records import read_rounds
from shared.protocol import StudyProtocol
from simulations.chaos import HEADING, Storm
from simulations.faults import COORDINATOR, NETWORK, SITE, draw
from simulations.local_federation import LocalFederation
from simulations.namespaces import Namespaces, obstacle

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(7200),  # PATIENCE_SECONDS ends a study that does not go on, and says what it said last
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
    pytest.mark.skipif(bool(obstacle()), reason=f"no network to cut here: {obstacle()}"),
]

SEED = int(os.environ.get("CHAOS_SEED", "7"))
CUT_SECONDS = float(os.environ.get("CHAOS_CUT_SECONDS", "120"))
STUDIES, ROUNDS = 4, 6
LONGEST_SECONDS = 8.0
"""Within so many seconds of a round's beginning a fault hits: about what a small round takes on a quiet machine."""

FAULTS = draw(SEED, ("north", "south"), faults=STUDIES * ROUNDS, longest_seconds=LONGEST_SECONDS)
QUICK = {"OMP_NUM_THREADS": "1", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5"}
DEADLINES = {"deadlines": {"ready_minutes": 15.0, "round_minutes": 20.0, "deliver_minutes": 10.0}}
PATIENCE_SECONDS = 1500.0
SECONDS_UNTIL_MISSED = 60.0
"""A link is heard every 30 s and missed after the second silence (flwr.common.constant, HEARTBEAT_PATIENCE)."""


@pytest.fixture(scope="module")
def protocol(tiny: Any) -> StudyProtocol:
    return tiny.protocol(federation={"rounds": ROUNDS})


@pytest.fixture(scope="module")
def undisturbed(protocol: StudyProtocol, hospitals_on_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the model of the same study's simulation, which is a federation's bit for bit (test_federation.py)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    hospitals = shutil.copytree(hospitals_on_disk, folder / "hospitals")
    (folder / "study.toml").write_text(protocol.to_toml(), encoding="utf-8")
    command = [Path(sys.executable).with_name("polyclinic"), "simulate", folder / "study.toml", "--device", "cpu"]
    command += ["--sites", hospitals, "--out", folder / "run"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | QUICK)
    return folder / "run" / "model.safetensors"


@pytest.fixture
def storm(protocol: StudyProtocol, hospitals_on_disk: Path) -> Iterator[tuple[Storm, list[str]]]:
    """Give a federation with all compartments, in a folder that other users than root may pass."""
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        folder, said, wires = Path(name), [], Namespaces()
        folder.chmod(0o755)
        hospitals = shutil.copytree(hospitals_on_disk, folder / "hospitals")
        with LocalFederation(
            folder / "all",
            protocol,
            hospitals,
            compartments=wires,
            variables=QUICK,
            settings=DEADLINES,
            say=said.append,
        ) as federation:
            yield Storm(federation, wires, said, cut_seconds=CUT_SECONDS, patience_seconds=PATIENCE_SECONDS), said


@pytest.fixture
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Write to the terminal at once: half an hour without a word would be long."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    terminal = pytestconfig.pluginmanager.getplugin("terminalreporter")

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)
            terminal.flush()

    return write


def test_the_drawn_faults_cover_all_six_programs_and_the_network() -> None:
    """Each of them is hit three times in four studies, the ServerApp beside the program that starts it."""
    hit = [fault.victim for fault in FAULTS]
    assert {victim: hit.count(victim) for victim in hit} == dict.fromkeys((*COORDINATOR, *SITE, NETWORK), 3)


@pytest.mark.parametrize("number", range(STUDIES))
def test_a_study_of_six_rounds_survives_six_faults(
    storm: tuple[Storm, list[str]], undisturbed: Path, number: int, say: Callable[[str], None]
) -> None:
    """No round is lost, none that was finished is played again, and the model is that of the undisturbed run."""
    say(f"\nstudy {number + 1} of {STUDIES}, seed {SEED}, cuts of {CUT_SECONDS:.0f} s\n{HEADING}")
    faults = FAULTS[ROUNDS * number : ROUNDS * (number + 1)]
    disturbed, said = storm
    happened = disturbed.rage(faults, say)
    records = read_rounds(disturbed.run.path)
    assert all(one.kept for one in happened), "\n".join(said)
    assert [(record["round"], record["lost"]) for record in records] == [(n + 1, False) for n in range(ROUNDS)]
    assert disturbed.run.model.read_bytes() == undisturbed.read_bytes()
    for one in happened:
        if one.fault.victim == "link":  # back at once, and refused until the SuperLink notices that it was gone
            assert one.again_seconds > SECONDS_UNTIL_MISSED / 2
            assert "305" in disturbed.log(f"{one.fault.site}-link")
