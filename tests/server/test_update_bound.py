"""One site of three moves the model no farther than an honest one does, whatever it sends, in whichever round."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation import ADAPTIVITY, ServerOptimiser
from server.asking import Desk
from server.checkpoint import CheckpointFolder, RunState
from server.combining import median, trimmed_mean, weighted_mean
from server.rounds import RoundPlan, initial_state, run_rounds
from server.strategy import FederatedStrategy, Rules, Site
from server.update_bound import GROWTH, round_bound, shrunk_to
from shared.evidence import Withheld
from shared.messages import EvaluateReply, EvaluateTask, Refusal, RefusalReply, Reply, Task, TrainReply
from shared.operating_point import choose_on
from shared.parameters import digest
from simulations.in_process_grid import InProcessGrid

SIZE = 40
RNG = np.random.default_rng(12)
EAST, NORTH = (RNG.standard_normal(SIZE).astype(np.float32) for _ in range(2))
EAST, NORTH = EAST / np.linalg.norm(EAST), 1.2 * NORTH / np.linalg.norm(NORTH)
"""What two honest sites learn in a round: of norms 1 and 1.2."""

Answer = Callable[[int], Reply]


def update(array: Any, **figures: Any) -> TrainReply:
    own = {"loss_by_epoch": (0.5,), "update_norm": 1.0, "images_per_second": 9.0, "seconds": 1.0}
    return TrainReply(update={"w": np.asarray(array, np.float32)}, **own | figures)


def learning(array: Any) -> Answer:
    return lambda _: update(array)


def run(
    scripted_site: Any,
    answers: dict[str, Answer],
    *,
    rounds: int = 1,
    state: RunState | None = None,
    save: Callable[[RunState], None] = lambda _: None,
    trained: Callable[[int], list[str]] = lambda _: ["w"],
    **rules: Any,
) -> RunState:
    """Run a study of scripted sites with equal shares, under the rules that a study has by default."""

    def script(train: Answer) -> Callable[[Task], Reply]:
        return lambda task: (
            EvaluateReply(evidence=(Withheld(),)) if isinstance(task, EvaluateTask) else train(task.header.round)
        )

    handlers = {node: scripted_site(script(train)).handle for node, train in enumerate(answers.values(), 1)}
    own = {
        "protocol_digest": "d",
        "run_id": "r",
        "optimiser": ServerOptimiser(kind="fedavg"),
        "min_sites": 1,
        "weight_cap": 0.8,
        "combine": partial(weighted_mean, cap=0.8),
        "norm_multiple": 1.0,
        "norm_bound": 0.0,
        "epochs": 1,
        "targets": ("opacity",),
        "axes": (),
        "bins": 8,
        "wire": "fp32",
    }
    sites = [Site(name=name, node_id=node, weight=1.0) for node, name in enumerate(answers, 1)]
    state = state or initial_state({"w": np.zeros(SIZE, np.float32)})
    return run_rounds(
        desk=Desk(InProcessGrid(handlers)),
        strategy=FederatedStrategy(sites=sites, rules=Rules(**own | rules), optimiser_state=dict(state.optimiser)),
        plan=RoundPlan(
            rounds=rounds,
            trained_names=trained,
            select="last",
            choose=partial(choose_on, target=0.9, claim="point", confidence=0.95),
            targets=("opacity",),
            deadline_seconds=0.0,
        ),
        state=state,
        save=save,
        progress=lambda _: None,
    )


def test_two_sites_that_differ_are_told(scripted_site: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Of two first updates none outvotes: the shorter bounds, and the log says so, once; not where they agree."""
    run(scripted_site, {"east": learning(EAST), "north": learning(NORTH)}, rounds=2)
    assert "nothing says which" not in caplog.text
    run(scripted_site, {"east": learning(EAST), "north": learning(EAST * 1e-3)}, rounds=2)
    assert caplog.text.count("nothing says which is right") == 1


def nan_at_the_end(_: int) -> Reply:
    return update(np.append(np.zeros(SIZE - 1), math.nan))


