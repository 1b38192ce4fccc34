"""From an invitation to an approval: computes where the model starts, puts the study into words, pins its digest."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.approval import SHOWN, Approvals, ApprovedStudy, Invited, read_invited
from client.approval_words import explain
from client.deployment import check_initial
from client.site import SiteConfig
from client.site_audit import record_decision
from client.site_keys import SiteKeys
from shared.audit import now
from shared.errors import SiteError
from shared.invitation import CA
from shared.model import build, exchanged, model_spec
from shared.storage import atomic_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An invitation that this site could accept, in words; `weights` is the SHA-256 of the file that it starts from."""

    invited: Invited
    words: Sequence[str]
    weights: str


def look_at(config: SiteConfig, folder: Path, *, weights_file: Path | None) -> Offer:
    """Check an invitation in every part, and explain it.

    Raises:
        SiteError: it does not hold together, or names findings of which this site has none.
        StudyError: the study asks for what this version cannot do.
        WeightsError: the model does not start where the invitation says.
    """
    invited = read_invited(folder, site=config.site.name)
    protocol = invited.protocol
    if not set(protocol.task.targets) & set(config.data.findings):
        raise SiteError("[data.findings] names none of the study's findings. Add their columns, or decline.")
    model, provenance = build(model_spec(protocol), weights_file=weights_file)
    arrays = {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}
    check_initial(arrays, promised=invited.invitation.initial)
    widest = protocol.model.trains_from(protocol.federation.rounds)
    update = {name: arrays[name] for name in exchanged(model, widest, local_norm=protocol.federation.local_norm)}
    policy = config.policy
    words = explain(invited, min_cell=policy.min_cell, update=update, rounds_per_day=policy.rounds_per_day)
    return Offer(invited=invited, words=list(words), weights=provenance.sha256 or "")


def approve_study(config: SiteConfig, offer: Offer, *, approved_by: str) -> ApprovedStudy:
    """Pin the digest, give the link what it needs to call the coordinator, and record who decided.

    Raises:
        StorageError: it cannot be written.
    """
    link, invitation = config.link, offer.invited.invitation
    at = now()
    record_decision(link.state, link.syslog, "study approved", study=invitation.digest, approved_by=approved_by)
    approvals = Approvals(link.state / "studies")
    study = approvals.record(offer.invited, approved_by=approved_by, weights=offer.weights, at=at)
    folder = SiteKeys(link.keys).node.parent / invitation.digest[:SHOWN]
    with atomic_file(folder / CA) as part:
        shutil.copyfile(study.folder / CA, part)
    with atomic_file(folder / "address") as part:
        part.write_text(invitation.address + "\n", encoding="ascii")
    return study
