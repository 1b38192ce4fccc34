"""Files that are gone since the approval are counted and told, and a study without most of them is not answered for."""

from pathlib import Path

import pytest

from client.files_there import FilesThere, count
from shared.errors import DataError


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    folder = tmp_path / "dicom" / "2026"
    folder.mkdir(parents=True)
    for number in range(80):
        (folder / f"PATIENT{number}.dcm").write_bytes(b"")
    return tmp_path / "dicom"


def remove(dicom: Path, files: int) -> None:
    for path in sorted(dicom.rglob("*.dcm"))[:files]:
        path.unlink()


@pytest.mark.parametrize(("gone", "said"), [(1, "1 of the 80 files"), (40, "40 of the 80 files")])
def test_a_few_that_are_gone_are_told(dicom: Path, tmp_path: Path, gone: int, said: str) -> None:
    """By their number, and by no name; and again at the next start, since the approval is what counts."""
    there = FilesThere(tmp_path / "study")
    there.approved(dicom)
    remove(dicom, gone)
    for _ in range(2):
        told = there.compare(dicom)
        assert said in told
        assert "PATIENT" not in told


@pytest.mark.parametrize("gone", [41, 58, 80])
def test_without_most_of_them_nothing_is_answered(dicom: Path, tmp_path: Path, gone: int) -> None:
    """58 of 80, or all: as when a disk is not mounted."""
    there = FilesThere(tmp_path / "study")
    there.approved(dicom)
    remove(dicom, gone)
    with pytest.raises(DataError, match=f"{gone} of the 80 files"):
        there.compare(dicom)
    there.approved(dicom)  # it was approved again, as it is
    assert there.compare(dicom) == ""


def test_more_files_are_no_matter(dicom: Path, tmp_path: Path) -> None:
    """New images come all the time; and what was approved before there was a note is noted at the first start."""
    there = FilesThere(tmp_path / "study")
    assert there.compare(dicom) == ""
    (dicom / "new.dcm").write_bytes(b"")
    assert there.compare(dicom) == ""
    remove(dicom, 5)
    assert "4 of the 80 files" in there.compare(dicom)


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    """An unmounted disk, or a folder without the right to read it."""
    assert count(tmp_path / "nowhere") == 0
