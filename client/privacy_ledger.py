"""The privacy ledger: what this hospital has promised and spent over all studies; it refuses what it cannot pay for.

A study's whole plan is reserved when the study is approved. A round is charged, on disk, before its first step, so that
whatever kills the agent, the ledger shows at least what was spent. Rounds that were never run are given back by the
study's closure alone. Every charge also stands in the chained audit log: a ledger that lacks one of them was deleted or
replaced by an older copy, and is not trusted.

All studies are taken to touch the same patients, and their losses are added up: no study declares a public rule by
which its patients are disjoint from another's. Within a study, training, validation and test patients are disjoint by a
public rule (`shared/split.py`), so that the largest of their losses is the study's.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from client.ledger_file import OpenLedger, opened
from client.privacy_account import Account, Statement
from client.site import SiteConfig
from client.task_store import EVENT as BEGUN
from shared.audit import AuditLog, now, told
from shared.errors import PrivacyError, TaskError
from shared.privacy import FormerPlan, PrivacyPlan
from shared.private_study import LEAST_CLIP, MOST_CLIP
from shared.refusal_codes import Refusal
from shared.renyi_filter import PrivacyLimit
from shared.split import Split

EVENT = "privacy charge"

FILE = "ledger.sqlite"
"""The ledger's file, in the folder that keeps what a site must remember, beside the audit log."""

