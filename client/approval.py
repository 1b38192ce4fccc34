"""Which studies this hospital approved: the protocol itself, by whom, when, and what the approval pins."""

import hashlib
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field

from shared.audit import line_of
from shared.declaration import Declaration, parse, read_toml
from shared.errors import SiteError, StorageError, StudyError
from shared.invitation import CA, STUDY, Invitation, Line, read_invitation
from shared.manifest import holds_the_manifest_alone
from shared.messages import WIRE_VERSION
from shared.protocol import StudyProtocol, read_protocol
from shared.signing import is_endorsed
from shared.storage import atomic_file

RECORD = "approval.toml"
EVERYTHING = -1
"""The line beyond which all tasks lie, those of an earlier version's list too."""

SHOWN = 12
"""Characters of a digest that are shown, and that are enough to name a study."""


class ApprovalRecord(Declaration):
    """An approval as it is kept beside the protocol: the invitation that was accepted, by whom and when (UTC).

    `audit_head` is the hash of the audit log's last line when it was given, "" where an earlier version wrote it.
    """

    invitation: Invitation
    approved_by: Line
    approved_at: Annotated[str, Field(pattern=r"^[0-9T:.+-]{19,40}$")]
    weights: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    audit_head: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovedStudy:
    """A study that this hospital approved. `folder` keeps all that the agent remembers of it."""

    approval: ApprovalRecord
    protocol: StudyProtocol
    folder: Path

    @property
    def digest(self) -> str:
        """The protocol's digest: the only one that the agent answers to."""
        return self.approval.invitation.digest

    def current(self) -> "ApprovedStudy":
        """Give this study, if its approval holds in this version of Polyclinic.

        Raises:
            SiteError: it was given under an earlier version, and is to be given anew.
        """
        if not self.approval.invitation.current:
            raise SiteError(self.outdated)
        return self

    @property
    def outdated(self) -> str:
        """Say what to do about an approval of an earlier version; "" for one that holds."""
        if self.approval.invitation.current:
            return ""
        return (
            f"{self.digest[:SHOWN]} “{self.protocol.study.name}” was approved under version "
            f"{self.approval.invitation.encoding} of the encoding, and this Polyclinic speaks {WIRE_VERSION}: nothing "
            "is answered for it. Ask the coordinator for a new invitation, then run `polyclinic site approve SITE.toml "
            "FOLDER` and `polyclinic site bundle SITE.toml FOLDER --home HOME`. "
            "What was trained, released and spent stays counted."
        )

    def since(self, audit: Path) -> int:
        """Give the line of the site's audit log after which it was approved: what was begun beyond it counts.

        No time says that: a clock may have stood ahead, and was put right. EVERYTHING counts where the log has no such
        line: it is new, or another one, or an earlier version approved.

        Raises:
            StorageError: the log cannot be read, or its chain does not hold.
        """
        return line_of(audit, self.approval.audit_head) or EVERYTHING

    @property
    def when(self) -> datetime:
        """When it was approved, to be shown and to order by; nothing is counted by it."""
        return datetime.fromisoformat(self.approval.approved_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgrownApproval:
    """An earlier version's approval of a study that this version refuses: nobody is answered for it, and it is kept."""

    approval: ApprovalRecord
    fault: str

    @property
    def digest(self) -> str:
        """The digest of the study, as it was approved."""
        return self.approval.invitation.digest

    def __str__(self) -> str:
        """Say why, and what to do."""
        invitation = self.approval.invitation
        return (
            f"{self.digest[:SHOWN]} “{invitation.study}” was approved under version {invitation.encoding} of the "
            f"encoding, and this Polyclinic refuses its study: nothing is answered for it. {self.fault} Ask the "
            "coordinator for a new version of the study. What was trained, released and spent stays counted; leave its "
            "folder there."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """An invitation that holds together: the study that it names is the one in its folder.

    What is approved stands here as it was read and checked, once: others may write the folder while a person decides.
    """

    invitation: Invitation
    protocol: StudyProtocol
    ca: bytes
    folder: Path


def read_invited(folder: Path, *, site: str) -> Invited:
    """Read the folder that a coordinator sent, and check that its parts are those that the invitation names.

    Raises:
        SiteError: the invitation is for another site, or a file beside it is not the one that it names, or its bundle
            is not the manifest that this Polyclinic has too.
        StudyError: the study is wrong, or asks for what this version cannot do.
    """
    invitation = read_invitation(folder)
    invitation.refuse_another(site, folder=folder)
    protocol = read_protocol(folder / STUDY)
    if protocol.digest() != invitation.digest:
        raise SiteError(
            f"{folder}: {STUDY} is not the study that the invitation names ({invitation.digest[:SHOWN]}), or this "
            "version of Polyclinic reads it otherwise. Ask the coordinator for the invitation again, and its version."
        )
    ca = _read_bytes(folder / CA)
    if _sha256(ca) != invitation.ca:
        raise SiteError(f"{folder}: {CA} is not the one that the invitation names. Ask for the invitation again.")
    if invitation.endorsement and not is_endorsed(
        invitation.signing, by=invitation.signing_before, signature=invitation.endorsement
    ):
        raise SiteError(f"{folder}: the coordinator's earlier key has not signed the new one. Do not approve it.")
    bundles = [_read_bytes(path) for path in sorted(folder.glob("*.fab"))]
    if any(_sha256(bundle) != invitation.bundle for bundle in bundles):
        raise SiteError(f"{folder}: the courier's bundle is not the one that the invitation names. Do not install it.")
    if not all(holds_the_manifest_alone(bundle) for bundle in bundles):
        raise SiteError(
            f"{folder}: the courier's bundle is not Polyclinic's manifest without code. Do not approve the study, and "
            "ask the coordinator what it sent and by which version of Polyclinic."
        )
    return Invited(invitation=invitation, protocol=protocol, ca=ca, folder=folder)


class Approvals:
    """The approvals of one site, in a folder with one folder a study, named by its digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(
        self, invited: Invited, *, approved_by: str, weights: str, at: datetime, audit_head: str
    ) -> ApprovedStudy:
        """Pin a study's digest; an approval of the same study takes the place of an earlier one.

        Raises:
            StorageError: it cannot be written.
        """
        folder = self._folder / invited.invitation.digest
        approval = ApprovalRecord(
            invitation=invited.invitation,
            approved_by=approved_by,
            approved_at=at.isoformat(),
            weights=weights,
            audit_head=audit_head,
        )
        with atomic_file(folder / STUDY) as part:
            part.write_text(invited.protocol.to_toml(), encoding="utf-8")
        with atomic_file(folder / CA) as part:
            part.write_bytes(invited.ca)
        with atomic_file(folder / RECORD) as part:
            part.write_text(tomli_w.dumps(approval.model_dump()), encoding="utf-8")
        return ApprovedStudy(approval=approval, protocol=invited.protocol, folder=folder)

    def all(self) -> Sequence[ApprovedStudy]:
        """Give every approved study that this version reads, the latest approval first.

        Raises:
            SiteError: an approval cannot be read, or its study is not the one that was approved.
            StudyError: a study that this version's coordinator invited to is refused.
        """
        found = [study for study in self._every() if isinstance(study, ApprovedStudy)]
        return sorted(found, key=lambda study: study.when, reverse=True)

    def outgrown(self) -> Sequence[OutgrownApproval]:
        """Give the approvals of an earlier version whose studies this one refuses, by digest.

        Raises:
            SiteError, StudyError: as for `all`.
        """
        found = [study for study in self._every() if isinstance(study, OutgrownApproval)]
        return sorted(found, key=lambda one: one.digest)

    def at_least_one(self) -> Sequence[ApprovedStudy]:
        """Give every approved study, the earliest approval first.

        Raises:
            SiteError: there is none, or an approval cannot be read.
        """
        if not (found := self.all()):
            for one in self.outgrown():
                raise SiteError(str(one))
            raise SiteError("no study is approved here. `polyclinic site approve` an invitation.")
        return found[::-1]

    def stands(self, study: ApprovedStudy) -> bool:
        """Tell whether this very approval stands: it is taken back with its record, and another takes its place.

        Another may pin another key of the coordinator's, or follow a purge: no agent that was started under the one
        before answers for it.

        Raises:
            StorageError: it is there and cannot be read now, which says nothing of it.
        """
        path = self._folder / study.digest / RECORD
        try:
            record = tomllib.loads(path.read_text(encoding="utf-8"))
            return parse(record, ApprovalRecord, where=RECORD, error=SiteError) == study.approval
        except (FileNotFoundError, NotADirectoryError, SiteError, ValueError):
            return False
        except OSError as fault:
            raise StorageError(
                f"{path}: cannot be read now ({fault.strerror}). Check the disk, and open files."
            ) from None

    def pick(self, start: str | None) -> ApprovedStudy:
        """Give the study whose digest begins with `start`; without one, the only study that there is.

        Raises:
            SiteError: there is none, or there are several.
        """
        fits = [study for study in self.all() if study.digest.startswith(start or "")]
        if len(fits) == 1:
            return fits[0]
        if not fits:
            for one in self.outgrown():
                if one.digest.startswith(start or ""):
                    raise SiteError(str(one))
            which = f"no approved study's digest begins with {start!r} here" if start else "no study is approved here"
            raise SiteError(f"{which}. See `polyclinic site status`, or `approve` an invitation.")
        names = ", ".join(study.digest[:SHOWN] for study in fits)
        raise SiteError(f"several approved studies are here ({names}). Name one by the beginning of its digest.")

    def end(self, study: ApprovedStudy) -> None:
        """Take an approval back: the agent answers no task of this study any more, and its stored replies are removed.

        What limits the study stays: that tasks were begun and answered, in the audit log and, by an earlier version, in
        `tasks/tasks.jsonl`.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            (study.folder / RECORD).unlink()
            for part in ("tasks/replies", "rounds", "models", "local_norm"):
                shutil.rmtree(study.folder / part, ignore_errors=True)
            with suppress(OSError):  # it stays where it holds an earlier version's list
                (study.folder / "tasks").rmdir()
        except OSError as fault:
            raise StorageError(f"{study.folder}: cannot be removed ({fault.strerror}).") from None

    def _every(self) -> Iterator[ApprovedStudy | OutgrownApproval]:
        return (self._read(record.parent) for record in self._folder.glob(f"*/{RECORD}"))

    def _read(self, folder: Path) -> ApprovedStudy | OutgrownApproval:
        approval = read_toml(folder / RECORD, ApprovalRecord, error=SiteError)
        try:
            protocol = read_protocol(folder / STUDY)
        except StudyError as fault:
            if approval.invitation.current:
                raise
            return OutgrownApproval(approval=approval, fault=str(fault))
        if not protocol.digest() == approval.invitation.digest == folder.name:
            raise SiteError(f"{folder}: the study is not the one that was approved. Nothing is answered for it.")
        if _sha256(_read_bytes(folder / CA)) != approval.invitation.ca:
            raise SiteError(
                f"{folder}: {CA} is not the authority that was approved. Nothing is answered for it: approve the "
                "invitation again, and ask who changed the file."
            )
        return ApprovedStudy(approval=approval, protocol=protocol, folder=folder)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise SiteError(f"{path}: cannot be read ({fault.strerror}). Ask for the invitation again.") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
