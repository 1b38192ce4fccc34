"""Who was withdrawn is in no cohort any more, and the list says nobody's name."""

import ast
import hashlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.bootstrap import prepare, site_cohort
from client.cli import app
from client.patient_flow import Exclusion
from client.site_check import show_check
from client.site_keys import SiteKeys
from client.withdrawal import Withdrawals, withdrawals_of
from shared.errors import StorageError

KEY = bytes(range(32))


def test_a_withdrawn_patient_is_on_the_list_by_a_keyed_hash_alone(tmp_path: Path) -> None:
    """Neither the number nor a hash that somebody without the key could try is in the file."""
    path = tmp_path / "state" / "withdrawn.txt"
    listed = Withdrawals(path, key=KEY)
    listed.add("PAT-7")
    listed.add(" PAT-7 ")
    listed.add("PAT-8")
    assert len(path.read_text().split()) == 2
    for guess in ("PAT-7", hashlib.sha256(b"PAT-7").hexdigest()):
        assert guess not in path.read_text()
    again, other_key = Withdrawals(path, key=KEY), Withdrawals(path, key=bytes(32))
    assert again.changed()
    assert other_key.changed()
    assert ("PAT-7" in again, "PAT-8" in again, "PAT-9" in again, 7 in again) == (True, True, False, False)
    assert "PAT-7" not in other_key


def test_a_list_changes_only_when_it_is_looked_at(tmp_path: Path) -> None:
    """A cohort is built from one list from end to end; the agent learns that it must build a new one."""
    path = tmp_path / "withdrawn.txt"
    agents, staff = Withdrawals(path, key=KEY), Withdrawals(path, key=KEY)
    assert not agents.changed()
    staff.add("PAT-7")
    assert "PAT-7" not in agents
    assert agents.changed()
    assert ("PAT-7" in agents, len(agents)) == (True, 1)
    assert not agents.changed()
    path.unlink()
    assert agents.changed()
    assert "PAT-7" not in agents


def test_a_list_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Nobody is told that a patient was withdrawn who was not."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageError):
        Withdrawals(tmp_path / "state" / "withdrawn.txt", key=KEY).add("PAT-7")


def test_a_withdrawal_that_a_full_disk_cut_short_takes_none_with_it(tmp_path: Path) -> None:
    """Half a line is left: the same patient, told again, and the next one are both on the list."""
    path = tmp_path / "withdrawn.txt"
    listed = Withdrawals(path, key=KEY)
    listed.add("PAT-7")
    listed.add("PAT-8")
    path.write_bytes(path.read_bytes()[:-30])
    for patient in ("PAT-8", "PAT-9"):
        listed.add(patient)
    assert listed.changed()
    assert all(patient in listed for patient in ("PAT-7", "PAT-8", "PAT-9"))


def test_all_images_of_a_withdrawn_patient_are_left_out(hospital: Any, tiny: Any) -> None:
    """Of every exam; they are counted under a reason of their own, and all others stay on their sides."""
    for patient in range(8):
        for exam in range(2):
            hospital.image(f"{patient}-{exam}.dcm", patient=f"P{patient}", exam=f"{patient}.{exam}", seed=patient)
    hospital.labels("path,opacity", *(f"{patient}-{exam},{patient % 2}" for patient in range(8) for exam in range(2)))
    config = hospital.site(join="path", opacity="opacity")
    protocol = tiny.protocol()
    everybody = prepare(config, protocol, progress=lambda *_: None)
    without = prepare(config, protocol, progress=lambda *_: None, withdrawn={"P3"})
    paths = {image.path.name: image.split for image in everybody.cohort.images}
    left = {image.path.name: image.split for image in without.cohort.images}
    assert left == {path: split for path, split in paths.items() if not path.startswith("3-")}
    assert without.cohort.flow.counts().excluded[Exclusion.WITHDRAWN] == 2
    assert everybody.cohort.flow.counts().excluded[Exclusion.WITHDRAWN] == 0