AUDIT = "audit.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyLedger:
    """The ledger of one site, in `folder` beside its audit log; several processes may use it at once.

    `limit` is the hospital's over all studies, and None if it has set none; then nothing is promised across studies.
    """

    folder: Path
    limit: PrivacyLimit | None
    clock: Callable[[], datetime] = now

    @property
    def path(self) -> Path:
        """Where the ledger is kept."""
        return self.folder / FILE

    @property
    def audited(self) -> Path:
        """The audit log that also holds each charge."""
        return self.folder / AUDIT

    def reserve(self, account: Account) -> None:
        """Reserve a study's whole plan; the same plan again changes nothing, and another one only before round 1.

        Raises:
            PrivacyError: the limit does not allow it, or the study is closed or has begun with another plan.
            StorageError: the ledger cannot be written.
        """
        with self._open() as ledger:
            if self._is_new(account, ledger.accounts()):
                ledger.write(replace(account, reserved_at=self.clock().isoformat()))

    def foresee(self, account: Account) -> Statement:
        """Say how the ledger would stand once a plan was reserved, and reserve nothing.

        Raises:
            PrivacyError: the plan would be refused.
            StorageError: the ledger cannot be read.
        """
        with self._open() as ledger:
            known = ledger.accounts()
            self._is_new(account, known)
        return Statement(limit=self.limit, accounts=tuple((known | {account.study: account}).values()))

    def charge(self, study: str, *, number: int, task_id: str, arrays: str, audit: AuditLog) -> PrivacyPlan:
        """Charge one round before its first step, and give the plan by which it must be trained.

        `arrays` is the digest of the incoming arrays. When this returns, the charge is on disk and in the audit log. A
        task that is charged already, such as a round that goes on after a kill, costs nothing more.

        Raises:
            PrivacyError: no such plan is reserved, or its rounds are used up, or the limit does not allow it.
            TaskError: the task id was charged for other arrays: its noise must not be drawn for these.
            StorageError: the charge cannot be written; the round must not be trained then.
        """
        return self._charge(study, Split.TRAIN, number=number, task_id=task_id, request=arrays, audit=audit).plan

    def charge_counts(
        self, study: str, *, side: Split, number: int, task_id: str, request: str, audit: AuditLog
    ) -> float:
        """Charge one release of a split's noised counts, before the noise is drawn, and give the release's ε.

        Raises:
            PrivacyError, TaskError, StorageError: as for a round.
        """
        if side is Split.TRAIN:
            raise PrivacyError(
                "Counts of training patients are in no privacy plan. Score the validation or test split."
            )
        return self._charge(study, side, number=number, task_id=task_id, request=request, audit=audit).counts.epsilon

    def close(self, study: str) -> None:
        """End a study's account: what was never run is free for other studies, what was run stays spent for ever.

        An account of which nothing was spent is gone, and the study can be approved anew.

        Raises:
            PrivacyError: the ledger does not know the study.
            StorageError: the ledger cannot be written.
        """
        with self._open() as ledger:
            found = ledger.account(study)
            if not found.begun:
                ledger.remove(study)
            elif not found.closed:
                ledger.close(study, at=self.clock().isoformat())

    def find(self, study: str) -> Account | None:
        """Give a study's account, if one was reserved.

        Raises:
            PrivacyError: the ledger is missing or older than the audit log.
            StorageError: it cannot be read.
        """
        with self._open() as ledger:
            return ledger.accounts().get(study)

    def refuse_older_log(self) -> None:
        """See that the audit log has what the ledger has: before an agent begins, which is the log's one writer.

        One charge may be missing, that of a task that was ended between the two; the task is refused by `TaskStore`
        if it was not begun either.

        Raises:
            PrivacyError: the log lacks several charges, or the ledger some of the log's.
            StorageError: one of them cannot be read.
        """
        known = {task for task, _ in _audited(self.audited)}
        with self._open() as ledger:
            if (lost := len(ledger.charged() - known)) > 1:
                raise PrivacyError(
                    f"{AUDIT}: {lost} of the charges in {self.path.name} are not in the audit log. It was deleted, or "
                    "replaced by an older copy, and what was asked and answered before is not known. Put the newest "
                    "copy back; no study trains here before that."
                )

    def has_charged(self, task_id: str) -> bool:
        """Tell whether a task was charged, whoever asked for it and when.

        Raises:
            PrivacyError: the ledger and the audit log do not agree.
            StorageError: it cannot be read.
        """
        with self._open() as ledger:
            return ledger.charge_of(task_id) is not None

    def statement(self) -> Statement:
        """Say what was spent and reserved, by study.

        Raises:
            PrivacyError: the ledger is missing or older than the audit log.
            StorageError: it cannot be read.
        """
        with self._open() as ledger:
            return Statement(limit=self.limit, accounts=tuple(ledger.accounts().values()))

    def _charge(self, study: str, side: Split, *, number: int, task_id: str, request: str, audit: AuditLog) -> Account:
        with self._open() as ledger:
            account = ledger.account(study)
            before = ledger.charge_of(task_id)
            if before is None:
                self._refuse_charge(account, side, list(ledger.accounts().values()))
                ledger.charge(task_id, study, side, number, request, at=self.clock().isoformat())
            elif before != (study, side, request):
                raise TaskError(
                    Refusal.ID_REUSED,
                    "this task was charged for another request, and its noise is not drawn twice. Ask the coordinator "
                    "to run the study anew, under a run id of its own.",
                )
        if (task_id, EVENT) not in _audited(self.audited):
            audit.append(EVENT, study=study, side=str(side), round=number, task=task_id, request=request)
        return account

    def _is_new(self, account: Account, known: Mapping[str, Account]) -> bool:
        """Tell whether a plan is not reserved yet, and refuse one that cannot be."""
        before = known.get(account.study)
        if before is not None:
            if before.closed:
                raise PrivacyError(
                    f"Study {account.study[:12]} is closed in the privacy ledger, and what it did not use was given "
                    "back. Ask the coordinator for a new version of the study."
                )
            if _same(before, account):
                return False
            if before.begun:
                raise PrivacyError(
                    f"Study {account.study[:12]} has begun with another privacy plan, and a plan is fixed before round "
                    "1. Keep the site's public size and limits as they were, or close the study."
                )
        self._refuse_unpayable(account, [other for study, other in known.items() if study != account.study])
        return True

    def _refuse_charge(self, account: Account, side: Split, all_accounts: Sequence[Account]) -> None:
        """Refuse a release that is not in its study's plan, or that the filter over studies does not let run."""
        if account.closed:
            raise PrivacyError(
                f"Study {account.study[:12]} is closed in the privacy ledger. Approve a new version of it."
            )
        if isinstance(account.plan, FormerPlan):
            raise PrivacyError(_unclipped(account))
        planned = account.plan.rounds if side is Split.TRAIN else account.counts.releases
        if account.charged[side] >= planned:
            raise PrivacyError(
                f"Study {account.study[:12]} has used up its privacy plan: all {planned} releases on its {side} "
                "patients are charged, and 0 are left. Plan a new version of the study with more rounds."
            )
        if self.limit is not None:
            order = self.limit.order
            spent = sum(other.spent(order) for other in all_accounts)
            if not self.limit.allows(spent - account.spent(order) + account.after(side).spent(order)):
                left = max(0.0, 1 - Statement(limit=self.limit, accounts=all_accounts).spent_share)
                raise PrivacyError(
                    f"Study {account.study[:12]} cannot pay for its next round: {left:.1%} of this hospital's privacy "
                    f"budget ({_words(self.limit)}) is left, and the round needs more. The limit was lowered after "
                    "the study's approval. Raise [policy] max_epsilon, or close the study."
                )

    def _refuse_unpayable(self, account: Account, others: Sequence[Account]) -> None:
        if isinstance(account.plan, FormerPlan):
            raise PrivacyError(_unclipped(account))
        if not math.isfinite(account.held(2.0)):
            raise PrivacyError(
                f"Study {account.study[:12]} has a privacy plan without noise. Ask for a finite epsilon."
            )
        if self.limit is None:
            return
        statement = Statement(limit=self.limit, accounts=others)
        taken = sum(other.held(self.limit.order) for other in others)
        if not self.limit.allows(account.held(self.limit.order) + taken):
            needs = account.held(self.limit.order) / self.limit.budget if self.limit.budget else math.inf
            raise PrivacyError(
                f"Study {account.study[:12]} needs {needs:.1%} of this hospital's privacy budget "
                f"({_words(self.limit)}), and {max(0.0, 1 - statement.held_share):.1%} is left. A study of up to about "
                f"ε = {statement.next_epsilon:.2f} at δ = {self.limit.delta:g} would fit. Ask for one, close a study "
                "that has ended, or raise [policy] max_epsilon."
            )

    @contextmanager
    def _open(self) -> Iterator[OpenLedger]:
        """Hold the ledger alone for one transaction, once it has all that the audit log has."""
        charged = {task for task, event in _audited(self.audited) if event == EVENT}
        with opened(self.path) as ledger:
            if missing := len(charged - ledger.charged()):
                raise PrivacyError(
                    f"{self.path.name}: {missing} of the charges in {AUDIT} are not in the privacy ledger. It was "
                    "deleted, or replaced by an older copy, and what it says is left cannot be trusted. Put the newest "
                    "copy back; no study trains here before that."
                )
            yield ledger


def ledger_of(config: SiteConfig) -> PrivacyLedger:
    """Give a hospital's ledger, with the limit that the hospital has set."""
    return PrivacyLedger(folder=config.link.state, limit=config.policy.limit)


def _audited(path: Path) -> frozenset[tuple[str, str]]:
    """List the tasks that the audit log says were begun or charged, each with which of both."""
    return frozenset((str(entry["task"]), entry["event"]) for entry in told(path) if entry["event"] in (EVENT, BEGUN))


def _same(one: Account, other: Account) -> bool:
    return (one.plan, one.accountant, one.counts) == (other.plan, other.accountant, other.counts)


def _unclipped(account: Account) -> str:
    return (
        f"Study {account.study[:12]} was planned with a clip of {account.plan.clip:g}, beside which gradients are not "
        f"clipped in fp32: a clip is from {LEAST_CLIP:g} to {MOST_CLIP:g}. What was spent stays in the ledger; nothing "
        "more is trained. Ask the coordinator for a new version of the study with such a clip."
    )


def _words(limit: PrivacyLimit) -> str:
    return f"ε = {limit.epsilon:g} at δ = {limit.delta:g} over all studies"
