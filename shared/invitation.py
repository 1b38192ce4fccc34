"""The papers that site and coordinator exchange before a study: the invitation, and the site's public keys."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self

import tomli_w
from pydantic import AfterValidator, Field, model_validator

from shared.declaration import Declaration, load_toml, parse, read_toml
from shared.errors import FederationError, SiteError
from shared.plain_text import plain
from shared.storage import atomic_file, new_file
from shared.tasks import WIRE_VERSION

INVITATION = "invitation.toml"
STUDY = "study.toml"
CA = "ca.crt"
BUNDLE = "polyclinic.fab"
WEIGHTS = "weights"
"""The files of the folder that `polyclinic coordinator invite` writes."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")]
Line = Annotated[str, Field(pattern=r"^[^\n]{1,400}$"), AfterValidator(plain)]
BEFORE_KEYS = "2"
"""The version of the encoding whose invitations did not say theirs."""

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.\[\]:-]{1,253}:[0-9]{1,5}$")]


class Invitation(Declaration):
    """What a coordinator asks a site to approve: one study, by its digest, at one address.

    `site` is the name under which the site is enrolled. `bundle` is the SHA-256 of the courier's bundle (the FAB),
    `ca` that of ca.crt. `initial` is the digest of all arrays of the model before round 1 (`parameters.digest`), which
    the agent computes for itself, and `weights` the SHA-256 of the pretrained weights file, "" where there is none.
    `encoding` is the version of what coordinator and site will speak. `signing` is the coordinator's public Ed25519 key
    in hexadecimal, by which the agent knows its tasks; `endorsement` is the word of the coordinator's key before it
    (`signing_before`), "" where there was none or it was lost. Before version 3 there were no such keys.
    """

    site: SiteName
    coordinator: Line
    address: Address
    study: Line
    digest: Sha256
    initial: Sha256
    weights: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    bundle: Sha256
    ca: Sha256
    encoding: Annotated[str, Field(pattern=r"^[0-9]{1,4}$")] = BEFORE_KEYS
    signing: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    signing_before: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    endorsement: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")] = ""

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.encoding != BEFORE_KEYS and not self.signing:
            raise ValueError("'signing' is missing: the coordinator's key, by which its tasks are known.")
        return self

    @property
    def current(self) -> bool:
        """True when it was written for the version of the encoding that this program speaks."""
        return self.encoding == WIRE_VERSION

    def refuse_another(self, site: str, *, folder: Path) -> None:
        """Refuse a site that this invitation is not for.

        Raises:
            SiteError: it is called otherwise.
        """
        if self.site != site:
            raise SiteError(
                f"{folder}: the invitation is for {self.site!r}, and this site is called {site!r}. "
                "Ask the coordinator for this site's own, or correct [site] name in site.toml."
            )


class PublicKeys(Declaration):
    """What a site gives its coordinator to be enrolled: no secret is in it.

    `node` is the SuperNode's key as a line of OpenSSH (ECDSA P-384), which Flower's SuperLink registers; `signing` the
    agent's Ed25519 key in hexadecimal, by which the coordinator knows the site's replies.
    """

    site: SiteName
    node: Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{100,400}( [!-~]{1,100})?$")]
    signing: Sha256


class Succession(Declaration):
    """A coordinator's signing key, and the one before it, with whose word, where that was at hand (else both "")."""

    key: Sha256
    before: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    endorsement: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")] = ""


def read_invitation(folder: Path) -> Invitation:
    """Read the invitation in a folder.

    Raises:
        SiteError: it is missing or not of this form, or was written for another version; every fault is named.
    """
    invitation = read_toml(folder / INVITATION, Invitation, error=SiteError)
    if not invitation.current:
        raise SiteError(
            f"{folder}: the invitation is for version {invitation.encoding} of the encoding, and this Polyclinic "
            f"speaks {WIRE_VERSION}. Ask the coordinator to invite this site again, by the version that it has."
        )
    return invitation


def read_keys(path: Path) -> PublicKeys:
    """Read a site's public keys.

    Raises:
        FederationError: they are missing or not of this form.
    """
    found = load_toml(path, error=FederationError)
    if {"digest", "coordinator"} <= found.keys():
        raise FederationError(f"{path}: this is an invitation, and not a site's public keys. {_KEYS_FILE}")
    return parse(found, PublicKeys, where=path.name, error=FederationError)


_KEYS_FILE = "Name the file that `polyclinic site keys` wrote at the site, e.g. north.keys.toml."


def place_for_keys(path: Path) -> Path:
    """Give back where public keys are to be written: over earlier ones, or where nothing is.

    Raises:
        StorageError: something else is there.
    """
    with suppress(FederationError):
        read_keys(path)
        return path
    return new_file(path)


def write_paper(paper: Invitation | PublicKeys | Succession, path: Path) -> None:
    """Write any of them as TOML; the file is there whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_file(path) as part:
        part.write_text(tomli_w.dumps(paper.model_dump()), encoding="utf-8")
