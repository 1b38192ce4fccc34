"""The runbook's commands, as they stand there: two sites and a coordinator, from nothing to a report."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import click
import pytest
import tomli_w
import typer.main

from shared.cli import application

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
BLOCK = re.compile(r"^```(sh)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MOST_SECONDS = 600.0
BLOCK_SECONDS = 400.0
SITES = ("north", "south")


def blocks() -> list[tuple[str, str]]:
    """Give who runs each tried block (coordinator, site), and the block."""
    found = [text for kind, text in BLOCK.findall(RUNBOOK.read_text(encoding="utf-8")) if kind]
    return [(re.match(r"# (coordinator|site)\b", text)[1], text) for text in found]


def commands() -> list[list[str]]:
    """Give every call of `polyclinic` on the page, tried or only shown, in code or in text."""
    text = RUNBOOK.read_text(encoding="utf-8").replace("\\\n", " ")
    code = [line for _, block in BLOCK.findall(text) for line in block.splitlines()]
    code += re.findall(r"`(polyclinic [^`]+)`", text)
    calls = [
        re.split(r"\s[|>]|2>", line[line.index("polyclinic ") :])[0]
        for line in code
        if re.search(r"(^|\s)polyclinic (?=\w)", line)
    ]
    return [[word for word in shlex.split(call) if word != "\\"][1:] for call in calls]


def strange(call: list[str]) -> list[str]:
    """Name what in a call `polyclinic` does not know: a command, or an option."""
    command: Any = typer.main.get_command(application())
    words = list(call)
    while isinstance(command, click.Group) and words:
        word = words.pop(0)
        if word.isupper():  # COMMAND stands for any
            return []
        found = command.get_command(click.Context(command), word)
        if found is None:
            return [f"{' '.join(call)}: no command {word}"]
        command = found
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [f"{' '.join(call)}: no option {word}" for word in words if word.startswith("--") and word not in known]


def test_every_command_of_the_runbook_is_one() -> None:
    """No command and no option on the page is unknown to the program, in the blocks that are only shown too."""
    calls = commands()
    assert len(calls) > 25
    assert [fault for call in calls for fault in strange(call)] == []


def test_a_command_that_is_none_is_caught() -> None:
    """The check above can fail."""
    assert strange(["site", "sreve", "site.toml"]) == ["site sreve site.toml: no command sreve"]
    assert strange(["site", "keys", "s.toml", "--rotat"]) == ["site keys s.toml --rotat: no option --rotat"]


@pytest.fixture
def world(hospitals_on_disk: Path, tiny: Any) -> Iterator[dict[str, dict[str, str]]]:
    """Give each party its variables: its own folders, and ports that the system chose; stop what was started."""
    folder = Path(tempfile.mkdtemp(prefix="rb"))  # a socket's path has at most 107 bytes
    study = folder / "study.toml"
    study.write_text(tiny.protocol(federation={"rounds": 1}).to_toml(), encoding="utf-8")
    (folder / "exchange").mkdir()
    together = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EXCHANGE": str(folder / "exchange"),
        "STUDY": str(study),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
    }
    ports = free_ports(7)
    parties = {
        "coordinator": together
        | {"COORDINATOR": str(folder / "coordinator"), "HOST": "localhost", "PORT": ports[0]}
        | {"SUPERLINK_PORT": ports[1], "MONITOR_PORT": ports[2]}
    }
    for place, name in enumerate(SITES):
        site = folder / name
        site.mkdir()
        write_site_file(hospitals_on_disk / name, site)
        ports_of_it = {"RUNTIME_PORT": ports[3 + 2 * place], "EXPORTER_PORT": ports[4 + 2 * place]}
        own = {"NAME": name, "SITE": str(site), **ports_of_it}
        parties[name] = together | own
    yield parties
    stop(folder)
    shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[str]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [str(one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return numbers


def write_site_file(hospital: Path, site: Path) -> None:
    declared = tomllib.loads((hospital / "site.toml").read_text(encoding="utf-8"))
    for key in ("dicom", "labels"):
        declared["data"][key] = str(hospital / declared["data"][key])
    declared["policy"] = {"min_cell": 1}
    declared["compute"] = {"device": "cpu", "workers": 1, "cache": "cache"}
    (site / "site.toml").write_text(tomli_w.dumps(declared), encoding="utf-8")


def stop(folder: Path) -> None:
    """End what the blocks started, by the ids that they wrote down."""
    for file in folder.rglob("*.pid"):
        if (number := file.read_text().strip()).isdigit():
            end(int(number))


def end(process: int) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(100):
            try:
                os.kill(process, signal_number)
            except ProcessLookupError:
                return
            time.sleep(0.2)


def run(block: str, variables: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-eu", "-c", block], env=variables, cwd=variables["EXCHANGE"], timeout=BLOCK_SECONDS,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{logs(variables)}"
    return done.stdout


def logs(variables: dict[str, str]) -> str:
    folder = Path(variables["EXCHANGE"]).parent
    return "\n".join(f"== {log}\n{log.read_text()[-1500:]}" for log in sorted(folder.rglob("*.log")))


def page(port: str, address: str = "/metrics") -> str:
    with urlopen(f"http://127.0.0.1:{port}{address}", timeout=30) as reply:
        return str(reply.read().decode())


def await_page(port: str) -> str:
    for _ in range(120):
        try:
            return page(port)
        except OSError:
            time.sleep(0.5)
    return page(port)


@pytest.mark.skipif("POLYCLINIC_RUNBOOK" not in os.environ, reason="takes minutes: make runbook")
@pytest.mark.skipif(sys.platform != "linux", reason="a deployed site runs on Linux")
@pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="no nginx here: apt-get install nginx-light",
)
def test_two_sites_and_a_coordinator_are_up_and_have_a_report_in_ten_minutes(world: dict[str, dict[str, str]]) -> None:
    """Every tried block works as it stands; each site then has the model, and both monitors show what happened."""
    coordinator, north = world["coordinator"], world["north"]
    began, said = time.monotonic(), ""
    for party, block in blocks():
        for name in ("coordinator",) if party == "coordinator" else SITES:
            said += run(block, world[name])
    assert time.monotonic() - began < MOST_SECONDS
    for name in SITES:
        result = Path(world[name]["SITE"]) / "result"
        assert any(result.rglob("*.safetensors")), said
        assert any(result.rglob("report.html"))
    figures = await_page(coordinator["MONITOR_PORT"])
    assert re.search(r'polyclinic_run_stage\{run="[^"]+",stage="finished"\} 1.0', figures)
    # The north's few validation patients are all of one class: its figure is withheld, and absent.
    assert re.search(r'polyclinic_run_site_sensitivity\{.*site="south"\}', figures)
    assert re.search(r'polyclinic_run_site_test_sensitivity\{.*site="north"\}', figures)
    assert re.search(r'polyclinic_run_site_heard_timestamp_seconds\{.*site="south"\}', figures)
    exported = await_page(north["EXPORTER_PORT"])
    assert "polyclinic_agent_up 1.0" in exported
    assert "polyclinic_site_rounds_total 1.0" in exported
    assert 'polyclinic_site_tasks_total{kind="train"} 1.0' in exported
    restored = Path(f"{coordinator['COORDINATOR']}-restored")
    assert any(restored.glob("runs/*/results.json"))
