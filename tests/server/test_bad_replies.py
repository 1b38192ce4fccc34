"""Twenty bad replies, each signed and sent through the real encoding: refused with its reason, and the run goes on."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from server.aggregation import ServerOptimiser
from server.asking import Desk
from server.combining import weighted_mean
from server.rounds import RoundPlan, initial_state, run_rounds
from server.seals import Seals
from server.strategy import FederatedStrategy, Rules, Site
from shared.evidence import Withheld
from shared.messages import (
    Answer,
    EvaluateReply,
    EvaluateTask,
    RefusalReply,
    Reply,
    Task,
    TrainReply,
    TrainTask,
    decode_task,
    encode_answer,
)
from shared.operating_point import choose_on
from shared.refusal_codes import Refusal
from shared.signing import Purpose, SigningKey
from shared.wire import from_frames, to_frames
from simulations.in_process_grid import InProcessGrid

SHAPE = (2, 50)
HONEST = np.ones(SHAPE, np.float32) / 10  # of norm 1
TITLE = '[["fc.weight",[2,50]]]'  # which arrays are in the one block that travels
KEYS = {name: SigningKey.draw() for name in ("east", "north", "west")}


def train_reply(update: dict[str, Any], **figures: Any) -> TrainReply:
    own = {"loss_by_epoch": (0.5,), "update_norm": 1.0, "images_per_second": 9.0, "seconds": 1.0}
    return TrainReply(update=update, **own | figures)


def answer(task: Task, reply: Reply, *, key: SigningKey, task_id: str | None = None) -> RecordDict:
    content = encode_answer(Answer(task_id=task_id or task.header.task_id, reply=reply))
    key.sign(content, Purpose.REPLY)
    return content


def site(name: str, reply: Callable[[TrainTask], RecordDict]) -> Callable[[Any], Iterator[bytes]]:
    """Make a site that withholds its evidence, and answers training tasks as it is told."""

    def handle(frames: Any) -> Iterator[bytes]:
        task = decode_task(from_frames(frames))
        if isinstance(task, EvaluateTask):
            yield from to_frames(answer(task, EvaluateReply(evidence=(Withheld(),)), key=KEYS[name]))
        else:
            yield from to_frames(reply(task))

    return handle


def honest(name: str, task: TrainTask) -> RecordDict:
    return answer(task, train_reply({"fc.weight": HONEST}), key=KEYS[name])


def one_round(
    west: Callable[[TrainTask], RecordDict], *, weights: dict[str, float] | None = None, **rules: Any
) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Run a round of two honest sites and `west`; give its record, and how far the model moved."""
    handlers = {"east": partial(honest, "east"), "north": partial(honest, "north"), "west": west}
    grid = InProcessGrid({node: site(name, reply) for node, (name, reply) in enumerate(handlers.items(), start=1)})
    weights = weights or dict.fromkeys(handlers, 1.0)
    own = {
        "protocol_digest": "d",
        "run_id": "r",
        "optimiser": ServerOptimiser(kind="fedavg"),
        "min_sites": 2,
        "weight_cap": 1.0,
        "combine": partial(weighted_mean, cap=1.0),
        "norm_multiple": 0.0,
        "norm_bound": 0.0,
        "epochs": 1,
        "targets": ("opacity",),
        "axes": (),
        "bins": 8,
        "wire": "fp32",
        "seals": Seals(sites={name: key.public for name, key in KEYS.items()}),
    }
    sites = [Site(name=name, node_id=node, weight=weights[name]) for node, name in enumerate(handlers, start=1)]
    state = run_rounds(
        desk=Desk(grid),
        strategy=FederatedStrategy(sites=sites, rules=Rules(**own | rules), optimiser_state={}),
        plan=RoundPlan(
            rounds=1,
            trained_names=lambda _: ["fc.weight"],
            select="last",
            choose=partial(choose_on, target=0.9, claim="point", confidence=0.95),
            targets=("opacity",),
            deadline_seconds=0.0,
        ),
        state=initial_state({"fc.weight": np.zeros(SHAPE, np.float32)}),
        save=lambda _: None,
        progress=lambda _: None,
    )
    return state.history[0], state.model["fc.weight"]


