"""Long-lived programs of one owner, kept running: what dies is started again, and ends where its owner does."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from server.dead_mans_switch import DeadMansSwitch

STOP_SECONDS = 15.0
"""How long a program may take to end before it is killed."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 32.0
"""Between the death of a program and its next start; doubled each time that it dies young. The SuperLink refuses a
link (exit 305) that comes back within a minute of its crash."""

YOUNG_SECONDS = 60.0

LAST_BYTES = 2000
"""How far from a log's end its last line is looked for."""


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
    _held: dict[str, Sequence[int]] = field(default_factory=dict)
    _switch: DeadMansSwitch | None = None

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        held: Sequence[int] = (),
    ) -> None:
        """Start a program under a name; what it says goes to its log, and `held` are open files that it is given."""
        self._commands[name], self._own[name], self._held[name] = command, environment or self.environment, held
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
                pass_fds=held,
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
                say(f"{name} ended with {process.returncode}; it is started again.{self._last_words(name)}")
                self._again_at[name] = time.monotonic() + self._pause[name]
            elif time.monotonic() >= self._again_at[name]:
                del self._again_at[name]
                self.start(name, self._commands[name], self._own[name], self._held[name])

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

    def _last_words(self, name: str) -> str:
        """Give the last line that a program said: mostly the reason why it ended."""
        log = self.logs / f"{name}.log"
        with suppress(OSError):
            lines = log.read_bytes()[-LAST_BYTES:].decode(errors="replace").split("\n")
            if said := next((line.strip() for line in reversed(lines) if line.strip()), ""):
                return f" It said last: {said} (in {log})"
        return f" It said nothing in {log}."

    def _end_group(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of a program: each has a group of its own, with its children."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if self._switch:
            self._switch.release(process.pid)
