"""The coordinator's long-lived programs: proxy, SuperLink, and the process that starts ServerApps; kept running."""

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from server.fleet import superexec_command, superlink_command
from server.proxy import command, configuration
from shared.errors import CoordinatorError, MissingPartError
from shared.storage import atomic_file

STOP_SECONDS = 15.0
"""How long a program may take to end before it is killed."""

RESTART_SECONDS = 2.0
"""Between the death of a program and its next start."""

NAMES = ("superlink", "superexec", "proxy")


def commands(folder: CoordinatorFolder, config: CoordinatorConfig, *, path: str) -> dict[str, list[str]]:
    """Say how each program is started, by its name; the proxy's configuration is written anew.

    Raises:
        MissingPartError: nginx is not installed.
        StorageError: the proxy's configuration cannot be written.
    """
    for needed in (folder.proxy, folder.logs, folder.state.parent, folder.flower_home):
        needed.mkdir(parents=True, exist_ok=True)
    nginx = shutil.which("nginx", path=f"{path}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise MissingPartError("the proxy needs nginx, which is not installed. On Debian: apt-get install nginx-light")
    file = folder.proxy / "nginx.conf"
    with atomic_file(file) as part:
        part.write_text(configuration(folder, config), encoding="utf-8")
    return {
        "superlink": superlink_command(folder, config),
        "superexec": superexec_command(folder, config),
        "proxy": command(nginx, file.resolve()),
    }


@dataclass(slots=True)
class Programs:
    """Some programs of one owner, each with its log; what died is started again, and what was started is stopped."""

    logs: Path
    environment: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _commands: dict[str, Sequence[str]] = field(default_factory=dict)
    _again_at: dict[str, float] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a program under a name; what it says goes to its log."""
        self._commands[name] = command
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603  # commands of our own making
                command, env=dict(environment or self.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def revive(self, say: Callable[[str], None]) -> None:
        """Start again what has died, after a pause."""
        for name, process in list(self.running.items()):
            if process.poll() is None:
                self._again_at.pop(name, None)
            elif name not in self._again_at:
                say(f"{name} ended with {process.returncode}; it is started again. See {self.logs / name}.log")
                self._again_at[name] = time.monotonic() + RESTART_SECONDS
            elif time.monotonic() >= self._again_at[name]:
                del self._again_at[name]
                self.start(name, self._commands[name])

    def stop(self) -> None:
        """Stop everything, in the reverse order; a program that does not listen is killed."""
        for process in reversed(self.running.values()):
            with suppress(ProcessLookupError):
                process.terminate()
        give_up = time.monotonic() + STOP_SECONDS
        for process in reversed(self.running.values()):
            try:
                process.wait(timeout=max(0.1, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()


def only(name: str) -> str:
    """Check a program's name.

    Raises:
        CoordinatorError: there is no such program.
    """
    if name not in NAMES:
        raise CoordinatorError(f"{name}: there is no such program. Known: {', '.join(NAMES)}, or none of them for all.")
    return name
