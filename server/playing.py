"""Plays a study's run on the SuperLink: starts it, follows it, and starts it again where its process died."""

import fcntl
import json
import time
from collections.abc import Callable
from typing import Any

from server.coordinator import RunOrder, read_order, write_order
from server.coordinator_folder import CoordinatorFolder
from server.enrolment import Register
from server.fleet import Fleet, RefusedBySuperLinkError
from server.progress import Follower
from server.run_folder import RunFolder, open_lock
from shared.errors import FederationError, PolyclinicError, TaskError

DEATHS_IN_A_ROW = 5
"""After so many deaths of its process without a finished round between them a run is given up."""

START_SECONDS = 180.0
"""How long Flower may take to start a run's process, and how long a SuperLink that is away is waited for."""

START_PAUSE_SECONDS = 5.0
POLL_SECONDS = 1.0
ASK_FLOWER_SECONDS = 15.0

Say = Callable[[str], None]


class Player:
    """Follows one run to its end. The run goes on where this object does not: it can be followed again at any time."""

    def __init__(self, folder: CoordinatorFolder, run: RunFolder, fleet: Fleet, *, say: Say) -> None:
        self._folder, self._run, self._fleet, self._say = folder, run, fleet, say
        self._follower = Follower(run, say)

    def play(self) -> None:
        """Start the run, or follow it where it runs already, until it is finished or was stopped.

        Raises:
            FederationError: the run failed, its process died too often, or the SuperLink does not answer.
            CoordinatorError: a site is not enrolled.
        """
        self._run.stopped.unlink(missing_ok=True)
        deaths, finished_rounds = 0, self._follower.rounds
        if not self._held():
            self._follower.pass_over()
            self._stop_earlier()
            self._start()  # who has not started the SuperLink is told at once
        while not self._ended():
            if self._run.stopped.exists():
                self._say("Stopped. `polyclinic coordinator resume` goes on after the last finished round.")
                return
            deaths = 1 if self._follower.rounds > finished_rounds else deaths + 1
            finished_rounds = self._follower.rounds
            if deaths >= DEATHS_IN_A_ROW:
                raise FederationError(f"the run's process died {deaths} times in a row. See {self._folder.logs}.")
            self._say("The run's process died. It is started again, and goes on after the last finished round.")
            self._start_patiently()
        self._follower.tell()

    def _start_patiently(self) -> None:
        """Start the run again; a SuperLink that restarts, as after an upgrade or the machine's crash, is waited for."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                self._start()
                return
            except RefusedBySuperLinkError:
                raise
            except FederationError as fault:
                if time.monotonic() > give_up or self._run.stopped.exists():
                    raise
                self._say(f"{fault} Waiting for it.")
                time.sleep(START_PAUSE_SECONDS)

    def _stop_earlier(self) -> None:
        """Stop what was started before: a run that has not begun yet must not begin beside the next."""
        if (order := read_order(self._run)).flower_run:
            self._fleet.stop(order.flower_run)

    def _start(self) -> None:
        """Start one of Flower's runs for this run; one whose process died is left to Flower, which ends it in a minute.

        Who ends a run while a link takes in a message of it makes that link answer each later message one too late: it
        sends one answer for each message that it confirmed, and has one more (flwr 1.41, start_client_internal.py).
        """
        Register(self._folder.sites).reconcile(self._fleet)
        order = read_order(self._run)
        self._run.outcome.unlink(missing_ok=True)
        started = self._fleet.start(self._folder.bundle.read_bytes(), self._run.path.name)
        write_order(self._run, RunOrder(run_id=order.run_id, flower_run=started))

    def _ended(self) -> bool:
        """Wait until the run has ended (True), or its process has died or was stopped (False).

        Raises:
            FederationError: the run ended badly.
        """
        started, seen, ask_at = time.monotonic(), False, time.monotonic() + ASK_FLOWER_SECONDS
        while True:
            held = self._held()
            seen = seen or held
            self._follower.tell()
            if not held and self._run.outcome.exists():
                return self._well(json.loads(self._run.outcome.read_text(encoding="utf-8")))
            if seen and not held:
                return False
            if not seen and time.monotonic() >= ask_at:
                ask_at += ASK_FLOWER_SECONDS
                if self._flower_is_done() or self._run.stopped.exists():
                    return False
                if time.monotonic() > started + START_SECONDS:
                    raise FederationError(
                        f"Flower did not start the run within {START_SECONDS:.0f} s. Is `polyclinic coordinator serve` "
                        f"running, its superexec too? See {self._folder.logs}."
                    )
            time.sleep(POLL_SECONDS)

    def _well(self, outcome: dict[str, Any]) -> bool:
        if outcome["exit_code"] == 0:
            return True
        if outcome["exit_code"] is None:  # no fault that a person can act on: the SuperLink went away, or a bug
            self._say(f"The run's process failed: {outcome['failed']}")
            return False
        kinds = {kind.exit_code: kind for kind in PolyclinicError.__subclasses__() if kind is not TaskError}
        raise kinds.get(outcome["exit_code"], FederationError)(outcome["failed"])

    def _flower_is_done(self) -> bool:
        try:
            state = self._fleet.state(read_order(self._run).flower_run)
        except FederationError as fault:
            self._say(f"{fault} Waiting for it.")
            return False
        return state is None or state.finished

    def _held(self) -> bool:
        """Tell whether a process runs the study: it holds the lock as long as it lives."""
        with open_lock(self._run.lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def stop(run: RunFolder, fleet: Fleet) -> None:
    """Stop a run until it is resumed; a round that is under way is repeated then."""
    run.stopped.touch()
    if (order := read_order(run)).flower_run:
        fleet.stop(order.flower_run)
