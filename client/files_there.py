"""How many files were in [data] dicom when a study was approved, and how many are there at a start."""

import json
import os
from pathlib import Path

from shared.amounts import counted
from shared.errors import DataError
from shared.storage import atomic_file

LEAST = 0.5
"""The share of the approved files below which nothing is answered: that is a disk that is not mounted."""


class FilesThere:
    """Remembers a number of files for one study, and nothing else of them."""

    def __init__(self, folder: Path) -> None:
        self._note = folder / "files_there.json"

    def approved(self, dicom: Path) -> None:
        """Note what is there when the study is approved.

        Raises:
            StorageError: it cannot be written.
        """
        with atomic_file(self._note) as part:
            part.write_text(json.dumps({"files": count(dicom)}), encoding="ascii")

    def compare(self, dicom: Path) -> str:
        """Say what is missing at a start, "" for nothing; a study that an earlier version approved is noted now.

        Raises:
            DataError: more than half of what was approved is gone.
            StorageError: the note cannot be written.
        """
        before = self._before()
        if before is None:
            self.approved(dicom)
            return ""
        here = count(dicom)
        if here >= before:
            return ""
        was = counted(before, "file")
        gone = f"{before - here:,} of the {was} that were in [data] dicom at the approval are not there"
        if here < LEAST * before:
            raise DataError(
                f"{gone}. Mount the disk, or bring them back. If they are gone for good, approve the study again: what "
                "it computes here has changed."
            )
        return f"WARNING: {gone}. Are they meant to be gone?"

    def _before(self) -> int | None:
        try:
            return int(json.loads(self._note.read_text(encoding="ascii"))["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def count(dicom: Path) -> int:
    """Count the files in a folder and below it; those of a folder that cannot be read are not there."""
    return sum(len(names) for _, _, names in os.walk(dicom))
