"""The strategy asks each site for the same thing, and turns what is usable into the next model."""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from server.admission import Refused
from server.aggregation import ServerOptimiser
from server.asking import Desk
from server.combining import weighted_mean
from server.rounds import RoundPlan, initial_state, run_rounds
from server.strategy import FederatedStrategy, Rules, Site
from shared.evidence import Evidence, Withheld
from shared.messages import (
    Answer,
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
    Refusal,
    RefusalReply,
    Reply,
    Task,
    TrainReply,
    TrainTask,
    decode_task,
    encode_answer,
    encode_task,
)
from shared.metrics import ScoreHistogram
from shared.model import exchanged
from shared.operating_point import choose_on
from shared.parameters import digest
from shared.split import Split
from shared.wire import arrays_from_record, from_frames, record_of, to_frames
from simulations.in_process_grid import InProcessGrid

BINS = 8
RNG = np.random.default_rng(8)


def model(seed: int = 0, *, dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "fc.weight": rng.standard_normal((2, 5)).astype(dtype),
        "fc.bias": rng.standard_normal(2).astype(dtype),
    }


def reply(arrays: Any) -> TrainReply:
    return TrainReply(update=arrays, loss_by_epoch=(0.5,), update_norm=1.0, images_per_second=9.0, seconds=1.0)


def rules(**changes: Any) -> Rules:
    own = {
        "protocol_digest": "digest",
        "run_id": "run",
        "optimiser": ServerOptimiser(kind="fedavg"),
        "min_sites": 2,
        "weight_cap": 1.0,
        "combine": partial(weighted_mean, cap=changes.get("weight_cap", 1.0)),
        "norm_multiple": 0.0,
        "norm_bound": 0.0,
        "epochs": 1,
        "targets": ("opacity",),
        "axes": (),
        "bins": BINS,
        "wire": "fp32",
    }
    return Rules(**own | changes)


def strategy(weights: dict[str, float], **changes: Any) -> FederatedStrategy:
    """Give a strategy over sites with these weights; their nodes are numbered in the order given."""
    sites = [Site(name=name, node_id=node, weight=weight) for node, (name, weight) in enumerate(weights.items(), 1)]
    return FederatedStrategy(sites=sites, rules=rules(**changes), optimiser_state={})


Handlers = dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]]


def train(asked: FederatedStrategy, handlers: Handlers, start: Any = None, number: int = 1) -> Any:
    """Run one round of training over the in-process grid; give the next arrays, or None."""
    grid = InProcessGrid({site.node_id: handlers[site.name] for site in asked.sites})
    messages = asked.configure_train(number, record_of(start or model()), ConfigRecord(), grid)
    after, _ = asked.aggregate_train(number, grid.send_and_receive(messages))
    return None if after is None else arrays_from_record(after)


def site(scripted_site: Any, arrays: Any) -> Any:
    return scripted_site(lambda _: reply(arrays))


def test_every_site_is_asked_for_the_same_in_the_order_of_names(scripted_site: Any) -> None:
    """Whatever the roster's order: one task a site, addressed to it, with the model, the round, the run and study."""
    sites = {name: site(scripted_site, model(1)) for name in ("west", "north", "east")}
    asked = strategy(dict.fromkeys(sites, 1.0))
    grid = InProcessGrid({})
    messages = list(asked.configure_train(4, record_of(model()), ConfigRecord(), grid))
    tasks = [decode_task(message.content) for message in messages]
    assert [task.header.site for task in tasks] == ["east", "north", "west"]
    assert [message.metadata.dst_node_id for message in messages] == [3, 2, 1]
    for task in tasks:
        assert isinstance(task, TrainTask)
        assert digest(task.arrays) == digest(model())
        header = task.header
        assert (header.protocol_digest, header.run_id, header.round, header.kind) == ("digest", "run", 4, "train")
    assert len({id(message.content.array_records["arrays"]) for message in messages}) == 1  # encoded once for all


def test_the_model_moves_by_the_weighted_mean_of_the_updates(scripted_site: Any) -> None:
    """FedAvg: w + sum of n_k / n times the update of site k, in fp32."""
    weights = {"a": 30.0, "b": 50.0, "c": 20.0}
    updates = {name: model(seed) for seed, name in enumerate(weights, 1)}
    after = train(strategy(weights), {name: site(scripted_site, updates[name]).handle for name in weights})
    for name, array in model().items():
        mean = np.average(
            [updates[one][name].astype(np.float64) for one in weights], axis=0, weights=[*weights.values()]
        )
        np.testing.assert_allclose(after[name], array + mean, rtol=1e-6, atol=1e-7)
        assert after[name].dtype == np.float32