ATTACKS: dict[str, Answer] = {
    "huge": learning(EAST * 900),
    "sign-flipped": learning(-NORTH * 1e2),
    "sign-flipped, of an honest norm": learning(-EAST),
    "growing slowly": lambda number: update(-EAST * 1.3**number),
    "huge in the first round alone": lambda number: update(EAST * (900 if number == 1 else 0)),
    "nothing at first, then huge": lambda number: update(EAST * (0 if number < 3 else 900)),
    "of one huge element": learning(np.append(np.zeros(SIZE - 1), 999.0)),
    "next to nothing": learning(EAST * 1e-30),
    "not finite": nan_at_the_end,
    "infinite": learning(np.full(SIZE, np.inf)),
    "beyond fp32's squares": learning(np.full(SIZE, 3e38)),
    "a lie about its norm": lambda _: update(EAST * 900, update_norm=1e-9),
    "refusing in every other round": lambda number: (
        update(-NORTH * 900) if number % 2 else RefusalReply(code=Refusal.DATA)
    ),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_one_site_of_three_moves_the_model_no_farther_than_an_honest_one(
    scripted_site: Any, attack: Answer, rounds: int
) -> None:
    """After each round the model is as far from the one without it as an honest site's update goes, and no farther."""
    models: list[np.ndarray[Any, Any]] = [np.zeros(SIZE, np.float32)]
    state = run(
        scripted_site,
        {"east": learning(EAST), "north": learning(NORTH), "west": attack},
        rounds=rounds,
        save=lambda state: models.append(state.model["w"].copy()),
    )
    for record, before, after in zip(state.history, models, models[1:], strict=False):
        sites = record["sites"]
        shares = sum(entry["refusal"] is None for entry in sites.values())
        honest = sum(sites[name]["factor"] * update for name, update in (("east", EAST), ("north", NORTH)))
        own = (after - before) * shares - honest  # what the third site added, in units of one share
        assert np.linalg.norm(own) <= np.linalg.norm(NORTH) * (1 + 1e-5)
        assert np.isfinite(after).all()


def test_without_the_bound_the_same_site_takes_the_model_over(scripted_site: Any) -> None:
    """The attacks above are real: with norm_multiple = 0, as it was, one update of three is all that is seen."""
    answers = {"east": learning(EAST), "north": learning(NORTH), "west": learning(-EAST * 900)}
    state = run(scripted_site, answers, norm_multiple=0.0)
    assert np.linalg.norm(state.model["w"]) > 200


def test_an_attacker_that_is_left_alone_grows_no_faster_than_twofold(scripted_site: Any) -> None:
    """Where the honest sites happen to be missing in a round, the last round's bound still holds it."""

    def honest(array: Any) -> Answer:
        return lambda number: update(array) if number == 1 else RefusalReply(code=Refusal.DATA)

    answers = {"east": honest(EAST), "north": honest(NORTH), "west": learning(-EAST * 900)}
    state = run(scripted_site, answers, rounds=3)
    assert [record["bound"] for record in state.history] == pytest.approx([1.2, 2.4, 4.8], rel=1e-5)


def test_a_site_that_sends_next_to_nothing_does_not_freeze_the_study(scripted_site: Any) -> None:
    """West measures a round in which north is away; from the next on the honest sites are heard again."""

    def north(number: int) -> Reply:
        return RefusalReply(code=Refusal.DATA) if number == 3 else update(NORTH)

    models: list[np.ndarray[Any, Any]] = []
    west = learning(EAST * 1e-20)
    state = run(
        scripted_site,
        {"east": learning(EAST), "north": north, "west": west},
        rounds=6,
        save=lambda state: models.append(state.model["w"].copy()),
        min_sites=2,
    )
    assert [record["bound"] for record in state.history] == pytest.approx([1, 1, 0.5, 1, 1, 1], rel=1e-5)
    steps = [float(np.linalg.norm(after - before)) for before, after in itertools.pairwise(models)]
    assert min(steps) > 0.1


def test_a_round_in_which_most_hardly_enters_is_told(scripted_site: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With two sites in round 1 nothing says which of them is right: the log says that they are far apart."""
    run(scripted_site, {"east": learning(EAST), "north": learning(NORTH)})
    assert "of their norm" not in caplog.text
    run(scripted_site, {"east": learning(EAST), "west": learning(EAST * 1e-10)})
    assert "1 of 2 updates enter with less than 0.01 of their norm" in caplog.text


def test_a_site_that_learns_nothing_does_not_stop_the_others(scripted_site: Any) -> None:
    """Two of three sites have no label of the finding, so that their updates are nothing: the third still learns."""
    nothing = learning(np.zeros(SIZE))
    state = run(scripted_site, {"east": learning(EAST), "north": nothing, "west": nothing})
    np.testing.assert_allclose(state.model["w"], EAST / 3, rtol=1e-5)


def test_arrays_that_join_are_measured_anew(scripted_site: Any) -> None:
    """Where a stage is unfrozen, updates are of other arrays, and the last round's bound says nothing of them."""
    answers = {"east": learning(EAST), "north": learning(NORTH)}
    small, other = {("w",): 1e-3}, {("fc",): 1e-3}
    for before, bound in ((small, 2e-3), (other, 1.0)):
        (name,) = before
        state = initial_state({"w": np.zeros(SIZE, np.float32)})
        state.history = [{"round": 1, "lost": False, "bound": before[name]}]
        state.round = 1
        names = [list(name), ["w"]]
        after = run(
            scripted_site, answers, rounds=2, state=state, trained=lambda number, names=names: names[number - 1]
        )
        assert after.history[-1]["bound"] == pytest.approx(bound)


def test_a_resumed_run_has_the_same_bound_and_the_same_bits(scripted_site: Any, tmp_path: Any) -> None:
    """The bound of the last usable round comes from the checkpoint, so that a stop between rounds changes nothing."""

    def fading(array: Any) -> Answer:
        return lambda number: update(array * (0.1 if number == 1 else 1.0))

    answers = {"east": fading(EAST), "north": fading(NORTH), "west": learning(-EAST * 900)}
    whole = run(scripted_site, answers, rounds=3)
    folder = CheckpointFolder(tmp_path, fingerprint="f")
    run(scripted_site, answers, rounds=1, save=folder.save)
    state = folder.latest()
    assert state is not None
    resumed = run(scripted_site, answers, rounds=3, state=state)
    assert digest(resumed.model) == digest(whole.model)
    bounds = [record["bound"] for record in whole.history]
    assert bounds[1] == pytest.approx(GROWTH * bounds[0])
    assert [record["bound"] for record in resumed.history] == bounds
    forgetful = run(scripted_site, answers, rounds=3, state=_without_bounds(folder))
    assert digest(forgetful.model) != digest(whole.model), "a checkpoint without a bound gives other bits: it is needed"


def _without_bounds(folder: CheckpointFolder) -> RunState:
    """Load a checkpoint as one of an older version would be."""
    state = folder.latest()
    assert state is not None
    for record in state.history:
        del record["bound"]
    return state


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("combine", [median, partial(trimmed_mean, trim=0.2)], ids=["median", "trimmed_mean"])
def test_a_median_of_three_stays_between_the_honest_ones(scripted_site: Any, attack: Answer, combine: Any) -> None:
    """Element by element no value is beyond those that two honest sites, and the bound, allow (Yin et al. 2018)."""
    answers = {"east": learning(EAST), "north": learning(NORTH), "west": attack}
    moved = run(scripted_site, answers, combine=combine).model["w"]
    reach = np.maximum(np.abs(EAST), np.abs(NORTH)) * (1 + 1e-5) + 1e-6
    assert (np.abs(moved) <= reach).all()


@given(
    honest=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=9),
    data=st.data(),
    last=st.none() | st.floats(1e-6, 1e6),
)
def test_a_minority_of_any_norms_enters_with_no_more_than_an_honest_norm(
    honest: list[float], data: st.DataObject, last: float | None
) -> None:
    """The lower median lies between honest norms while fewer than half lie, or below them."""
    foreign = data.draw(st.lists(st.floats(0, 1e30), max_size=len(honest) - 1))
    bound = round_bound([*honest, *foreign], multiple=1.0, norm_bound=0.0, last=last)
    assert bound is not None
    for norm in foreign:
        assert norm * shrunk_to(bound, norm) <= max(*honest, (last or 0) / GROWTH) * (1 + 1e-12)
    assert last is None or last / GROWTH <= bound <= GROWTH * last


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"multiple": 0.0, "norm_bound": 0.0}, None),
        ({"multiple": 0.0, "norm_bound": 5.0}, 5.0),
        ({"multiple": 0.0, "norm_bound": 5.0, "last": 1.0}, 5.0),
        ({"multiple": 1.0, "norm_bound": 0.0}, 2.0),
        ({"multiple": 3.0, "norm_bound": 0.0}, 6.0),
        ({"multiple": 3.0, "norm_bound": 5.0}, 5.0),
        ({"multiple": 1.0, "norm_bound": 5.0, "last": 0.5}, 1.0),
        ({"multiple": 1.0, "norm_bound": 0.0, "last": 10.0}, 5.0),
        ({"multiple": 1.0, "norm_bound": 3.0, "last": 10.0}, 3.0),
    ],
)
def test_the_least_of_the_bounds_holds(bounds: dict[str, Any], expected: float | None) -> None:
    """A multiple of the lower median, from half to twice the last round's, and the study's own; 0 switches one off."""
    assert round_bound([4.0, 1.0, 2.0, 9.0], **bounds) == expected


