"""What a site's data manager asks of it: which studies, what has left, the delivered model, and what purging keeps."""

import filecmp
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.approval import RECORD, SHOWN, Approvals, ApprovedStudy
from client.pretrained import kept_weights
from client.site import SiteConfig
from client.site_audit import DECISIONS, DEPARTURES
from client.site_keys import SiteKeys
from client.task_store import read_begun
from shared.audit import verify
from shared.errors import DataError, SiteError
from shared.storage import atomic_file, new_file

KEPT = """Kept, because the hospital may have to account for it: both audit logs, with what was asked and answered, the
delivered model and results (`polyclinic site model --study` still copies them), the list of withdrawn patients, the
ledger of privacy budget, and the study itself. What was answered is not computed again, whoever approves the study
anew."""

HEALTH_SECONDS = 2.0

_KEPT_IN_CACHE = re.compile(r"[0-9a-f]{64}-.+|features|review")
"""Folders of a cache: images as one contract prepares them (client/cache.py), features, and pages of review."""


def status_lines(config: SiteConfig) -> Iterator[str]:
    """Yield a line on the agent, and a few on each approved study.

    Raises:
        SiteError, StorageError: what is stored cannot be read.
    """
    yield f"{config.site.name}: the agent {agent_health(config.link.agent_socket)}."
    approvals = Approvals(config.link.state / "studies")
    studies, outgrown = approvals.all(), approvals.outgrown()
    if not (studies or outgrown):
        yield "No study is approved."
    for study in studies:
        yield from _study_lines(study, state=config.link.state)
    yield from map(str, outgrown)


def agent_health(socket: Path) -> str:
    """Ask the agent's health service, and say in words what it answers."""
    with grpc.insecure_channel(f"unix:{socket.resolve()}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS)
        except grpc.RpcError:
            return "does not answer"
    return "is ready" if reply.status == health_pb2.HealthCheckResponse.SERVING else "is preparing the images"


def _study_lines(study: ApprovedStudy, *, state: Path) -> Iterator[str]:
    record, protocol = study.approval, study.protocol
    audit = state / DEPARTURES
    begun, since = read_begun(study.folder / "tasks", audit=audit, study=study.digest), study.since(audit)
    trained = [task.round for task in begun if task.kind == "train" and task.line > since]
    name = f"{study.digest[:SHOWN]} “{protocol.study.name}”"
    yield f"{name}, approved by {record.approved_by} at {record.approved_at[:16]}"
    if study.outdated:
        yield f"  {study.outdated}"
    yield (
        f"  rounds begun: {len(trained)} of {protocol.federation.rounds}; evaluations: "
        f"{sum(task.kind == 'evaluate' for task in begun)}; test split: "
        f"{'released' if any(task.split == 'test' for task in begun) else 'not asked for'}; model: "
        f"{'delivered' if (study.folder / 'delivered').exists() else 'not delivered'}"
    )


def audit_lines(config: SiteConfig) -> Iterator[str]:
    """Yield a line for each departure and decision, oldest first.

    Raises:
        StorageError: a chain breaks.
    """
    entries = [entry for log in _logs(config) for entry in verify(log)]
    for entry in sorted(entries, key=lambda entry: str(entry["time"])):
        facts = {name: value for name, value in entry.items() if name not in ("line", "time", "event", "prev", "hash")}
        words = "  ".join(f"{name}={value}" for name, value in facts.items())
        yield f"{entry['time'][:19]}  {entry['event']}  {words}"


def verified_heads(config: SiteConfig) -> Iterator[str]:
    """Check both chains to the end, and yield how long each is and its head, to be kept elsewhere.

    Raises:
        StorageError: a chain breaks.
    """
    for log in _logs(config):
        last = {"line": 0, "hash": "-"}
        for entry in verify(log):
            last = entry
        yield f"{log.name}: {last['line']} lines, whole; head {last['hash']}"


def copy_delivered(config: SiteConfig, study: str | None, out: Path) -> Sequence[Path]:
    """Copy the model and the documents that were delivered.

    Raises:
        DataError: none were.
        StorageError: a file of their names is there that is not the same, or they cannot be written.
    """
    folder = _of_study(config, study) / "delivered"
    found = sorted(folder.glob("[!.]*")) if folder.exists() else []
    if not found:
        raise DataError("this study has not delivered a model yet. It comes with the study's last task.")
    for path in found:
        if not ((out / path.name).is_file() and filecmp.cmp(path, out / path.name, shallow=False)):
            new_file(out / path.name)
    for path in found:
        with atomic_file(out / path.name) as part:
            shutil.copyfile(path, part)
    return [out / path.name for path in found]


def delivered_lines(copied: Sequence[Path]) -> Iterator[str]:
    """Yield where each file is, and how to make the report of them."""
    yield from map(str, copied)
    for path in copied:
        if path.name == "results.json":
            yield f"Its report, which says where the model fails: `polyclinic report {path}` writes it beside them."
    yield "A model of this kind is evidence, and not a medical device."


def _of_study(config: SiteConfig, study: str | None) -> Path:
    """Find a study's folder; one that was purged is named by its digest's beginning, as long as no approved one fits.

    Raises:
        SiteError: there is none, or there are several.
    """
    studies = config.link.state / "studies"
    try:
        return Approvals(studies).pick(study).folder
    except SiteError:
        ended = [path.parent for path in studies.glob("*/delivered") if not (path.parent / RECORD).exists()]
        fits = [folder for folder in ended if study and folder.name.startswith(study)]
        if len(fits) != 1:
            raise
        return fits[0]


def purge_study(config: SiteConfig, study: ApprovedStudy) -> None:
    """End a study: its approval, stored replies and checkpoints go, and all prepared images of this site.

    Raises:
        StorageError: it cannot be removed.
    """
    approvals = Approvals(config.link.state / "studies")
    approvals.end(study)
    if study.approval.weights not in {other.approval.weights for other in approvals.all()}:
        kept_weights(config).forget(study.approval.weights)
    shutil.rmtree(SiteKeys(config.link.keys).node.parent / study.digest[:SHOWN], ignore_errors=True)
    _empty(config.compute.cache)


def _empty(cache: Path) -> None:
    """Remove what this program keeps in a cache, and the folder where nothing else is in it: it was named by hand."""
    for part in list(cache.iterdir()) if cache.is_dir() else ():
        if part.is_dir() and _KEPT_IN_CACHE.fullmatch(part.name):
            shutil.rmtree(part, ignore_errors=True)
    (cache / "excluded.csv").unlink(missing_ok=True)
    with suppress(OSError):
        cache.rmdir()


def _logs(config: SiteConfig) -> list[Path]:
    return [log for name in (DEPARTURES, DECISIONS) if (log := config.link.state / name).exists()]
