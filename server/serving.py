"""The coordinator's three programs, how each is started, and the network of their own in which they run."""

import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from server.fleet import environment, superexec_command, superlink_command
from server.listening import Doors, open_doors
from server.own_network import OwnNetwork, make_network
from server.programs import Programs
from server.proxy import command, configuration
from shared.errors import CoordinatorError, MissingPartError
from shared.storage import atomic_file, private_file

NAMES = ("superlink", "proxy", "superexec")

OWN = "SuperLink, superexec and proxy have a network of their own: nobody else on this machine reaches the SuperLink."

SHARED = (
    "This machine lets no network be made for SuperLink, superexec and proxy ({reason}). So every user of this machine "
    "reaches the SuperLink's port, {port} on loopback, and only its password keeps them from starting runs: "
    "let nobody else work here, or use the units or containers of deploy/server."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A coordinator on this machine that is about to serve: its ways in are open, and its network is made.

    `network` is that of its three programs, or why they have none of their own.
    """

    folder: CoordinatorFolder
    config: CoordinatorConfig
    doors: Doors
    network: OwnNetwork | str
    variables: Mapping[str, str]

    def start(self, programs: Programs, names: Iterable[str] = NAMES) -> None:
        """Start some of the three."""
        for name in names:
            start = how_to_start(self.folder, self.config, name, self.variables, self.doors)
            command, held = start.command, start.held
            if not isinstance(self.network, str):
                command, held = self.network.inside(command), (*self.network.held, *held)
            programs.start(name, command, start.variables, held)

    def words(self) -> str:
        """Say who reaches the SuperLink."""
        if isinstance(self.network, str):
            return SHARED.format(reason=self.network, port=self.config.superlink.port)
        return OWN

    def close(self) -> None:
        """Close the ways in, and let the network go."""
        self.doors.close()
        if not isinstance(self.network, str):
            self.network.close()


def prepare(folder: CoordinatorFolder, config: CoordinatorConfig, variables: Mapping[str, str]) -> Serving:
    """Open the ways in, and make the network.

    Raises:
        CoordinatorError: the port is taken, or may not be opened.
        MissingPartError: nginx is not installed.
        StorageError: the folder cannot be written.
    """
    nginx(variables)
    doors = open_doors(config.address, folder.own_socket, variables)
    return Serving(folder=folder, config=config, doors=doors, network=make_network(), variables=variables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a program is started: its command, its environment, and the open files that it is given."""

    command: list[str]
    variables: dict[str, str]
    held: tuple[int, ...] = ()


def how_to_start(
    folder: CoordinatorFolder,
    config: CoordinatorConfig,
    name: str,
    variables: Mapping[str, str],
    doors: Doors | None = None,
) -> Start:
    """Say how one of the three is started; the proxy takes over the doors, which are opened where none are given.

    Raises:
        CoordinatorError: there is no such program, or the port cannot be opened.
        MissingPartError: nginx is not installed.
        StorageError: the folder cannot be written.
    """
    _make_places(folder)
    own = environment(folder, variables)
    match name:
        case "superlink":
            _make_secret(folder)
            return Start(command=superlink_command(folder, config), variables=own)
        case "superexec":
            return Start(command=superexec_command(folder, config), variables=own)
        case "proxy":
            program = nginx(variables)
            opened = doors or open_doors(config.address, folder.own_socket, variables)
            file = folder.proxy / "nginx.conf"
            with atomic_file(file) as part:
                part.write_text(configuration(folder, config, opened), encoding="utf-8")
            return Start(command=command(program, file.resolve()), variables=own | opened.variables, held=opened.held)
    raise CoordinatorError(f"{name}: there is no such program. Known: {', '.join(NAMES)}, or none of them for all.")


def _make_places(folder: CoordinatorFolder) -> None:
    for needed in (folder.proxy, folder.logs, folder.flower_home):
        needed.mkdir(parents=True, exist_ok=True)
    folder.state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.state.parent.chmod(0o700)


def _make_secret(folder: CoordinatorFolder) -> None:
    """Make the commands' secret where an older version, or an older backup, has none."""
    if not folder.control_secret.exists():
        with private_file(folder.control_secret) as part:
            part.write_text(secrets.token_hex(32), encoding="ascii")


def nginx(variables: Mapping[str, str]) -> str:
    """Find nginx.

    Raises:
        MissingPartError: it is not installed.
    """
    found = shutil.which("nginx", path=f"{variables.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingPartError("the proxy needs nginx, which is not installed. On Debian: apt-get install nginx-light")
    return found
