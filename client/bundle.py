"""Installs the approved bundle where the courier finds it and cannot change it: any other then dies before it runs."""

import hashlib
import os
from pathlib import Path

from click import ClickException
from flwr.cli.install import install_from_fab

from shared.errors import SiteError, StorageError
from shared.invitation import BUNDLE, read_invitation
from shared.manifest import holds_the_manifest_alone


def install_invited(invitation: Path, home: Path, *, site: str) -> Path:
    """Install the bundle of an invitation's folder below `home`, the courier's FLWR_HOME, and give its place.

    Raises:
        SiteError: the invitation is for another site, or the bundle is not the one that it names, or is no manifest.
        StorageError: it cannot be read or written.
    """
    invited = read_invitation(invitation)
    invited.refuse_another(site, folder=invitation)
    try:
        bundle = (invitation / BUNDLE).read_bytes()
    except OSError as fault:
        raise StorageError(
            f"{invitation / BUNDLE}: cannot be read ({fault.strerror}). Ask the coordinator for the whole folder again."
        ) from None
    if hashlib.sha256(bundle).hexdigest() != invited.bundle:
        raise SiteError(f"{invitation / BUNDLE}: is not the bundle that the invitation names. Nothing was installed.")
    return install_bundle(bundle, home)


def install_bundle(bundle: bytes, home: Path) -> Path:
    """Install a bundle below `home`, and take the right to write it from everybody.

    Flower takes the place from what the bundle says of itself, and the courier would load the code that it names: so
    nothing is unpacked but the manifest that this Polyclinic has too.

    Raises:
        SiteError: it is not that manifest.
        StorageError: the folder cannot be written, or the bundle is none.
    """
    if not holds_the_manifest_alone(bundle):
        raise SiteError(
            "the bundle is not Polyclinic's manifest without code. Nothing was installed: do not take part, and ask "
            "the coordinator what it sent and by which version of Polyclinic."
        )
    before = os.environ.get("FLWR_HOME")
    os.environ["FLWR_HOME"] = str(home.resolve())
    try:
        home.mkdir(parents=True, exist_ok=True)
        place = install_from_fab(bundle, skip_prompt=True)
    except (OSError, ClickException) as fault:
        raise StorageError(f"{home}: the bundle cannot be installed there ({fault}). Choose another --home.") from None
    finally:
        if before is None:
            del os.environ["FLWR_HOME"]
        else:
            os.environ["FLWR_HOME"] = before
    for path in [home / "apps", *(home / "apps").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return Path(place)
