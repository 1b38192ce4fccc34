"""Baselines have the same protocol and budget: all patients in one place, each image from its own hospital."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.site_data import Records, Rows
from shared.audit import verify
from shared.declaration import parse
from shared.errors import StudyError
from shared.messages import Header, Kind, ReadyReply, ReadyTask, TrainReply, TrainTask, decode_answer, encode_task
from shared.model import exchanged
from shared.parameters import digest
from shared.protocol import StudyProtocol
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.split import Split
from shared.wire import from_frames, to_frames
from simulations.baselines import (
    POOLED,
    PooledInputs,
    half_and_half,
    pool,
    pool_flows,
    pool_records,
    with_own_layers,
)


@dataclass
class Numbered:
    """Inputs of one site: each image is its site and row, and what the generator drew for the batch."""

    site: int
    asked: list[list[int]] = field(default_factory=list)

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        self.asked.append(rows.tolist())
        return torch.tensor([[self.site, row] for row in rows.tolist()], dtype=torch.float32).reshape(-1, 2)

    def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
        return self.evaluation(rows, start=start) + torch.rand(1, generator=generator)


SIZES = (4, 3, 5)
FIRST = np.array([0, 4, 7])
OWNERS = [(site, row) for site, size in enumerate(SIZES) for row in range(size)]


def inputs() -> PooledInputs:
    return PooledInputs(parts=[Numbered(site) for site in range(3)], first_row=FIRST)


@given(rows=st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_images_come_in_the_order_asked_for(rows: list[int]) -> None:
    """Whatever rows of whatever sites, in any order and repeated: image i of the batch is row i."""
    pooled = inputs()
    expected = [list(OWNERS[row]) for row in rows]
    assert pooled.evaluation(np.array(rows), start="head").tolist() == expected
    trained = pooled.training(np.array(rows), start="head", generator=torch.Generator().manual_seed(1))
    assert trained.floor().tolist() == expected


def test_each_site_is_asked_once_for_its_own_rows() -> None:
    """A batch costs one read a site, of that site's rows, and none where a site has no row in it."""
    pooled = inputs()
    pooled.evaluation(np.array([11, 0, 7, 2]), start="head")
    assert [part.asked for part in pooled.parts] == [[[0, 2]], [], [[4, 0]]]


def test_sites_draw_one_after_the_other() -> None:
    """The batch's generator serves all sites, so that no two draw the same."""
    drawn = inputs().training(np.array([0, 4, 7]), start="head", generator=torch.Generator().manual_seed(1))
    assert len(set((drawn - drawn.floor())[:, 0].tolist())) == 3


def records(patients: list[int], exams: list[int]) -> Records:
    return Records(
        labels_NK=np.zeros((len(patients), 1), np.float32),
        patients_N=np.array(patients, np.int64),
        exams_N=np.array(exams, np.int64),
        split_N=np.array(["train"] * len(patients), np.str_),
    )


def test_patients_of_different_sites_stay_different() -> None:
    """Patient 0 of one site is not patient 0 of the other, and no exam is joined with another's."""
    pooled = pool_records([records([0, 0, 5], [1, 1, 2]), records([], []), records([0, 3], [0, 1])])
    assert pooled.patients_N.tolist() == [0, 0, 5, 6, 9]
    assert pooled.exams_N.tolist() == [1, 1, 2, 3, 4]
    assert pooled.patients(Split.TRAIN) == 4


def flow(number: int, excluded: dict[str, int]) -> ReleasedFlow:
    counts = ClassCounts(
        positive_patients=number, negative_patients=2 * number, positive_exams=3 * number, negative_exams=4 * number
    )
    split = SplitCounts(patients=5 * number, exams=6 * number, classes=(counts, counts))
    return ReleasedFlow(
        found=7 * number, excluded=excluded, splits=dict.fromkeys(("train", "validation", "test"), split)
    )


def test_flows_are_added() -> None:
    """Every count is the sum; a reason that only one site has is kept."""
    pooled = pool_flows([flow(1, {"empty": 2}), flow(10, {"empty": 1, "truncated": 4})])
    assert pooled == flow(11, {"empty": 3, "truncated": 4})


def test_the_pooled_agent_is_one_site_with_all_patients(tiny: Any, tmp_path: Path, one_thread: None) -> None:
    """Under a name that no hospital can have it trains on every site's images, and logs on its own."""
    protocol = tiny.protocol()
    bench = tiny.bench(protocol)
    sites = [tiny.agent(protocol, tmp_path, bench=bench, name=name) for name in ("north", "south")]
    pooled = pool(sites, folder=tmp_path / "pooled")

    def ask(agent: Any, kind: Kind, **task: Any) -> Any:
        header = Header(protocol_digest=protocol.digest(), run_id="run", round=1, site=agent.site, kind=kind)
        made = ReadyTask(header=header) if kind is Kind.READY else TrainTask(header=header, **task)
        return decode_answer(from_frames(agent.handle(to_frames(encode_task(made))))).reply

    ready = ask(pooled, Kind.READY)
    assert isinstance(ready, ReadyReply)
    assert (pooled.site, ready.flow.splits["train"].patients) == (POOLED, 20)
    names = exchanged(bench.classifier, "head", local_norm=False)
    sent = {name: array.copy() for name, array in bench.arrays(names).items()}
    together, alone = (ask(agent, Kind.TRAIN, arrays=sent) for agent in (pooled, sites[0]))
    assert isinstance(together, TrainReply)
    assert together.images_per_second > 0
    assert digest(together.update) != digest(alone.update)
    assert len(list(verify(tmp_path / "pooled" / "audit.jsonl"))) == 2


def test_the_twin_with_own_layers_differs_in_them_alone() -> None:
    """It keeps norm layers at the site, by each batch's own statistics where they were frozen."""
    plain = parse(
        {"study": {"name": "s", "intended_use": "u"}, "task": {"classes": ["a", "b"]}, "federation": {"rounds": 1}},
        StudyProtocol,
        where="study",
        error=StudyError,
    )
    own = with_own_layers(plain)
    assert (own.federation.local_norm, own.model.norm) == (True, "batch")
    assert own.task == plain.task
    assert own.study == plain.study
    assert own.digest() != plain.digest()


def test_half_and_half_says_the_mean_of_both_log_odds() -> None:
    """On any features, in the arrays' own type; neither head is changed."""
    rng = np.random.default_rng(0)
    shapes = {"fc.weight": (2, 8), "fc.bias": (2,)}
    one, other = ({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(2))
    features_ND = rng.normal(size=(5, 8))
    said = [features_ND @ head["fc.weight"].T + head["fc.bias"] for head in (one, other, half_and_half(one, other))]
    assert said[2] == pytest.approx((said[0] + said[1]) / 2, abs=1e-6)
    assert half_and_half(one, other)["fc.weight"].dtype == np.float32