def with_keys(hospital: Any) -> Path:
    """Give the site.toml of a hospital of four patients with two films each, which has made its keys."""
    for patient in range(4):
        for film in range(2):
            name = f"{patient}-{film}.dcm"
            hospital.image(name, patient=f"PAT {patient}", exam=f"{patient}.{film + 1}", seed=patient)
    hospital.labels("path,opacity", *(f"{patient}-{film},{patient % 2}" for patient in range(4) for film in range(2)))
    config = hospital.site(join="path", opacity="opacity")
    SiteKeys(config.link.keys).create()
    return Path(hospital.folder / "site.toml")


def withdraw(site: Path, *typed: str) -> str:
    ended = CliRunner().invoke(app, ["withdraw", str(site), *typed])
    assert ended.exit_code == 0, ended.output
    return str(ended.output)


def test_the_command_says_at_once_whether_the_patient_is_found(hospital: Any) -> None:
    """A typing error does not look like a withdrawal, nor a withdrawal like a typing error; no value is shown."""
    site = with_keys(hospital)
    found, typo = withdraw(site, "pat 2"), withdraw(site, "PAT 22")
    assert "Found here: 2 images." in found
    assert "NOT FOUND: no image of this hospital is of this patient." in typo
    assert ("Withdrawn:" in found, "Withdrawn:" in typo) == (True, False)
    assert not any("pat 2" in told.lower() for told in (found, typo))
    assert "Found here: 2 images." in withdraw(site, "PAT 2")


def test_of_two_issuers_the_command_says_that_both_are_gone(hospital: Any) -> None:
    """A bare ID takes all who have it; with its issuer it is one."""
    site = with_keys(hospital)
    for issuer in ("EAST", "WEST"):
        hospital.image(issuer, patient="8", exam=str(len(issuer)) + str(ord(issuer[0])), IssuerOfPatientID=issuer)
    assert "Found here: 1 image." in withdraw(site, "8^^^EAST")
    assert "Found here: 2 images, of 2 patients" in withdraw(site, "8")


def test_where_the_table_names_patients_these_names_are_withdrawn(hospital: Any) -> None:
    """Whatever the labels are, and beside the IDs of the files."""
    site = with_keys(hospital)
    rows = (f"{patient}-{film},maybe,Person {patient}" for patient in range(4) for film in range(2))
    hospital.labels("path,opacity,who", *rows)
    site.write_text(site.read_text().replace("[data]", '[data]\npatient_column = "who"'))
    assert "Found here: 2 images." in withdraw(site, "person 3")
    assert "Found here: 2 images." in withdraw(site, "PAT 2")
    assert "NOT FOUND" in withdraw(site, "person 33")


def test_each_command_that_reads_patients_leaves_the_withdrawn_out(
    hospital: Any, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check, approval, review and simulation prepare through one door, which reads the hospital's own list."""
    site = with_keys(hospital)
    withdraw(site, "PAT 2")
    show_check(site, None)
    assert "The patient was withdrawn from all studies" in capsys.readouterr().out
    config, protocol = hospital.site(join="path", opacity="opacity"), tiny.protocol()
    for cohort in (
        prepare(config, protocol, progress=lambda *_: None).cohort,
        site_cohort(config, protocol, progress=lambda *_: None),
    ):
        assert cohort.flow.counts().excluded[Exclusion.WITHDRAWN] == 2
    withdrawals_of(config)
    SiteKeys(config.link.keys).pseudonyms.unlink()
    with pytest.raises(StorageError):
        prepare(config, protocol, progress=lambda *_: None)


def test_there_is_no_other_door_to_the_patients() -> None:
    """A new command cannot forget the list: images are indexed, and cohorts built, in these files alone."""
    doors = {
        "build_cohort": {"client/bootstrap.py"},
        "index_images": {"client/cohort.py", "client/prediction.py", "client/withdrawing.py"},
    }
    root = Path(__file__).parents[2]
    called: dict[str, set[str]] = {name: set() for name in doors}
    for path in (path for room in ("client", "simulations", "server") for path in (root / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in called:
                called[node.func.id].add(path.relative_to(root).as_posix())
    assert called == doors
