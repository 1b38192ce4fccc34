"""What a person sees of a run: a line for each finished step and round, and who was left out."""

from typing import Any

import pytest

from simulations.console import Console


def record(**changes: Any) -> dict[str, Any]:
    sites = {
        "north": {"refusal": None, "loss_by_epoch": [0.5, 0.25]},
        "south": {"refusal": "data_unusable"},
    }
    own = {"round": 3, "lost": False, "seconds": 2.04, "sites": sites, "validation": {"macro_auc": 0.87654}}
    return own | changes


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Give the lines on standard error; standard output is kept for results."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_round_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Validation AUC, the last epoch's loss at each site, and the code of a site that was left out."""
    Console().round(record())
    assert said(capsys) == [
        "  round 3: validation AUC 0.877 | loss of the last epoch north 0.2500, south left out (data_unusable) | 2.0 s"
    ]


def test_what_is_not_known_and_what_is_lost_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """No evidence is not an AUC of zero, and a lost round is named as such."""
    console = Console()
    console.round(record(validation={"macro_auc": None}))
    console.round(record(lost=True))
    unknown, lost = said(capsys)
    assert "validation AUC not known" in unknown
    assert "round lost: too few sites" in lost
    assert "AUC" not in lost


def test_a_finished_step_leaves_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal, only the end of a step is printed, with the site's name."""
    with Console() as console:
        console.begin("federated")
        step = console.site("north")
        for done in (0, 700, 1400):
            step("images prepared", done, 1400)
        step("nothing to do", 0, 0)
    assert said(capsys) == ["federated:", "  north: images prepared: 1,400", "  north: nothing to do: 0"]


def test_a_step_may_be_done_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The same step of a later run starts from the beginning."""
    console = Console()
    for _ in range(2):
        console.step("frozen features", 5, 10)
        console.step("frozen features", 10, 10)
    assert said(capsys) == ["  frozen features: 10"] * 2


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A bracket in a name is no mark-up, and a long line is not broken."""
    line = "[red]ward[/red] " + "x" * 300
    Console().say(line)
    assert said(capsys) == [line]
