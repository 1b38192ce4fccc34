"""The monitor as a browser, Prometheus and somebody curious meet it, over real sockets."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from server.monitor import Monitor, monitoring, run_address
from server.monitor_page import ago, byte_count
from server.run_status import StatusBoard
from shared.errors import StorageError

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def runs(tmp_path: Path, tiny: Any) -> Path:
    """Give a folder of runs: one under way, with a script for a reason of refusal, and a secret beside the runs."""
    folder = tmp_path / "runs" / "tiny run"
    folder.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "model.safetensors").write_text("secret")
    (folder / "protocol.toml").write_text(tiny.protocol(study={"name": "Ribs (a+b)"}).to_toml(), encoding="utf-8")
    board = StatusBoard(folder / "status.json", ["north", "south"], rounds=2, now=lambda: NOW.replace(second=0))
    board.stage("rounds", number=1)
    board.site("north", "answered")
    board.refused("south", f"reason_{EVIL}")
    used = {
        "refusal": None,
        "loss_by_epoch": [0.5],
        "update_norm": 1.5,
        "update_bytes": 44_700_000,
        "seconds": 2.0,
        "images_per_second": 9.0,
    }
    rates = {"north": {"sensitivity": [9, 10], "specificity": [6, 8]}}
    validation = {"macro_auc": 0.7, "pooled_auc": {"opacity": 0.7}, "site_auc": {"opacity": {"north": 0.7}}}
    record = {
        "round": 1,
        "lost": False,
        "seconds": 3.0,
        "sites": {"north": used, "south": {"refusal": "no_reply"}},
        "validation": validation | {"site_rates": {"opacity": rates}},
    }
    (folder / "rounds.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return folder.parent


@pytest.fixture
def port(runs: Path) -> Iterator[int]:
    """Give the port of a running monitor."""
    with monitoring(Monitor(runs, now=lambda: NOW), host="127.0.0.1", port=0, names=("monitor",)) as port:
        yield port


def ask(port: int, address: str, *, method: str = "GET", host: str = "localhost") -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, address, headers={"Host": host})
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply, text


def test_the_page_shows_progress_and_each_sites_figures(port: int) -> None:
    """State, last contact, sensitivity with its counts, norm, size and seconds stand there, and it reloads itself."""
    reply, page = ask(port, run_address("tiny run"))
    assert reply.status == 200
    for shown in ("1 of 2 rounds done", "30 seconds ago", "90.0", "9 of 10", "6 of 8", "44.7 MB", "2.0 s", "not yet"):
        assert shown in page, shown
    assert 'http-equiv="refresh"' in page
    assert page.count("<figure>") == 3


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_runs_address_without_its_last_slash_leads_to_its_page(port: int, method: str) -> None:
    """Browsers and people leave it out; a run that there is not leads nowhere, and nothing leads elsewhere."""
    reply, _ = ask(port, "/runs/tiny%20run", method=method)
    assert (reply.status, reply.headers["Location"]) == (308, run_address("tiny run"))
    assert ask(port, reply.headers["Location"])[0].status == 200
    for address in ("/runs/tiny", "/runs", "/runs/%2F%2Fevil.example"):
        assert ask(port, address)[0].status == 404


def test_no_script_runs_whatever_the_names_hold(port: int) -> None:
    """Names are escaped, there is no script, and the browser is told to run none and fetch nothing."""
    for address in ("/", run_address("tiny run"), "/metrics", "/nowhere"):
        reply, page = ask(port, address)
        assert "<script" not in page
        assert ("&lt;script&gt;" in page) == (address == run_address("tiny run"))
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "address",
    [
        "/runs/",
        "/runs/tiny%20run/model.safetensors",
        "/runs/tiny%20run/protocol.toml",
        "/runs/../secret",
        "/runs/..%2f..%2fsecret/",
        "/runs/../report.html",
        "/runs/%2e%2e/report.html",
        "/secret",
        "//etc/passwd",
        "/etc/passwd",
        "/runs/another/",
    ],
)
def test_nothing_else_is_served_and_no_folder_is_listed(port: int, address: str) -> None:
    """The model, the protocol and what lies beside the runs are not there for anybody."""
    reply, text = ask(port, address)
    assert reply.status == 404
    assert "secret" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_can_only_be_read(port: int, method: str) -> None:
    """No method but GET and HEAD is known."""
    reply, _ = ask(port, "/", method=method)
    assert reply.status == 501


def test_head_says_what_get_would_and_sends_no_body(port: int) -> None:
    """HEAD has the same status and length."""
    reply, page = ask(port, "/metrics")
    head, nothing = ask(port, "/metrics", method="HEAD")
    assert (head.status, nothing) == (200, "")
    assert int(head.headers["Content-Length"]) == len(page.encode()) == int(reply.headers["Content-Length"])


def test_prometheus_reads_the_figures(port: int) -> None:
    """The figures are those of the run."""
    reply, page = ask(port, "/metrics", host="monitor")
    assert reply.status == 200
    assert 'polyclinic_run_site_sensitivity{finding="opacity",run="tiny run",site="north"} 0.9' in page


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_by_another_name_nobody_is_answered(port: int, host: str) -> None:
    """A web page that renames its own address to this one reads nothing (DNS rebinding)."""
    reply, text = ask(port, "/", host=host)
    assert reply.status == 421
    assert "tiny" not in text


def test_a_run_that_is_damaged_is_told_and_does_not_hide_the_others(runs: Path, port: int) -> None:
    """Its own page says which file; the list and the figures go on without it, and count it."""
    good = runs / "good"
    good.mkdir()
    (good / "protocol.toml").write_text((runs / "tiny run" / "protocol.toml").read_text(), encoding="utf-8")
    (runs / "tiny run" / "rounds.jsonl").write_text('{"half', encoding="utf-8")
    reply, text = ask(port, run_address("tiny run"))
    assert (reply.status, "rounds.jsonl" in text) == (503, True)
    assert "good" in ask(port, "/")[1]
    assert "polyclinic_monitor_unreadable_runs 1.0" in ask(port, "/metrics")[1]


def test_the_report_is_there_once_it_is_written(runs: Path, port: int) -> None:
    """Before the end its address says when it comes; afterwards it is served as it is."""
    address = run_address("tiny run") + "report.html"
    assert ask(port, address)[0].status == 404
    (runs / "tiny run" / "report.html").write_text("<!doctype html><title>Report</title>", encoding="utf-8")
    reply, page = ask(port, address)
    assert (reply.status, "Report" in page) == (200, True)


def test_a_change_is_seen_at_once(runs: Path, port: int) -> None:
    """A page is made of what the files hold now."""
    assert "1 of 2 rounds" in ask(port, run_address("tiny run"))[1]
    rounds = runs / "tiny run" / "rounds.jsonl"
    record = json.loads(rounds.read_text())
    rounds.write_text("".join(json.dumps(record | {"round": number}) + "\n" for number in (1, 2)), encoding="utf-8")
    assert "2 of 2 rounds" in ask(port, run_address("tiny run"))[1]


def test_a_port_that_is_taken_is_refused_with_what_to_do(runs: Path) -> None:
    """The message names the port and the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with (
            pytest.raises(StorageError, match=f"{number}.*--port"),
            monitoring(Monitor(runs, now=lambda: NOW), host="127.0.0.1", port=number),
        ):
            pass


def test_moments_sizes_and_troubles_in_words(runs: Path) -> None:
    """A moment is told in its largest whole unit, a size in a person's."""
    assert [ago(f"2026-03-01T{at}+00:00", NOW) for at in ("12:00:30", "11:59:00", "09:00:00")] == [
        "now",
        "1 minute ago",
        "3 hours ago",
    ]
    assert [byte_count(size) for size in (12, 1500, 44_700_000, 2_500_000_000)] == [
        "12 B",
        "1.5 kB",
        "44.7 MB",
        "2.5 GB",
    ]
