"""The coordinator's long-lived programs: proxy, SuperLink, and the process that starts ServerApps; kept running."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from server.coordinator_config import CoordinatorConfig
from server.coordinator_folder import CoordinatorFolder
from server.dead_mans_switch import DeadMansSwitch
from server.fleet import superexec_command, superlink_command
from server.proxy import command, configuration
from shared.errors import CoordinatorError, MissingPartError
from shared.storage import atomic_file

STOP_SECONDS = 15.0
"""How long a program may take to end before it is killed."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 32.0
"""Between the death of a program and its next start; doubled each time that it dies young. The SuperLink refuses a
link (exit 305) that comes back within a minute of its crash."""

YOUNG_SECONDS = 60.0

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
    """Some programs of one owner, each with its log; what died is started again, and what was started is stopped.

    They end with their owner even where it is killed.
    """

    logs: Path
    environment: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _commands: dict[str, Sequence[str]] = field(default_factory=dict)
    _again_at: dict[str, float] = field(default_factory=dict)
    _born: dict[str, float] = field(default_factory=dict)
    _pause: dict[str, float] = field(default_factory=dict)
    _own: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _switch: DeadMansSwitch | None = None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a program under a name; what it says goes to its log."""
        self._commands[name], self._own[name] = command, environment or self.environment
        self._born[name] = time.monotonic()
        self.logs.mkdir(parents=True, exist_ok=True)
        self._switch = self._switch or DeadMansSwitch(patience_seconds=STOP_SECONDS)
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603  # commands of our own making
                command,
                env=dict(self._own[name]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._switch.hold(self.running[name].pid)

    def revive(self, say: Callable[[str], None]) -> None:
        """Start again what has died, after a pause, and without what it had started: an orphan would keep its port."""
        for name, process in list(self.running.items()):
            if process.poll() is None:
                self._again_at.pop(name, None)
            elif name not in self._again_at:
                self._end_group(process)
                young = time.monotonic() - self._born[name] < YOUNG_SECONDS
                pause = min(2 * self._pause.get(name, 0.0), LONGEST_PAUSE_SECONDS) if young else 0.0
                self._pause[name] = max(pause, FIRST_PAUSE_SECONDS)
                say(f"{name} ended with {process.returncode}; it is started again. See {self.logs / name}.log")
                self._again_at[name] = time.monotonic() + self._pause[name]
            elif time.monotonic() >= self._again_at[name]:
                del self._again_at[name]
                self.start(name, self._commands[name], self._own[name])

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Stop these programs, or all, with what they started; the last first, and killed if they do not listen."""
        stopped = [self.running.pop(name) for name in list(names if names is not None else self.running)]
        for process in reversed(stopped):
            with suppress(ProcessLookupError):
                process.terminate()
        give_up = time.monotonic() + STOP_SECONDS
        for process in reversed(stopped):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, give_up - time.monotonic()))
            self._end_group(process)
            process.wait()
        if self._switch and not self.running:
            self._switch.close()
            self._switch = None

    def _end_group(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of a program: each has a group of its own, with its children."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if self._switch:
            self._switch.release(process.pid)


def only(name: str) -> str:
    """Check a program's name.

    Raises:
        CoordinatorError: there is no such program.
    """
    if name not in NAMES:
        raise CoordinatorError(f"{name}: there is no such program. Known: {', '.join(NAMES)}, or none of them for all.")
    return name
