"""From an invitation to an approval: what it starts from and costs here, in words; then its budget and its digest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.approval import SHOWN, Approvals, ApprovedStudy, Invited, read_invited
from client.approval_words import explain
from client.assessed import not_assessed
from client.bootstrap import site_cohort, site_records
from client.deployment import check_initial
from client.features import Progress
from client.files_there import FilesThere
from client.ledger_words import budget_lines
from client.pretrained import kept_weights, offered_weights
from client.privacy_account import Account
from client.privacy_ledger import ledger_of
from client.private_site import account_of
from client.site import SiteConfig
from client.site_audit import DEPARTURES, record_decision
from client.site_keys import ADDRESS, SiteKeys
from client.studies_together import told_together
from shared.audit import head_of, now
from shared.errors import SiteError
from shared.invitation import CA
from shared.model import build, exchanged, model_spec
from shared.protocol import StudyProtocol
from shared.split import Split
from shared.storage import atomic_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An invitation that this site could accept, in words; `weights` is the SHA-256 of the `file` that it starts from.

    `account` is what a private study would reserve of the hospital's budget.
    """

    invited: Invited
    words: Sequence[str]
    weights: str
    file: Path | None
    account: Account | None


def look_at(config: SiteConfig, folder: Path, *, weights_file: Path | None, progress: Progress) -> Offer:
    """Check an invitation in every part, and explain it; a private study's patients are counted, to know its cost.

    Raises:
        SiteError: it does not hold together, or names findings of which this site has none.
        StudyError: the study asks for what this version cannot do.
        WeightsError: the model does not start where the invitation says.
        DataError: a private study could use no image of this site.
        PrivacyError: the hospital's limit does not allow a private study's plan.
    """
    invited = read_invited(folder, site=config.site.name)
    protocol = invited.protocol
    if not set(protocol.task.targets) & set(config.data.findings):
        lines = ["[data.findings] names none of the study's findings. Add their columns, or decline."]
        raise SiteError("\n".join([*lines, *not_assessed(protocol.task.targets, config.data.findings)]))
    file = offered_weights(config, invited, given=weights_file)
    model, provenance = build(model_spec(protocol), weights_file=file)
    arrays = {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}
    check_initial(arrays, promised=invited.invitation.initial)
    widest = protocol.model.trains_from(protocol.federation.rounds)
    update = {name: arrays[name] for name in exchanged(model, widest, local_norm=protocol.federation.local_norm)}
    policy = config.policy
    account = _account(config, protocol, progress=progress)
    approved = Approvals(config.link.state / "studies").all()
    words = explain(
        invited,
        min_cell=policy.min_cell,
        update=update,
        rounds_per_day=policy.rounds_per_day,
        earlier=[study.approval.invitation for study in approved],
        together=told_together(protocol, [study.protocol for study in approved], min_cell=policy.min_cell),
        budget=budget_lines(ledger_of(config).foresee(account), account) if account else (),
    )
    told = [*words, *not_assessed(protocol.task.targets, config.data.findings)]
    return Offer(invited=invited, words=told, weights=provenance.sha256 or "", file=file, account=account)


def approve_study(config: SiteConfig, offer: Offer, *, approved_by: str) -> ApprovedStudy:
    """Reserve the privacy budget, pin the digest, give the link what it needs to call, and record who decided.

    Raises:
        PrivacyError: another study has taken what was left of the budget since `look_at`.
        StorageError: it cannot be written.
    """
    link, invitation = config.link, offer.invited.invitation
    if offer.account is not None:
        ledger_of(config).reserve(offer.account)
    if offer.file is not None:
        kept_weights(config).keep(offer.file, offer.weights)
    at = now()
    record_decision(link.state, link.syslog, "study approved", study=invitation.digest, approved_by=approved_by)
    study = Approvals(link.state / "studies").record(
        offer.invited,
        approved_by=approved_by,
        weights=offer.weights,
        at=at,
        audit_head=head_of(link.state / DEPARTURES),
    )
    FilesThere(study.folder).approved(config.data.dicom)
    _tell_the_link(SiteKeys(link.keys), study, offer.invited.ca)
    return study


def _tell_the_link(keys: SiteKeys, study: ApprovedStudy, ca: bytes) -> None:
    """Give the link the coordinator's address and authority, as they were approved.

    The same coordinator's other studies get the authority too: the newest is the one that it has now, and the link is
    not to find out by the times of files.
    """
    invitation = study.approval.invitation
    folder = keys.node.parent / invitation.digest[:SHOWN]
    with atomic_file(folder / ADDRESS) as part:
        part.write_text(invitation.address + "\n", encoding="ascii")
    for told in keys.node.parent.glob(f"*/{ADDRESS}"):
        if told.read_text(encoding="ascii").strip() == invitation.address:
            with atomic_file(told.with_name(CA)) as part:
                part.write_bytes(ca)


def _account(config: SiteConfig, protocol: StudyProtocol, *, progress: Progress) -> Account | None:
    """Count a private study's training patients here, and work out the plan that this makes.

    A study that has begun keeps the plan that it began with, however many patients there are when it is approved again.
    """
    if protocol.privacy is None:
        return None
    held = ledger_of(config).find(protocol.digest())
    if held is not None and held.begun:
        return held
    cohort = site_cohort(config, protocol, progress=progress)
    patients = site_records(cohort, content="").patients(Split.TRAIN)
    return account_of(protocol, protocol.privacy, patients=patients, limit=config.policy.limit)
