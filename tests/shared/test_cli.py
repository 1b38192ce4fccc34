"""Tests of shared/cli.py: the command that is there, the command that is not, and what a fault looks like."""

import errno
import importlib
import io
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint, version
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from shared import cli
from shared.cli import _refused
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


@pytest.mark.parametrize(
    "words",
    [
        ["report", "{}/locked/run"],
        ["report", "{}/locked/run/results.json"],
        ["predict", "{}/locked/model.safetensors", "{}"],
        ["coordinator", "restore", "{}/locked/backup"],
        ["study", "check", "{}/locked/study.toml"],
        ["site", "check", "{}/locked/site.toml"],
        ["coordinator", "run", "{}/locked/study.toml"],
        ["simulate", "{}/locked/study.toml", "--sites", "{}"],
    ],
)
def test_what_this_user_may_not_read_is_told_without_a_traceback(tmp_path: Path, words: list[str]) -> None:
    """Behind a folder that may not be entered, as a user to whom permissions apply."""
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0)
    without = "-dac_override,-dac_read_search"
    plain = [] if os.geteuid() else ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]
    if plain and not shutil.which("setpriv"):
        pytest.skip("root reads everything, and setpriv is not here")
    program = Path(sys.executable).with_name("polyclinic")
    command = [*plain, str(program), *(word.format(tmp_path) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    locked.chmod(0o700)
    assert done.returncode in (10, 11, 13, 15, 16, 21), done.stderr
    assert "Traceback" not in done.stderr
    assert str(locked) in done.stderr
    assert "ermission" in done.stderr


def test_a_path_that_nobody_named_is_not_told() -> None:
    """It may be the name of a patient's file; what to do is said all the same."""
    fault = OSError(errno.ENOSPC, "No space left on device", "/archive/Doe^John.dcm")
    told = _refused(fault, ["report", "--out", "/runs/one"])
    assert "Doe" not in told
    assert "No space left" in told
    assert "Make room" in told
    assert _refused(fault, ["simulate", "/archive"]).startswith("In /archive: No space left")
    assert _refused(fault, ["/archive/Doe^John.dcm"]).startswith("/archive/Doe^John.dcm: ")


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


LIGHT = (
    ["--version"],
    ["--help"],
    *([role, "--help"] for role in ("site", "coordinator", "study", "simulate", "predict", "report", "federation")),
    ["site", "courier", "--help"],
)


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_help_loads_nothing_that_computes(words: list[str]) -> None:
    """No library of a command is loaded to say what the command is for: torch alone takes seconds."""
    assert loaded_by(words) == set()


def test_the_courier_loads_nothing_that_computes(tmp_path: Path) -> None:
    """Up to the moment where Flower's own program takes the process over."""
    (tmp_path / "site.toml").write_text(
        '[site]\nname = "north"\n[data]\ndicom = "dicom"\nlabels = "l.csv"\njoin = "PatientID"\n'
        '[data.findings]\npneumonia = "p"\n'
    )
    assert loaded_by(["site", "courier", str(tmp_path / "site.toml")]) == set()


def test_a_program_that_loads_torch_is_caught() -> None:
    """The checks above can fail."""
    assert "torch" in loaded_by(["--help"], before="import torch")


HEAVY = ("torch", "torchvision", "scipy", "sympy", "matplotlib", "opacus", "pydicom", "PIL", "flwr", "grpc", "onnx")


def loaded_by(words: list[str], *, before: str = "") -> set[str]:
    """Give the heavy libraries that a command has loaded when it ends, or becomes another program."""
    code = f"""{before}
import os, sys
def end(*_):
    print("LOADED", *[name for name in {HEAVY} if name in sys.modules], flush=True)
    os._exit(0)
os.execve = end
from shared.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
end()"""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


def every_command(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give all commands of `polyclinic`, groups too, with the words that call them."""
    group = group or typer.main.get_command(cli.application())
    yield words, group
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if hasattr(command, "list_commands"):
            yield from every_command(command, (*words, name))
        else:
            yield (*words, name), command


def test_no_word_of_a_help_text_is_swallowed() -> None:
    """What stands in brackets, as a section of a declaration does, is shown like every other word."""
    swallowed, commands = [], list(every_command())
    for words, command in commands:
        shown = CliRunner().invoke(cli.application(), [*words, "--help"], env={"COLUMNS": "100"})
        seen = "".join(shown.output.split())
        assert "\\[" not in seen, words
        texts = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
        swallowed += [(words, text) for text in texts if "".join(text.split()) not in seen]
    assert len(commands) > 35
    assert swallowed == []


def test_the_version_is_told() -> None:
    """It is the installed one."""
    done = CliRunner().invoke(cli.application(), ["--version"])
    assert (done.exit_code, done.output) == (0, f"polyclinic {version('polyclinic')}\n")


def test_ctrl_c_ends_with_130_and_a_word(polyclinic, monkeypatch) -> None:
    """A command that was stopped is neither done nor a bug."""
    monkeypatch.setattr(sys.modules["clinic_commands"], "crash", interrupt)
    code, out, err = polyclinic("crash")
    assert (code, out) == (cli.STOPPED, "")
    assert "Stopped by Ctrl-C" in err


def interrupt() -> None:
    """Be stopped."""
    raise KeyboardInterrupt


def ask() -> None:
    """Ask."""
    typer.confirm("Do it?")


def test_a_question_without_an_answer_decides_nothing(polyclinic, monkeypatch) -> None:
    """Where the input ends, or Ctrl-C comes, the command says so, and does not end as a bug does."""
    monkeypatch.setattr(sys.modules["clinic_commands"], "crash", ask)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = polyclinic("crash")
    assert code == cli.STOPPED
    assert "Nothing was decided" in err


def test_a_part_that_is_missing_when_a_command_runs_is_named(polyclinic, monkeypatch) -> None:
    """A command imports what it needs when it runs; then too the answer is what to install, and a bug stays one."""

    def reach(module: str) -> None:
        """Import something."""
        importlib.import_module(module)

    monkeypatch.setattr(sys.modules["clinic_commands"], "crash", reach)
    code, _, err = polyclinic("crash", "no_such_library.part")
    assert code == MissingPartError.exit_code
    assert "no_such_library" in err
    monkeypatch.setattr(sys, "argv", ["polyclinic", "crash", "shared.no_such_file"])
    with pytest.raises(ModuleNotFoundError):
        cli.main()
