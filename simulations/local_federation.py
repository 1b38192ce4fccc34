"""A coordinator and hospitals as real processes on this machine: TLS, keys, proxy, link, courier and agent each."""

import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import tomli_w

from client.approving import approve_study, look_at
from client.bootstrap import unseen
from client.bundle import install_invited
from client.site import SiteConfig, read_site
from client.site_keys import SiteKeys
from client.superexec import QUIET, courier_command, link_command
from server import coordinator
from server.coordinator_config import CoordinatorConfig, read_coordinator
from server.coordinator_folder import CoordinatorFolder
from server.fleet import Fleet, environment, fleet
from server.playing import Player
from server.programs import Programs
from server.run_folder import RunFolder
from server.serving import Serving, prepare
from shared.declaration import load_toml
from shared.direct import without_proxies
from shared.errors import FederationError, SiteError
from shared.protocol import StudyProtocol
from shared.relay import AGENT_SOCKET
from simulations.compartments import Compartments

APPROVER = "simulated hospital, by polyclinic federation"
SUPERLINK_SECONDS = 180.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Hospital:
    """One hospital's folder on this machine, and the port at which its courier reaches its link."""

    config: SiteConfig
    file: Path
    home: Path
    port: int


class LocalFederation:
    """A coordinator and its hospitals as processes, stopped with everything that they started when the block ends.

    `hospitals` holds one folder a hospital, each with a site.toml; their keys and states are made below `folder`.
    """

    def __init__(
        self,
        folder: Path,
        protocol: StudyProtocol,
        hospitals: Path,
        *,
        compartments: Compartments,
        variables: Mapping[str, str],
        settings: Mapping[str, Mapping[str, float]],
        say: Say,
        weights: Path | None = None,
    ) -> None:
        self.folder = folder
        self.place = CoordinatorFolder(path=folder / "coordinator")
        self.protocol = protocol
        self.sites: dict[str, Hospital] = {}
        self.programs = Programs(folder / "logs", {})
        self.serving: Serving | None = None
        self._hospitals, self._compartments, self._settings, self._say = hospitals, compartments, settings, say
        self._weights = weights
        self._variables = without_proxies({**os.environ, **variables})  # all that is called is on this machine
        self._sockets = Path(tempfile.mkdtemp(prefix="pc"))  # a socket's path has at most 107 bytes
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep_running, daemon=True)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def config(self) -> CoordinatorConfig:
        """The coordinator's settings."""
        return read_coordinator(self.place.config)

    def run(self, say: Say) -> RunFolder:
        """Run the study, or go on with it, and give its folder.

        Raises:
            PolyclinicError: the run failed; finished rounds are kept.
        """
        found = coordinator.begin_run(self.place, self.protocol)
        with fleet(self.place) as superlink:
            Player(self.place, found, superlink, say=say).play()
        return found

    def start_coordinator(self) -> None:
        """Start the coordinator's programs; the one that starts ServerApps comes when there is a SuperLink to ask."""
        self.programs.environment = environment(self.place, self._variables)
        self.serving = prepare(self.place, self.config, self._variables)
        self.serving.start(self.programs, ("superlink", "proxy"))
        with fleet(self.place) as superlink:
            await_superlink(superlink)
        self.serving.start(self.programs, ("superexec",))

    def stop_coordinator(self) -> None:
        """Stop the coordinator's programs; the hospitals' go on."""
        self.programs.stop(("superlink", "proxy", "superexec"))
        self._close_serving()

    def stop_site(self, name: str) -> None:
        """Stop a hospital's programs; its folder stays."""
        self.programs.stop(f"{name}-{role}" for role in ("agent", "link", "courier"))

    def start_site(self, name: str) -> None:
        """Start a hospital's programs."""
        hospital = self.sites[name]
        quiet = self._variables | QUIET | {"PATH": self.programs.environment["PATH"], "PYTHONUNBUFFERED": "1"}
        keys, runtime = SiteKeys(hospital.config.link.keys), f"{self._compartments.runtime(name)}:{hospital.port}"
        socket_path = str(hospital.config.link.agent_socket.resolve())
        courier = {"FLWR_HOME": str(hospital.home.resolve()), AGENT_SOCKET: socket_path}
        self._compartments.own(name, hospital.config, hospital.home)
        for role, command, variables in (
            ("agent", [script("polyclinic"), "site", "serve", str(hospital.file)], {}),
            ("link", link_command(keys, runtime=runtime, study=None), {"FLWR_HOME": str(keys.node.parent)}),
            ("courier", courier_command(keys, runtime=runtime), courier),
        ):
            inside = self._compartments.inside(name, role, [script(command[0]), *command[1:]])
            self.programs.start(f"{name}-{role}", inside, quiet | variables)

    def _start(self) -> None:
        names = sorted(read_site(file).site.name for file in self._hospitals.glob("*/site.toml"))
        if not self.place.config.exists():
            settings = {
                "address": {"host": self._compartments.host, "port": free_port(), "listen": self._compartments.listen},
                "sites": {"names": names},
                "superlink": {"port": free_port()},
                **{section: dict(values) for section, values in self._settings.items()},
            }
            coordinator.make_folder(self.place, settings, now=datetime.now(UTC))
        self._compartments.make(names)
        self._keeper.start()
        self.start_coordinator()
        if self.serving is not None:
            self._say(self.serving.words())
        with fleet(self.place) as superlink:
            for file in sorted(self._hospitals.glob("*/site.toml")):
                self._join(file, superlink)
        for name in self.sites:
            self.start_site(name)

    def _join(self, file: Path, superlink: Fleet) -> None:
        """Do what a hospital and the coordinator do before a study: keys, invitation, enrolment, approval."""
        name = read_site(file).site.name
        own = self.folder / "sites" / name
        config = read_site(self._own_site_file(file, own))
        keys = SiteKeys(config.link.keys)
        keys.create()
        config.link.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        public = keys.public(name)
        coordinator.enroll(self.place, public, superlink)
        invitation = own / "invitation"
        coordinator.invite(self.place, name, self.protocol, invitation, weights=self._weights)
        try:
            offer = look_at(config, invitation, weights_file=None, progress=unseen)
            approve_study(config, offer, approved_by=APPROVER)
        except SiteError:
            if not any((config.link.state / "studies").glob("*/")):
                raise  # a study that was approved before stays so
        if not (own / "home" / "apps").exists():
            install_invited(invitation, own / "home", site=name)
        self.sites[name] = Hospital(config=config, file=own / "site.toml", home=own / "home", port=free_port())
        self._say(f"{name}: keys enrolled, study approved")

    def _own_site_file(self, file: Path, own: Path) -> Path:
        """Copy a hospital's declaration, with the places of its keys, its state and its sockets in this federation."""
        declared = load_toml(file, error=SiteError)
        config = read_site(file)
        declared["data"] |= {"dicom": str(config.data.dicom.resolve()), "labels": str(config.data.labels.resolve())}
        declared["compute"] = {"cache": str(config.compute.cache.resolve()), "workers": 1, "device": "cpu"}
        declared["link"] = {
            "keys": str((own / "keys").resolve()),
            "state": str((own / "state").resolve()),
            "sockets": str(self._sockets / config.site.name),
        }
        own.mkdir(parents=True, exist_ok=True)
        (own / "site.toml").write_text(tomli_w.dumps(declared), encoding="utf-8")
        return own / "site.toml"

    def _keep_running(self) -> None:
        while not self._over.wait(0.5):
            self.programs.revive(self._say)

    def _stop(self) -> None:
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.programs.stop()
        self._close_serving()
        self._compartments.remove()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _close_serving(self) -> None:
        if self.serving is not None:
            self.serving.close()
            self.serving = None


def await_superlink(superlink: Fleet) -> None:
    """Wait until the SuperLink answers.

    Raises:
        FederationError: it does not do so within three minutes; on a busy machine one was not enough.
    """
    give_up = time.monotonic() + SUPERLINK_SECONDS
    while True:
        try:
            superlink.nodes()
            return
        except FederationError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def script(name: str) -> str:
    """Find one of this environment's programs."""
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else name


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
