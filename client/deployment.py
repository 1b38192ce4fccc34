"""One approved study's agent: prepares the images, answers its tasks, and tells the monitoring."""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from client.agent import Agent
from client.agent_service import Handler
from client.approval import ApprovedStudy
from client.bootstrap import compose_agent, prepare, site_inputs
from client.delivery import Deliveries
from client.egress import EgressGuard
from client.features import Progress
from client.files_there import FilesThere
from client.intake import Intake, Limits
from client.metrics import SiteMetrics
from client.patient_flow import Exclusion
from client.pretrained import pretrained_of
from client.privacy_ledger import ledger_of
from client.private_site import Vault
from client.released import Released
from client.site import SiteConfig
from client.site_keys import SiteKeys, read_secret
from client.task_store import TaskStore, uncharged
from client.withdrawal import Withdrawals, withdrawals_of
from client.workbench import Workbench, pick_device
from shared.amounts import counted
from shared.audit import AuditLog, now
from shared.errors import WeightsError
from shared.messages import Approval
from shared.model import build, model_spec
from shared.parameters import NamedArrays, digest
from shared.signing import SigningKey

ROOM_FOR_DOCUMENTS = 64 << 20
"""Bytes that a task may have beside the model: the report and the results, at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What the agent of one study needs: the hospital's file, and the study that it approved."""

    config: SiteConfig
    study: ApprovedStudy
    progress: Progress

    def guard(self, audit: AuditLog) -> EgressGuard:
        """Give the study's guard, with the site's one log and its key."""
        protocol = self.study.protocol
        return EgressGuard(
            min_cell=self.config.policy.min_cell,
            audit=audit,
            exclusive=protocol.task.exclusive,
            wire=protocol.federation.wire,
            key=SigningKey.read(SiteKeys(self.config.link.keys).signing),
        )

    def handler(self, audit: AuditLog, metrics: SiteMetrics, *, turn: AbstractContextManager[bool]) -> Handler:
        """Make the agent, and make it anew before the next task whenever a patient was withdrawn.

        The model is drawn in `turn`, while no task of another study draws from torch's one generator.

        Raises:
            SiteError: the study was approved under an earlier version.
            PolyclinicError: the keys, the weights, the images or a disk do not allow it.
        """
        self.study.current()
        if missing := FilesThere(self.study.folder).compare(self.config.data.dicom):
            self.progress(missing, 0, 0)
        guard, withdrawals = self.guard(audit), withdrawals_of(self.config)
        with turn:
            bench, initial = self._model()
        agent = self._agent(guard, bench, initial, withdrawals, metrics)

        current = True

        def handle(frames: Iterable[bytes]) -> Iterator[bytes]:
            nonlocal agent, current
            try:
                current = not withdrawals.changed() and current
                if not current:
                    agent = self._agent(guard, bench, initial, withdrawals, metrics)
                    current = True
            except Exception as fault:  # as in the agent itself: its text may hold a patient's value
                yield from guard.refuse(fault, task_id="")
                return
            yield from agent.handle(frames)

        return handle

    def _model(self) -> tuple[Workbench, NamedArrays]:
        """Build the study's model, and check that it starts where the approval says."""
        protocol = self.study.protocol
        weights = pretrained_of(self.config, self.study)
        model, _ = build(model_spec(protocol), weights_file=weights)
        initial = {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}
        check_initial(initial, promised=self.study.approval.invitation.initial)
        device = pick_device(self.config.compute.device)
        return Workbench(model, device=device, precision=protocol.training.precision), initial

    def _released(self) -> Released:
        """Open what has left in this study; a purge and a new approval leave it as it is."""
        key = read_secret(SiteKeys(self.config.link.keys).pseudonyms)
        return Released(folder=self.study.folder / "released", key=key)

    def _vault(self, audit: AuditLog) -> Vault:
        """Open what a private study needs: the agent's secret, and the site's ledger beside its audit log."""
        key = read_secret(SiteKeys(self.config.link.keys).noise)
        return Vault(key=key, ledger=ledger_of(self.config), audit=audit, reserves=False)

    def _agent(
        self,
        guard: EgressGuard,
        bench: Workbench,
        initial: NamedArrays,
        withdrawals: Withdrawals,
        metrics: SiteMetrics,
    ) -> Agent:
        protocol, folder, policy = self.study.protocol, self.study.folder, self.config.policy
        bench.restart({})  # a bench that has trained has other layers than those that a site's own begin with
        released = self._released()
        site = prepare(
            self.config, protocol, progress=self.progress, withdrawn=withdrawals, takes_part=released.takes_part()
        )
        released = replace(released, patients=frozenset(site.records.patients_N.tolist()))
        for step in site.cohort.flow.steps:
            if step.reason is Exclusion.CAME_LATER:
                self.progress(
                    f"{counted(step.patients, 'patient')} came after this study's first count: left out", 0, 0
                )
        metrics.cached(self.study.digest, images=len(site.pixels), of=len(site.cohort.images))
        inputs = site_inputs(site, protocol, bench, progress=self.progress)
        vault = self._vault(guard.audit) if protocol.privacy else None
        store = TaskStore(
            folder / "tasks",
            now=now,
            audit=guard.audit,
            study=self.study.digest,
            charged=vault.ledger.has_charged if vault else uncharged,
        )
        limits = Limits(
            rounds=protocol.federation.rounds,
            since=self.study.since(guard.audit.path),
            rounds_per_day=policy.rounds_per_day,
            max_change=policy.max_change,
        )
        wire = protocol.federation.wire
        agent = compose_agent(
            site,
            protocol,
            bench,
            inputs,
            folder=folder,
            audit=guard.audit,
            vault=vault,
            progress=self.progress,
        )
        return replace(
            agent,
            guard=replace(agent.guard, key=guard.key, released=released),
            coordinator=self.study.approval.invitation.signing,
            approval=Approval.APPROVED,
            store=store,
            intake=Intake(store=store, limits=limits, initial=initial, wire=wire, folder=folder / "models"),
            checkpoints=folder / "rounds",
            most_bytes=sum(array.nbytes for array in initial.values()) + ROOM_FOR_DOCUMENTS,
            deliveries=Deliveries(site=site.name, folder=folder / "delivered", protocol=protocol),
        )


