"""What a coordinator does outside of a run: make its folder, invite sites, take in their keys, start and stop runs."""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w

from server.bootstrap import compose
from server.bundle import build_bundle, bundle_digest
from server.certificates import make_authority, make_server
from server.coordinator_config import CoordinatorConfig, read_coordinator
from server.coordinator_folder import CoordinatorFolder
from server.coordinator_key import coordinator_key, draw_key, succession_of
from server.enrolment import Register
from server.fleet import Fleet
from server.run_folder import RunFolder, open_run
from server.study_weights import find_weights, keep_weights
from shared.audit import AuditLog
from shared.declaration import parse
from shared.errors import CoordinatorError
from shared.invitation import BUNDLE, CA, INVITATION, STUDY, WEIGHTS, Invitation, PublicKeys, Succession, write_paper
from shared.kept_weights import copy_checked
from shared.messages import WIRE_VERSION
from shared.parameters import digest
from shared.protocol import StudyProtocol
from shared.storage import atomic_file, private_file, private_folder


def make_folder(folder: CoordinatorFolder, settings: dict[str, Any], *, now: datetime) -> CoordinatorConfig:
    """Make a coordinator's folder: its settings, its authority, its server certificate and its secret.

    Raises:
        CoordinatorError: there is a coordinator already, or a setting is wrong.
        StorageError: the folder cannot be written.
    """
    if folder.config.exists():
        raise CoordinatorError(f"{folder.path} holds a coordinator already. Choose another --folder.")
    config = parse(settings, CoordinatorConfig, where="init", error=CoordinatorError)
    ca_key, ca = make_authority(config.address.called, now=now)
    _keep_private(folder.ca_key, ca_key)
    _keep(folder.ca, ca)
    renew_server(folder, config, now=now)
    for secret in (folder.secret, folder.control_secret):
        _keep_private(secret, secrets.token_hex(32).encode())
    _keep(folder.bundle, build_bundle())
    draw_key(folder)
    _keep(folder.config, tomli_w.dumps(settings).encode())
    AuditLog(folder.audit).append("coordinator made", host=config.address.host)
    return config


def renew_server(folder: CoordinatorFolder, config: CoordinatorConfig, *, now: datetime) -> None:
    """Make a new server key and certificate; sites trust the authority, and need to do nothing.

    Raises:
        CoordinatorError: the authority's key cannot be read.
    """
    try:
        ca_key, ca = folder.ca_key.read_bytes(), folder.ca.read_bytes()
    except OSError as fault:
        raise CoordinatorError(f"{fault.filename}: cannot be read. Restore it from a backup.") from None
    key, certificate = make_server(ca_key, ca, config.address.host, now=now)
    _keep_private(folder.server_key, key)
    _keep(folder.server_certificate, certificate)


def new_key(folder: CoordinatorFolder) -> Succession:
    """Draw a new key to sign tasks with; sites refuse them until they have approved a new invitation.

    Raises:
        CoordinatorError: there is no coordinator.
    """
    if not folder.config.exists():
        raise CoordinatorError(f"{folder.path} holds no coordinator. Name its folder with --folder.")
    drawn = draw_key(folder)
    AuditLog(folder.audit).append("signing key drawn", key=drawn.key, before=drawn.before)
    return drawn


def invite(
    folder: CoordinatorFolder, site: str, protocol: StudyProtocol, out: Path, *, weights: Path | None = None
) -> Invitation:
    """Write the folder that a site gets: study, invitation, certificate, bundle, and the weights that it starts from.

    An earlier invitation in the folder is replaced.

    Raises:
        CoordinatorError: the site is not in coordinator.toml, there is no key to sign tasks with, or the folder holds
            something else.
        WeightsError: the pretrained weights are missing or contradict the study.
    """
    config = read_coordinator(folder.config)
    if site not in config.sites.names:
        raise CoordinatorError(f"{site}: not in [sites] names of {folder.config}. Add it there, and invite it again.")
    if out.is_dir() and any(out.iterdir()) and not (out / INVITATION).exists():
        raise CoordinatorError(f"{out}: this folder holds something that is no invitation. Name an empty one: --out.")
    keys = succession_of(folder)
    _keep(folder.bundle, build_bundle())  # an older version's names another encoding
    file = find_weights(folder, config, protocol, given=weights)
    coordinator, _ = compose(protocol, weights_file=file)
    bundle, ca = folder.bundle.read_bytes(), folder.ca.read_bytes()
    if file is not None:
        file = keep_weights(folder, protocol, file)
    invitation = Invitation(
        site=site,
        coordinator=config.address.called,
        address=f"{config.address.host}:{config.address.port}",
        study=protocol.study.name,
        digest=protocol.digest(),
        initial=digest(coordinator.initial),
        weights=coordinator.provenance.sha256 or "",
        bundle=bundle_digest(bundle),
        ca=hashlib.sha256(ca).hexdigest(),
        encoding=WIRE_VERSION,
        signing=keys.key,
        signing_before=keys.before,
        endorsement=keys.endorsement,
    )
    _keep(out / STUDY, protocol.to_toml().encode())
    _keep(out / CA, ca)
    _keep(out / BUNDLE, bundle)
    if file is not None:
        with atomic_file(out / WEIGHTS) as part:
            copy_checked(file, part, invitation.weights)
    write_paper(invitation, out / INVITATION)
    AuditLog(folder.audit).append("invited", site=site, protocol=invitation.digest)
    return invitation


