"""The ledger's page: what was spent, reserved and left, in words that need no key, and as a file."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.ledger_words import export_ledger, find_account, ledger_lines
from client.privacy_account import Account, CountPlan
from client.privacy_ledger import PrivacyLedger
from shared.audit import AuditLog, verify
from shared.errors import PrivacyError
from shared.privacy import PrivacyPlan
from shared.renyi_filter import PrivacyLimit
from shared.split import Split

A, B = "a" * 64, "b" * 64
PLAN = PrivacyPlan(
    sample_rate=1.0,
    noise_multiplier=12.0,
    steps_per_round=2,
    rounds=10,
    delta=1e-5,
    clip=0.3,
    images_per_patient=1,
    expected_patients=100,
)
SITE = """
[site]
name = "north"
[data]
dicom = "films"
labels = "labels.csv"
join = "AccessionNumber"
[data.findings]
pneumonia = "PNA"
[policy]
max_epsilon = 6
"""


def filled(folder: Path, limit: PrivacyLimit | None) -> PrivacyLedger:
    """Make a ledger with one study that is closed after two rounds, and one that has run one."""
    ledger, audit = PrivacyLedger(folder=folder, limit=limit), AuditLog(folder / "audit.jsonl")
    ledger.reserve(Account(study=A, plan=PLAN, name="Films", accountant="prv"))
    counts = CountPlan(epsilon=0.1, releases=3)
    ledger.reserve(Account(study=B, plan=replace(PLAN, rounds=5), name="Scans", accountant="rdp", counts=counts))
    for study, number in ((A, 1), (A, 2), (B, 1)):
        ledger.charge(study, number=number, task_id=f"{study}{number}", arrays="x", audit=audit)
    ledger.charge_counts(B, side=Split.VALIDATION, number=1, task_id="v", request="x", audit=audit)
    ledger.close(A)
    return ledger


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Write a site.toml beside a ledger in its place."""
    filled(tmp_path / "state", PrivacyLimit(epsilon=6.0, delta=1e-5))
    path = tmp_path / "site.toml"
    path.write_text(SITE, encoding="utf-8")
    return path


def test_the_page_says_what_is_spent_reserved_and_left(site: Path) -> None:
    """Each study with its own ε and its share, then the whole budget and the forecast; shares add up to all of it."""
    result = CliRunner().invoke(app, ["ledger", str(site)])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    statement = PrivacyLedger(folder=site.parent / "state", limit=PrivacyLimit(epsilon=6.0, delta=1e-5)).statement()
    first, second = statement.accounts
    assert f"aaaaaaaaaaaa “Films”, closed on {first.closed_at[:10]}" in text
    assert f"spent: ε = {first.epsilon:.2f} at δ = 1e-05, in 2 of 10 rounds" in text
    assert "bbbbbbbbbbbb “Scans”, open" in text
    assert "validation and test patients: ε = 0.10" in text
    spent, held = statement.spent_share, statement.held_share
    assert f"Spent {spent:.1%}" in text
    assert f"reserved {held - spent:.1%}, left {1 - held:.1%}" in text
    assert f"A next study may ask for up to about ε = {statement.next_epsilon:.2f}" in text
    assert 0 < spent < held < 1
    assert second.epsilon > 0


def test_closing_by_the_beginning_of_the_digest_is_asked_for_and_recorded(site: Path) -> None:
    """Without a yes nothing changes; with it the reserved rounds are free, and who looks later sees the decision."""
    runner, limit = CliRunner(), PrivacyLimit(epsilon=6.0, delta=1e-5)
    ledger = PrivacyLedger(folder=site.parent / "state", limit=limit)
    before = ledger.statement().held_share
    assert runner.invoke(app, ["ledger", str(site), "--close", "bbb"], input="n\n").exit_code == 3
    assert ledger.statement().held_share == before
    assert runner.invoke(app, ["ledger", str(site), "--close", "bbb", "--yes"]).exit_code == 0
    assert ledger.statement().held_share < before
    events = [(entry["event"], entry.get("study")) for entry in verify(site.parent / "state" / "decisions.jsonl")]
    assert events == [("privacy account closed", B)]


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_the_export_has_every_study_with_its_figures(site: Path, ending: str) -> None:
    """What an ethics board gets says whose budget, by which method, and what each study has cost."""
    out = site.parent / f"ledger.{ending}"
    assert CliRunner().invoke(app, ["ledger", str(site), "--export", str(out)]).exit_code == 0
    text = out.read_text(encoding="utf-8")
    rows = json.loads(text)["studies"] if ending == "json" else list(csv.DictReader(text.splitlines()))
    assert [(row["study"], int(row["rounds_charged"]), int(row["rounds_planned"])) for row in rows] == [
        (A, 2, 10),
        (B, 1, 5),
    ]
    assert all(0 < float(row["epsilon_spent"]) < float(row["epsilon_planned"]) for row in rows)
    if ending == "json":
        assert json.loads(text)["max_epsilon"] == 6
        assert "Feldman and Zrnic" in json.loads(text)["method"]


def test_no_studys_name_is_computed_by_a_spreadsheet(tmp_path: Path) -> None:
    """A study may be called anything that prints."""
    ledger = PrivacyLedger(folder=tmp_path / "state", limit=None)
    ledger.reserve(Account(study=A, plan=PLAN, name='=HYPERLINK("http://a")', accountant="prv"))
    out = tmp_path / "ledger.csv"
    export_ledger(ledger.statement(), out)
    (row,) = csv.DictReader(out.read_text(encoding="utf-8").splitlines())
    assert row["name"] == '\'=HYPERLINK("http://a")'


def test_a_ledger_without_limit_or_studies_says_so(tmp_path: Path) -> None:
    """Absence of a promise is said, and is no number."""
    empty = PrivacyLedger(folder=tmp_path / "a", limit=PrivacyLimit(epsilon=6.0, delta=1e-5)).statement()
    assert "nothing is spent" in " ".join(ledger_lines(empty))
    export_ledger(empty, tmp_path / "empty.csv")
    open_ended = filled(tmp_path / "b", None).statement()
    text = " ".join(" ".join(ledger_lines(open_ended)).split())
    assert "set no limit over all studies" in text
    assert "nothing is promised for several together" in text
    assert "budget:" not in text
    export_ledger(open_ended, tmp_path / "out.json")
    exported = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert exported["max_epsilon"] is None
    assert math.isinf(open_ended.next_epsilon)


def test_what_cannot_be_done_is_said_with_a_next_step(tmp_path: Path) -> None:
    """A wrong ending, and a beginning that fits no study or several."""
    statement = filled(tmp_path, None).statement()
    with pytest.raises(PrivacyError, match=r"exported as .json or .csv. Choose one"):
        export_ledger(statement, tmp_path / "ledger.pdf")
    for beginning in ("c", ""):
        with pytest.raises(PrivacyError, match=r"0 studies .* Name one of these: aaaaaaaaaaaa, bbbbbbbbbbbb\."):
            find_account(statement, beginning)
    with pytest.raises(PrivacyError, match="no account to close"):
        find_account(replace(statement, accounts=()), "a")
