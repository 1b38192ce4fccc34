"""What the federated model is measured against: each site alone, and all sites' patients in one place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from client.agent import Agent, Harmonised
from client.evaluation import nobody
from client.inputs import Inputs
from client.site_data import Records, Rows
from shared.audit import AuditLog
from shared.augmentation import Generators
from shared.declaration import parse
from shared.errors import StudyError
from shared.parameters import Array, NamedArrays
from shared.protocol import StudyProtocol
from shared.released_flow import ClassCounts, Count, ReleasedFlow, SplitCounts

POOLED = "(pooled)"
"""The agent that has all sites' patients; a hospital cannot have this name (client/site.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledInputs:
    """Feeds several sites' images as one site's, each from the site's own inputs (and caches)."""

    parts: Sequence[Inputs]
    first_row: Rows

    def training(self, rows: Rows, *, start: str, generator: Generators) -> torch.Tensor:
        """Give a training batch in the order of `rows`; of one generator the sites draw one after the other."""
        part_N = self._part(rows)

        def drawing(part: int) -> Generators:
            if isinstance(generator, torch.Generator):
                return generator
            return [generator[place] for place in np.flatnonzero(part_N == part).tolist()]

        made = [
            self.parts[part].training(self._own(rows, part_N, part), start=start, generator=drawing(part))
            for part in np.unique(part_N)
        ]
        return _reorder(made, part_N)

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give a batch as it is, in the order of `rows`."""
        part_N = self._part(rows)
        made = [self.parts[part].evaluation(self._own(rows, part_N, part), start=start) for part in np.unique(part_N)]
        return _reorder(made, part_N)

    def images(self, rows: Rows) -> torch.Tensor:
        """Give the prepared images themselves, in the order of `rows`."""
        part_N = self._part(rows)
        made = [self.parts[part].images(self._own(rows, part_N, part)) for part in np.unique(part_N)]
        return _reorder(made, part_N)

    def _part(self, rows: Rows) -> Rows:
        return np.searchsorted(self.first_row[1:], rows, side="right")

    def _own(self, rows: Rows, part_N: Rows, part: int) -> Rows:
        own: Rows = rows[part_N == part] - self.first_row[part]
        return own


def _reorder(made: Sequence[torch.Tensor], part_N: Rows) -> torch.Tensor:
    """Put the parts' batches, one after the other, back into the order of the rows."""
    order = np.argsort(np.argsort(part_N, kind="stable"), kind="stable")
    return torch.cat(list(made))[torch.from_numpy(order)]


def pool(agents: Sequence[Agent], *, folder: Path) -> Agent:
    """Make one agent of all sites' patients: the same protocol and budget, no walls."""
    first_row = np.cumsum([0, *(len(agent.records) for agent in agents)])[:-1]
    return replace(
        agents[0],
        site=POOLED,
        records=pool_records([agent.records for agent in agents]),
        inputs=PooledInputs(parts=[agent.inputs for agent in agents], first_row=first_row),
        harmonised=_pool_harmonised([agent.harmonised for agent in agents if agent.harmonised], first_row),
        flow=pool_flows([agent.flow for agent in agents]),
        witness=nobody,
        guard=replace(agents[0].guard, audit=AuditLog(folder / "audit.jsonl")),
    )


def _pool_harmonised(parts: Sequence[Harmonised], first_row: Rows) -> Harmonised | None:
    """Put sites' images on one standard scale together, where the study has one."""
    if not parts:
        return None
    return lambda standard: PooledInputs(parts=[part(standard) for part in parts], first_row=first_row)


def pool_records(sites: Sequence[Records]) -> Records:
    """Put sites together; patients and exams of different sites stay different."""
    return Records(
        labels_NK=np.concatenate([site.labels_NK for site in sites]),
        patients_N=_renumbered([site.patients_N for site in sites]),
        exams_N=_renumbered([site.exams_N for site in sites]),
        split_N=np.concatenate([site.split_N for site in sites]),
    )


def pool_flows(flows: Sequence[ReleasedFlow]) -> ReleasedFlow:
    """Add up exact flows."""
    return ReleasedFlow(
        found=_total(flow.found for flow in flows),
        excluded={
            reason: _total(flow.excluded.get(reason, 0) for flow in flows)
            for reason in dict.fromkeys(reason for flow in flows for reason in flow.excluded)
        },
        splits={side: _pool_split([flow.splits[side] for flow in flows]) for side in flows[0].splits},
    )


def _pool_split(splits: Sequence[SplitCounts]) -> SplitCounts:
    by_target = zip(*(split.classes for split in splits), strict=True)
    return SplitCounts(
        patients=_total(split.patients for split in splits),
        exams=_total(split.exams for split in splits),
        classes=tuple(
            ClassCounts(**{field: _total(getattr(item, field) for item in items) for field in ClassCounts.__slots__})
            for items in by_target
        ),
    )


def _total(counts: Iterable[Count]) -> int:
    """Add counts of agents in this process, which are exact: none is suppressed."""
    return sum(count or 0 for count in counts)


def _renumbered(numbers: Sequence[Rows]) -> Rows:
    first = np.cumsum([0, *(int(own.max(initial=-1)) + 1 for own in numbers)])
    return np.concatenate([own + offset for own, offset in zip(numbers, first, strict=False)])


def half_and_half(one: NamedArrays, other: NamedArrays) -> dict[str, Array]:
    """Average two heads on the same features: each image's logits are then the mean of both models'.

    Model interpolation, one way to a model that is a site's own (Mansour et al. 2020, "Three Approaches for
    Personalization"; Deng et al. 2020, "Adaptive Personalized Federated Learning"). Half and half is fixed: no patient
    is needed to choose it.
    """
    return {name: ((array.astype(np.float64) + other[name]) / 2).astype(array.dtype) for name, array in one.items()}


def with_own_layers(protocol: StudyProtocol) -> StudyProtocol:
    """Give the same study with each site's own normalisation layers (FedBN, Li et al. 2021), by its own statistics.

    Raises:
        StudyError: the study cannot have such layers.
    """
    settings = protocol.model_dump(by_alias=True, exclude_none=True)
    settings["task"].pop("findings" if protocol.task.exclusive else "classes")
    settings["federation"]["local_norm"] = True
    if settings["model"]["norm"] == "frozen":
        settings["model"]["norm"] = "batch"
    return parse(settings, StudyProtocol, where="the study with own layers", error=StudyError)
