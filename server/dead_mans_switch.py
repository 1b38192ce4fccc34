"""Ends what a process had started once that process is gone, however it went: a process of its own, behind a pipe."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

POLL_SECONDS = 0.05


class DeadMansSwitch:
    """Knows which process groups are to end with the process that made it; SIGKILL of that process sets it off.

    Nobody cleans up after SIGKILL or a crash of his own, but the system closes his pipes, and at the other end of one
    a process waits for just that (as Python's multiprocessing.resource_tracker does). Linux's PR_SET_PDEATHSIG would
    not do: it goes off with the thread that started a program, is lost where the program changes its user, and skips
    what the program started itself. A program that starts just as its owner is killed is not known yet, and stays.
    """

    def __init__(self, *, patience_seconds: float) -> None:
        """Start the process; from SIGTERM on it gives the groups so long before it kills them."""
        self._process = subprocess.Popen(  # noqa: S603  # words of our own
            [sys.executable, "-I", "-S", __file__, str(patience_seconds)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that made it
        )

    def hold(self, group: int) -> None:
        """From now on this group ends with this process."""
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """Forget a group that has ended: its number may be given to another."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End it; what it still holds is ended with it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError):  # somebody killed it: programs go on without
            if self._process.stdin is not None:
                self._process.stdin.write(line.encode())


def held(lines: Iterable[str]) -> set[int]:
    """Read which groups are held until the pipe is closed."""
    groups: set[int] = set()
    for line in lines:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    return groups


def end(groups: Iterable[int], *, patience_seconds: float) -> None:
    """End process groups: asked at first, killed after so long."""
    left = {group for group in groups if _signal(group, signal.SIGTERM)}
    give_up = time.monotonic() + patience_seconds
    while left and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
        left = {group for group in left if _signal(group, 0)}
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Signal a group, and tell whether anybody is left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    end(held(sys.stdin), patience_seconds=float(sys.argv[1]))
