"""`make nightly`: the whole quickstart study, four hospitals and seven rounds, over a network as in simulation."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
]

QUICKSTART = Path(__file__).parents[2] / "simulations" / "studies" / "quickstart.toml"

OF_THE_MACHINE = frozenset({"seconds", "images_per_second"})
"""Of a round's record: what two runs of the same study do not share."""

SIMULATED_ALONE = frozenset({"receipts", "cross_fitted"})
"""Of a study's results: what a coordinator cannot know (docs/decisions/0016), for it has no patients beside it."""


def found(results: Path) -> dict[str, Any]:
    """Read what a run found, without how fast it ran and what only a simulation has."""
    read: dict[str, Any] = without(json.loads(results.read_text()))
    return read


def without(part: Any) -> Any:
    """Leave these out, at any depth."""
    if isinstance(part, dict):
        return {key: without(value) for key, value in part.items() if key not in OF_THE_MACHINE | SIMULATED_ALONE}
    return [without(item) for item in part] if isinstance(part, list) else part


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that other users than root may pass: as root each compartment has a user of its own."""
    with tempfile.TemporaryDirectory(prefix="quickstart") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_quickstart_over_a_network_is_the_simulation(folder: Path) -> None:
    """Coordinator, proxy, TLS, keys, and link, courier and agent of each hospital: the same model, bit for bit."""
    polyclinic = Path(sys.executable).with_name("polyclinic")
    for command, out in (("simulate", "simulated"), ("federation", "federated")):
        subprocess.run([polyclinic, command, QUICKSTART, "--out", folder / out], check=True)
    (run,) = (folder / "federated" / "coordinator" / "runs").iterdir()
    assert (run / "model.safetensors").read_bytes() == (folder / "simulated" / "model.safetensors").read_bytes()
    federated = found(run / "results.json")
    assert federated == found(folder / "simulated" / "results.json")
    assert (len(federated["rounds"]), sorted(federated["sites"])) == (7, ["east", "north", "south", "west"])
