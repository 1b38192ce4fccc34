"""A command that writes a file which its user named writes over nothing that is not its own, and says what to do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from client import site_status
from client.ledger_words import export_ledger
from client.privacy_ledger import PrivacyLedger
from client.score_table import check_places
from server.coordinator import invite
from shared.cli import application
from shared.errors import CoordinatorError, SiteError, StorageError

MINE = "a labelled table, or the one backup\n"


def polyclinic(*words: Any) -> Any:
    """Run a command."""
    return CliRunner().invoke(application(), list(map(str, words)))


COMMANDS = {
    "study check": ("study", "check", "STUDY", "--picture", "FILE"),
    "report": ("report", "RUN", "--pack", "FILE"),
    "export": ("export", "RUN", "--onnx", "FILE"),
    "backup": ("coordinator", "backup", "FILE", "--folder", "RUN"),
    "predict": ("predict", "RUN/model.safetensors", "RUN", "--out", "FILE"),
    "keys": ("site", "keys", "SITE", "--out", "FILE", "--rotate"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_there_stays(name: str, tiny_study: Path, hospitals_on_disk: Path, tmp_path: Path) -> None:
    """The refusal comes before anything is computed, drawn or rotated, and names the way out."""
    (tmp_path / "coordinator.toml").write_text("")
    mine = tmp_path / "mine.csv"
    mine.write_text(MINE)
    places = {"STUDY": tiny_study, "RUN": tmp_path, "FILE": mine, "SITE": next(hospitals_on_disk.rglob("site.toml"))}
    before = set(tmp_path.rglob("*"))
    command = [places.get(word, word.replace("RUN", str(tmp_path))) for word in COMMANDS[name]]
    done = polyclinic(*command)
    assert isinstance(done.exception, StorageError), done.output
    assert "is not overwritten. Name another file" in str(done.exception)
    assert mine.read_text() == MINE
    assert set(tmp_path.rglob("*")) == before


def test_a_ledger_is_exported_to_a_new_file(tmp_path: Path) -> None:
    """Neither kind of export replaces a file."""
    statement = PrivacyLedger(folder=tmp_path / "ledger", limit=None).statement()
    for ending in ("csv", "json"):
        mine = tmp_path / f"mine.{ending}"
        mine.write_text(MINE)
        with pytest.raises(StorageError, match="is not overwritten"):
            export_ledger(statement, mine)
        assert mine.read_text() == MINE


def test_a_delivered_model_replaces_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files may be copied again; another model of the name stays, and then nothing is copied."""
    delivered, out = tmp_path / "delivered", tmp_path / "out"
    delivered.mkdir()
    (delivered / "a.json").write_text("{}")
    (delivered / "model.safetensors").write_bytes(b"model")
    approvals = SimpleNamespace(pick=lambda _: SimpleNamespace(folder=tmp_path))
    monkeypatch.setattr(site_status, "Approvals", lambda _: approvals)
    config: Any = SimpleNamespace(link=SimpleNamespace(state=tmp_path))
    assert len(site_status.copy_delivered(config, None, out)) == len(site_status.copy_delivered(config, None, out)) == 2
    (out / "model.safetensors").write_text(MINE)
    (out / "a.json").unlink()
    with pytest.raises(StorageError, match="is not overwritten"):
        site_status.copy_delivered(config, None, out)
    assert [path.read_text() for path in out.iterdir()] == [MINE]


def test_a_purged_studys_model_is_still_copied(tmp_path: Path) -> None:
    """Purging keeps what was delivered, and `site model --study` reaches it; nobody else's digest does."""
    folder = tmp_path / "studies" / f"a998{'0' * 60}"
    (folder / "delivered").mkdir(parents=True)
    (folder / "delivered" / "results.json").write_text("{}")
    config: Any = SimpleNamespace(link=SimpleNamespace(state=tmp_path))
    assert site_status.copy_delivered(config, "a998", tmp_path / "out") == [tmp_path / "out" / "results.json"]
    for other in ("b", "*", None):
        with pytest.raises(SiteError):
            site_status.copy_delivered(config, other, tmp_path / "out")


def test_scores_replace_scores_alone(tmp_path: Path) -> None:
    """An earlier table of scores, and of files left out, is replaced; a label table whose column is `file` is not."""
    scores, listing = tmp_path / "s.csv", tmp_path / "s.excluded.csv"
    check_places(scores, listing)
    scores.write_text("file,exam,opacity_score,opacity_exam_score,opacity_above\n")
    listing.write_text("file,reason\n")
    check_places(scores, listing)
    for path, other in ((scores, "file,opacity\na,1\n"), (listing, "file,note\n"), (scores, "\x89PNG"), (listing, "")):
        before = path.read_text()
        path.write_text(other)
        with pytest.raises(StorageError, match="is not overwritten"):
            check_places(scores, listing)
        path.write_text(before)


def test_an_invitation_replaces_an_invitation_alone(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the folder in which the study itself was written nothing is written."""
    folder: Any = SimpleNamespace(config=tmp_path / "coordinator.toml")
    config = SimpleNamespace(sites=SimpleNamespace(names=("north",)))
    monkeypatch.setattr("server.coordinator.read_coordinator", lambda _: config)
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.toml").write_text(MINE)
    with pytest.raises(CoordinatorError, match="Name an empty one"):
        invite(folder, "north", tiny.protocol(), out)
    assert (out / "study.toml").read_text() == MINE
