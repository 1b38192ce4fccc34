"""The privacy ledger's one sqlite file: transactions that are on the disk when they end, one at a time.

The journal is rolled back from a file and not written ahead: all that was charged is then in the one file that a backup
copies. With such a journal only `synchronous = EXTRA` keeps a commit through a loss of power, since the journal's
deletion is synced too (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from client.privacy_account import Account, CountPlan
from shared.errors import PrivacyError, StorageError
from shared.privacy import FormerPlan, PrivacyPlan
from shared.split import Split
from shared.storage import sync

BUSY_SECONDS = 60.0
"""How long one process waits while another writes."""

_TABLES = (
    """CREATE TABLE IF NOT EXISTS study (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, plan TEXT NOT NULL, accountant TEXT NOT NULL,
    count_epsilon REAL NOT NULL, count_releases INTEGER NOT NULL, reserved_at TEXT NOT NULL, closed_at TEXT) STRICT""",
    """CREATE TABLE IF NOT EXISTS charge (
    task TEXT PRIMARY KEY, study TEXT NOT NULL REFERENCES study (digest), side TEXT NOT NULL, round INTEGER NOT NULL,
    request TEXT NOT NULL, charged_at TEXT NOT NULL) STRICT""",
    """CREATE TRIGGER IF NOT EXISTS charge_stays BEFORE DELETE ON charge
    BEGIN SELECT RAISE(ABORT, 'a charge is never taken back'); END""",
    """CREATE TRIGGER IF NOT EXISTS charge_stays_as_it_is BEFORE UPDATE ON charge
    BEGIN SELECT RAISE(ABORT, 'a charge is never changed'); END""",
)


@contextmanager
def opened(path: Path) -> Iterator["OpenLedger"]:
    """Hold the ledger alone for one transaction: all of it is on the disk when the block ends well, or none of it.

    A connection lasts for one transaction, so that any thread and any process may ask.

    Raises:
        StorageError: the file cannot be read or written, or is damaged.
    """
    try:
        _make(path)
        with closing(_connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for table in _TABLES:
                    connection.execute(table)
                yield OpenLedger(connection)
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
    except (sqlite3.Error, OSError) as fault:
        raise StorageError(
            f"{path}: the privacy ledger cannot be used ({fault}). Free the disk or mend the file; nothing is trained "
            "before it can be written."
        ) from None


def _make(path: Path) -> None:
    """Make an empty file that this user alone may read, if there is none."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        sync(path.parent)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    for pragma in ("journal_mode = DELETE", "synchronous = EXTRA", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


class OpenLedger:
    """The ledger within one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def charged(self) -> frozenset[str]:
        """List the tasks that are charged."""
        return frozenset(task for (task,) in self._connection.execute("SELECT task FROM charge"))

    def accounts(self) -> dict[str, Account]:
        """Give every study's account by its digest, in the order of approval."""
        charged: dict[str, dict[Split, int]] = {}
        for study, side, count in self._connection.execute("SELECT study, side, count(*) FROM charge GROUP BY 1, 2"):
            charged.setdefault(study, dict.fromkeys(Split, 0))[Split(side)] = count
        rows = self._connection.execute(
            "SELECT digest, name, plan, accountant, count_epsilon, count_releases, reserved_at, closed_at FROM study "
            "ORDER BY reserved_at, digest"
        )
        return {row[0]: _account(row, charged.get(row[0], dict.fromkeys(Split, 0))) for row in rows}

    def account(self, study: str) -> Account:
        """Give one study's account.

        Raises:
            PrivacyError: the ledger does not know the study.
        """
        found = self.accounts().get(study)
        if found is None:
            raise PrivacyError(
                f"The privacy ledger has no plan for study {study[:12]}. Approve the study at this site first; "
                "'polyclinic site ledger' lists those that it knows."
            )
        return found

    def write(self, account: Account) -> None:
        """Write a study that has no charge yet."""
        plan = json.dumps(asdict(account.plan), sort_keys=True)
        row = (account.study, account.name, plan, account.accountant, account.counts.epsilon, account.counts.releases)
        self._connection.execute(
            "INSERT OR REPLACE INTO study VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", (*row, account.reserved_at)
        )

    def close(self, study: str, *, at: str) -> None:
        """Note that a study has ended."""
        self._connection.execute("UPDATE study SET closed_at = ? WHERE digest = ?", (at, study))

    def remove(self, study: str) -> None:
        """Forget a study of which nothing was charged."""
        self._connection.execute("DELETE FROM study WHERE digest = ?", (study,))

    def charge_of(self, task: str) -> tuple[str, str, str] | None:
        """Give the study, side and request that a task was charged for; None if it was not."""
        found = self._connection.execute("SELECT study, side, request FROM charge WHERE task = ?", (task,))
        return next(((str(study), str(side), str(request)) for study, side, request in found), None)

    def charge(self, task: str, study: str, side: Split, number: int, request: str, *, at: str) -> None:
        """Charge one release."""
        row = (task, study, str(side), number, request, at)
        self._connection.execute("INSERT INTO charge VALUES (?, ?, ?, ?, ?, ?)", row)


def _account(row: tuple[Any, ...], charged: dict[Split, int]) -> Account:
    digest, name, plan, accountant, count_epsilon, count_releases, reserved_at, closed_at = row
    return Account(
        study=digest,
        name=name,
        plan=_plan(json.loads(plan)),
        accountant=accountant,
        counts=CountPlan(epsilon=count_epsilon, releases=count_releases),
        charged=charged,
        reserved_at=reserved_at,
        closed_at=closed_at,
    )


def _plan(values: dict[str, Any]) -> PrivacyPlan:
    try:
        return PrivacyPlan(**values)
    except PrivacyError:
        return FormerPlan(**values)
