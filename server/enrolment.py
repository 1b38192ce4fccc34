"""The coordinator's records of its sites: whose keys are known, and which were revoked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field

from server.fleet import Fleet, node_key
from shared.declaration import Declaration, read_toml
from shared.errors import CoordinatorError
from shared.invitation import PublicKeys
from shared.storage import atomic_file


class SiteRecord(Declaration):
    """One site: its public keys, the node id that the SuperLink gave its link, and whether they were revoked."""

    keys: PublicKeys
    node_id: Annotated[int, Field(ge=0)] = 0
    revoked: bool = False


class Register:
    """The folder with one record a site. It is the truth; what the SuperLink knows is made to agree with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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
        records, wanted = self.records(), list(sites)
        absent = [site for site in wanted if site not in records or records[site].revoked]
        if absent:
            raise CoordinatorError(
                f"not enrolled: {', '.join(absent)}. `polyclinic coordinator invite` each of them and `enroll` "
                "the keys that it sends back, or take its name out of [sites] names in coordinator.toml."
            )
        return {site: records[site] for site in wanted}

    def enroll(self, keys: PublicKeys, fleet: Fleet) -> str:
        """Take in a site's keys, in place of those that it had before; say what was done.

        Raises:
            CoordinatorError: the keys cannot be read, were revoked before, or belong to another site.
            FederationError: the SuperLink does not answer.
        """
        key, before = node_key(keys.node), self.records().get(keys.site)
        for site, record in self.records().items():
            if site != keys.site and keys.signing == record.keys.signing:
                raise CoordinatorError(f"{keys.site}: this signing key is {site}'s. Each site needs keys of its own.")
        known = {node.public_key: node.node_id for node in fleet.nodes()}
        node_id = known[key] if key in known else fleet.register(key, keys.site)
        if before and node_key(before.keys.node) != key:
            self._forget(before, fleet)
        self._write(SiteRecord(keys=keys, node_id=node_id))
        return "enrolled" if before is None else "enrolled with new keys"

    def revoke(self, site: str, fleet: Fleet) -> None:
        """Take a site's keys back; its link is refused at once, and the same keys cannot be enrolled again.

        Raises:
            CoordinatorError: no such site is enrolled.
            FederationError: the SuperLink does not answer.
        """
        if (record := self.records().get(site)) is None:
            raise CoordinatorError(
                f"{site}: no such site is enrolled. Enrolled: {', '.join(self.records()) or 'none'}."
            )
        self._forget(record, fleet)
        self._write(record.model_copy(update={"revoked": True}))

    def reconcile(self, fleet: Fleet) -> None:
        """Make the SuperLink know exactly the keys that are enrolled: after a restore it knows none.

        Raises:
            CoordinatorError: a record is damaged, or the SuperLink refuses a key.
            FederationError: the SuperLink does not answer.
        """
        known = {node.public_key: node.node_id for node in fleet.nodes()}
        wanted = {node_key(record.keys.node): record for record in self.records().values() if not record.revoked}
        for key, node_id in known.items():
            if key not in wanted:
                fleet.unregister(node_id)
        for key, record in wanted.items():
            node_id = known[key] if key in known else fleet.register(key, record.keys.site)
            if node_id != record.node_id:
                self._write(record.model_copy(update={"node_id": node_id}))

    def _forget(self, record: SiteRecord, fleet: Fleet) -> None:
        key = node_key(record.keys.node)
        for node in fleet.nodes():
            if node.public_key == key:
                fleet.unregister(node.node_id)

    def _write(self, record: SiteRecord) -> None:
        with atomic_file(self._folder / f"{record.keys.site}.toml") as part:
            part.write_text(tomli_w.dumps(record.model_dump()), encoding="utf-8")
