"""Shows a person how a simulation gets on: progress bars for long work, a line for each round."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Step = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is to do."""


class Console:
    """Progress of one simulation; bars where there is a terminal, lines only where there is none."""

    def __init__(self) -> None:
        self._rich = RichConsole(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=self._rich, transient=True, disable=not self._rich.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Print one line."""
        self._rich.print(line, markup=False, soft_wrap=True)

    def step(self, what: str, done: int, total: int) -> None:
        """Move a bar; it goes away, and leaves a line, when all is done."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(what))
            self.say(f"  {what}: {total:,}")

    def site(self, name: str) -> Step:
        """Give the progress of one site's preparation."""
        return lambda what, done, total: self.step(f"{name}: {what}", done, total)

    def begin(self, run_id: str) -> None:
        """Announce a run: the federated one, or a baseline."""
        self.say(f"{run_id}:")

    def round(self, record: Mapping[str, Any]) -> None:
        """Print a finished round: loss and validation AUC by site, and who was left out."""
        shown = ", ".join(_site(name, entry) for name, entry in record["sites"].items())
        auc = record["validation"]["macro_auc"]
        verdict = "round lost: too few sites" if record["lost"] else f"validation AUC {_number(auc)}"
        self.say(f"  round {record['round']}: {verdict} | loss of the last epoch {shown} | {record['seconds']:.1f} s")


def _site(name: str, entry: Mapping[str, Any]) -> str:
    if entry["refusal"]:
        return f"{name} left out ({entry['refusal']})"
    losses = entry["loss_by_epoch"]
    return f"{name} {losses[-1]:.4f}" if losses else f"{name} kept private"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