def enroll(folder: CoordinatorFolder, keys: PublicKeys, fleet: Fleet, *, replace: str | None = None) -> str:
    """Take in a site's public keys; those of a site that is enrolled already give way only where `replace` names it.

    Raises:
        CoordinatorError: the site is not in coordinator.toml, its keys cannot be used, or it has others.
    """
    if keys.site not in read_coordinator(folder.config).sites.names:
        raise CoordinatorError(f"{keys.site}: not in [sites] names of {folder.config}. Add it there first.")
    done = Register(folder.sites).enroll(keys, fleet, replace=replace)
    AuditLog(folder.audit).append(done, site=keys.site, node=keys.node.split()[1], signing=keys.signing)
    return done


def revoke(folder: CoordinatorFolder, site: str, fleet: Fleet) -> None:
    """Take a site's keys back.

    Raises:
        CoordinatorError: no such site is enrolled.
    """
    Register(folder.sites).revoke(site, fleet)
    AuditLog(folder.audit).append("revoked", site=site)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """A deployed run: its id, in every task's id; and which of Flower's runs plays it, 0 for none."""

    run_id: str
    flower_run: int


def begin_run(folder: CoordinatorFolder, protocol: StudyProtocol) -> RunFolder:
    """Make the folder of a study's run, or find the one that is there.

    Raises:
        CoordinatorError: a site in coordinator.toml is not enrolled, or there is no key to sign tasks with.
        StorageError: a run of another study is in the way.
        WeightsError: the file that the study starts from is not here.
    """
    config = read_coordinator(folder.config)
    Register(folder.sites).of(config.sites.names)
    coordinator_key(folder)
    if (file := find_weights(folder, config, protocol)) is not None:
        keep_weights(folder, protocol, file)  # the process that runs the rounds is told of no other place
    path = folder.runs / run_name(protocol)
    run = open_run(path, protocol, resume=(path / "protocol.toml").exists())
    if not run.order.exists():
        write_order(run, RunOrder(run_id=secrets.token_hex(8), flower_run=0))
    return run


def run_name(protocol: StudyProtocol) -> str:
    """Name a run after its study and the first digits of its digest."""
    words = re.sub(r"[^a-z0-9]+", "-", protocol.study.name.lower()).strip("-") or "study"
    return f"{words[:40]}-{protocol.digest()[:8]}"


def find_run(folder: CoordinatorFolder, name: str | None) -> RunFolder:
    """Find a run by its name, or the only one there is, or the newest.

    Raises:
        CoordinatorError: there is none of that name.
    """
    runs = sorted(folder.runs.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if name is not None:
        runs = [path for path in runs if path.parent.name == name]
    if not runs:
        known = ", ".join(sorted(path.parent.name for path in folder.runs.glob("*/run.json")))
        found = f"{name}: there is no such run. Known: {known}." if known else f"{folder.runs} holds no run."
        raise CoordinatorError(f"{found} `run STUDY` begins one.")
    return RunFolder(path=runs[-1].parent)


def read_order(run: RunFolder) -> RunOrder:
    """Read a run's order."""
    return RunOrder(**json.loads(run.order.read_text(encoding="utf-8")))


def write_order(run: RunFolder, order: RunOrder) -> None:
    """Write a run's order."""
    facts = {"run_id": order.run_id, "flower_run": order.flower_run}
    _keep(run.order, json.dumps(facts).encode())


def drop_site(run: RunFolder, site: str) -> None:
    """Leave a site out of the rest of a run; it is not waited for any more.

    Raises:
        CoordinatorError: the run does not know the site.
    """
    status = json.loads(run.status.read_text(encoding="utf-8")) if run.status.exists() else {"sites": {}}
    if site not in status["sites"]:
        raise CoordinatorError(f"{site}: not in this run. In it: {', '.join(status['sites']) or 'nobody yet'}.")
    gone = json.loads(run.dropped.read_text(encoding="utf-8")) if run.dropped.exists() else []
    _keep(run.dropped, json.dumps(sorted({*gone, site})).encode())


def _keep(path: Path, content: bytes) -> None:
    with atomic_file(path) as part:
        part.write_bytes(content)


def _keep_private(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        private_folder(path.parent)
    with private_file(path) as part:
        part.write_bytes(content)
