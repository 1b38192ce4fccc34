"""The finished rounds of a run, as a file with a line of JSON each: for people and programs that follow it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import StorageError
from shared.storage import atomic_file

FILE = "rounds.jsonl"
"""Its name in the folder of a run, or of a baseline."""


def write_rounds(folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records of all finished rounds.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with atomic_file(folder / FILE) as part:
        part.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read_rounds(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """Give the records of the rounds that are finished so far.

    Raises:
        StorageError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return ()
    try:
        return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        raise StorageError(f"{path} cannot be read. The next finished round writes it anew.") from None