def test_no_site_stands_for_more_than_the_cap(scripted_site: Any) -> None:
    """A site with 98 of 100 patients moves the model by 60 % of its update where the cap is .6."""
    weights = {"large": 98.0, "small": 2.0}
    ones = {name: np.ones_like(array) for name, array in model().items()}
    zeros = {name: np.zeros_like(array) for name, array in model().items()}
    handlers = {"large": site(scripted_site, ones).handle, "small": site(scripted_site, zeros).handle}
    after = train(strategy(weights, weight_cap=0.6), handlers)
    np.testing.assert_allclose(after["fc.bias"], model()["fc.bias"] + 0.6, rtol=1e-6)


def test_an_update_beyond_the_bound_is_shrunk_and_the_others_are_not(scripted_site: Any) -> None:
    """One site's update of norm 100 counts as one of norm 2; the recorded norm is what was sent."""
    direction = np.zeros((2, 5), np.float32)
    direction[0, 0] = 1
    handlers = {
        name: site(scripted_site, {"fc.weight": direction * length, "fc.bias": np.zeros(2, np.float32)}).handle
        for name, length in {"huge": 100.0, "modest": 1.0}.items()
    }
    asked = strategy({"huge": 1.0, "modest": 1.0}, norm_bound=2.0)
    after = train(asked, handlers)
    assert after["fc.weight"][0, 0] == pytest.approx(model()["fc.weight"][0, 0] + 1.5)
    assert (asked.outcome.training["huge"].update_norm, asked.outcome.training["modest"].update_norm) == (100.0, 1.0)


def test_half_precision_travels_and_the_server_keeps_single(scripted_site: Any) -> None:
    """The model is sent in fp16 and updates come in fp16, but what they are added to was never rounded."""
    updates = {name: model(seed, dtype=np.float16) for seed, name in enumerate("ab", 1)}
    sites = {name: site(scripted_site, updates[name]) for name in "ab"}
    after = train(strategy({"a": 1.0, "b": 1.0}, wire="fp16"), {name: one.handle for name, one in sites.items()})
    for name, array in model().items():
        sent = sites["a"].asked[0].arrays[name]
        np.testing.assert_array_equal(sent, array.astype(np.float16))
        assert sent.dtype == np.float16
        mean = (updates["a"][name].astype(np.float64) + updates["b"][name].astype(np.float64)) / 2
        np.testing.assert_allclose(after[name], array + mean, rtol=1e-6, atol=1e-7)
        assert not np.array_equal(after[name], after[name].astype(np.float16))


def answering(content: Callable[[Task], RecordDict]) -> Callable[[Iterable[bytes]], Iterator[bytes]]:
    """Give a site that answers with any content."""
    return lambda frames: to_frames(content(decode_task(from_frames(frames))))


def own(task: Task, what: Reply, **header: Any) -> RecordDict:
    return encode_answer(Answer(task_id=task.header.task_id, reply=what, **header))


def with_nan() -> dict[str, Any]:
    broken = model(9)
    broken["fc.weight"][1, 1] = np.nan
    return broken


