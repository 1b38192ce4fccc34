"""Tests of shared/cli.py: the command that is there, the command that is not, and what a fault looks like."""

import os
import subprocess
import sys
import types
from importlib.metadata import EntryPoint

import pytest
import typer

from shared import cli
from shared.errors import DataError, MissingPartError


def greet(name: str) -> None:
    """Say hello."""
    typer.echo(f"hello {name}")


def fail() -> None:
    """Fail as a user can mend."""
    raise DataError("[red]3 files[/red] could not be read. Export them again.")


def crash() -> None:
    """Fail as nobody foresaw."""
    raise ZeroDivisionError


def site_app() -> typer.Typer:
    """Give a group of commands, as a role may have."""
    app = typer.Typer(help="Commands for a hospital.")

    @app.callback()
    def about() -> None:
        """Commands for a hospital."""

    app.command("check")(greet)
    return app


@pytest.fixture
def polyclinic(monkeypatch, capsys):
    """Give the command line with these commands, and one whose library is missing; call it with its arguments."""
    module = types.ModuleType("clinic_commands")
    module.greet, module.fail, module.crash, module.site = greet, fail, crash, site_app()
    monkeypatch.setitem(sys.modules, "clinic_commands", module)
    points = [
        EntryPoint("greet", "clinic_commands:greet", cli.GROUP),
        EntryPoint("fail", "clinic_commands:fail", cli.GROUP),
        EntryPoint("crash", "clinic_commands:crash", cli.GROUP),
        EntryPoint("site", "clinic_commands:site [agent]", cli.GROUP),
        EntryPoint("simulate", "no_such_library.commands:simulate [simulate]", cli.GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: [point for point in points if point.group == group])

    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["polyclinic", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run


def test_help_offers_what_is_installed_and_says_how_to_get_the_rest(polyclinic):
    """A role whose parts are missing is listed with its remedy."""
    code, out, _ = polyclinic("--help")
    assert code == 0
    assert all(f" {name} " in out for name in ("crash", "fail", "greet", "simulate", "site"))
    assert "Not installed here: pip install 'polyclinic[simulate]'" in out


def test_a_command_and_a_group_of_commands_run(polyclinic):
    """A role is one command, or several under one word."""
    assert polyclinic("greet", "you") == (0, "hello you\n", "")
    assert polyclinic("site", "check", "you") == (0, "hello you\n", "")


def test_a_command_whose_parts_are_missing_says_what_to_install(polyclinic):
    """Whatever the arguments are, the answer is the remedy and not a complaint about them."""
    for arguments in ([], ["study.toml", "--out", "runs/a"]):
        code, _, err = polyclinic("simulate", *arguments)
        assert code == MissingPartError.exit_code
        assert "no_such_library" in err
        assert "pip install 'polyclinic[simulate]'" in err


def test_a_fault_that_a_user_can_mend_has_its_code_and_no_traceback(polyclinic):
    """The message is printed as it stands, brackets included, and on standard error."""
    code, out, err = polyclinic("fail")
    assert (code, out) == (DataError.exit_code, "")
    assert err == "[red]3 files[/red] could not be read. Export them again.\n"


def test_a_bug_keeps_its_traceback(polyclinic, monkeypatch):
    """What nobody foresaw is not dressed up."""
    monkeypatch.setattr(sys, "argv", ["polyclinic", "crash"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_wrong_command_line_ends_with_2(polyclinic):
    """An unknown command and a missing argument are the shell's own kind of mistake."""
    assert polyclinic("gret")[0] == 2
    assert polyclinic("greet")[0] == 2


def test_nothing_is_reported_to_anybody(polyclinic, monkeypatch):
    """Flower's telemetry and its search for updates are off before Flower is imported, unless the user set them."""
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "0")
    polyclinic("greet", "you")
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "0"


def test_waiting_threads_sleep(polyclinic, monkeypatch):
    """The rule is there before a command can import torch, unless the user set another."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    polyclinic("greet", "you")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    polyclinic("greet", "you")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_command_line_itself_needs_no_role():
    """Where nothing but the command is installed, it starts: neither torch nor flwr nor pydicom is imported."""
    heavy = "{'torch', 'flwr', 'pydicom', 'scipy', 'matplotlib'}"
    program = f"import sys, shared.cli; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_role_is_loaded_without_the_others() -> None:
    """`polyclinic site` brings no torch: a link or a `status` starts at once; without a role all are offered."""
    code = "import sys; from shared.cli import application; app = application(sys.argv[1]); "
    code += "names = {group.name for group in app.registered_groups} | {one.name for one in app.registered_commands}; "
    code += "print('torch' in sys.modules, 'simulate' in names, 'site' in names)"
    for asked, said in (("site", "False False True"), ("", "True True True")):
        done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
        assert done.stdout.split() == said.split()
