"""Patients who were withdrawn from all studies of this hospital, as a list of keyed pseudonyms."""

import hashlib
import hmac
from pathlib import Path

from client.identifiers import spelled
from client.site import SiteConfig
from client.site_keys import SiteKeys, read_secret
from shared.errors import StorageError
from shared.storage import append_line

LIST = "withdrawn.txt"
"""The list's name in the folder of a hospital's state."""

CANNOT_UNDO = """What this cannot undo:
- rounds that are finished: what the model learnt from this patient's images stays in it, and in updates that have left;
- figures that have left, in which the patient was counted;
- privacy budget that was spent; a study's guarantee covers the patient all the same.
Ask the coordinator to start the study anew if the model itself must be free of this patient."""


def withdrawals_of(config: SiteConfig) -> "Withdrawals":
    """Give a hospital's list, under its own key, as it is on disk.

    Raises:
        StorageError: the hospital has not made its keys, or the list cannot be read.
        SiteError: others than its owner may read them.
    """
    found = Withdrawals(config.link.state / LIST, key=read_secret(SiteKeys(config.link.keys).pseudonyms))
    found.changed()  # reads it
    return found


def withdrawn_at(config: SiteConfig) -> "Withdrawals | frozenset[str]":
    """Give a hospital's list as it is on disk; one that never made its keys has withdrawn nobody.

    Raises:
        StorageError, SiteError: as `withdrawals_of`.
    """
    if not (SiteKeys(config.link.keys).pseudonyms.exists() or (config.link.state / LIST).exists()):
        return frozenset()
    return withdrawals_of(config)


class Withdrawals:
    """A set of patients' identifiers of which only keyed hashes are kept: HMAC-SHA256 with a key that never leaves.

    An identifier is a PatientID, bare or with its issuer (`ID^^^ISSUER`), or what the label table calls a patient.

    It is what was on disk when `changed` was last called, so that a cohort is built from one list from end to end.
    """

    def __init__(self, path: Path, *, key: bytes) -> None:
        self._path = path
        self._key = key
        self._seen: tuple[int, int] | None = None
        self._listed: frozenset[str] = frozenset()

    def add(self, patient_id: str) -> None:
        """Take a patient out of all rounds that begin from now on.

        Raises:
            StorageError: the list cannot be written.
        """
        self.changed()
        if patient_id in self:
            return
        append_line(self._path, f"{self._pseudonym(spelled(patient_id))}\n".encode())

    def __contains__(self, patient_id: object) -> bool:
        """Tell whether an identifier is on the list, however it is spelled; old lines have it as it was typed."""
        if not isinstance(patient_id, str):
            return False
        return any(self._pseudonym(form) in self._listed for form in {spelled(patient_id), patient_id.strip()})

    def __len__(self) -> int:
        return len(self._listed)

    def changed(self) -> bool:
        """Tell whether the list has changed on disk since it was last looked at, and read it.

        Raises:
            StorageError: the list is there and cannot be read; then nobody may be taken for not withdrawn.
        """
        before = self._listed
        try:
            state = self._path.stat()
            if (state.st_size, state.st_mtime_ns) != self._seen:
                self._listed = frozenset(self._path.read_text(encoding="ascii").split())
                self._seen = (state.st_size, state.st_mtime_ns)
        except FileNotFoundError:
            self._listed, self._seen = frozenset(), None
        except (OSError, ValueError):
            raise StorageError(f"{self._path}: the list of withdrawn patients cannot be read. Restore it.") from None
        return self._listed != before

    def _pseudonym(self, patient_id: str) -> str:
        return hmac.new(self._key, patient_id.encode(), hashlib.sha256).hexdigest()
