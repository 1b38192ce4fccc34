"""Keys that were taken back: a list that only grows, so that none of them is ever taken in again, from any site."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from shared.errors import CoordinatorError
from shared.storage import append_line

Kind = Literal["node", "signing"]
Why = Literal["revoked", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentKey:
    """One public key, in hexadecimal, the site that had it, and why it has it no more."""

    kind: Kind
    key: str
    site: str
    why: Why


class SpentKeys:
    """The list's file, a line of JSON a key."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> dict[str, SpentKey]:
        """Read all, by key.

        Raises:
            CoordinatorError: the file is damaged.
        """
        if not self._file.exists():
            return {}
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
            return {one.key: one for one in (SpentKey(**json.loads(line)) for line in lines)}
        except (ValueError, TypeError):
            raise CoordinatorError(
                f"{self._file}: damaged. Restore it from a backup: no key is taken in before."
            ) from None

    def add(self, keys: Iterable[SpentKey]) -> None:
        """Add keys; one that stands there already is not written again.

        Raises:
            CoordinatorError: the file is damaged.
            StorageError: it cannot be written.
        """
        known = self.read()
        for one in keys:
            if one.key not in known:
                append_line(self._file, json.dumps(asdict(one)).encode() + b"\n")
