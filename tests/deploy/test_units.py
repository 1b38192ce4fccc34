"""The systemd units: valid, and as closed as the containers are."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ANALYZE = shutil.which("systemd-analyze") or ""
UNITS = ("client/systemd", "server/systemd")
WAY_OUT = {"polyclinic-link.service", "polyclinic-proxy.service"}


class Unit(dict[str, list[str]]):
    """A unit's settings; each may stand there several times."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        for line in path.read_text(encoding="utf-8").splitlines():
            if "=" in line and not line.startswith("#"):
                key, _, value = line.partition("=")
                self.setdefault(key, []).append(value)

    def one(self, key: str) -> str:
        (value,) = self.get(key, [""])
        return value


def services(deploy: Path) -> list[Path]:
    return sorted(path for folder in UNITS for path in (deploy / folder).glob("*.service"))


@pytest.fixture
def installed(deploy: Path, tmp_path: Path) -> Path:
    """Give the units as they would be installed, with each program replaced by one that is here."""
    sockets = [path for folder in UNITS for path in (deploy / folder).glob("*.socket")]
    for path in [*services(deploy), *sockets]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text, flags=re.MULTILINE)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    for path in (deploy / "client/systemd").glob("*.d/*.example"):
        (tmp_path / path.parent.name).mkdir()
        shutil.copy(path, tmp_path / path.parent.name / path.name.removesuffix(".example"))
    return tmp_path


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not ANALYZE:
        pytest.skip("no systemd-analyze here: apt-get install systemd")
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"}
    return subprocess.run(
        [ANALYZE, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_units_pass_systemds_own_check(installed: Path) -> None:
    """No unit, and no drop-in, has a word that systemd does not know."""
    units = sorted(str(path) for path in installed.iterdir() if path.is_file())
    done = analyze(installed, "verify", "--man=no", *units)
    ours = [line for line in done.stderr.splitlines() if "polyclinic" in line]
    assert (done.returncode, ours) == (0, [])


def test_a_misspelt_word_is_found(installed: Path) -> None:
    """The check above can fail."""
    unit = installed / "polyclinic-agent.service"
    unit.write_text(unit.read_text().replace("PrivateNetwork=", "PrivateNetwrok="), encoding="utf-8")
    done = analyze(installed, "verify", "--man=no", str(unit))
    assert "PrivateNetwrok" in done.stderr


@pytest.mark.parametrize(
    ("name", "most"),
    [("polyclinic-agent", 1.6), ("polyclinic-courier", 1.6), ("polyclinic-exporter", 1.9), ("polyclinic-link", 1.9)],
)
def test_units_of_a_site_leave_little_open(installed: Path, name: str, most: float) -> None:
    """`systemd-analyze security` measures the exposure of each, from 0 (closed) to 10."""
    done = analyze(installed, "security", "--offline=yes", "--no-pager", f"{name}.service")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= most


def test_every_service_is_confined(deploy: Path) -> None:
    """A user of its own or none, no new rights, a read-only system, no code from the folder that it starts in."""
    for path in services(deploy):
        unit = Unit(path)
        environment = " ".join(unit["Environment"])
        assert unit.one("User") or unit.one("DynamicUser") == "yes", path.name
        assert unit.one("User") != "root"
        assert unit.one("NoNewPrivileges") == "yes"
        assert unit.one("ProtectSystem") == "strict"
        assert "PYTHONSAFEPATH=1" in environment, path.name
        assert unit.one("CapabilityBoundingSet") == "", path.name
        assert unit.one("MemoryMax") or unit.one("Type") == "oneshot", path.name
        assert int(unit.one("RestartSec")) >= 10, path.name
        if "polyclinic site" in unit.one("ExecStart") or "polyclinic coordinator" in unit.one("ExecStart"):
            assert unit.one("Restart") == "always"
            assert unit.one("StartLimitIntervalSec") == "0"  # a link that is refused for a minute is not given up
            assert "FLWR_TELEMETRY_ENABLED=0" in environment


def test_the_agent_has_no_network(deploy: Path) -> None:
    """A namespace of its own without anything in it, and no family of sockets but the unix ones."""
    unit = Unit(deploy / "client/systemd/polyclinic-agent.service")
    assert unit.one("PrivateNetwork") == "yes"
    assert unit.one("RestrictAddressFamilies") == "AF_UNIX"
    assert unit.one("IPAddressDeny") == "any"


def test_the_courier_reaches_one_port(deploy: Path) -> None:
    """Its network has a loopback on which one socket listens, which leads to the link's runtime port."""
    folder = deploy / "client/systemd"
    courier, socket = Unit(folder / "polyclinic-courier.service"), Unit(folder / "polyclinic-runtime.socket")
    assert courier.one("PrivateNetwork") == socket.one("PrivateNetwork") == "yes"
    assert courier.one("JoinsNamespaceOf") == "polyclinic-runtime.socket"
    address = socket.one("ListenStream")
    assert f"--runtime {address}" in courier.one("ExecStart")
    assert Unit(folder / "polyclinic-runtime.service").one("ExecStart").endswith(f"socket-proxyd {address}")
    assert f"--runtime {address}" in Unit(folder / "polyclinic-link.service").one("ExecStart")


def test_superlink_superexec_and_proxy_have_a_network_that_nobody_else_is_on(deploy: Path) -> None:
    """One network for the three, which a unit of its own keeps; the one port is opened outside, and passed in."""
    folder = deploy / "server/systemd"
    keeper = Unit(folder / "polyclinic-network.service")
    assert (keeper.one("Type"), keeper.one("RemainAfterExit"), keeper.one("PrivateNetwork")) == (
        "oneshot",
        "yes",
        "yes",
    )
    for name in ("superlink", "superexec", "proxy"):
        unit = Unit(folder / f"polyclinic-{name}.service")
        assert unit.one("PrivateNetwork") == "yes", name
        assert unit.one("JoinsNamespaceOf") == "polyclinic-network.service", name
        assert {"polyclinic-network.service"} <= set(unit.one("Requires").split()) & set(unit.one("After").split()), (
            name
        )
        assert {"20", "21"} <= set(unit.one("RestartPreventExitStatus").split()), name
    assert "PrivateNetwork" not in Unit(folder / "polyclinic-monitor.service")
    proxy = Unit(folder / "polyclinic-proxy.service")
    assert "polyclinic-proxy.socket" in proxy.one("Requires").split()
    opened = Unit(folder / "polyclinic-proxy.socket")
    example = tomllib.loads((deploy / "server/coordinator.toml").read_text(encoding="utf-8"))["address"]
    assert opened.one("ListenStream") == f"{example['listen']}:{example['port']}"
    assert "PrivateNetwork" not in opened


def test_only_link_and_proxy_may_be_reached_from_beyond_loopback(deploy: Path) -> None:
    """All others deny every address but loopback's; the link's drop-in names the coordinator."""
    for path in services(deploy):
        if path.name == "polyclinic-proxy.service":
            continue
        unit = Unit(path)
        assert unit.one("IPAddressDeny") == "any", path.name
        assert unit.get("IPAddressAllow", ["localhost"]) == ["localhost"], path.name


def test_users_differ_and_are_made(deploy: Path) -> None:
    """Each compartment of a site has a user of its own, whom sysusers makes."""
    units = {path.name: Unit(path).one("User") for path in services(deploy) if Unit(path).one("User")}
    made = "".join((deploy / folder / "polyclinic.sysusers.conf").read_text() for folder in UNITS)
    assert all(re.search(rf"^u {user} ", made, flags=re.MULTILINE) for user in units.values())
    site = [user for name, user in units.items() if (deploy / "client/systemd" / name).exists()]
    assert len(set(site)) == len(site) == 4


def test_no_compartment_reaches_anothers_keys(deploy: Path) -> None:
    """What belongs to others is not even visible: data and state to the agent alone, each key to its own."""
    folder = deploy / "client/systemd"
    hidden = {
        name: Unit(folder / f"polyclinic-{name}.service").one("InaccessiblePaths").replace("-/", "/").split()
        for name in ("link", "courier", "agent", "exporter")
    }
    keys = "/etc/polyclinic/keys"
    assert {f"{keys}/agent", f"{keys}/courier", "/var/lib/polyclinic"} <= set(hidden["link"])
    assert {f"{keys}/agent", f"{keys}/link", "/var/lib/polyclinic"} <= set(hidden["courier"])
    assert {f"{keys}/link", f"{keys}/courier"} <= set(hidden["agent"])
    assert {keys, "/var/lib/polyclinic"} <= set(hidden["exporter"])
    monitor = Unit(deploy / "server/systemd/polyclinic-monitor.service").one("InaccessiblePaths")
    assert "/private" in monitor


def test_the_monitor_reads_the_runs_by_the_coordinators_group(deploy: Path) -> None:
    """What the coordinator's programs write is for their group, and for nobody else of the machine."""
    folder = deploy / "server/systemd"
    assert Unit(folder / "polyclinic-monitor.service").one("SupplementaryGroups") == "polyclinic-coordinator"
    for name in ("superlink", "superexec", "proxy"):
        assert Unit(folder / f"polyclinic-{name}.service").one("UMask") == "0027", name
