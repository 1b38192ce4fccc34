"""The round loop asks until it has a reply, adds up in canonical order, and outlives any one site."""

import gc
import json
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message
from flwr.serverapp import Grid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.aggregation import ServerOptimiser
from server.asking import Desk
from server.checkpoint import RunState
from server.combining import weighted_mean
from server.patience import LONGEST_SECONDS
from server.rounds import RoundPlan, chosen_round, initial_state, refuse_untrained, run_rounds
from server.strategy import FederatedStrategy, Rules, Site
from shared.errors import FederationError
from shared.estimates import Estimate
from shared.evidence import Evidence
from shared.messages import (
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
    ReadyTask,
    Refusal,
    RefusalReply,
    Reply,
    Task,
    TrainReply,
    decode_task,
    encode_task,
)
from shared.metrics import ScoreHistogram
from shared.operating_point import choose_on
from simulations.in_process_grid import InProcessGrid

BINS = 8


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("server.rounds.time", made)
    monkeypatch.setattr("server.asking.time", made)
    return made


class LateGrid(InProcessGrid):
    """A network: `fate(node, attempt)` says when each sending is answered: after how many seconds, with "error", never.

    `sent` lists (time, node, task id) of every sending, `pulled` the ids that were asked for in each pull.
    """

    def __init__(self, agents: Any, clock: Clock, fate: Callable[[int, int], float | str | None]) -> None:
        super().__init__(agents if isinstance(agents, dict) else dict.fromkeys(agents, iter))
        self._clock, self._fate = clock, fate
        self.sent: list[tuple[float, int, str]] = []
        self.pulled: list[list[str]] = []
        self._due: dict[str, tuple[Message, float | str | None]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for message_id, message in zip(ids, messages, strict=True):
            node = message.metadata.dst_node_id
            attempt = sum(known == node for _, known, _ in self.sent)
            self.sent.append((self._clock.now, node, decode_task(message.content).header.task_id))
            fate = self._fate(node, attempt)
            due = self._clock.now + fate if isinstance(fate, float | int) else fate
            self._due[message_id] = (message, due)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulled.append(list(message_ids))
        for message_id in self.pulled[-1]:
            message, due = self._due.get(message_id, (None, None))
            if due == "error":
                yield Message(Error(0, "DOE^JOHN"), reply_to=message)
            elif due is not None and due <= self._clock.now:
                del self._due[message_id]
                yield from super().pull_messages([message_id])


def tasks(grid: LateGrid, nodes: Iterable[int]) -> list[Message]:
    """Give one message a node, whose task is its own."""
    headers = {
        node: Header(protocol_digest="d", run_id="r", round=1, site=f"site{node}", kind=Kind.READY) for node in nodes
    }
    return [
        Message(encode_task(ReadyTask(header=header)), node, "query", group_id="7") for node, header in headers.items()
    ]


def ask(grid: Grid, messages: Iterable[Message], deadline_seconds: float) -> Iterable[Message]:
    return Desk(grid).ask(messages, deadline_seconds)


def nodes_of(replies: Iterable[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def test_replies_come_in_the_order_of_asking_whatever_the_arrival(clock: Clock) -> None:
    """The slowest site is first in order, and so it is waited for first."""
    grid = LateGrid([1, 2, 3], clock, lambda node, _: {1: 30.0, 2: 0.0, 3: 10.0}[node])
    assert nodes_of(ask(grid, tasks(grid, [1, 2, 3]), 100)) == [1, 2, 3]
    assert clock.now == 30
    assert [len(ids) for ids in grid.pulled] == [1] * len(grid.pulled)


def test_an_error_of_flowers_is_asked_again_with_the_same_task(clock: Clock) -> None:
    """Two errors, then an answer: the very same task went out three times, in the same group."""
    grid = LateGrid([1], clock, lambda _, attempt: "error" if attempt < 2 else 0.0)
    (message,) = tasks(grid, [1])
    (reply,) = ask(grid, [message], 100)
    assert reply.metadata.group_id == "7"
    assert reply.content.config_records["task"] == message.content.config_records["task"]  # this site echoes it
    assert len(grid.sent) == 3
    assert {task_id for _, _, task_id in grid.sent} == {decode_task(message.content).header.task_id}
    assert all(len(ids) == 1 for ids in grid.pulled)


def test_silence_is_asked_again_with_the_same_task(clock: Clock) -> None:
    """A lost answer never comes: after LONGEST_SECONDS the task is sent again, and both sendings are listened for."""
    grid = LateGrid([1], clock, lambda _, attempt: None if attempt == 0 else 5.0)
    assert nodes_of(ask(grid, tasks(grid, [1]), 10 * LONGEST_SECONDS)) == [1]
    assert [when for when, _, _ in grid.sent] == [0, LONGEST_SECONDS]
    assert len({task_id for _, _, task_id in grid.sent}) == 1
    assert len(grid.pulled[-1]) == 2


def test_a_late_first_answer_counts(clock: Clock) -> None:
    """An answer to the first sending is taken though the task was sent again meanwhile."""
    grid = LateGrid([1], clock, lambda _, attempt: LONGEST_SECONDS + 3 if attempt == 0 else None)
    assert nodes_of(ask(grid, tasks(grid, [1]), 10 * LONGEST_SECONDS)) == [1]
    assert clock.now == LONGEST_SECONDS + 3


def test_a_site_that_stays_silent_is_passed_over_at_the_deadline(clock: Clock) -> None:
    """Never, too late, or errors only: the round goes on without it, and those behind it are still heard."""
    fates: dict[int, Any] = {1: None, 2: 0.0, 3: "error", 4: 41.0, 5: 40.0}
    grid = LateGrid(list(fates), clock, lambda node, _: fates[node])
    assert nodes_of(ask(grid, tasks(grid, fates), 40)) == [2, 5]
    assert clock.now == 40


def test_waiting_costs_no_more_than_two_looks_a_second(clock: Clock) -> None:
    """Between two looks the loop sleeps; where answers are there it never does."""
    grid = LateGrid([1], clock, lambda *_: 3.0)
    list(ask(grid, tasks(grid, [1]), 10))
    assert clock.slept == [0.5] * 6
    grid = LateGrid([1, 2], clock, lambda *_: 0.0)
    list(ask(grid, tasks(grid, [1, 2]), 10))
    assert len(clock.slept) == 6


def model(*values: float) -> dict[str, Any]:
    return {"fc.weight": np.array(values, np.float32)}


def update(*values: float) -> TrainReply:
    return TrainReply(
        update=model(*values), loss_by_epoch=(0.5, 0.25), update_norm=1.0, images_per_second=9.0, seconds=2.0
    )


def evidence(place: int) -> EvaluateReply:
    """Give evidence with an AUC of 1 at place 7, 0.5 at 0."""
    positives = tuple(int(bin_ == place) for bin_ in range(BINS))
    histogram = ScoreHistogram(positives=positives, negatives=(1,) + (0,) * (BINS - 1))
    item = Evidence(
        units=2,
        patients=2,
        positive_patients=1,
        negative_patients=1,
        histogram=histogram,
        confusion=None,
        auc=Estimate(value=1.0 if place else 0.5, low=0.0, high=1.0),
        brier=0.25,
    )
    return EvaluateReply(evidence=(item,))


Answers = Callable[[Task], Reply]


class Trial:
    """A run of scripted sites: `answers` say what each replies to a training task, by site and round."""

    def __init__(
        self, scripted_site: Any, answers: dict[str, Callable[[int], Reply]], scores: Any = None, **rules: Any
    ) -> None:
        def script(train: Callable[[int], Reply]) -> Answers:
            def answer(task: Task) -> Reply:
                if isinstance(task, EvaluateTask):
                    return evidence((scores or {}).get(task.header.round, 7))
                return train(task.header.round)

            return answer

        self.sites = {name: scripted_site(script(train)) for name, train in answers.items()}
        self.grid = InProcessGrid({node: site.handle for node, site in enumerate(self.sites.values(), start=1)})
        self.roster = [Site(name=name, node_id=node, weight=1.0) for node, name in enumerate(self.sites, start=1)]
        own = {
            "protocol_digest": "d",
            "run_id": "r",
            "optimiser": ServerOptimiser(kind="fedavg"),
            "min_sites": 2,
            "weight_cap": 1.0,
            "combine": partial(weighted_mean, cap=1.0),
            "norm_multiple": 0.0,
            "norm_bound": 0.0,
            "epochs": 2,
            "targets": ("opacity",),
            "axes": (),
            "bins": BINS,
            "wire": "fp32",
        }
        self.rules = Rules(**own | rules)
        self.saved: list[int] = []
        self.shown: list[Any] = []

    def run(self, *, rounds: int = 1, state: RunState | None = None, deadline: float = 0.0) -> RunState:
        state = state or initial_state(model(0, 0))
        plan = RoundPlan(
            rounds=rounds,
            trained_names=lambda _: ["fc.weight"],
            select="last",
            choose=partial(choose_on, target=0.9, claim="point", confidence=0.95),
            targets=("opacity",),
            deadline_seconds=deadline,
        )
        strategy = FederatedStrategy(sites=self.roster, rules=self.rules, optimiser_state=dict(state.optimiser))
        return run_rounds(
            desk=Desk(self.grid),
            strategy=strategy,
            plan=plan,
            state=state,
            save=lambda state: self.saved.append(state.round),
            progress=self.shown.append,
        )


@pytest.fixture
def trial(scripted_site: Any) -> Callable[..., Trial]:
    return lambda answers, **rules: Trial(scripted_site, answers, **rules)


def good(_: int) -> Reply:
    return update(1, 3)


def test_a_round_trains_evaluates_saves_and_tells(trial: Any) -> None:
    """The mean of the updates moves the model; the new model is scored; the record is saved, then shown."""
    run = trial({"north": good, "south": lambda _: update(3, 5)})
    state = run.run(rounds=2)
    np.testing.assert_array_equal(state.model["fc.weight"], [4, 8])
    assert (run.saved, state.round, run.shown) == ([1, 2], 2, state.history)
    kinds = [(task.header.kind, task.header.round) for task in run.sites["north"].asked]
    assert kinds == [("train", 1), ("evaluate", 1), ("train", 2), ("evaluate", 2)]
    sent = [task.arrays["fc.weight"].tolist() for task in run.sites["north"].asked]
    assert sent == [[0, 0], [2, 4], [2, 4], [4, 8]]


def test_a_rounds_record_can_be_read_by_people_and_programs(trial: Any) -> None:
    """It says of each site how it trained or why it was left out, and what validation shows; it is plain JSON."""
    run = trial({"north": good, "south": good, "west": lambda _: RefusalReply(code=Refusal.TOO_FEW_PATIENTS)})
    (record,) = run.run().history
    assert json.loads(json.dumps(record)) == record
    figures = {"loss_by_epoch": [0.5, 0.25], "images_per_second": 9.0, "seconds": 2.0}
    trained = {"refusal": None, "update_norm": pytest.approx(10**0.5), "factor": 1.0, "update_bytes": 8, **figures}
    assert record["sites"] == {"north": trained, "south": trained, "west": {"refusal": "too_few_patients"}}
    assert (record["round"], record["lost"]) == (1, False)
    assert record["validation"]["macro_auc"] == 1.0
    assert record["seconds"] >= 0


def test_a_lost_round_leaves_the_model_as_it_is(trial: Any) -> None:
    """With one usable site of the two that are needed nothing moves, and the round is recorded as lost."""
    run = trial(
        {"north": good, "south": lambda number: RefusalReply(code=Refusal.DATA) if number == 1 else update(1, 1)}
    )
    state = run.run(rounds=2)
    assert [record["lost"] for record in state.history] == [True, False]
    np.testing.assert_array_equal(state.model["fc.weight"], [1, 2])
    assert run.sites["north"].asked[1].arrays["fc.weight"].tolist() == [0, 0]


def refuses(_: int) -> Reply:
    return RefusalReply(code=Refusal.DATA)


def test_three_lost_rounds_in_a_row_end_the_run_with_the_reasons(trial: Any) -> None:
    """Two lost rounds and a good one go on; three in a row stop, saved, and say which site and why."""
    tolerant = trial({"north": good, "south": lambda number: good(number) if number == 3 else refuses(number)})
    assert tolerant.run(rounds=5).round == 5
    run = trial({"north": good, "south": refuses})
    with pytest.raises(FederationError, match=r"round 3 and the 2 before .*\(south: data_unusable\).*min_sites"):
        run.run(rounds=9)
    assert run.saved == [1, 2, 3]


def test_lost_rounds_are_counted_over_a_resume(trial: Any) -> None:
    """A run that was killed after two lost rounds stops after the third one, as if it had not been."""
    run = trial({"north": good, "south": refuses})
    state = run.run(rounds=2)
    with pytest.raises(FederationError):
        trial({"north": good, "south": refuses}).run(rounds=9, state=state)
    assert state.round == 3


def test_a_resumed_run_does_only_what_is_left(trial: Any) -> None:
    """Finished rounds are not asked for again, and the model goes on from where it was."""
    state = trial({"north": good, "south": good}).run(rounds=1)
    run = trial({"north": good, "south": good})
    resumed = run.run(rounds=3, state=state)
    assert {task.header.round for task in run.sites["north"].asked} == {2, 3}
    np.testing.assert_array_equal(resumed.model["fc.weight"], [3, 9])
    again = trial({"north": good, "south": good})
    assert again.run(rounds=3, state=resumed) is resumed
    assert again.sites["north"].asked == []


def test_the_moments_of_the_server_survive_a_resume(trial: Any) -> None:
    """FedAdam's second run goes on with the first run's moments: two rounds at once or in two runs give equal bits."""
    rules = {"optimiser": ServerOptimiser(kind="fedadam", lr=0.1, beta1=0.9, beta2=0.99)}
    sites = {"north": good, "south": lambda number: update(number, -1)}
    whole = trial(sites, **rules).run(rounds=4)
    halves = trial(sites, **rules).run(rounds=4, state=trial(sites, **rules).run(rounds=2))
    assert halves.model["fc.weight"].tobytes() == whole.model["fc.weight"].tobytes()
    assert halves.optimiser.keys() == {"m/fc.weight", "v/fc.weight"}
    forgetful = trial(sites, **rules).run(rounds=2)
    forgetful.optimiser = {}
    restarted = trial(sites, **rules).run(rounds=4, state=forgetful)
    assert restarted.model["fc.weight"].tobytes() != whole.model["fc.weight"].tobytes()


def test_the_best_round_is_the_first_of_equals(trial: Any) -> None:
    """Rounds 2 and 4 validate best; the earlier one is kept, and chosen where the study says so."""
    run = trial({"north": good, "south": good}, scores={1: 0, 2: 7, 3: 0, 4: 7})
    state = run.run(rounds=4)
    assert state.best == (2, 1.0)
    assert chosen_round(state, "best_validation") == 2
    assert chosen_round(state, "last") == 4


def test_without_validation_evidence_the_last_round_is_chosen() -> None:
    """A run in which no site released evidence has no best round."""
    state = RunState(model=model(0), round=5)
    assert chosen_round(state, "best_validation") == 5


def test_stages_that_do_not_train_keep_their_arrays(scripted_site: Any) -> None:
    """A round asks for the arrays that train in it, and leaves all others of the state as they are, in their order."""
    run = Trial(scripted_site, {"north": good, "south": good})
    state = initial_state({"layer4": np.ones(2, np.float32)} | model(0, 0))
    assert list(run.run(state=state).model) == ["layer4", "fc.weight"]
    np.testing.assert_array_equal(state.model["layer4"], [1, 1])


@given(delays=st.lists(st.integers(0, 20), min_size=4, max_size=4), order=st.permutations(range(4)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bit_depends_on_who_arrives_or_is_named_first(
    trial: Any, clock: Clock, delays: list[int], order: list[int]
) -> None:
    """Updates whose sum depends on its order are summed in the order of names, whatever the arrival and the roster."""
    values = [1e2, 1e-6, -1e2, 3e-7]

    def answer(number: int) -> Callable[[int], Reply]:
        return lambda _: update(values[number], values[-1 - number])

    run = trial({f"site{number}": answer(number) for number in order})
    late = {f"site{number}": float(delays[number]) for number in range(4)}
    names = {site.node_id: site.name for site in run.roster}
    run.grid = LateGrid(run.grid._agents, clock, lambda node, _: late[names[node]])
    expected = trial({f"site{number}": answer(number) for number in range(4)}).run()
    assert run.run(deadline=100.0).model["fc.weight"].tobytes() == expected.model["fc.weight"].tobytes()


class CountingGrid(InProcessGrid):
    """Counts how many replies' arrays are in memory whenever one more is made."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.alive: list[Any] = []
        self.most = 0

    def _answer(self, message: Message) -> Message:
        reply = super()._answer(message)
        arrays = [
            array for record in reply.content.values() if isinstance(record, ArrayRecord) for array in record.values()
        ]
        self.alive = [known for known in self.alive if known() is not None] + [weakref.ref(array) for array in arrays]
        self.most = max(self.most, len(self.alive))
        return reply


def test_one_reply_is_in_memory_at_a_time(trial: Any) -> None:
    """Also when one is refused, each reply's arrays are gone before the next, and wait for no cycle collector."""
    sites = {f"site{number}": good for number in range(6)} | {"site3": lambda _: update(np.nan, 1)}
    run = trial(sites)
    run.grid = CountingGrid(run.grid._agents)
    gc.disable()
    try:
        state = run.run()
    finally:
        gc.enable()
    assert sum(entry["refusal"] is None for entry in state.history[0]["sites"].values()) == 5
    assert run.grid.most == 1


def test_a_run_whose_rounds_were_all_lost_has_no_model(trial: Any) -> None:
    """Two rounds of two are lost, fewer than end a run on the way: it is a failure with the sites' reasons."""
    run = trial({"north": good, "south": refuses})
    state = run.run(rounds=2)
    assert [record["lost"] for record in state.history] == [True, True]
    with pytest.raises(FederationError, match=r"No model was trained: all 2 rounds .*south: data_unusable"):
        refuse_untrained(state, initial_state(model(0, 0)))


def test_a_run_that_never_changed_its_model_has_none(trial: Any) -> None:
    """Updates of nothing from every site are told as what they are; one that moves anything is enough."""
    nothing = trial({"north": lambda _: update(0, 0), "south": lambda _: update(0, 0)}).run(rounds=2)
    with pytest.raises(FederationError, match="it is what it began as"):
        refuse_untrained(nothing, initial_state(model(0, 0)))
    refuse_untrained(trial({"north": good, "south": good}).run(rounds=1), initial_state(model(0, 0)))
    refuse_untrained(initial_state(model(0, 0)), initial_state(model(0, 0)))  # a given model, that nobody trains