def updated(change: Callable[[np.ndarray[Any, Any]], Any], **figures: Any) -> Callable[[TrainTask], RecordDict]:
    """Answer with a changed update, signed by the right key."""
    return lambda task: answer(task, train_reply({"fc.weight": change(HONEST.copy())}, **figures), key=KEYS["west"])


def tampered(change: Callable[[RecordDict], None], *, signed: bool = True) -> Callable[[TrainTask], RecordDict]:
    """Answer honestly, change the content, and sign it again, or not."""

    def reply(task: TrainTask) -> RecordDict:
        content = honest("west", task)
        change(content)
        if signed:
            KEYS["west"].sign(content, Purpose.REPLY)
        return content

    return reply


def with_at(place: tuple[int, int], value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def change(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array[place] = value
        return array

    return change


def replace_array(content: RecordDict, array: Array) -> None:
    content["arrays"] = ArrayRecord()
    content["arrays"][TITLE] = array


def bad_array(**changes: Any) -> Callable[[RecordDict], None]:
    """Change what an array says of itself, and leave its bytes as they are."""

    def change(content: RecordDict) -> None:
        (sent,) = content["arrays"].values()
        own = {"dtype": sent.dtype, "shape": sent.shape, "stype": sent.stype, "data": sent.data}
        replace_array(content, Array(**own | changes))

    return change


def retitle(title: str) -> Callable[[RecordDict], None]:
    """Say that other arrays lie in the block, and leave its bytes as they are."""

    def change(content: RecordDict) -> None:
        (sent,) = content["arrays"].values()
        content["arrays"] = ArrayRecord()
        content["arrays"][title] = sent

    return change


def set_state(**changes: str) -> Callable[[RecordDict], None]:
    return lambda content: content["state"].update(changes)


def set_metric(**changes: Any) -> Callable[[RecordDict], None]:
    return lambda content: content["metrics"].update(changes)


def forge_signature(content: RecordDict) -> None:
    content["signature"] = ConfigRecord({"ed25519": "00" * 64})


BAD = {
    "a NaN": (updated(with_at((1, 7), np.nan)), "update_not_finite"),
    "an infinity": (updated(with_at((0, 0), np.inf)), "update_not_finite"),
    "values whose squares overflow": (updated(lambda array: array * np.float32(3e38)), "update_not_finite"),
    "a norm a thousand times the model's": (updated(lambda array: array * 1001), "update_too_large"),
    "another shape": (updated(lambda array: array.reshape(50, 2)), "arrays_of_wrong_form"),
    "fewer values": (updated(lambda array: array[:1]), "arrays_of_wrong_form"),
    "half precision where fp32 travels": (updated(lambda array: array.astype(np.float16)), "arrays_of_wrong_form"),
    "double precision": (updated(lambda array: array.astype(np.float64)), "malformed_reply"),
    "another name": (
        lambda task: answer(task, train_reply({"fc.weights": HONEST}), key=KEYS["west"]),
        "arrays_of_wrong_form",
    ),
    "one array too many": (
        lambda task: answer(task, train_reply({"fc.weight": HONEST, "conv1": HONEST}), key=KEYS["west"]),
        "arrays_of_wrong_form",
    ),
    "no array": (lambda task: answer(task, train_reply({}), key=KEYS["west"]), "arrays_of_wrong_form"),
    "a shape that contradicts its bytes": (tampered(bad_array(shape=(50, 2))), "malformed_reply"),
    "one shape where another was expected, of as many values": (
        updated(lambda array: np.ascontiguousarray(array.T)),
        "arrays_of_wrong_form",
    ),
    "a title of a shape that contradicts its bytes": (tampered(retitle(TITLE.replace("2,", "3,"))), "malformed_reply"),
    "a title of another array": (tampered(retitle(TITLE.replace("weight", "bias"))), "arrays_of_wrong_form"),
    "a title that is none": (tampered(retitle("fc.weight")), "malformed_reply"),
    "bytes cut off": (tampered(bad_array(data=b"\x93NUMPY")), "malformed_reply"),
    "a pickled array": (tampered(bad_array(stype="pickle", data=b"cos\nsystem\n(S'true'\ntR.")), "malformed_reply"),
    "a loss that is no number": (tampered(set_metric(loss_by_epoch=[float("nan")])), "malformed_reply"),
    "no metrics": (tampered(lambda content: content.pop("metrics") and None), "malformed_reply"),
    "a version of another encoding": (tampered(set_state(version="0")), "other_version"),
    "a kind that there is not": (tampered(set_state(kind="own")), "malformed_reply"),
    "an answer to another task": (
        lambda task: answer(task, train_reply({"fc.weight": HONEST}), key=KEYS["west"], task_id="0" * 64),
        "answers_another_task",
    ),
    "evidence where an update was asked for": (
        lambda task: answer(task, EvaluateReply(evidence=(Withheld(),)), key=KEYS["west"]),
        "malformed_reply",
    ),
    "another site's signature": (
        lambda task: answer(task, train_reply({"fc.weight": HONEST}), key=KEYS["north"]),
        "not_signed_by_the_site",
    ),
    "no signature": (
        tampered(lambda content: content.pop("signature") and None, signed=False),
        "not_signed_by_the_site",
    ),
    "an invented signature": (tampered(forge_signature, signed=False), "not_signed_by_the_site"),
    "a content changed after signing": (
        tampered(lambda content: content.update(more=MetricRecord({"x": 1})), signed=False),
        "not_signed_by_the_site",
    ),
    "a refusal in the site's name that only the site may give": (
        lambda task: encode_answer(Answer(task_id=task.header.task_id, reply=RefusalReply(code=Refusal.DATA))),
        "not_signed_by_the_site",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_refused_with_its_reason_and_the_run_goes_on(case: str) -> None:
    """The record names the reason, and the model is the honest sites' mean, to the bit."""
    reply, reason = BAD[case]
    record, moved = one_round(reply)
    assert record["sites"]["west"] == {"refusal": reason}
    assert not record["lost"]
    assert [name for name, entry in record["sites"].items() if entry["refusal"] is None] == ["east", "north"]
    np.testing.assert_allclose(moved, HONEST, rtol=1e-6)


def test_an_honest_reply_is_not_refused() -> None:
    """The same machinery lets a good reply in: the refusals above are about what was changed."""
    record, _ = one_round(partial(honest, "west"))
    assert record["sites"]["west"]["refusal"] is None


def test_the_courier_may_say_unsigned_that_the_agent_is_not_there() -> None:
    """It has no key; its few codes are believed, because all they can do is leave the site out."""
    record, _ = one_round(
        lambda task: encode_answer(Answer(task_id=task.header.task_id, reply=RefusalReply(code=Refusal.TOO_LARGE)))
    )
    assert record["sites"]["west"] == {"refusal": "too_large"}


def test_with_a_norm_bound_a_small_site_moves_the_model_little_whatever_it_sends() -> None:
    """0.6 % of the patients, 100 times the honest norm, against the others' direction: at most .05 of their move."""
    weights = {"east": 497.0, "north": 497.0, "west": 6.0}
    against = updated(lambda array: -100 * array)
    _, moved = one_round(against, weights=weights, norm_bound=1.0)
    _, alone = one_round(updated(lambda array: array * 0), weights=weights, norm_bound=1.0)
    change, theirs = np.linalg.norm(moved - alone), np.linalg.norm(alone)
    assert change <= 0.05 * theirs
    _, unbound = one_round(against, weights=weights)
    assert np.linalg.norm(unbound - alone) > 0.5 * theirs, "without a bound the same site does move it"