@pytest.mark.parametrize(("bound", "scale"), [(None, 1.0), (4.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.25, 0.125)])
def test_an_update_beyond_the_bound_is_shrunk_to_it(bound: float | None, scale: float) -> None:
    """A norm of 2 is halved at a bound of 1, and left alone within the bound."""
    assert shrunk_to(bound, 2.0) == scale
    assert shrunk_to(bound, 0.0) == 1.0


WIDE = 600
MOMENTS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99}
ADAPTIVE = pytest.mark.parametrize("kind", ["fedadam", "fedyogi"])

MOST_TIMES = 1.7
"""Times an honest site's movement: what its own update adds, and by how much it shortens the others' steps."""


def learnt(seed: int, matter: int) -> Any:
    """Learn in some elements of many, to a norm of 1: as a head does, or a whole network."""
    update = np.zeros(WIDE, np.float32)
    update[:matter] = np.random.default_rng(seed).standard_normal(matter) + 0.5
    return update / np.linalg.norm(update)


def hostile(matter: int) -> dict[str, Any]:
    """Give what moved the model farthest before the bound, and what would get round a simpler one."""
    east, north = learnt(1, matter), learnt(2, matter)
    signs = np.sign(np.random.default_rng(0).standard_normal(WIDE)).astype(np.float32)
    beside = np.where(np.arange(WIDE) < matter, 0, signs) if matter < WIDE else signs
    half = np.arange(WIDE) < matter // 2
    return {
        "spread over all elements": signs,
        "beside what the others learn": beside,
        "huge, beside what the others learn": 300 * beside,
        "takes back what the others learn": -(east + north),
        "takes half of it back, and spreads": np.where(half, -(east + north), 0.02 * beside),
        "turned round": -east,
        "one element": np.eye(1, WIDE, WIDE - 1, dtype=np.float32)[0],
    }


