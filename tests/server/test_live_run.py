"""A run as it stands, read from its folder at any moment: before the first round, amid them, at the end, damaged."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from server.live_run import read_run, run_names, stamp
from server.round_records import write_rounds
from server.run_status import StatusBoard
from shared.errors import PolyclinicError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def record(number: int, *, refusal: str | None = None) -> dict[str, Any]:
    south: dict[str, Any] = {"refusal": refusal}
    used = {
        "refusal": None,
        "loss_by_epoch": [0.5, 0.25],
        "update_norm": 1.5,
        "update_bytes": 4000,
        "images_per_second": 80.0,
        "seconds": 2.5,
    }
    validation = {
        "macro_auc": 0.7,
        "pooled_auc": {"opacity": 0.7},
        "site_auc": {"opacity": {"north": 0.75}},
        "site_rates": {"opacity": {"north": {"sensitivity": [9, 10], "specificity": [0, 0]}}},
    }
    return {
        "round": number,
        "lost": False,
        "seconds": 3.0,
        "sites": {"north": used, "south": south if refusal else used},
        "late_replies": {"south": 1} if refusal else {},
        "validation": validation,
    }


@pytest.fixture
def run(tmp_path: Path, tiny: Any) -> Path:
    """Give the folder of a run that has begun."""
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "protocol.toml").write_text(tiny.protocol().to_toml(), encoding="utf-8")
    return folder


def board(run: Path) -> StatusBoard:
    return StatusBoard(run / "status.json", ["north", "south", "west"], rounds=2, now=lambda: NOW)


def test_before_the_first_round_the_sites_are_known_and_their_figures_not(run: Path) -> None:
    """A site that was asked and not heard has a state, and no figure at all."""
    board(run).site("north", "asked")
    live = read_run(run)
    assert (live.stage, live.running, live.rounds_done, live.result) == ("readiness", True, 0, None)
    assert [(site.name, site.state, site.heard) for site in live.sites] == [
        ("north", "asked", ""),
        ("south", "not asked", ""),
        ("west", "not asked", ""),
    ]
    assert live.sites[0].last == live.sites[0].rates == live.sites[0].auc == live.sites[0].refusals == {}


def test_after_two_rounds_each_site_shows_what_it_did(run: Path) -> None:
    """A refused update is counted by its reason, and the figures are those of the last one that was used."""
    status = board(run)
    status.stage("rounds", number=2)
    status.site("north", "answered")
    status.refused("south", "update_not_finite")
    write_rounds(run, [record(1), record(2, refusal="update_not_finite")])
    north, south, west = read_run(run).sites
    assert north.heard == NOW.isoformat()
    assert north.rates == {"opacity": {"sensitivity": (9, 10)}}
    assert north.auc == {"opacity": 0.75}
    assert south.refusals == {"update_not_finite": 1}
    assert south.refusal == "update_not_finite"
    assert (south.late, south.last["update_norm"]) == (1, 1.5)
    assert west.last == {}


def test_a_simulated_run_has_no_status_and_is_read_all_the_same(run: Path) -> None:
    """Without status.json the rounds alone tell who takes part."""
    write_rounds(run, [record(1, refusal="no_reply")])
    live = read_run(run)
    assert (live.stage, [site.name for site in live.sites]) == ("rounds", ["north", "south"])
    assert live.sites[1].refusal == "no_reply"


def test_a_run_that_failed_says_why(run: Path) -> None:
    """The failure stands over the stage that it was in."""
    board(run)
    (run / "outcome.json").write_text('{"failed": "too few sites", "exit_code": 16}', encoding="utf-8")
    live = read_run(run)
    assert (live.stage, live.running, live.failure) == ("failed", False, "too few sites")


@pytest.mark.parametrize("file", ["status.json", "rounds.jsonl", "results.json", "outcome.json", "protocol.toml"])
def test_a_damaged_file_is_told_as_such(run: Path, file: str) -> None:
    """Half a file raises an error that names it, whichever it is."""
    (run / file).write_text('{"half', encoding="utf-8")
    with pytest.raises(PolyclinicError, match=file):
        read_run(run)


def test_runs_are_listed_newest_first_and_other_folders_not(run: Path) -> None:
    """A folder without a protocol is no run; a change brings a run to the front, and changes its stamp."""
    other = run.parent / "another"
    (run.parent / "no run").mkdir()
    other.mkdir()
    (other / "protocol.toml").write_text((run / "protocol.toml").read_text(), encoding="utf-8")
    before = stamp(run)
    write_rounds(run, [record(1)])
    assert stamp(run) != before
    assert run_names(run.parent) == ["tiny", "another"]
    assert run_names(run.parent / "nowhere") == []
