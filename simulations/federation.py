"""N sites and a coordinator in one process: the real agents behind the real encoding, one model, one device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from client.agent import Agent
from client.bootstrap import PreparedSite, compose_agent, site_inputs
from client.describing import described_rows, described_split, features
from client.features import Progress
from client.noise import simulated_key
from client.privacy_ledger import PrivacyLedger
from client.private_site import Vault
from client.workbench import Workbench
from server.admission import Refused
from server.asking import Desk
from server.bootstrap import Coordinator, compose
from server.checkpoint import RunState
from server.rounds import Progress as RoundProgress
from server.seals import Seals
from server.study_run import Conclusion, StudyRun
from shared.audit import AuditLog
from shared.description import Description
from shared.protocol import StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.scores import Floats, ScoredUnits
from shared.signing import SigningKey
from shared.split import Split
from simulations.baselines import POOLED, pool
from simulations.in_process_grid import InProcessGrid

NO_DEADLINE = 1e9
"""Seconds: an agent in this process answers when it is called, and is never late."""


def not_digested(_frames: Sequence[bytes]) -> str:
    """Stand in the audit log for the digest of bytes that never left this machine (docs/decisions/0011)."""
    return "not taken in a simulation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run: what it concludes, the coordinator that ran it, and the sites' flows as released.

    `describe` asks the sites how their images look to the model, which only the study itself does, no baseline of it.
    `test_units` has each site's test units, a target each, with the exact scores of the chosen model, and `features`
    computes those of the images that sites describe, one row a patient.
    """

    conclusion: Conclusion
    coordinator: Coordinator
    flows: Mapping[str, ReleasedFlow | Refused]
    describe: Callable[[], Mapping[str, Description | Refused]]
    test_units: Mapping[str, tuple[ScoredUnits, ...]]
    features: Callable[[], Mapping[str, Floats]]


def as_it_is(agent: Agent) -> Agent:
    """Change nothing."""
    return agent


def without_noise(agent: Agent) -> Agent:
    """Let an agent train its private study step for step, and add no noise: only patients who are public or made up."""
    if agent.private is None or agent.guard.private is None:
        return agent
    guard = replace(agent.guard, private=replace(agent.guard.private, counts=None))
    return replace(agent, private=agent.private.without_noise(), guard=guard)


def _features(agents: Mapping[str, Agent], conclusion: Conclusion, run_id: str) -> dict[str, Floats]:
    """Compute the chosen model's features of the patients whom each site describes (client/describing.py)."""
    found = {}
    for site, agent in sorted(agents.items()):
        protocol, inputs = agent.protocol, agent.inputs_on(conclusion.state.standard)
        agent.bench.restart(conclusion.model)
        if agent.local_norm:
            agent.local_norm.load(run_id, before=conclusion.chosen + 1)
        rows = described_rows(agent.records, described_split(protocol), exclusive=protocol.task.exclusive)
        found[site] = features(agent.bench, inputs, rows, start=protocol.model.trains_from(conclusion.chosen))
    return found


def _keep(kept: dict[str, tuple[ScoredUnits, ...]], site: str, split: Split, units: tuple[ScoredUnits, ...]) -> None:
    if split is Split.TEST:
        kept[site] = units


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """A study's prepared sites, and where and on what device they run; `adapt` makes another agent of each."""

    protocol: StudyProtocol
    sites: Sequence[PreparedSite]
    device: torch.device
    weights_file: Path | None
    folder: Path
    progress: Progress
    adapt: Callable[[Agent], Agent] = as_it_is

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' names in canonical order."""
        return tuple(sorted(site.name for site in self.sites))

    def run(
        self,
        run_id: str,
        *,
        train_on: Sequence[str],
        min_sites: int,
        folder: Path,
        progress: RoundProgress,
        begin: RunState | None = None,
    ) -> Run:
        """Run the study with a model of its own: the sites in `train_on` make it, all sites test it.

        `train_on` may be (POOLED,): one agent that has all sites' patients, for the baseline of the same name.
        With `begin` the rounds go on from there: after the last one nobody trains, and the model is tested as it is.

        Raises:
            WeightsError: the pretrained weights are missing or contradict the study.
            FederationError: too few sites can take part.
            StorageError: the run folder cannot be written, or holds another study's run.
        """
        coordinator, model = compose(self.protocol, weights_file=self.weights_file)
        bench = Workbench(model, device=self.device, precision=self.protocol.training.precision)
        key = SigningKey.draw()
        agents, test_units = {}, dict[str, tuple[ScoredUnits, ...]]()
        for site in self.sites:
            inputs = site_inputs(site, self.protocol, bench, progress=self.progress)
            own = self.folder / "sites" / site.name / run_id
            agent = compose_agent(
                site, self.protocol, bench, inputs, folder=own, vault=self._vault(site, own), progress=self.progress
            )
            agent = replace(agent, guard=replace(agent.guard, digest=not_digested))
            agents[site.name] = self.adapt(replace(agent, witness=partial(_keep, test_units, site.name)))
        tested = {name: number for number, name in enumerate(sorted(agents), start=1)}
        nodes = dict(tested)
        if POOLED in train_on:
            agents[POOLED] = pool(list(agents.values()), folder=self.folder / "sites" / POOLED)
            nodes[POOLED] = len(nodes) + 1
        keys = {name: SigningKey.draw() for name in agents}
        agents = {
            name: replace(agent, coordinator=key.public, guard=replace(agent.guard, key=keys[name]))
            for name, agent in agents.items()
        }
        study = StudyRun(
            coordinator=coordinator,
            desk=Desk(InProcessGrid({nodes[name]: agent.handle for name, agent in agents.items()})),
            nodes=nodes,
            train_on=train_on,
            test_on=list(tested),
            run_id=run_id,
            min_sites=min_sites,
            folder=folder,
            deadline_seconds=NO_DEADLINE,
            seals=Seals(key=key, sites={name: own.public for name, own in keys.items()}),
            begin=begin,
        )
        flows = study.flows()
        conclusion = study.run(flows, progress=progress)
        return Run(
            conclusion=conclusion,
            coordinator=coordinator,
            flows=flows,
            test_units=test_units,
            describe=partial(study.describe, conclusion, flows),
            features=partial(_features, {name: agents[name] for name in tested}, conclusion, run_id),
        )

    def _vault(self, site: PreparedSite, folder: Path) -> Vault | None:
        """Give a private study a ledger of the run's own, and noise that follows from the study's seed."""
        if self.protocol.privacy is None:
            return None
        return Vault(
            key=simulated_key(self.protocol.random_seed("noise", site.name)),
            ledger=PrivacyLedger(folder=folder, limit=None),
            audit=AuditLog(folder / "audit.jsonl"),
            reserves=True,
        )
