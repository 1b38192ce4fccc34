"""The compose files: of their schema's form, and keeping a site's compartments and a coordinator's programs apart."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML reads compose files: pip install pyyaml")
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks compose files: pip install jsonschema")

SCHEMA = Path(__file__).with_name("compose-spec.json")
FILES = ("client/compose.yaml", "client/compose.gpu.yaml", "server/compose.yaml")
CLIENT, SERVER = "client/compose.yaml", "server/compose.yaml"
LONG_LIVED = ("link", "courier", "agent", "exporter")


def read(deploy: Path, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((deploy / name).read_text(encoding="utf-8")))


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Give each place in the container with what is there and whether it is read-only."""
    found = {}
    for line in service.get("volumes", []):
        line, read_only = (line[:-3], True) if line.endswith(":ro") else (line, False)
        source, _, place = line.rpartition(":")
        found[place] = source, read_only
    return found


def faults(services: dict[str, dict[str, Any]], names: tuple[str, ...]) -> list[str]:
    """List what would let one of these services out of its confinement."""
    found = []
    for name in names:
        one = services[name]
        found += [f"{name}: {rule}" for rule, kept in {
            "writable root": one.get("read_only") is True,
            "capabilities": one.get("cap_drop") == ["ALL"] and not one.get("cap_add"),
            "new privileges": "no-new-privileges:true" in one.get("security_opt", []),
            "root user": re.fullmatch(r"[1-9]\d*:[1-9]\d*", str(one.get("user", ""))) is not None,
            "privileged": not one.get("privileged"),
            "host namespace": "host" not in {one.get("network_mode"), one.get("pid"), one.get("ipc")},
            "Docker's socket": not any("docker.sock" in line for line in one.get("volumes", [])),
        }.items() if not kept]  # fmt: skip
    return found


@pytest.mark.parametrize("name", FILES)
def test_compose_files_are_of_their_schemas_form(deploy: Path, name: str) -> None:
    """Each file is valid under the Compose Specification's own schema."""
    jsonschema.validate(read(deploy, name), json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_the_schema_refuses_a_misspelt_key(deploy: Path) -> None:
    """The check above can fail."""
    text = (deploy / CLIENT).read_text(encoding="utf-8").replace("cap_drop", "cap_dorp")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("name", "kept"), [(CLIENT, LONG_LIVED), (SERVER, ())])
def test_every_long_lived_service_is_confined(deploy: Path, name: str, kept: tuple[str, ...]) -> None:
    """Read-only root, no capability, no new privileges, no root, nothing of the host's."""
    services = read(deploy, name)["services"]
    assert faults(services, kept or tuple(services)) == []


def test_a_service_that_is_not_confined_is_caught(deploy: Path) -> None:
    """Each loosening is found."""
    services = read(deploy, CLIENT)["services"]
    services["agent"] |= {"read_only": False, "user": "0:0", "network_mode": "host", "cap_add": ["NET_ADMIN"]}
    assert faults(services, ("agent",)) == [
        "agent: writable root",
        "agent: capabilities",
        "agent: root user",
        "agent: host namespace",
    ]


@pytest.mark.parametrize("name", [CLIENT, SERVER])
def test_every_service_has_a_limit_of_memory(deploy: Path, name: str) -> None:
    """What unpacks to more than the machine has ends one container, and not the machine."""
    assert [name for name, one in read(deploy, name)["services"].items() if "mem_limit" not in one] == []


def test_a_site_publishes_no_port(deploy: Path) -> None:
    """Nobody can call a site; `expose` is not needed either."""
    for service in read(deploy, CLIENT)["services"].values():
        assert "ports" not in service
        assert "expose" not in service


def test_each_compartment_of_a_site_has_its_own_user(deploy: Path) -> None:
    """No two share a user id."""
    services = read(deploy, CLIENT)["services"]
    users = [str(services[name]["user"]).split(":")[0] for name in LONG_LIVED]
    assert len(set(users)) == len(LONG_LIVED)


def test_the_agent_has_no_network_and_only_the_link_has_a_way_out(deploy: Path) -> None:
    """The agent has none at all; courier and exporter are in networks without a way out, and only link is outside."""
    file = read(deploy, CLIENT)
    services, networks = file["services"], file["networks"]
    assert services["agent"]["network_mode"] == services["admin"]["network_mode"] == "none"
    outside = {name for name, network in networks.items() if not network.get("internal")}
    assert {name for name, one in services.items() if outside & set(one.get("networks", []))} == {"link"}
    assert services["courier"]["networks"] == ["runtime"]
    assert [name for name in LONG_LIVED if "runtime" in services[name].get("networks", [])] == ["link", "courier"]
    assert [name for name in LONG_LIVED if "metrics" in services[name].get("networks", [])] == ["exporter"]


def test_each_compartment_sees_its_own_files_only(deploy: Path) -> None:
    """Patients' data, the state and each key are in one compartment, and read-only but for the agent's own state."""
    services = {name: mounts(read(deploy, CLIENT)["services"][name]) for name in LONG_LIVED}
    holders = {
        "/data/dicom": ["agent"],
        "/data/labels.csv": ["agent"],
        "/var/lib/polyclinic": ["agent"],
        "/etc/polyclinic/keys/link": ["link"],
        "/etc/polyclinic/keys/agent": ["agent"],
        "/etc/polyclinic/keys/courier": ["courier"],
        "/run/polyclinic/agent": ["courier", "agent"],
        "/run/polyclinic/metrics": ["agent", "exporter"],
    }
    for place, names in holders.items():
        assert [name for name in LONG_LIVED if place in services[name]] == names, place
    assert not any(place in {"/etc/polyclinic", "/etc/polyclinic/keys"} for one in services.values() for place in one)
    writable = {(name, place) for name, one in services.items() for place, (_, fixed) in one.items() if not fixed}
    agents = ("/var/lib/polyclinic", "/run/polyclinic/agent", "/run/polyclinic/metrics")
    assert writable == {("agent", place) for place in agents}


def test_a_coordinator_opens_the_proxys_port_and_pages_on_loopback(deploy: Path) -> None:
    """Beside the proxy's port nothing listens beyond loopback, and the monitor and Prometheus see no key."""
    services = read(deploy, SERVER)["services"]
    ports = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert ports.pop("superlink") == ["${PORT:-443}:${PORT:-443}"]
    assert set(ports) == {"monitor", "grafana"}
    assert all(line.startswith("127.0.0.1:") for lines in ports.values() for line in lines)
    for name in ("proxy", "superexec"):
        assert services[name]["network_mode"] == "service:superlink"
    holds_keys = {name for name, one in services.items() if "/coordinator" in mounts(one)}
    assert holds_keys == {"superlink", "superexec", "proxy"}
    assert mounts(services["monitor"]) == {"/coordinator/runs": ("${FOLDER}/runs", True)}


def test_every_variable_of_a_compose_file_is_explained(deploy: Path) -> None:
    """What a compose file takes from outside stands in the example beside it, or names an image; nothing else does."""
    images = set(re.findall(r"^(\w+)=", (deploy / "base_images.env").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for side in ("client", "server"):
        used = set(re.findall(r"\$\{(\w+)", (deploy / side / "compose.yaml").read_text(encoding="utf-8")))
        lines = (deploy / side / ".env.example").read_text(encoding="utf-8").splitlines()
        assert used - images == {line.split("=")[0] for line in lines if "=" in line and not line.startswith("#")}
