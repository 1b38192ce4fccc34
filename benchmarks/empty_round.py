"""A round without work, from the coordinator to agents and back, beside Flower's own that ends in the courier."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from flwr.cli.build import build_fab_from_files
from flwr.cli.install import install_from_fab

from benchmarks.record import Record
from benchmarks.sides import median_of
from benchmarks.workload import Scale
from server.enrolment import Register
from server.fleet import Fleet, fleet
from shared.declaration import parse
from shared.errors import FederationError, StudyError
from shared.protocol import StudyProtocol
from simulations.compartments import OneUser
from simulations.local_federation import LocalFederation
from simulations.synthetic_site import write
from simulations.synthetic_study import plain_hospital

SITES = ("north", "south")

ORDER = "POLYCLINIC_EMPTY_ROUNDS"
"""Tells the ServerApp below where its order lies: the sites' nodes, how many rounds, and where to write the times."""

PATIENCE_SECONDS = 900.0

MANIFEST = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "polyclinic-empty-rounds"
version = "1.0.0"
description = "Times rounds in which nobody works."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "polyclinic"
fab-format-version = 0
fab-include = ["*.py"]

[tool.flwr.app.components]
serverapp = "empty_server:app"
clientapp = "empty_client:app"

[tool.flwr.app.config]
run = ""
"""

CLIENT = """
from flwr.app import Message
from client.courier import app

@app.query("flower")
def flower(message, context):
    return Message(message.content, reply_to=message)
"""
"""The courier as it is, and beside it what a ClientApp does that has nobody behind it."""

SERVER = """
import json, os, time
from pathlib import Path
from flwr.app import Message
from flwr.serverapp import ServerApp
from server.asking import Desk
from server.coordinator_folder import COORDINATOR_VARIABLE, CoordinatorFolder
from server.coordinator_key import coordinator_key
from server.seals import Seals
from shared.messages import Header, Kind, ReadyTask, encode_task

app = ServerApp()

@app.main()
def main(grid, context):
    order = json.loads(Path(os.environ["POLYCLINIC_EMPTY_ROUNDS"]).read_text())
    seals = Seals(key=coordinator_key(CoordinatorFolder(path=Path(os.environ[COORDINATOR_VARIABLE]))))
    times = {"flower": [], "relayed": []}
    for number in range(order["rounds"] + 1):
        tasks = {
            node: encode_task(
                ReadyTask(
                    header=Header(
                        protocol_digest=order["digest"], run_id=f"empty{number}", round=0, site=site, kind=Kind.READY
                    )
                )
            )
            for site, node in order["nodes"].items()
        }
        for task in tasks.values():
            seals.seal(task)
        began = time.perf_counter()
        replies = list(grid.send_and_receive([Message(task, node, "query.flower") for node, task in tasks.items()]))
        times["flower"].append(time.perf_counter() - began)
        assert all(reply.has_content() for reply in replies) and len(replies) == len(tasks), replies
        began = time.perf_counter()
        replies = list(Desk(grid).ask([Message(task, node, "query") for node, task in tasks.items()], 600.0))
        times["relayed"].append(time.perf_counter() - began)
        assert all(reply.content["state"]["kind"] == "query" for reply in replies) and len(replies) == len(tasks)
    times = {side: seconds[1:] for side, seconds in times.items()}  # in the first the agents prepare their images
    part = Path(order["times"] + ".part")
    part.write_text(json.dumps(times))
    part.rename(order["times"])
"""


def run(scale: Scale) -> Iterator[Record]:
    """Ask two sites whether they are ready, and ask the same of a ClientApp that answers by itself, in turn."""
    with tempfile.TemporaryDirectory() as name:
        times = _times(Path(name), rounds=scale.pairs)
    relayed, flower = times["relayed"], times["flower"]
    ratios = median_of([ours / theirs for ours, theirs in zip(relayed, flower, strict=True)])
    yield Record(
        name="empty_round",
        value=median_of(relayed).value,
        unit="s",
        against=f"{len(SITES)} sites, TLS, proxy, keys, a process a message, relayed to agents; {median_of(relayed)}",
    )
    yield Record(
        name="empty_round_flower",
        value=median_of(flower).value,
        unit="s",
        against=f"the same programs, Flower's send_and_receive, no agent; {median_of(flower)}",
    )
    yield Record(name="empty_round_ratio", value=ratios.value, unit="x", against=f"ours to Flower's, by pair; {ratios}")


def _times(folder: Path, *, rounds: int) -> dict[str, list[float]]:
    order, times = folder / "order.json", folder / "times.json"
    bundle = build_fab_from_files(
        {
            "pyproject.toml": MANIFEST.encode(),
            "empty_client.py": CLIENT.encode(),
            "empty_server.py": SERVER.encode(),
        }
    )[0]
    with LocalFederation(
        folder / "all",
        _study(),
        _hospitals(folder / "hospitals"),
        compartments=OneUser(),
        variables={"OMP_NUM_THREADS": "1", ORDER: str(order)},
        settings={},
        say=lambda _: None,
    ) as federation:
        for hospital in federation.sites.values():
            (hospital.home / "apps").chmod(0o755)
            _install(bundle, hospital.home)
        with fleet(federation.place) as superlink:
            records = Register(federation.place.sites).of(SITES)
            facts = {
                "digest": federation.protocol.digest(),
                "nodes": {site: record.node_id for site, record in records.items()},
                "rounds": rounds,
                "times": str(times),
            }
            order.write_text(json.dumps(facts), encoding="utf-8")
            _await_end(superlink, superlink.start(bundle, "empty"), times)
    found: dict[str, list[float]] = json.loads(times.read_text(encoding="utf-8"))
    return found


def _install(bundle: bytes, home: Path) -> None:
    """Install it by Flower's own function: a hospital's command takes the manifest alone, and this brings code."""
    with patch.dict(os.environ, FLWR_HOME=str(home.resolve())):
        install_from_fab(bundle, skip_prompt=True)


def _await_end(superlink: Fleet, number: int, times: Path) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not times.exists():
        state = superlink.state(number)
        if time.monotonic() > give_up or (state and state.finished and not times.exists()):
            raise FederationError(f"the empty rounds ended without times: {state}. See the ServerApp's log.")
        time.sleep(1)


def _study() -> StudyProtocol:
    return parse(
        {
            "study": {"name": "Empty rounds", "intended_use": "Benchmarks."},
            "task": {"findings": ["opacity"]},
            "images": {"size": 32, "channels": 1},
            "model": {"weights": "none"},
            "federation": {"rounds": 1},
        },
        StudyProtocol,
        where="study",
        error=StudyError,
    )


def _hospitals(folder: Path) -> Path:
    for name in SITES:
        site = plain_hospital(name, patients=24)
        write(site, folder / name, findings=["opacity"], exclusive=False, workers=1, progress=lambda *_: None)
    return folder
