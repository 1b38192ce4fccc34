"""A study that is disturbed once in each round: follows it, strikes, and notes what happened and how long it took."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from server.coordinator import run_name
from server.round_records import read_rounds
from server.run_folder import RunFolder
from server.run_status import read_status
from shared.errors import FederationError
from simulations.faults import NETWORK, Fault, cut, kill, mend, process, started_seconds
from simulations.local_federation import LocalFederation
from simulations.namespaces import Namespaces

Say = Callable[[str], None]

POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """What one fault did: the round that it hit and how far that was, and seconds from the fault on.

    `again_seconds` is until the process began that then lasted, or until the network was whole; `round_seconds` until
    the round's end. `kept` says that every round which was finished before stood unchanged at that round's end.
    """

    fault: Fault
    round: int
    into_round_seconds: float
    again_seconds: float
    round_seconds: float
    kept: bool
    said: Sequence[str]

    def line(self) -> str:
        """Write a row of the table."""
        return (
            f"{self.fault!s:<18} {self.round:>5} {self.into_round_seconds:>11.1f} {self.again_seconds:>11.1f} "
            f"{self.round_seconds:>11.1f}  {self._what()}"
        )

    def _what(self) -> str:
        said = Counter(word for line in self.said for word in WORTH_COUNTING if word in line)
        words = [f"{WORTH_COUNTING[word]} x {count}" for word, count in said.items()]
        return ", ".join([*words, "finished rounds kept" if self.kept else "A FINISHED ROUND WAS LOST"])


WORTH_COUNTING = {
    "asked again": "asked again",
    "ended with -9": "killed and started again",
    "link ended with 1;": "link refused (305)",
    "run's process died": "resumed from its checkpoint",
    "run's process failed": "ServerApp gave up",
    "Waiting for it": "SuperLink waited for",
    "lost: too few sites": "ROUND LOST",
}
"""What a person reads while it happens, and what it means in the table."""

HEADING = f"{'fault':<18} {'round':>5} {'s into it':>11} {'again, s':>11} {'round, s':>11}  what happened"


class Following:
    """Plays a federation's run in a thread, as `polyclinic coordinator run` does, and keeps what it says."""

    def __init__(self, federation: LocalFederation, said: list[str]) -> None:
        self.said = said
        self.fault: BaseException | None = None
        self._federation = federation
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def ended(self, patience_seconds: float) -> BaseException | None:
        """Wait until the run has ended, and give what ended it; None if it was finished well.

        Raises:
            FederationError: it does not end in time.
        """
        self._thread.join(patience_seconds)
        if self._thread.is_alive():
            raise FederationError(f"the run did not end within {patience_seconds:.0f} s. Said last: {self.said[-5:]}.")
        return self.fault

    def await_that(self, moment: Callable[[], bool], what: str, *, patience_seconds: float) -> None:
        """Wait until something is so, as long as the run goes on.

        Raises:
            FederationError: the run ended without it, or it does not come about in time.
        """
        give_up = time.monotonic() + patience_seconds
        while not moment():
            over = not self._thread.is_alive()
            if time.monotonic() > give_up or (over and not moment()):
                why = f"the run ended ({self.fault})" if over else f"{patience_seconds:.0f} s have passed"
                raise FederationError(f"waited in vain until {what}: {why}. Said last: {self.said[-8:]}.")
            time.sleep(POLL_SECONDS)

    def _play(self) -> None:
        try:
            self._federation.run(self.said.append)
        except BaseException as fault:  # whoever follows the thread asks for it
            self.fault = fault


class Storm:
    """Strikes a running federation, once in each round, at the moments that were drawn.

    `said` is the list to which both the federation and the run say what happens.
    """

    def __init__(
        self,
        federation: LocalFederation,
        wires: Namespaces,
        said: list[str],
        *,
        cut_seconds: float,
        patience_seconds: float,
    ) -> None:
        self.run = RunFolder(path=federation.place.runs / run_name(federation.protocol))
        self._federation, self._wires, self._said = federation, wires, said
        self._cut_seconds, self._patience_seconds = cut_seconds, patience_seconds

    def rage(self, faults: Sequence[Fault], say: Say) -> list[Happened]:
        """Run the study to its end; the n-th fault waits for round n.

        Raises:
            PolyclinicError: the run failed, or took longer than anybody waits.
        """
        following, happened = Following(self._federation, self._said), []
        for number, fault in enumerate(faults, start=1):
            self._await(following, partial(self._in_round, number), f"round {number} begins")
            happened.append(self._strike(fault, number, following))
            say(happened[-1].line())
        if (end := following.ended(self._patience_seconds)) is not None:
            raise end
        return happened

    def log(self, program: str) -> str:
        """Give what a program has said so far."""
        return (self._federation.programs.logs / f"{program}.log").read_text(encoding="utf-8", errors="replace")

    def _in_round(self, number: int) -> bool:
        return stage(self.run) == "rounds" and len(read_rounds(self.run.path)) >= number - 1

    def _strike(self, fault: Fault, number: int, following: Following) -> Happened:
        began, before, said = boot_seconds(), read_rounds(self.run.path), len(self._said)
        time.sleep(fault.after_seconds)
        if fault.victim == NETWORK:
            struck = boot_seconds()
            cut(self._wires, fault.site)
            time.sleep(self._cut_seconds)
            mend(self._wires, fault.site)
        else:
            self._await(following, lambda: kill(self._federation, fault), f"{fault} can be killed")
            struck = boot_seconds()
        again = boot_seconds()
        self._await(following, partial(self._recovered, number, fault), f"round {number} ends and {fault} is back")
        ended = boot_seconds()
        if (pid := process(self._federation, fault)) is not None:
            again = started_seconds(pid)
        return Happened(
            fault=fault,
            round=number,
            into_round_seconds=struck - began,
            again_seconds=again - struck,
            round_seconds=ended - struck,
            kept=read_rounds(self.run.path)[: len(before)] == before,
            said=self._said[said:],
        )

    def _recovered(self, number: int, fault: Fault) -> bool:
        runs = fault.victim == NETWORK or process(self._federation, fault) is not None
        return runs and len(read_rounds(self.run.path)) >= number

    def _await(self, following: Following, moment: Callable[[], bool], what: str) -> None:
        following.await_that(moment, what, patience_seconds=self._patience_seconds)


def stage(run: RunFolder) -> str:
    """Tell the stage of a run; "" before its first."""
    status = read_status(run.status)
    return status.stage if status else ""


def boot_seconds() -> float:
    """Tell the time by the clock that the system dates its processes with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
