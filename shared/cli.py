"""The `polyclinic` command: offers the roles whose parts import here, and says how to get the others."""

import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer
from rich.console import Console
from rich.markup import escape

from shared.errors import MissingPartError, PolyclinicError

GROUP = "polyclinic.commands"
"""Entry points of this group are commands; pyproject.toml names them, so that no room imports another for it."""

ABOUT = """Train one medical-imaging model across hospitals without moving an image.

A hospital's data manager uses `site`; a researcher with one machine uses `study`, `partition`, `simulate` and `report`.
"""


def main() -> None:
    """Run the command line; an error that a user can act on is printed without a traceback, with its own exit code."""
    # Set before flwr is imported: nothing of a hospital's run is reported to anybody.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    # On a GPU torch computes deterministically only with this, and must find it before it first uses one.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Threads that wait for each other sleep. By default they spin, and where other work keeps a core busy they spin
    # away the core of the very thread they wait for: rounds then take 2 to 20 times as long (docs/benchmarks.md).
    # OpenMP reads this when torch is first imported, which is after this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    try:
        application(asked=sys.argv[1] if len(sys.argv) > 1 else "")()
    except PolyclinicError as fault:
        Console(stderr=True, highlight=False).print(f"{fault}", style="red", markup=False, soft_wrap=True)
        sys.exit(fault.exit_code)


def application(asked: str = "") -> typer.Typer:
    """Put the commands together that are installed here; if `asked` is one of them, it alone.

    Loading them all takes seconds, most of them for torch, which a link, an exporter or a `status` never needs.
    """
    app = typer.Typer(help=ABOUT, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_nothing)  # without it Typer takes a command that is alone for the whole program
    entries = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    for entry in [entry for entry in entries if entry.name == asked] or entries:
        _offer(app, entry)
    return app


def _nothing() -> None:
    pass


def _offer(app: typer.Typer, entry: EntryPoint) -> None:
    try:
        command = entry.load()
    except ModuleNotFoundError as missing:
        # Escaped, because help is rich markup, in which [simulate] would be a style and not be shown.
        text = escape(f"Not installed here: {_remedy(entry)}")
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(entry.name, help=text, context_settings=anything)(_absent(entry, missing))
        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=entry.name)
    else:
        app.command(entry.name)(command)


def _remedy(entry: EntryPoint) -> str:
    return f"pip install 'polyclinic[{','.join(entry.extras)}]'"


def _absent(entry: EntryPoint, missing: ModuleNotFoundError) -> Callable[[], None]:
    def command() -> None:
        raise MissingPartError(f"'{entry.name}' needs {missing.name}, which is not installed. {_remedy(entry)}")

    return command
