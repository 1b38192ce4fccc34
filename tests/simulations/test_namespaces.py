"""Compartments on this machine: what they make, what they remove, and when there are none."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.site import read_site
from client.site_keys import SiteKeys
from shared.errors import FederationError
from simulations import federation_cli, namespaces
from simulations.compartments import OneUser
from simulations.console import Console
from simulations.namespaces import Namespaces, obstacle

needs_root = pytest.mark.skipif(bool(obstacle()), reason=f"no compartments here: {obstacle()}")


def listed() -> tuple[set[str], set[str]]:
    """Name this machine's network namespaces and interfaces."""
    names = json.loads(subprocess.run(["ip", "-j", "netns", "list"], capture_output=True, check=True).stdout or "[]")
    wires = json.loads(subprocess.run(["ip", "-j", "link", "show"], capture_output=True, check=True).stdout)
    return {entry["name"] for entry in names}, {entry["ifname"] for entry in wires}


@needs_root
def test_two_at_once_have_nothing_in_common_and_leave_nothing() -> None:
    """Each has an address, users and networks of its own; what was made is gone after."""
    one, two = Namespaces(), Namespaces()
    try:
        for compartments in (one, two):
            compartments.make(["north", "south"])
        own = [{each.namespace(name, "link") for name in ("north", "south")} for each in (one, two)]
        assert one.host != two.host
        assert own[0] | own[1] <= listed()[0]
        assert own[0].isdisjoint(own[1])
        assert one.user("south", "agent") != two.user("south", "agent")
    finally:
        for compartments in (one, two):
            compartments.remove()
    names, wires = listed()
    gone = {each.host.split(".")[2] for each in (one, two)}
    assert not [name for name in names | wires for number in gone if name.startswith((f"pc{number}-", f"pc{number}l"))]
    assert not wires & {f"pc{number}" for number in gone}


@needs_root
def test_what_was_left_by_a_killed_start_is_in_nobodys_way() -> None:
    """The same address is taken up again, as a federation that goes on must."""
    left = Namespaces()
    left.make(["north"])
    again = Namespaces(left.host)
    try:
        again.make(["north", "south"])
        assert again.host == left.host
        assert again.namespace("south", "link") in listed()[0]
    finally:
        again.remove()


@needs_root
def test_a_compartment_sees_what_it_needs_below_a_closed_folder_and_nothing_else(tmp_path: Path) -> None:
    """Root's own folders are closed to others: python and a compartment's files are shown there, a neighbour is not."""
    site = hospital(tmp_path)
    assert not all(folder.stat().st_mode & 0o001 for folder in tmp_path.parents)
    config = read_site(site / "site.toml")
    (tmp_path / "neighbour").mkdir()
    compartments = Namespaces()
    try:
        compartments.make(["north"])
        compartments.own("north", config, site / "home")
        code = "import os, sys, numpy; print(os.getuid(), *[os.path.exists(path) for path in sys.argv[1:]])"
        looked_for = [site / "site.toml", config.data.dicom, config.link.keys / "link", tmp_path / "neighbour"]
        for role, found in (("agent", "True True False False"), ("link", "False False True False")):
            command = compartments.inside("north", role, [sys.executable, "-c", code, *map(str, looked_for)])
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.stdout.strip() == f"{compartments.user('north', role)} {found}", done.stderr
    finally:
        compartments.remove()


def hospital(folder: Path) -> Path:
    """Write a hospital's folder, without an image, and its keys."""
    site = folder / "sites" / "north"
    for name in ("dicom", "home", "run"):
        (site / name).mkdir(parents=True)
    (site / "labels.csv").write_text("SOPInstanceUID,opacity\n")
    (site / "site.toml").write_text(
        '[site]\nname = "north"\n[data]\ndicom = "dicom"\nlabels = "labels.csv"\njoin = "SOPInstanceUID"\n'
        '[data.findings]\nopacity = "opacity"\n'
    )
    SiteKeys(site / "keys").create()
    return site


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Give `choose(obstacle, begun_at, sites)`: what `polyclinic federation` takes, and what it says."""

    class Chosen:
        def __init__(self, host: str | None = None) -> None:
            self.host = host

    def chosen(reason: str | None, begun_at: str | None = None, sites: Path | None = None) -> tuple[Any, str]:
        monkeypatch.setattr(namespaces, "obstacle", lambda: reason)
        monkeypatch.setattr(namespaces, "Namespaces", Chosen)
        if begun_at:
            folder = tmp_path / "coordinator"
            folder.mkdir(exist_ok=True)
            address = f'[address]\nhost = "{begun_at}"\n[sites]\nnames = ["north"]\n'
            (folder / "coordinator.toml").write_text(address)
        said: list[str] = []
        with Console() as console:
            monkeypatch.setattr(console, "say", said.append)
            return federation_cli._compartments(tmp_path, sites, console), " ".join(said)

    return chosen


def test_where_there_are_none_the_command_says_why(choose: Any, tmp_path: Path) -> None:
    """Not root, own hospitals, or begun without: one user for all, with the reason; else compartments."""
    for reason, begun_at, sites, why in (
        ("only root may", None, None, "only root may"),
        (None, None, tmp_path, "--sites stay yours"),
        (None, "localhost", None, "was begun without"),
    ):
        compartments, said = choose(reason, begun_at, sites)
        assert isinstance(compartments, OneUser)
        assert why in said
        assert "Missing is the isolation" in said
        for file in tmp_path.glob("coordinator/*"):
            file.unlink()
    compartments, said = choose(None)
    assert compartments.host is None
    assert "has no interface" in said


def test_a_federation_that_was_begun_with_compartments_goes_on_with_them(choose: Any) -> None:
    """At the same address, which stands in its certificate; without root it is refused."""
    compartments, _ = choose(None, "198.18.7.1")
    assert compartments.host == "198.18.7.1"
    with pytest.raises(FederationError, match="Go on as root"):
        choose("only root may", "198.18.7.1")
