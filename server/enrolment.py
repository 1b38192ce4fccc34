"""The coordinator's records of its sites: whose keys are known, and which were revoked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field

from server.fleet import Fleet, node_key
from server.spent_keys import Kind, SpentKey, SpentKeys, Why
from shared.declaration import Declaration, read_toml
from shared.errors import CoordinatorError
from shared.fingerprints import keys_line
from shared.invitation import PublicKeys
from shared.storage import atomic_file

SPENT = "spent_keys.jsonl"
"""Beside the records: the keys that no site may have any more."""


class SiteRecord(Declaration):
    """One site: its public keys, the node id that the SuperLink gave its link, and whether they were revoked."""

    keys: PublicKeys
    node_id: Annotated[int, Field(ge=0)] = 0
    revoked: bool = False


class Register:
    """The folder with one record a site. It is the truth; what the SuperLink knows is made to agree with it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._spent = folder, SpentKeys(folder / SPENT)

    def records(self) -> dict[str, SiteRecord]:
        """Read all records, by site.

        Raises:
            CoordinatorError: a record is damaged.
        """
        files = sorted(self._folder.glob("*.toml"))
        return {file.stem: read_toml(file, SiteRecord, error=CoordinatorError) for file in files}

    def of(self, sites: Iterable[str]) -> dict[str, SiteRecord]:
        """Read the records of these sites.

        Raises:
            CoordinatorError: one of them is not enrolled, or its keys are revoked.
        """
        records, wanted = self._enrolled(), list(sites)
        absent = [site for site in wanted if site not in records]
        if absent:
            gone = [site for site in absent if site in self.records()]
            anew = (
                f" {', '.join(gone)}: revoked, and makes new keys first (`polyclinic site keys --rotate`)."
                if gone
                else ""
            )
            raise CoordinatorError(
                f"not enrolled: {', '.join(absent)}. `polyclinic coordinator invite` each of them and `enroll` "
                f"the keys that it sends back, or take its name out of [sites] names in coordinator.toml.{anew}"
            )
        return {site: records[site] for site in wanted}

    def enroll(self, keys: PublicKeys, fleet: Fleet, *, replace: str | None = None) -> str:
        """Take in a site's keys; say what was done. `replace` names the site whose keys may give way to them.

        Raises:
            CoordinatorError: the keys cannot be read, were taken back before, or belong to another site; or the site
                is enrolled with others, and nobody named it.
            FederationError: the SuperLink does not answer.
        """
        key, before = node_key(keys.node), self.records().get(keys.site)
        self._check(keys)
        self._check_name(keys, replace)
        known = {node.public_key: node.node_id for node in fleet.nodes()}
        node_id = known[key] if key in known else fleet.register(key, keys.site)
        if before:
            gone = {kind: old for kind, old in _by_kind(before.keys).items() if old not in _by_kind(keys).values()}
            self._spend(gone, keys.site, "replaced")
        self._write(SiteRecord(keys=keys, node_id=node_id))
        if before and node_key(before.keys.node) != key:
            self._forget(before, fleet)
        if before is None:
            return "enrolled"
        return (
            "these keys are enrolled already" if _by_kind(before.keys) == _by_kind(keys) else "enrolled with new keys"
        )

    def revoke(self, site: str, fleet: Fleet) -> None:
        """Take a site's keys back; its link is refused at once, and neither key is ever taken in again.

        Raises:
            CoordinatorError: no such site is enrolled.
            FederationError: the SuperLink does not answer.
        """
        if (record := self.records().get(site)) is None:
            raise CoordinatorError(
                f"{site}: no such site is enrolled. Enrolled: {', '.join(self.records()) or 'none'}."
            )
        self._spend(_by_kind(record.keys), site, "revoked")
        self._write(record.model_copy(update={"revoked": True}))
        self._forget(record, fleet)

    def reconcile(self, fleet: Fleet) -> None:
        """Make the SuperLink know exactly the keys that are enrolled: after a restore it knows none.

        Raises:
            CoordinatorError: a record is damaged, or the SuperLink refuses a key.
            FederationError: the SuperLink does not answer.
        """
        known = {node.public_key: node.node_id for node in fleet.nodes()}
        wanted = {node_key(record.keys.node): record for record in self._enrolled().values()}
        for key, node_id in known.items():
            if key not in wanted:
                fleet.unregister(node_id)
        for key, record in wanted.items():
            node_id = known[key] if key in known else fleet.register(key, record.keys.site)
            if node_id != record.node_id:
                self._write(record.model_copy(update={"node_id": node_id}))

    def _enrolled(self) -> dict[str, SiteRecord]:
        """Read the records of those who may take part: neither is revoked, nor is a key of theirs spent."""
        spent = self._spent.read()
        return {
            site: record
            for site, record in self.records().items()
            if not record.revoked and not spent.keys() & set(_by_kind(record.keys).values())
        }

    def _check(self, keys: PublicKeys) -> None:
        """Compare both keys with all that any site has, or ever had.

        Raises:
            CoordinatorError: one of them is known, and not as this site's own.
        """
        spent = self._spent.read()
        for site, record in self.records().items():
            if record.revoked:  # as older versions kept it
                spent |= {
                    key: SpentKey(kind=kind, key=key, site=site, why="revoked")
                    for kind, key in _by_kind(record.keys).items()
                }
        for kind, key in _by_kind(keys).items():
            if key in spent:
                raise CoordinatorError(
                    f"{keys.site}: this {kind} key was {spent[key].why}, as a key of {spent[key].site}. A key that was "
                    "revoked stays so: ask for new ones (`polyclinic site keys --rotate`)."
                )
            for site, record in self.records().items():
                if site != keys.site and key in _by_kind(record.keys).values():
                    raise CoordinatorError(
                        f"{keys.site}: this {kind} key is {site}'s. Each site needs keys of its own."
                    )

    def _check_name(self, keys: PublicKeys, replace: str | None) -> None:
        """Let no file choose whose keys it replaces: the name in it is whatever its sender wrote.

        Raises:
            CoordinatorError: another site was named, or none, and the one in the file is enrolled with other keys.
        """
        site = keys.site
        if replace not in (None, site):
            raise CoordinatorError(
                f"--replace names {replace}, and the file says that it holds {site}'s keys. Nothing was changed. Ask "
                f"whoever sent it whose keys they are; {replace}'s are in the file that `polyclinic site keys` writes "
                "there."
            )
        enrolled = self._enrolled().get(site)
        if enrolled is None or replace == site or _by_kind(enrolled.keys) == _by_kind(keys):
            return
        raise CoordinatorError(
            f"The file says that it holds {site}'s keys, and {site} is enrolled with others. Nothing was changed.\n"
            f"In the file: {keys_line(keys)}\n"
            f"Enrolled: {keys_line(enrolled.keys)}\n"
            f"Ask {site} by telephone whether it drew new keys, and what `polyclinic site keys` prints there. If that "
            f"is the file's line, give the same command with `--replace {site}`; the old keys are then spent for ever. "
            f"If not, the file is not {site}'s: leave it, and ask whoever sent it."
        )

    def _spend(self, keys: dict[Kind, str], site: str, why: Why) -> None:
        """Note keys that a site has no more; one that another site has, as older versions let it, stays that one's."""
        others = [record for name, record in self._enrolled().items() if name != site]
        theirs = {key for record in others for key in _by_kind(record.keys).values()}
        self._spent.add(
            SpentKey(kind=kind, key=key, site=site, why=why) for kind, key in keys.items() if key not in theirs
        )

    def _forget(self, record: SiteRecord, fleet: Fleet) -> None:
        """Let the SuperLink forget a record's node, unless it is the node of a site that is enrolled."""
        key = node_key(record.keys.node)
        if key in {node_key(other.keys.node) for other in self._enrolled().values()}:
            return
        for node in fleet.nodes():
            if node.public_key == key:
                fleet.unregister(node.node_id)

    def _write(self, record: SiteRecord) -> None:
        with atomic_file(self._folder / f"{record.keys.site}.toml") as part:
            part.write_text(tomli_w.dumps(record.model_dump()), encoding="utf-8")


def _by_kind(keys: PublicKeys) -> dict[Kind, str]:
    """Give both keys in the form in which they are compared: the node's without what stands beside it on its line."""
    return {"node": node_key(keys.node).hex(), "signing": keys.signing}
