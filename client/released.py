"""What has left a site in one study, as far as later releases depend on it: durably, and at the site alone."""

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.joint_disclosure import ReleasedSet
from shared.errors import StorageError
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.storage import append_line, private_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Remembers a study's first patient flow and whose sizes left, in a folder that no command removes.

    Patients are kept as keyed hashes: `key` is the site's, and never leaves. `patients` are those of the cohort that
    the agent works on now; who was among them when the flow left first takes part in the study, and nobody else does.
    The coordinator holds all that this site says against that flow (server/site_bounds.py): an archive that grows
    would make honest counts too large.
    """

    folder: Path
    key: bytes = field(repr=False)
    patients: frozenset[int] = field(default=frozenset(), repr=False)

    def token(self, patient: int) -> int:
        """Give what stands for a patient: 63 bits of a keyed hash."""
        known = hmac.new(self.key, f"released {patient}".encode(), hashlib.sha256).digest()
        return int.from_bytes(known[:8], "big") >> 1

    def flow(self, flow: ReleasedFlow) -> ReleasedFlow:
        """Give the flow that left first; if none has, this one is it from now on, before it leaves.

        Raises:
            StorageError: it cannot be read or written; then none may leave.
        """
        path = self.folder / "flow.json"
        try:
            return ReleasedFlow.from_numbers(json.loads(path.read_text(encoding="ascii")))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            raise StorageError(f"{path}: what left first cannot be read as it was written. Restore it.") from None
        if self.patients:  # before the flow: where it is, so is who is in it
            with private_file(self._cohort) as part:
                part.write_text(json.dumps(sorted(map(self.token, self.patients))), encoding="ascii")
        with private_file(path) as part:
            part.write_text(json.dumps(flow.to_numbers()), encoding="ascii")
        return flow

    def takes_part(self) -> Callable[[int], bool]:
        """Tell who may take part: all before a flow left, and where an earlier version let it leave without a list.

        Raises:
            StorageError: the list cannot be read; then the study cannot go on here.
        """
        try:
            told = frozenset(map(int, json.loads(self._cohort.read_text(encoding="ascii"))))
        except FileNotFoundError:
            return lambda _: True
        except (OSError, ValueError, TypeError):
            raise StorageError(f"{self._cohort}: who takes part cannot be read. Restore it.") from None
        return lambda patient: self.token(patient) in told

    @property
    def _cohort(self) -> Path:
        return self.folder / "cohort.json"

    def sets(self, split: Split) -> Sequence[ReleasedSet]:
        """Give the groups of a split that have left.

        Raises:
            StorageError: they cannot be read; then no group may leave.
        """
        path = self._sets(split)
        try:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            found = [json.loads(line) for line in lines if line.endswith(b"\n")]  # a last line that was cut left nobody
            return [ReleasedSet(**one | {"patients": frozenset(one["patients"])}) for one in found]
        except (OSError, ValueError, KeyError, TypeError):
            raise StorageError(f"{path}: what has left cannot be read as it was written. Restore it.") from None

    def remember(self, split: Split, sets: Sequence[ReleasedSet]) -> None:
        """Add groups that are about to leave; it is on the disk before they do.

        Raises:
            StorageError: it cannot be written; then they may not leave.
        """
        known = set(self.sets(split))
        for one in sets:
            if one not in known:
                words = {
                    "finding": one.finding,
                    "axis": one.axis,
                    "group": one.group,
                    "positive": one.positive,
                    "units": one.units,
                    "patients": sorted(one.patients),
                }
                append_line(self._sets(split), json.dumps(words).encode() + b"\n")

    def _sets(self, split: Split) -> Path:
        return self.folder / f"{split}.jsonl"
