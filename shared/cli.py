"""The `polyclinic` command: offers each role, loads it when it is used, and says how to get the parts of the others."""

import difflib
import errno
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from typing import Annotated, Any

import typer
import typer.core
from typer.core import TyperGroup

from shared.errors import MissingPartError, PolyclinicError, StorageError
from shared.plain_text import shown

GROUP = "polyclinic.commands"
"""Entry points of this group are commands; pyproject.toml names them, so that no room imports another for it."""

ABOUT = """Train one medical-imaging model across hospitals without moving an image.

A hospital's data manager uses `site`; a researcher with one machine uses `study`, `partition`, `simulate` and `report`.
"""

TELLTALES: Mapping[str, tuple[str, ...]] = {
    "agent": ("pydicom",),
    "coordinator": ("jinja2",),
    "onnx": ("onnx",),
    "simulate": ("pydicom", "jinja2"),
}
"""Modules that are there where an extra of pyproject.toml is; looked for, and not imported."""

ROOMS = ("shared", "client", "server", "simulations")

_MAY_NOT = "Change the permissions of it and of each folder on its way, or run this as the user whose it is."
_FULL = "Make room there, and run this again."
_OTHER_NAME = "Name another path."

_MACHINES: Mapping[int | None, str] = {
    errno.EACCES: _MAY_NOT,
    errno.EPERM: _MAY_NOT,
    errno.EROFS: "Name a folder that can be written to.",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENAMETOOLONG: _OTHER_NAME,
    errno.ELOOP: _OTHER_NAME,
}
"""What a machine refuses and no program can know beforehand, whichever command meets it; and what to do about it."""

STOPPED = 130
"""The exit code of what Ctrl-C stopped: 128 and the number of SIGINT, as a shell has it."""


def say(text: str) -> None:
    """Print what a command tells, as far as it may be shown."""
    typer.echo(shown(text))


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
        application()()
    except PolyclinicError as fault:
        typer.secho(shown(f"{fault}"), fg=typer.colors.RED, err=True)
        sys.exit(fault.exit_code)
    except OSError as fault:
        if fault.errno not in _MACHINES:  # a bug: it keeps its traceback
            raise
        typer.secho(shown(_refused(fault, sys.argv[1:])), fg=typer.colors.RED, err=True)
        sys.exit(StorageError.exit_code)


def _refused(fault: OSError, words: Sequence[str]) -> str:
    """Say what the machine refused; a path is named as far as it is one of the command's own words.

    Beyond that it may be the name of a patient's file.
    """
    path = str(fault.filename or "")
    inside = [word for word in words if word.startswith(("/", ".")) or "/" in word if path.startswith(word)]
    where = path if path in words else f"In {max(inside, key=len)}" if inside else "A file that this command needs"
    return f"{where}: {os.strerror(fault.errno or 0)}. {_MACHINES[fault.errno or 0]}"


def application() -> typer.Typer:
    """Put the commands together. None is loaded before it is asked for, and none imports what it needs before it runs.

    Help is plain text: rich's would take as long again to load as all the rest, and takes [privacy] for a style.
    """
    typer.core.HAS_RICH = False  # with it, typer escapes "[required]" and "[default: 3]" for rich in plain help too
    app = typer.Typer(
        cls=Roles,
        help=ABOUT,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        suggest_commands=False,  # click does
        rich_markup_mode=None,
        context_settings={"max_content_width": 100},
    )
    app.callback()(_about)
    return app


class _Listed(TyperGroup):
    """A group of commands whose help has each one's first sentence whole, however long."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List them."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=500)) for name, one in found if one])


class Roles(_Listed):
    """Everything that stands behind `polyclinic`, by its entry point."""

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List them from their texts alone: no option of theirs need be worked out for that."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _sentence(entry)) for name, entry in self._entries.items()])

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands in the order of the alphabet."""
        return list(self._entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load a command, once."""
        if cmd_name not in self.commands and cmd_name in self._entries:
            self.commands[cmd_name] = _load(self._entries[cmd_name])
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Say of a word that is no command which one may be meant."""
        if args and args[0] not in self._entries:  # click looks for near words among loaded commands only
            near = difflib.get_close_matches(args[0], self._entries, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(self._entries)}."
            ctx.fail(f"No such command '{args[0]}'. {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run what was asked for; a missing part and Ctrl-C are told in words.

        Raises:
            MissingPartError: the command needs what is not installed here.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            if str(missing.name).split(".")[0] in ROOMS:  # a part of Polyclinic itself: a bug, and no part to install
                raise
            raise _not_installed(self._entries[ctx.invoked_subcommand], missing) from None
        except KeyboardInterrupt:
            typer.echo("Stopped by Ctrl-C.", err=True)
        except typer.Abort:  # Ctrl-C, or the end of the input, where a question was asked
            typer.echo("\nStopped before the question was answered. Nothing was decided.", err=True)
        raise typer.Exit(STOPPED)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"polyclinic {version('polyclinic')}")
        raise typer.Exit


def _about(
    show: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _sentence(entry: EntryPoint) -> str:
    """Say in one sentence what a command is for, and what is missing here."""
    try:
        command = entry.load()
    except ModuleNotFoundError:
        return f"Not installed here: {_remedy(entry)}"
    text = str(command.info.help if isinstance(command, typer.Typer) else command.__doc__)
    first = " ".join(text.split("\n\n")[0].split())
    return f"{first} Not all of it is installed here: {_remedy(entry)}" if _lacks_parts(entry) else first


def _load(entry: EntryPoint) -> Any:
    """Give an entry point as a command of click's, under its own name."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, suggest_commands=False)
    app.callback()(lambda: None)  # without it Typer takes a command that is alone for the whole program
    try:
        command = entry.load()
    except ModuleNotFoundError as missing:
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(entry.name, help=_sentence(entry), context_settings=anything)(_absent(entry, missing))
    else:
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name, cls=_Listed)
        else:
            app.command(entry.name)(command)
    return typer.main.get_command(app).commands[entry.name]  # type: ignore[attr-defined]  # a group, by its callback


def _lacks_parts(entry: EntryPoint) -> bool:
    return any(find_spec(module) is None for extra in entry.extras for module in TELLTALES.get(extra, ()))


def _remedy(entry: EntryPoint) -> str:
    return f"pip install 'polyclinic[{','.join(entry.extras)}]'"


def _not_installed(entry: EntryPoint, missing: ModuleNotFoundError) -> MissingPartError:
    return MissingPartError(f"'{entry.name}' needs {missing.name}, which is not installed. {_remedy(entry)}")


def _absent(entry: EntryPoint, missing: ModuleNotFoundError) -> Any:
    def command() -> None:
        raise _not_installed(entry, missing)

    return command
