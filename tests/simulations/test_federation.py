"""N sites and a coordinator in one process: the same bits, whatever the sites' order, a kill, or the runs before."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from server.admission import Refused
from shared.audit import verify
from shared.evidence import Evidence
from shared.messages import EvaluateReply
from shared.parameters import digest
from simulations.baselines import POOLED
from simulations.federation import Federation, Run

pytestmark = pytest.mark.usefixtures("one_thread")

HEAD = {"federation": {"rounds": 2}}


class Interrupted(BaseException):
    """Stands for a kill, between one round and the next."""


@pytest.fixture
def federation(tiny: Any, tmp_path: Path) -> Callable[..., Federation]:
    """Give `federation(sections, folder=..., names=...)`: a study over tiny hospitals."""

    def make(
        sections: Mapping[str, Any] = HEAD,
        *,
        folder: str = "run",
        names: tuple[str, ...] = ("north", "south"),
    ) -> Federation:
        protocol = tiny.protocol(**sections)
        path = tmp_path / folder
        return Federation(
            protocol=protocol,
            sites=[tiny.hospital(protocol, path, name=name, patients=8) for name in names],
            device=torch.device("cpu"),
            weights_file=None,
            folder=path,
            progress=lambda *_: None,
        )

    return make


def run(federation: Federation, **changes: Any) -> Run:
    own = {
        "train_on": federation.names,
        "min_sites": 2,
        "folder": federation.folder,
        "progress": lambda _: None,
    }
    return federation.run(changes.pop("run_id", "federated"), **own | changes)


def bits(made: Run) -> str:
    return digest(made.coordinator.whole_model(made.conclusion.model))


def test_a_study_runs_from_flows_to_test_evidence(federation: Any) -> None:
    """Both hospitals say who they are, train, validate and test; each one's log says what left it."""
    study = federation()
    made = run(study)
    assert set(made.flows) == {"north", "south"}
    assert [made.flows[site].splits["train"].patients for site in ("north", "south")] == [4, 4]
    assert [record["sites"]["north"]["refusal"] for record in made.conclusion.state.history] == [None, None]
    assert not np.array_equal(made.conclusion.model["fc.weight"], made.coordinator.initial["fc.weight"])
    for site in study.names:
        reply = made.conclusion.test[site]
        assert isinstance(reply, EvaluateReply)
        assert isinstance(reply.evidence[0], Evidence)
        assert reply.evidence[0].confusion is not None
        lines = list(verify(study.folder / "sites" / site / "federated" / "audit.jsonl"))
        assert {line["sha256"] for line in lines} == {"not taken in a simulation"}
        assert min(line["bytes"] for line in lines) > 0
        kinds = [line["kind"] for line in lines]
        assert kinds == ["query", *["train", "evaluate"] * 2, *["evaluate"] * 3]


def test_the_order_of_the_sites_is_nothing(federation: Any) -> None:
    """Three hospitals given in another order make the same model, to the bit."""
    given, other = (
        federation(folder=folder, names=names)
        for folder, names in (("one", ("north", "south", "east")), ("other", ("south", "east", "north")))
    )
    assert given.names == other.names == ("east", "north", "south")
    assert bits(run(given)) == bits(run(other))


LOCAL_NORM: Mapping[str, Any] = {
    "model": {"unfreeze": [{"round": 1, "from": "layer4"}], "norm": "batch"},
    "federation": {"rounds": 2, "local_norm": True},
}

STUDIES: dict[str, Mapping[str, Any]] = {
    "fedadam": {
        "model": {"dropout": 0.3},
        "augmentation": {"noise": 0.05},
        "federation": {"rounds": 3, "strategy": "fedadam"},
    },
    "local normalisation layers": LOCAL_NORM,
    "fedavgm over half precision, cached views": {
        "augmentation": {"noise": 0.05},
        "training": {"feature_views": 2, "sampler": "balanced"},
        "federation": {"rounds": 3, "strategy": "fedavgm", "wire": "fp16", "select": "best_validation"},
    },
}


