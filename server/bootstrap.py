"""Compose one coordinator: every object built once, in plain sight."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from server.aggregation import ServerOptimiser
from server.checkpoint import CheckpointFolder, RunState
from server.combining import Combine, median, trimmed_mean, weighted_mean
from server.rounds import RoundPlan, initial_state
from server.seals import UNSEALED, Seals
from server.strategy import FederatedStrategy, Rules, Site
from shared.model import Classifier, build, exchanged, model_spec
from shared.operating_point import choose_on
from shared.parameters import Array, NamedArrays, digest
from shared.protocol import Federation, StudyProtocol
from shared.weights import WeightsProvenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """What a study's coordinator holds: the protocol, where the model starts, and what travels in which round.

    `initial` has every array of the model, in its own order; `provenance` says where they come from.
    """

    protocol: StudyProtocol
    initial: NamedArrays
    provenance: WeightsProvenance
    names_from: Mapping[str, list[str]]

    def trained_names(self, number: int) -> list[str]:
        """Name the arrays that travel in a round."""
        return self.names_from[self.protocol.model.trains_from(number)]

    def plan(self, *, deadline_seconds: float) -> RoundPlan:
        """Give the round loop what it needs."""
        wish = self.protocol.evaluation
        return RoundPlan(
            rounds=self.protocol.federation.rounds,
            trained_names=self.trained_names,
            select=self.protocol.federation.select,
            targets=self.protocol.task.targets,
            choose=partial(choose_on, target=wish.target_sensitivity, claim=wish.claim, confidence=wish.confidence),
            deadline_seconds=deadline_seconds,
        )

    def strategy(
        self,
        sites: Iterable[Site],
        *,
        run_id: str,
        min_sites: int,
        state: RunState,
        seals: Seals = UNSEALED,
    ) -> FederatedStrategy:
        """Compose the strategy of one run over these sites."""
        federation = self.protocol.federation
        rules = Rules(
            protocol_digest=self.protocol.digest(),
            run_id=run_id,
            optimiser=server_optimiser(self.protocol),
            min_sites=min_sites,
            weight_cap=federation.weight_cap,
            combine=_combine(federation),
            norm_multiple=federation.norm_multiple,
            norm_bound=federation.norm_bound,
            epochs=0 if self.protocol.privacy else self.protocol.training.local_epochs,
            targets=self.protocol.task.targets,
            bins=self.protocol.evaluation.score_bins,
            axes=self.protocol.evaluation.subgroups,
            wire=federation.wire,
            standard=state.standard,
            seals=seals,
        )
        return FederatedStrategy(sites=sites, rules=rules, optimiser_state=state.optimiser)

    def checkpoints(self, folder: Path) -> CheckpointFolder:
        """Open a run's checkpoints; their fingerprint is the protocol and where the model starts."""
        return CheckpointFolder(folder, fingerprint=f"{self.protocol.digest()}:{digest(self.initial)}")

    def start(self) -> RunState:
        """Begin before round 1, with every array that trains in any round."""
        last = self.trained_names(self.protocol.federation.rounds)
        return initial_state({name: self.initial[name] for name in last})

    def whole_model(self, trained: NamedArrays) -> dict[str, Array]:
        """Put trained arrays into the whole model."""
        return {**self.initial, **trained}


def compose(protocol: StudyProtocol, *, weights_file: Path | None) -> tuple[Coordinator, Classifier]:
    """Build a study's coordinator, and the model that it describes.

    Raises:
        WeightsError: the pretrained weights are missing or contradict the study.
    """
    model, provenance = build(model_spec(protocol), weights_file=weights_file)
    local_norm = protocol.federation.local_norm
    stages = {protocol.model.trains_from(number) for number in range(1, protocol.federation.rounds + 1)}
    coordinator = Coordinator(
        protocol=protocol,
        initial={name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()},
        provenance=provenance,
        names_from={stage: exchanged(model, stage, local_norm=local_norm) for stage in stages},
    )
    return coordinator, model


def _combine(federation: Federation) -> Combine:
    """Give the study's way to make one update of a round's."""
    match federation.aggregation:
        case "mean":
            return partial(weighted_mean, cap=federation.weight_cap)
        case "median":
            return median
        case "trimmed_mean":
            return partial(trimmed_mean, trim=federation.trim or 0.0)


def server_optimiser(protocol: StudyProtocol) -> ServerOptimiser:
    """Give the study's server optimiser; FedProx is FedAvg on this side."""
    settings = protocol.federation
    return ServerOptimiser(
        kind="fedavg" if settings.strategy == "fedprox" else settings.strategy,
        lr=settings.server_lr or 1.0,
        momentum=settings.server_momentum or 0.0,
        beta1=settings.beta1 or 0.0,
        beta2=settings.beta2 or 0.0,
    )
