"""Polyclinic's own rounds over the same hospitals: the real agents, guard, encoding, strategy and round loop."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from flwr.app import ConfigRecord

from benchmarks.workload import Hospital
from client.agent import Agent
from client.egress import EgressGuard
from client.features import FeatureCache
from client.inputs import Inputs, LiveInputs, StudyInputs
from client.workbench import Workbench
from server.asking import Desk
from server.bootstrap import Coordinator, compose
from server.checkpoint import RunState
from server.round_records import write_rounds
from server.rounds import run_rounds
from server.strategy import FederatedStrategy, Site
from shared.audit import AuditLog
from shared.augmentation import Augmentation
from shared.parameters import NamedArrays
from shared.protocol import StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.wire import arrays_from_record, record_of
from simulations.federation import not_digested
from simulations.in_process_grid import InProcessGrid

NO_DEADLINE = 1e9
"""Seconds: an agent in this process is never late."""

NOTHING_FOUND = ReleasedFlow(found=0, excluded={}, splits={})
"""Who takes part is decided; nobody asks for a patient flow."""


@dataclass(slots=True, kw_only=True)
class FederatedRounds:
    """A composed study, ready to run its rounds as often as one likes."""

    coordinator: Coordinator
    grid: InProcessGrid
    nodes: Mapping[str, int]
    folder: Path
    exchanged: RunState = field(init=False)
    strategy: FederatedStrategy = field(init=False)

    def __post_init__(self) -> None:
        self.exchanged = self.coordinator.start()
        self.strategy = self._strategy(self.exchanged)

    def run(self) -> NamedArrays:
        """Run all rounds from the initial weights, with validation and a checkpoint after each."""
        state = self.coordinator.start()
        checkpoints = self.coordinator.checkpoints(self.folder / "checkpoints")

        def save(state: RunState) -> None:
            checkpoints.save(state)
            write_rounds(self.folder, state.history)

        return run_rounds(
            desk=Desk(self.grid),
            strategy=self._strategy(state),
            plan=self.coordinator.plan(deadline_seconds=NO_DEADLINE),
            state=state,
            save=save,
            progress=_silent,
        ).model

    def exchange(self) -> None:
        """Run one round without validation and checkpoint, from where the last one ended."""
        state = self.exchanged
        state.round += 1
        before = record_of({name: state.model[name] for name in self.coordinator.trained_names(1)})
        asked = self.strategy.configure_train(state.round, before, ConfigRecord(), self.grid)
        after, _ = self.strategy.aggregate_train(state.round, Desk(self.grid).ask(asked, NO_DEADLINE))
        if after is None:
            raise RuntimeError(f"an exchange failed: {self.strategy.outcome.training}")
        state.model = {**state.model, **arrays_from_record(after)}

    def _strategy(self, state: RunState) -> FederatedStrategy:
        sites = [Site(name=name, node_id=node, weight=1.0) for name, node in self.nodes.items()]
        return self.coordinator.strategy(sites, run_id="benchmark", min_sites=len(sites), state=state)


def compose_rounds(
    protocol: StudyProtocol, hospitals: list[Hospital], *, folder: Path, device: torch.device
) -> FederatedRounds:
    """Compose a study over these hospitals, as a simulation does."""
    coordinator, model = compose(protocol, weights_file=None)
    bench = Workbench(model, device=device, precision=protocol.training.precision)
    nodes = {hospital.name: number for number, hospital in enumerate(hospitals, start=1)}
    agents = {nodes[hospital.name]: _agent(hospital, protocol, bench, folder) for hospital in hospitals}
    grid = InProcessGrid({node: agent.handle for node, agent in agents.items()})
    return FederatedRounds(coordinator=coordinator, grid=grid, nodes=nodes, folder=folder)


def site_inputs(hospital: Hospital, protocol: StudyProtocol, bench: Workbench, *, folder: Path) -> Inputs:
    """Feed the model with a hospital's images, as the study says."""
    settings = protocol.augmentation
    live = LiveInputs(bench, hospital.pixels, Augmentation(**settings.model_dump()))
    cache = FeatureCache(
        bench,
        live,
        folder=folder / "features",
        pixels=hospital.pixels.digest,
        names=hospital.records.names(),
        training_rows=hospital.records.training_rows(),
        augmentation=settings.model_dump_json(),
        seed=partial(protocol.random_seed, "features", hospital.name),
        progress=_silent,
    )
    return StudyInputs(
        live=live, cache=cache, views=protocol.training.feature_views, augmentation_is_off=settings.is_off
    )


def _agent(hospital: Hospital, protocol: StudyProtocol, bench: Workbench, folder: Path) -> Agent:
    audit = AuditLog(folder / hospital.name / "audit.jsonl")
    return Agent(
        site=hospital.name,
        protocol=protocol,
        bench=bench,
        records=hospital.records,
        inputs=site_inputs(hospital, protocol, bench, folder=folder),
        flow=NOTHING_FOUND,
        guard=EgressGuard(min_cell=1, audit=audit, exclusive=False, wire=protocol.federation.wire, digest=not_digested),
        min_patients=1,
        local_norm=None,
    )


def _silent(*told: object) -> None:
    """Show nobody how it gets on."""