BAD: dict[str, tuple[Callable[[Task], RecordDict], str]] = {
    "NaN": (lambda task: own(task, reply(with_nan())), "update_not_finite"),
    "another shape": (
        lambda task: own(task, reply(model() | {"fc.bias": np.zeros(3, np.float32)})),
        "arrays_of_wrong_form",
    ),
    "another dtype": (lambda task: own(task, reply(model(dtype=np.float16))), "arrays_of_wrong_form"),
    "no arrays": (lambda task: own(task, reply({})), "arrays_of_wrong_form"),
    "another task": (
        lambda _: encode_answer(Answer(task_id="of an earlier round", reply=reply(model(9)))),
        "answers_another_task",
    ),
    "another version": (lambda task: own(task, reply(model(9)), version="0"), "other_version"),
    "another kind": (lambda task: own(task, EvaluateReply(evidence=())), "malformed_reply"),
    "garbage": (lambda _: RecordDict({"state": ConfigRecord({"name": "DOE^JOHN"})}), "malformed_reply"),
    "nothing": (lambda _: RecordDict(), "malformed_reply"),
    "a refusal": (lambda task: own(task, RefusalReply(code=Refusal.STORAGE)), "storage"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_one_bad_site_is_left_out_with_its_reason(
    scripted_site: Any, caplog: pytest.LogCaptureFixture, content: Any, reason: str
) -> None:
    """It neither ends the round nor touches the model: the others make it, to the bit, as if it had been silent."""
    good = {name: site(scripted_site, model(seed)).handle for seed, name in enumerate(("a", "c"), 1)}
    asked = strategy({"a": 1.0, "bad": 1.0, "c": 1.0})
    with caplog.at_level(logging.WARNING):
        after = train(asked, good | {"bad": answering(content)}, number=3)
    assert {name: entry.refusal for name, entry in asked.outcome.training.items()} == {
        "a": None,
        "bad": reason,
        "c": None,
    }
    assert caplog.messages == [f"round 3: bad is left out: {reason}"]
    assert "DOE" not in caplog.text

    silent = strategy({"a": 1.0, "bad": 1.0, "c": 1.0})
    grid = InProcessGrid({1: good["a"], 3: good["c"]})
    messages = [
        message
        for message in silent.configure_train(3, record_of(model()), ConfigRecord(), grid)
        if message.metadata.dst_node_id != 2
    ]
    record, _ = silent.aggregate_train(3, grid.send_and_receive(messages))
    assert record is not None
    assert digest(after) == digest(arrays_from_record(record))
    assert silent.outcome.training["bad"].refusal == "no_reply"


def test_an_error_of_flowers_is_no_reply(scripted_site: Any) -> None:
    """Under Flower's own loop an error message takes a reply's place; the round goes on without that site."""
    handlers = {name: site(scripted_site, model(1)).handle for name in "abc"}

    class Failing(InProcessGrid):
        def _answer(self, message: Message) -> Message:
            if message.metadata.dst_node_id == 2:
                return Message(Error(0, "DOE^JOHN"), reply_to=message)
            return super()._answer(message)

    asked = strategy(dict.fromkeys(handlers, 1.0))
    grid = Failing(dict(enumerate(handlers.values(), 1)))
    messages = asked.configure_train(1, record_of(model()), ConfigRecord(), grid)
    after, metrics = asked.aggregate_train(1, grid.send_and_receive(messages))
    assert after is not None
    assert metrics == {"sites": 2}
    assert asked.outcome.training["b"].refusal == "no_reply"


@pytest.mark.parametrize(("needed", "moves"), [(1, True), (2, True), (3, False)])
def test_fewer_usable_sites_than_needed_move_nothing(scripted_site: Any, needed: int, moves: bool) -> None:
    """Two usable of three sites are enough where two are needed, and lose the round where three are."""
    handlers = {name: site(scripted_site, model(1)).handle for name in "ab"}
    handlers["c"] = answering(BAD["NaN"][0])
    asked = strategy(dict.fromkeys(handlers, 1.0), min_sites=needed, optimiser=ServerOptimiser(kind="fedavgm", lr=1.0))
    assert (train(asked, handlers) is not None) == moves
    assert bool(asked.optimiser_state) == moves


def test_figures_are_kept_and_arrays_are_not(scripted_site: Any) -> None:
    """What a round leaves behind is small, whatever the model's size."""
    asked = strategy({"a": 1.0, "b": 1.0})
    train(asked, {name: site(scripted_site, model(1)).handle for name in "ab"})
    entry = asked.outcome.training["a"].reply
    assert entry is not None
    assert (entry.update, entry.loss_by_epoch, entry.images_per_second) == ({}, (0.5,), 9.0)


def evidence(*, bins: int = BINS) -> Evidence:
    empty = (0,) * bins
    return Evidence(
        units=0,
        patients=0,
        positive_patients=0,
        negative_patients=0,
        histogram=ScoreHistogram(positives=empty, negatives=empty),
        confusion=None,
        auc=None,
        brier=None,
    )


def test_evidence_is_kept_by_site_or_refused_with_a_reason(scripted_site: Any) -> None:
    """Withheld evidence is an answer; evidence in other bins, a refusal and silence are not."""
    sites = {
        "a": scripted_site(lambda _: EvaluateReply(evidence=(evidence(),))).handle,
        "b": scripted_site(lambda _: EvaluateReply(evidence=(Withheld(),))).handle,
        "c": scripted_site(lambda _: EvaluateReply(evidence=(evidence(bins=9),))).handle,
        "d": scripted_site(lambda _: RefusalReply(code=Refusal.DATA)).handle,
        "e": scripted_site(lambda _: EvaluateReply(evidence=())).handle,
    }
    asked = strategy(dict.fromkeys([*sites, "f"], 1.0))
    grid = InProcessGrid(dict(enumerate(sites.values(), 1)))
    messages = list(asked.configure_evaluate(1, record_of(model()), ConfigRecord({"split": "test"}), grid))
    assert asked.aggregate_evaluate(1, grid.send_and_receive(messages[:-1])) is None
    assert asked.outcome.evaluation == {
        "a": EvaluateReply(evidence=(evidence(),)),
        "b": EvaluateReply(evidence=(Withheld(),)),
        "c": Refused(reason="counts_of_wrong_form"),
        "d": Refused(reason="data_unusable"),
        "e": Refused(reason="counts_of_wrong_form"),
        "f": Refused(reason="no_reply"),
    }


@pytest.mark.parametrize(
    ("config", "split", "thresholds", "detail"),
    [
        ({}, Split.VALIDATION, (), "validation"),
        ({"split": "test", "thresholds": []}, Split.TEST, (), "test"),
        ({"split": "test", "thresholds": [0.1 + 0.2]}, Split.TEST, (0.1 + 0.2,), "test+counts"),
    ],
)
def test_a_task_to_score_names_split_and_thresholds(
    config: dict[str, Any], split: Split, thresholds: Any, detail: str
) -> None:
    """Thresholds travel as they are, bit for bit, and what is asked for is part of the task's id."""
    asked = strategy({"a": 1.0})
    (message,) = asked.configure_evaluate(2, record_of(model()), ConfigRecord(config), InProcessGrid({}))
    task = decode_task(message.content)
    assert isinstance(task, EvaluateTask)
    assert (task.split, task.thresholds, task.header.detail, task.header.round) == (split, thresholds, detail, 2)


def test_it_says_what_it_does(caplog: pytest.LogCaptureFixture) -> None:
    """Flower's loop lets a strategy introduce itself."""
    with caplog.at_level(logging.INFO):
        strategy({"a": 1.0, "b": 1.0}).summary()
    assert caplog.messages == ["fedavg over 2 sites"]


def learning(scripted_site: Any, towards: Any) -> Any:
    """Give a site whose update depends on what it was sent: half of the way to its own optimum."""

    def answer(task: Task) -> Reply:
        if isinstance(task, EvaluateTask):
            return EvaluateReply(evidence=(Withheld(),))
        arrays = task.arrays  # type: ignore[union-attr]
        return reply({name: (towards[name] - arrays[name]) / np.float32(2) for name in arrays})

    return scripted_site(answer)


@pytest.mark.parametrize("kind", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_flowers_own_loop_gives_the_same_arrays(scripted_site: Any, kind: Any) -> None:
    """Under Strategy.start of Flower, over three rounds, every strategy gives the very bits of our round loop."""
    changes = {"optimiser": ServerOptimiser(kind=kind, lr=0.1, momentum=0.9, beta1=0.9, beta2=0.99)}
    weights = {"a": 3.0, "b": 1.0, "c": 2.0}
    handlers = {node: learning(scripted_site, model(seed)).handle for node, seed in enumerate((11, 12, 13), start=1)}
    theirs = strategy(weights, **changes).start(InProcessGrid(handlers), record_of(model()), num_rounds=3)
    ours = strategy(weights, **changes)
    plan = RoundPlan(
        rounds=3,
        trained_names=lambda _: list(model()),
        select="last",
        choose=partial(choose_on, target=0.9, claim="point", confidence=0.95),
        targets=("opacity",),
        deadline_seconds=9.0,
    )
    state = run_rounds(
        desk=Desk(InProcessGrid(handlers)),
        strategy=ours,
        plan=plan,
        state=initial_state(model()),
        save=lambda _: None,
        progress=lambda _: None,
    )
    assert digest(arrays_from_record(theirs.arrays)) == digest(state.model)
    assert digest(state.model) != digest(model())


def test_a_round_of_real_agents_is_the_average_of_their_updates(tiny: Any, tmp_path: Path, one_thread: None) -> None:
    """FedAvg over the grid equals what one computes by hand from each agent's own update."""
    protocol = tiny.protocol()
    bench = tiny.bench(protocol)
    start = {name: bench.arrays([name])[name].copy() for name in exchanged(bench.classifier, "head", local_norm=False)}
    weights = {"north": 10.0, "south": 14.0}
    agents = {
        name: tiny.agent(protocol, tmp_path, bench=bench, name=name, patients=2 * int(patients))
        for name, patients in weights.items()
    }
    asked = strategy(weights, protocol_digest=protocol.digest())
    after = train(asked, {name: agent.handle for name, agent in agents.items()}, start)
    updates = {}
    for name, agent in agents.items():
        header = Header(protocol_digest=protocol.digest(), run_id="run", round=1, site=name, kind=Kind.TRAIN)
        frames = agent.handle(to_frames(encode_task(TrainTask(header=header, arrays=start))))
        updates[name] = arrays_from_record(from_frames(frames).array_records["arrays"])
    for name, array in start.items():
        by_hand = array + (10 * updates["north"][name] + 14 * updates["south"][name]) / 24
        np.testing.assert_allclose(after[name], by_hand, rtol=1e-5, atol=1e-7)
        assert not np.array_equal(updates["north"][name], updates["south"][name])
