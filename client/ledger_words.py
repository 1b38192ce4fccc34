"""The privacy ledger in words for a data manager, and as a file for an ethics board."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.privacy_account import Account, Statement
from shared.errors import PrivacyError
from shared.plain_text import cell
from shared.privacy import FormerPlan
from shared.storage import atomic_file, new_file

SHOWN = 12
"""Characters of a study's digest that are shown, and enough to name it."""

UNIT = """Every study draws on the same patients, so their costs add up; a patient counts in full or not at all
(adjacency: a patient added or removed, with all images). Spent budget never comes back."""


WITHOUT_LIMIT = """This hospital has set no limit over all studies ([policy] max_epsilon in site.toml): each study keeps
its own ε, and nothing is promised for several together."""


def ledger_lines(statement: Statement) -> Iterator[str]:
    """Yield what was spent, what is reserved and what is left, study by study, and what a next study may ask for."""
    if not statement.accounts:
        yield "No study with [privacy] was approved at this site: nothing is spent, and nothing is reserved."
    for account in statement.accounts:
        yield from _account_lines(statement, account)
    yield from _total_lines(statement)
    yield UNIT


def budget_lines(foreseen: Statement, account: Account) -> Iterator[str]:
    """Yield what a study that is to be approved would take of the budget, and what it would leave to others."""
    plan = account.plan
    yield (
        f"For this site, with {plan.expected_patients:,} training patients in round numbers, the plan is "
        f"{plan.rounds * plan.steps_per_round:,} steps on {plan.sample_rate:.1%} of them with a noise multiplier of "
        f"{plan.noise_multiplier:.2f}. Approving reserves all of it, and only closing the study gives back rounds that "
        "were never run."
    )
    if (limit := foreseen.limit) is None:
        yield WITHOUT_LIMIT
        return
    _, held = foreseen.share(account)
    yield (
        f"Of this hospital's budget over all studies (ε = {limit.epsilon:g} at δ = {limit.delta:g}) it takes "
        f"{held:.1%}; other studies have {max(0.0, foreseen.held_share - held):.1%}, and "
        f"{max(0.0, 1 - foreseen.held_share):.1%} would be left."
    )


def export_ledger(statement: Statement, path: Path) -> None:
    """Write the statement to a file: .json with all of it, or .csv with a row a study.

    Raises:
        PrivacyError: the file's name ends in neither.
        StorageError: something is there already, or it cannot be written.
    """
    if path.suffix not in (".json", ".csv"):
        raise PrivacyError(f"{path.name}: the ledger is exported as .json or .csv. Choose one of these endings.")
    rows = [_row(statement, account) for account in statement.accounts]
    with atomic_file(new_file(path)) as part, part.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            json.dump(_totals(statement) | {"studies": rows}, file, indent=2, ensure_ascii=False)
        else:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["study"])
            writer.writeheader()
            writer.writerows(row | {"name": cell(row["name"])} for row in rows)


def find_account(statement: Statement, beginning: str) -> Account:
    """Find the one study whose digest begins so.

    Raises:
        PrivacyError: none does, or several do.
    """
    if not statement.accounts:
        raise PrivacyError(
            "No study with [privacy] was approved at this site, so there is no account to close. "
            "Approve one with `polyclinic site approve`: it has its account from then on."
        )
    found = [account for account in statement.accounts if beginning and account.study.startswith(beginning)]
    if len(found) != 1:
        known = ", ".join(account.study[:SHOWN] for account in statement.accounts)
        raise PrivacyError(
            f"{len(found)} studies in the privacy ledger begin with {beginning!r}. Name one of these: {known}."
        )
    return found[0]


def _account_lines(statement: Statement, account: Account) -> Iterator[str]:
    spent, held = statement.share(account)
    state = f"closed on {account.closed_at[:10]}" if account.closed_at else "open"
    yield f"{account.study[:SHOWN]} “{account.name}”, {state}"
    yield (
        f"  spent: ε = {account.epsilon:.2f} at δ = {account.plan.delta:g}, in {account.rounds} of "
        f"{account.plan.rounds} rounds; the whole plan costs ε = {account.planned_epsilon:.2f}"
    )
    if isinstance(account.plan, FormerPlan):
        yield (
            f"  its clip of {account.plan.clip:g} is none that fp32 keeps to: where gradients were not clipped, more "
            "was spent than is said here. Nothing more is trained"
        )
    if account.counts.releases:
        yield f"  noised counts of validation and test patients: ε = {account.counts_epsilon:.2f} for each of these"
    if statement.limit is not None:
        reserved = "" if account.closed else f", and {held - spent:.1%} is reserved for the rounds to come"
        yield f"  of this hospital's budget: {spent:.1%} is spent{reserved}"


def _total_lines(statement: Statement) -> Iterator[str]:
    if statement.limit is None:
        yield WITHOUT_LIMIT
        return
    spent, held = statement.spent_share, statement.held_share
    yield (
        f"Budget over all studies: ε = {statement.limit.epsilon:g} at δ = {statement.limit.delta:g}. Spent "
        f"{spent:.1%} (as much as one study of ε = {statement.spent_epsilon:.2f}), reserved {held - spent:.1%}, left "
        f"{max(0.0, 1 - held):.1%}."
    )
    yield (
        f"A next study may ask for up to about ε = {statement.next_epsilon:.2f}; what it really costs is worked out "
        "when it is approved."
    )


def _totals(statement: Statement) -> dict[str, Any]:
    limit = statement.limit
    totals: dict[str, Any] = {
        "unit": "patient (one is added or removed, with all images)",
        "max_epsilon": None if limit is None else limit.epsilon,
        "max_delta": None if limit is None else limit.delta,
        "method": "fully adaptive Rényi filter of one order (Feldman and Zrnic 2021)",
        "order": None if limit is None else limit.order,
        "renyi_budget": None if limit is None else limit.budget,
    }
    if limit is not None:
        totals |= {"spent_share": statement.spent_share, "reserved_share": statement.held_share - statement.spent_share}
        totals |= {"spent_epsilon": statement.spent_epsilon, "next_epsilon": statement.next_epsilon}
    return totals


def _row(statement: Statement, account: Account) -> dict[str, Any]:
    spent, held = statement.share(account)
    with_limit = statement.limit is not None
    return {
        "study": account.study,
        "name": account.name,
        "approved_at": account.reserved_at,
        "closed_at": account.closed_at or "",
        "epsilon_spent": _finite(account.epsilon),
        "epsilon_planned": _finite(account.planned_epsilon),
        "delta": account.plan.delta,
        "accountant": account.accountant,
        "rounds_charged": account.rounds,
        "rounds_planned": account.plan.rounds,
        "counts_epsilon": account.counts_epsilon,
        "spent_share": spent if with_limit else "",
        "reserved_share": held - spent if with_limit else "",
        "sample_rate": account.plan.sample_rate,
        "noise_multiplier": account.plan.noise_multiplier,
        "clip": account.plan.clip,
        "steps_per_round": account.plan.steps_per_round,
    }


def _finite(epsilon: float) -> float | str:
    """Write what JSON has no number for as a word."""
    return epsilon if math.isfinite(epsilon) else "infinite"