@pytest.mark.parametrize("sections", STUDIES.values(), ids=STUDIES)
def test_a_run_that_was_killed_after_any_round_ends_in_the_same_bits(federation: Any, sections: Any) -> None:
    """Stopped after each round but the last, a run in new objects gives the model of an undisturbed one."""
    whole = run(federation(sections, folder="whole"))
    for stop in range(1, sections["federation"]["rounds"]):

        def kill(record: Mapping[str, Any], stop: int = stop) -> None:
            if record["round"] == stop:
                raise Interrupted

        with pytest.raises(Interrupted):
            run(federation(sections, folder="killed"), progress=kill)
    resumed = run(federation(sections, folder="killed"))
    assert bits(resumed) == bits(whole)
    assert resumed.conclusion.test == whole.conclusion.test
    losses = [
        [
            record["sites"][site]["loss_by_epoch"]
            for record in made.conclusion.state.history
            for site in ("north", "south")
        ]
        for made in (resumed, whole)
    ]
    assert losses[0] == losses[1]


def test_a_run_that_was_killed_before_round_1_keeps_its_scale(federation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once landmarks are known nobody is asked again; the resumed run ends in the bits of an undisturbed one."""
    sections = {"images": {"harmonise": "landmarks"}, "federation": {"rounds": 2}}
    whole = run(federation(sections, folder="whole"))

    def killed(**_: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as at_round_1:
        at_round_1.setattr("server.study_run.run_rounds", killed)
        with pytest.raises(Interrupted):
            run(federation(sections, folder="killed"))
    monkeypatch.setattr("client.agent.Agent._landmarks", lambda _: pytest.fail("it was asked again"))
    resumed = run(federation(sections, folder="killed"))
    assert len(resumed.conclusion.state.standard) == 9
    assert resumed.conclusion.state.landmarks == whole.conclusion.state.landmarks
    assert bits(resumed) == bits(whole)
    assert resumed.conclusion.test == whole.conclusion.test


def test_normalisation_layers_never_reach_the_coordinator(federation: Any) -> None:
    """With local_norm the run's model holds the initial layers, and each hospital kept layers of its own."""
    study = federation(LOCAL_NORM | {"federation": {"rounds": 1, "local_norm": True}})
    made = run(study)
    model = made.coordinator.whole_model(made.conclusion.model)
    assert not any(".bn" in name or name.startswith("bn") for name in made.conclusion.model)
    own = {name for name in model if ".bn" in name or name.startswith("bn")}
    assert all(np.array_equal(model[name], made.coordinator.initial[name]) for name in own)
    kept = [sorted((study.folder / "sites" / site).rglob("norm-*.safetensors")) for site in study.names]
    assert [len(files) for files in kept] == [1, 1]
    assert len({files[-1].read_bytes() for files in kept}) == 2


def test_baselines_are_runs_of_their_own(federation: Any) -> None:
    """One site alone, and all sites' patients in one place: other models, tested at every hospital."""
    study = federation()
    federated = run(study)
    alone = run(study, run_id="local-north", train_on=("north",), min_sites=1, folder=study.folder / "local")
    pooled = run(study, run_id="pooled", train_on=(POOLED,), min_sites=1, folder=study.folder / "pooled")
    assert len({bits(made) for made in (federated, alone, pooled)}) == 3
    for made in (alone, pooled):
        assert set(made.conclusion.test) == {"north", "south"}
    assert set(alone.conclusion.validation) == {"north"}
    assert set(pooled.conclusion.validation) == {POOLED}
    assert list(pooled.conclusion.state.history[0]["sites"]) == [POOLED]
    again = run(study, folder=study.folder / "again")
    assert bits(again) == bits(federated)


def test_a_hospital_that_is_too_small_tests_and_does_not_train(federation: Any, tiny: Any) -> None:
    """Its training patients are fewer than its min_cell: the study goes on without them, and says so in its flow."""
    study = federation(names=("north", "south"))
    small = tiny.hospital(study.protocol, study.folder, name="west", patients=8, min_cell=5)
    made = run(
        Federation(
            protocol=study.protocol,
            sites=[*study.sites, small],
            device=study.device,
            weights_file=None,
            folder=study.folder,
            progress=study.progress,
        ),
        train_on=("north", "south", "west"),
    )
    assert set(made.conclusion.state.history[0]["sites"]) == {"north", "south"}
    assert not isinstance(made.flows["west"], Refused)
    assert made.flows["west"].splits["train"].patients is None
    assert type(made.conclusion.test["west"].evidence[0]).__name__ == "Withheld"