@ADAPTIVE
@pytest.mark.parametrize("matter", [10, 100, WIDE])
@pytest.mark.parametrize("rounds", [1, 8])
def test_a_hostile_site_moves_the_model_about_as_far_as_an_honest_one(
    scripted_site: Any, kind: Any, matter: int, rounds: int
) -> None:
    """Against the same rounds with nothing from the third site; beside the bound it was up to 45 times as far."""
    optimiser = ServerOptimiser(kind=kind, **MOMENTS)

    def model(third: Any) -> Any:
        answers = {"east": learning(learnt(1, matter)), "north": learning(learnt(2, matter)), "third": learning(third)}
        start = initial_state({"w": np.zeros(WIDE, np.float32)})
        return run(scripted_site, answers, rounds=rounds, optimiser=optimiser, state=start).model["w"]

    without = model(np.zeros(WIDE))
    far = np.linalg.norm(model(learnt(3, matter)) - without)
    assert far > 0
    for name, update in hostile(matter).items():
        assert np.linalg.norm(model(update) - without) <= MOST_TIMES * far, name


@ADAPTIVE
@pytest.mark.parametrize("combine", [partial(weighted_mean, cap=0.8), median])
def test_rounds_follow_the_decision(scripted_site: Any, kind: Any, combine: Any) -> None:
    """Decision 0021 written out in fp64, over four rounds of sites that differ."""
    updates = [[learnt(10 * number + site, 40) * (1 + site) for site in range(3)] for number in range(4)]
    answers = {
        name: (lambda number, site=site: learning(updates[number - 1][site])(number))
        for site, name in enumerate(("east", "north", "west"))
    }
    start = initial_state({"w": np.zeros(WIDE, np.float32)})
    got = run(
        scripted_site,
        answers,
        rounds=4,
        optimiser=ServerOptimiser(kind=kind, **MOMENTS),
        state=start,
        combine=combine,
    ).model["w"]
    weight, first, second = np.zeros(WIDE), np.zeros(WIDE), np.full(WIDE, ADAPTIVITY**2)
    for sent in updates:
        entered = [update * min(1, 2 / np.linalg.norm(update)) for update in np.array(sent, np.float64)]
        square = sum(update**2 for update in entered) / 3
        if kind == "fedadam":
            second = 0.99 * second + 0.01 * square
        else:
            second = second - 0.01 * square * np.sign(second - square)
        gain = 0.01 / (np.sqrt(second) + ADAPTIVITY)
        far = [np.linalg.norm(gain * update) for update in entered]
        entered = [update * min(1, np.sort(far)[1] / norm) for update, norm in zip(entered, far, strict=True)]
        first = 0.9 * first + 0.1 * (np.median(entered, axis=0) if combine is median else sum(entered) / 3)
        weight = weight + gain * first
    np.testing.assert_allclose(got, weight, rtol=1e-3, atol=1e-7)
