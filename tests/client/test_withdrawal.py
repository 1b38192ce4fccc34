"""Who was withdrawn is in no cohort any more, and the list says nobody's name."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from client.bootstrap import prepare
from client.patient_flow import Exclusion
from client.withdrawal import Withdrawals
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