def check_initial(initial: NamedArrays, *, promised: str) -> None:
    """Check that the model starts from the weights that the invitation names.

    Raises:
        WeightsError: it does not.
    """
    if digest(initial) != promised:
        raise WeightsError(
            "the model before round 1, as this site computes it from the study, is not the one that the invitation "
            "names. Give the same --weights file as the coordinator, and the same version of Polyclinic."
        )


def observed(handler: Handler, metrics: SiteMetrics) -> Handler:
    """Count what a handler answers, from the headers that come and go: monitoring learns what the coordinator does."""

    def handle(frames: Iterable[bytes]) -> Iterator[bytes]:
        metrics.began(at=now().timestamp())
        request = iter(frames)
        asked = next(request, b"")
        answer = handler(chain([asked] if asked else [], request))
        for header in answer:
            _count(asked, json.loads(header), metrics)
            yield header
            yield from answer

    return handle


def _count(asked: bytes, header: dict[str, Any], metrics: SiteMetrics) -> None:
    state, figures = header["configs"]["state"], header["metrics"].get("metrics")
    metrics.answered(state["kind"])
    if "code" in state:
        metrics.refused(state["code"])
    if figures:
        losses = figures.get("loss_by_epoch") or [None]
        metrics.trained(
            round=json.loads(asked)["configs"]["task"]["round"],
            loss=losses[-1],
            images_per_second=figures["images_per_second"],
            seconds=figures["seconds"],
        )
