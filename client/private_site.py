"""Composes what [privacy] needs at one site: the frozen plan, the ledger that pays for it, and what may leave."""

from dataclasses import dataclass, field

from client.count_release import CountRelease
from client.privacy_account import Account, CountPlan
from client.privacy_ledger import PrivacyLedger
from client.private_release import PrivateRelease
from client.private_training import PrivateTraining
from client.site_data import Records
from client.task_store import request_digest
from shared.audit import AuditLog
from shared.errors import PrivacyError, SiteError
from shared.messages import EvaluateTask, TrainTask
from shared.parameters import digest
from shared.privacy import PrivacyPlan, rounded_size
from shared.protocol import Privacy, StudyProtocol
from shared.renyi_filter import PrivacyLimit
from shared.split import Split
from shared.study_plan import count_releases, study_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """What a site keeps for private studies: the secret that its noise is drawn of, its ledger, and its audit log.

    The ledger lies beside the audit log, and both are of the whole site; in simulation, of one run.
    With `reserves` a study that has no account gets one when its agent is made: in simulation, where nobody approves.
    """

    key: bytes = field(repr=False)
    ledger: PrivacyLedger
    audit: AuditLog
    reserves: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSite:
    """A site's side of [privacy]: how it trains, and what of its replies may leave."""

    training: PrivateTraining
    release: PrivateRelease


def account_of(protocol: StudyProtocol, asked: Privacy, *, patients: int, limit: PrivacyLimit | None) -> Account:
    """Work out what a private study would ask of a site with so many training patients; nothing is reserved by it.

    Raises:
        PrivacyError: no noise keeps the study's budget.
    """
    size = rounded_size(patients, rounding=asked.size_rounding)
    return Account(
        study=protocol.digest(),
        name=protocol.study.name,
        plan=study_plan(protocol, public_size=size, limit=limit),
        accountant=asked.accountant,
        counts=CountPlan(epsilon=asked.count_noise_epsilon, releases=count_releases(protocol)),
    )


def compose_private(
    protocol: StudyProtocol, *, records: Records, min_patients: int, vault: Vault | None
) -> PrivateSite | None:
    """Put all together under the plan that the site's ledger has for the study; in simulation it is reserved now.

    The plan that was reserved first holds, at a deployed site by its approval, whatever number of training patients
    there is now: it was fixed before round 1. None without [privacy].

    Raises:
        SiteError: the site has no noise key and ledger.
        PrivacyError: nothing is reserved for the study, or the hospital's limit does not allow the plan, or ledger and
            audit log do not agree.
    """
    if protocol.privacy is None:
        return None
    if vault is None:
        raise SiteError(
            "This study has [privacy], and the site has neither a noise key nor a ledger. Make them with `polyclinic "
            "site init`, and start the agent again."
        )
    ledger = vault.ledger
    ledger.refuse_older_log()
    study = protocol.digest()
    account = ledger.find(study)
    if account is None and not vault.reserves:
        raise PrivacyError(
            f"Study {study[:12]} has no account in the privacy ledger: it was closed before anything was spent. "
            "Approve the study anew (site approve), which reserves its plan."
        )
    if account is None:
        account = account_of(protocol, protocol.privacy, patients=records.patients(Split.TRAIN), limit=ledger.limit)
        ledger.reserve(account)
    plan = account.plan

    def pay(task: TrainTask) -> PrivacyPlan:
        header = task.header
        return ledger.charge(
            study, number=header.round, task_id=header.task_id, arrays=digest(task.arrays), audit=vault.audit
        )

    def pay_counts(task: EvaluateTask) -> float:
        header = task.header
        return ledger.charge_counts(
            study,
            side=task.split,
            number=header.round,
            task_id=header.task_id,
            request=request_digest(task),
            audit=vault.audit,
        )

    noised = protocol.privacy.count_noise_epsilon > 0
    counts = CountRelease(
        pay=pay_counts,
        key=vault.key,
        confidence=protocol.evaluation.confidence,
        data=records.digest(),
        targets=len(protocol.task.targets),
    )
    return PrivateSite(
        training=PrivateTraining(plan=plan, pay=pay, key=vault.key, min_patients=min_patients),
        release=PrivateRelease(
            public_size=plan.expected_patients,
            images_a_round=plan.sample_rate * plan.expected_patients * plan.steps_per_round * plan.images_per_patient,
            counts=counts if noised else None,
        ),
    )
