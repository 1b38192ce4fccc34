"""One study's run inside Flower's ServerApp: from the coordinator's folder to the report, resumed where it was left."""

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid

from server.admission import Reason, Refused
from server.alternatives import Alternatives
from server.asking import Desk
from server.bootstrap import compose
from server.coordinator_config import CoordinatorConfig, read_coordinator
from server.coordinator_folder import CoordinatorFolder
from server.coordinator_key import coordinator_key
from server.enrolment import Register
from server.finish import write_findings
from server.model_file import write_model
from server.pulling import bounded_replies, largest_reply
from server.run_folder import RunFolder, open_lock
from server.run_status import StatusBoard, failed
from server.seals import Seals
from server.study_run import StudyRun
from server.study_weights import find_weights
from shared.errors import FederationError, PolyclinicError
from shared.messages import ReadyReply
from shared.protocol import StudyProtocol, read_protocol
from shared.released_flow import ReleasedFlow
from shared.storage import atomic_file

RESUMED_READY_SECONDS = 60.0
"""A resumed run knows its roster, and waits no longer than this for sites to say that they are still there."""

LOCK_SECONDS = 60.0


def run_study(folder: CoordinatorFolder, name: str, grid: Grid) -> None:
    """Run, or go on with, the study's run called `name`, and write how it ended into outcome.json.

    Raises:
        PolyclinicError: the run failed; finished rounds are kept.
    """
    run = RunFolder(path=folder.runs / name)
    with _alone(run.lock):
        run.outcome.unlink(missing_ok=True)
        try:
            _run(folder, run, grid)
        except Exception as fault:
            failed(run.status, now=datetime.now(UTC))
            _conclude(run, failed=str(fault), code=fault.exit_code if isinstance(fault, PolyclinicError) else None)
            raise
        _conclude(run, failed="", code=0)


def _run(folder: CoordinatorFolder, run: RunFolder, grid: Grid) -> None:
    torch.use_deterministic_algorithms(True)
    config, protocol = read_coordinator(folder.config), read_protocol(run.protocol)
    records = Register(folder.sites).of(config.sites.names)
    board = StatusBoard(run.status, sorted(records), rounds=protocol.federation.rounds, now=partial(datetime.now, UTC))
    names = {record.node_id: site for site, record in records.items()}
    coordinator, _ = compose(protocol, weights_file=find_weights(folder, config, protocol))
    study = StudyRun(
        coordinator=coordinator,
        desk=Desk(
            grid,
            tell=lambda node, what: board.site(names[node], what),
            passed_over=lambda: {node for node, site in names.items() if site in dropped(run)},
        ),
        nodes={site: record.node_id for site, record in records.items()},
        train_on=sorted(records),
        test_on=sorted(records),
        run_id=json.loads(run.order.read_text())["run_id"],
        min_sites=protocol.federation.min_sites,
        folder=run.path,
        deadline_seconds=60 * config.deadlines.round_minutes,
        seals=Seals(key=coordinator_key(folder), sites={site: record.keys.signing for site, record in records.items()}),
        largest=config.sites.most_patients,
    )
    round_seconds = 60 * config.deadlines.round_minutes
    with bounded_replies(most_bytes=largest_reply(coordinator.initial), seconds=round_seconds):
        _play(study, run, config, board)


def _play(study: StudyRun, run: RunFolder, config: CoordinatorConfig, board: StatusBoard) -> None:
    """Ask who is ready, train, conclude, describe, and deliver what came out."""
    coordinator, protocol = study.coordinator, study.coordinator.protocol
    flows = _readiness(study, run, config, board)
    board.stage("rounds", number=0)
    conclusion = study.run(flows, progress=partial(_progress, board, protocol))
    write_model(run.model, coordinator, conclusion)
    write_findings(
        run,
        coordinator,
        conclusion,
        flows,
        study.describe(conclusion, flows),
        device=torch.device("cpu"),
        alternatives=Alternatives(),
        seeded=False,
    )
    board.stage("delivery", number=conclusion.state.round)
    documents = {run.results.name: run.results.read_bytes()}
    stored = study.deliver(conclusion, documents, deadline_seconds=60 * config.deadlines.deliver_minutes)
    for site in sorted(study.nodes):
        board.refused(site, None if site in stored else "did not confirm the final model")
    board.stage("finished", number=conclusion.state.round)


def _readiness(
    study: StudyRun, run: RunFolder, config: CoordinatorConfig, board: StatusBoard
) -> dict[str, ReleasedFlow | Refused]:
    """Ask who is ready; a resumed run keeps the flows, and so the sites' shares, that it began with."""
    before = _flows_before(run)
    ready = study.ready(RESUMED_READY_SECONDS if before else 60 * config.deadlines.ready_minutes)
    for site, reply in ready.items():
        if isinstance(reply, ReadyReply):
            board.said(site, package=reply.package, approval=str(reply.approval))
        board.refused(site, reply.reason if isinstance(reply, Refused) else None)
    if before:
        return dict.fromkeys(study.nodes, Refused(reason=Reason.LATER_RUNS)) | before
    flows = study.flows_of(ready)
    usable = {site: flow.to_numbers() for site, flow in flows.items() if isinstance(flow, ReleasedFlow)}
    if len(usable) >= study.min_sites:
        refused = {site: flow.reason for site, flow in flows.items() if isinstance(flow, Refused)}
        _write(run.ready, {"flows": usable, "refused": refused})
    return flows


def _flows_before(run: RunFolder) -> dict[str, ReleasedFlow | Refused]:
    if not run.ready.exists():
        return {}
    said = json.loads(run.ready.read_text(encoding="utf-8"))
    flows = {site: ReleasedFlow.from_numbers(numbers) for site, numbers in said["flows"].items()}
    return flows | {site: Refused(reason=reason) for site, reason in said["refused"].items()}


def _progress(board: StatusBoard, protocol: StudyProtocol, record: Mapping[str, Any]) -> None:
    for site, entry in record["sites"].items():
        board.refused(site, entry["refusal"])
    last = record["round"] >= protocol.federation.rounds
    board.stage("conclusion" if last else "rounds", number=record["round"])


def dropped(run: RunFolder) -> list[str]:
    """Name the sites that the coordinator dropped from a run."""
    return list(json.loads(run.dropped.read_text(encoding="utf-8"))) if run.dropped.exists() else []


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a run's lock; the system lets go of it whatever kills this process."""
    with open_lock(path) as file:
        give_up = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise FederationError(
                        f"{path.parent}: another process runs this study. Stop that one first."
                    ) from None
                time.sleep(1)
        yield


def _conclude(run: RunFolder, *, failed: str, code: int | None) -> None:
    _write(run.outcome, {"failed": failed, "exit_code": code})


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    with atomic_file(path) as part:
        part.write_text(json.dumps(facts), encoding="utf-8")
