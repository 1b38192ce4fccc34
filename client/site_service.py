"""One deployed agent: its sockets, its log and its monitoring, and behind them every approved study."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event

import torch

from client.agent_service import FOLDER_MODE, AgentService
from client.approval import SHOWN, Approvals, ApprovedStudy
from client.deployment import Deployment, observed
from client.features import Progress
from client.metrics import SiteMetrics
from client.metrics_socket import serve_page
from client.site import SiteConfig
from client.site_audit import DEPARTURES, WitnessedLog, alone
from client.site_keys import GATE_MODE
from client.study_router import StudyRouter
from shared.errors import PolyclinicError, TaskError
from shared.messages import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteService:
    """Answers one task at a time, of whichever approved study; each has an agent of its own.

    All their models stay in memory, each twice: as it begins and as it is worked on (a ResNet-50: 190 MB). Images are
    prepared for one study after the other; those that are ready answer meanwhile.
    """

    config: SiteConfig
    studies: Sequence[ApprovedStudy]
    progress: Progress

    def serve(self, stopped: Event) -> None:
        """Open the sockets, prepare each study, then answer tasks until `stopped` is set.

        Raises:
            PolyclinicError: the keys or a disk do not allow it, or no study can be prepared.
            SiteError: every approval is of an earlier version.
        """
        if all(study.outdated for study in self.studies):
            self.studies[0].current()
        torch.use_deterministic_algorithms(True)
        link = self.config.link
        names = [study.digest[:SHOWN] for study in self.studies]
        metrics = SiteMetrics(site=self.config.site.name, version=version("polyclinic"), studies=names)
        busy = f"{link.state}: another agent is at work here. A site has one."
        with alone(link.state / "agent.lock", message=busy):
            audit = WitnessedLog(link.state / DEPARTURES, syslog=link.syslog)
            deployments = [
                Deployment(config=self.config, study=study, progress=self.progress) for study in self.studies
            ]
            guard, approvals = deployments[0].guard(audit), Approvals(link.state / "studies")
            served = {study.digest: study for study in self.studies}
            router = StudyRouter(
                served,
                refuse=lambda fault: guard.refuse(fault, task_id=""),
                approved=lambda digest: approvals.stands(served[digest]),
            )
            handler = observed(router.handle, metrics)
            service = AgentService(link.agent_socket, handler)
            _open_gate(link.sockets)
            link.metrics_socket.parent.mkdir(parents=True, exist_ok=True)
            link.metrics_socket.parent.chmod(FOLDER_MODE)
            with _started(service), serve_page(link.metrics_socket, metrics.page):
                self._prepare(deployments, audit, router, metrics, service, stopped)
                service.ready(handler)
                stopped.wait()

    def _prepare(
        self,
        deployments: Sequence[Deployment],
        audit: WitnessedLog,
        router: StudyRouter,
        metrics: SiteMetrics,
        service: AgentService,
        stopped: Event,
    ) -> None:
        """Prepare one study after the other; one that cannot be is told and refused, and the others go on."""
        faults: list[PolyclinicError] = []
        for one in deployments:
            if stopped.is_set():
                return
            name = f"{one.study.digest[:SHOWN]} “{one.study.protocol.study.name}”"
            try:
                router.ready(one.study.digest, one.handler(audit, metrics, turn=service.turn))
            except PolyclinicError as fault:
                faults.append(fault)
                earlier = TaskError(Refusal.UNKNOWN_PROTOCOL, "approved under an earlier version")
                router.failed(one.study.digest, earlier if one.study.outdated else fault)
                self.progress(f"{name} is not answered for: {fault}", 0, 0)
            else:
                self.progress(f"{name} is ready", 0, 0)
        if len(faults) == len(deployments):
            raise faults[0]


def _open_gate(sockets: Path) -> None:
    """Make the folder of the sockets' folders, which courier and exporter walk through and cannot list."""
    if not sockets.exists():
        sockets.mkdir(parents=True)
        sockets.chmod(GATE_MODE)


@contextmanager
def _started(service: AgentService) -> Iterator[None]:
    service.start()
    try:
        yield
    finally:
        service.stop()
