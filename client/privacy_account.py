"""What each study has promised and spent at this hospital, as values, and what is left beside the hospital's limit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.privacy import Accountant, PrivacyPlan, plan_epsilon, plan_renyi
from shared.renyi_filter import PrivacyLimit, pure_renyi
from shared.split import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPlan:
    """Noise on counts of validation and test patients: (ε, 0) for each release, of so many on one side at most."""

    epsilon: float
    releases: int


NO_COUNTS = CountPlan(epsilon=0.0, releases=0)
"""A study that releases no noised counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One study as the ledger has it, or would have it: `reserved_at` is empty before its plan is reserved.

    `charged` is the number of releases by side, rounds for training.
    """

    study: str
    name: str
    plan: PrivacyPlan
    accountant: Accountant
    counts: CountPlan = NO_COUNTS
    charged: Mapping[Split, int] = field(default_factory=lambda: dict.fromkeys(Split, 0))
    reserved_at: str = ""
    closed_at: str | None = None

    @property
    def rounds(self) -> int:
        """Rounds that were charged, whether or not they were finished."""
        return self.charged[Split.TRAIN]

    @property
    def epsilon(self) -> float:
        """The study's ε at its own δ, for the rounds that were charged."""
        return plan_epsilon(self.plan, self.accountant, rounds=self.rounds)

    @property
    def planned_epsilon(self) -> float:
        """The study's ε at its own δ, for all its rounds."""
        return plan_epsilon(self.plan, self.accountant)

    @property
    def counts_epsilon(self) -> float:
        """What the noised counts have cost a validation or test patient, (ε, 0): releases add up."""
        return self.counts.epsilon * max(self.charged[Split.VALIDATION], self.charged[Split.TEST])

    @property
    def begun(self) -> bool:
        """True once anything was charged: the plan is fixed then."""
        return any(self.charged.values())

    @property
    def closed(self) -> bool:
        """True once the study has ended here: then nothing is reserved for it any more."""
        return self.closed_at is not None

    def after(self, side: Split) -> "Account":
        """Give the account as one more release on this side leaves it."""
        return replace(self, charged={**self.charged, side: self.charged[side] + 1})

    def spent(self, order: float) -> float:
        """Give the Rényi loss of what was charged."""
        counted = max(self.charged[Split.VALIDATION], self.charged[Split.TEST])
        return self._loss(order, rounds=self.rounds, releases=counted)

    def held(self, order: float) -> float:
        """Give the Rényi loss that stands against the limit: the whole plan, until the study is closed."""
        if self.closed:
            return self.spent(order)
        return self._loss(order, rounds=self.plan.rounds, releases=self.counts.releases)

    def _loss(self, order: float, *, rounds: int, releases: int) -> float:
        trained = plan_renyi(self.plan, order, rounds=rounds)
        return max(trained, releases * pure_renyi(self.counts.epsilon, order))


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """All accounts beside the hospital's limit; shares are of the limit's budget, 1 is all of it."""

    limit: PrivacyLimit | None
    accounts: Sequence[Account]

    @property
    def spent_share(self) -> float:
        """What was charged, over all studies; 0 without a limit."""
        return sum(self.share(account)[0] for account in self.accounts)

    @property
    def held_share(self) -> float:
        """What was charged or is still reserved, over all studies; 0 without a limit."""
        return sum(self.share(account)[1] for account in self.accounts)

    @property
    def next_epsilon(self) -> float:
        """The ε at the limit's δ that a next study may ask for, with all patients in each step; inf without limit."""
        return self.limit.gaussian_epsilon(self.held_share * self.limit.budget) if self.limit else math.inf

    @property
    def spent_epsilon(self) -> float:
        """The ε of a single study, of all patients in each step, that would have cost as much; 0 without a limit."""
        return self.limit.equivalent_epsilon(self.spent_share * self.limit.budget) if self.limit else 0.0

    def share(self, account: Account) -> tuple[float, float]:
        """Give one study's shares: charged, and charged or still reserved."""
        if self.limit is None or self.limit.budget == 0:
            return 0.0, 0.0
        order = self.limit.order
        return account.spent(order) / self.limit.budget, account.held(order) / self.limit.budget
