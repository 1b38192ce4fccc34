"""The agent answers its own study's tasks, the same way each time, and every failure with a fixed code."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.agent import Agent
from client.bootstrap import compose_agent, site_inputs
from client.workbench import Workbench
from shared.audit import verify
from shared.errors import DataError, StorageError
from shared.evidence import Withheld
from shared.landmarks import Landmarks, harmonise
from shared.messages import (
    Answer,
    DeliverTask,
    DescribeReply,
    DescribeTask,
    EvaluateReply,
    EvaluateTask,
    Header,
    Kind,
    LandmarksReply,
    LandmarksTask,
    ReadyReply,
    ReadyTask,
    Refusal,
    RefusalReply,
    Task,
    TrainReply,
    TrainTask,
    decode_answer,
    encode_task,
)
from shared.model import exchanged
from shared.parameters import digest, l2_norm
from shared.protocol import StudyProtocol
from shared.split import Split
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "DOE^JOHN"


def header(protocol: StudyProtocol, kind: Kind, **changes: Any) -> Header:
    own = {"protocol_digest": protocol.digest(), "run_id": "run", "round": 1, "site": "north", "kind": kind}
    return Header(**own | changes)


def initial(bench: Workbench, start: str = "head", *, local_norm: bool = False) -> dict[str, Any]:
    """Copy the arrays that travel while training starts at a stage."""
    names = exchanged(bench.classifier, start, local_norm=local_norm)
    return {name: array.copy() for name, array in bench.arrays(names).items()}


def train_task(protocol: StudyProtocol, arrays: Any, **changes: Any) -> TrainTask:
    return TrainTask(header=header(protocol, Kind.TRAIN, **changes), arrays=arrays)


def evaluate_task(protocol: StudyProtocol, arrays: Any, **changes: Any) -> EvaluateTask:
    thresholds = changes.pop("thresholds", ())
    return EvaluateTask(
        header=header(protocol, Kind.EVALUATE, **changes), arrays=arrays, split=Split.TEST, thresholds=thresholds
    )


def ask(agent: Agent, task: Task) -> Answer:
    return decode_answer(from_frames(agent.handle(to_frames(encode_task(task)))))


def code(answer: Answer) -> Refusal:
    assert isinstance(answer.reply, RefusalReply)
    return answer.reply.code


def trained(agent: Agent, task: Task) -> TrainReply:
    reply = ask(agent, task).reply
    assert isinstance(reply, TrainReply), reply
    return reply


def test_a_site_that_is_ready_says_how_many_patients_it_has(tiny: Any, tmp_path: Path) -> None:
    """The flow that leaves is the cohort's, with its small counts suppressed."""
    protocol = tiny.protocol()
    for min_cell, shown in ((1, 10), (10, 10), (11, None)):
        agent = tiny.agent(protocol, tmp_path / str(min_cell), min_cell=min_cell)
        reply = ask(agent, ReadyTask(header=header(protocol, Kind.READY))).reply
        assert isinstance(reply, ReadyReply)
        assert reply.flow.splits["train"].patients == shown


def test_an_update_is_the_new_arrays_minus_those_sent(tiny: Any, tmp_path: Path) -> None:
    """What the site sends back, added to what it was sent, is its model; the norm is that of the update."""
    protocol = tiny.protocol(model={"unfreeze": [{"round": 1, "from": "layer4"}]}, training={"local_epochs": 2})
    agent = tiny.agent(protocol, tmp_path)
    sent = initial(agent.bench, "layer4")
    task = train_task(protocol, sent)
    answer = ask(agent, task)
    reply = answer.reply
    assert isinstance(reply, TrainReply)
    assert answer.task_id == task.header.task_id
    assert list(reply.update) == list(sent)
    assert all(array.any() for array in reply.update.values())
    for name, array in agent.bench.arrays(sent).items():
        np.testing.assert_array_equal(array - sent[name], reply.update[name])
    assert reply.update_norm == l2_norm(reply.update)
    assert len(reply.loss_by_epoch) == 2
    assert reply.images_per_second > 0
    assert reply.seconds >= 1


def test_the_same_task_twice_gives_the_same_bits(tiny: Any, tmp_path: Path) -> None:
    """Asked again, or on another machine's fresh agent, a site sends the very same update and evidence."""
    sections = {
        "model": {"unfreeze": [{"round": 1, "from": "layer4"}], "norm": "batch", "dropout": 0.3},
        "augmentation": {"rotation_degrees": 10.0, "noise": 0.05},
    }
    protocol = tiny.protocol(**sections)
    agent = tiny.agent(protocol, tmp_path / "one")
    sent = initial(agent.bench, "layer4")
    tasks = train_task(protocol, sent), evaluate_task(protocol, sent, thresholds=(0.5,))
    first = [ask(agent, task).reply for task in tasks]
    other = tiny.agent(protocol, tmp_path / "other")
    for again in ([ask(agent, task).reply for task in tasks], [ask(other, task).reply for task in tasks]):
        assert digest(again[0].update) == digest(first[0].update)  # type: ignore[union-attr]
        assert again[0].loss_by_epoch == first[0].loss_by_epoch  # type: ignore[union-attr]
        assert again[1] == first[1]


def test_round_site_and_seed_draw_differently(tiny: Any, tmp_path: Path) -> None:
    """Each round, site and study seed has an order of its own."""
    protocol = tiny.protocol(training={"batch_size": 2})
    agent = tiny.agent(protocol, tmp_path / "north")
    sent = initial(agent.bench)
    updates = {digest(trained(agent, train_task(protocol, sent, round=number)).update) for number in (1, 2)}
    twin = replace(agent, site="twin")
    updates.add(digest(trained(twin, train_task(protocol, sent, site="twin")).update))
    reseeded = protocol.model_copy(update={"study": protocol.study.model_copy(update={"seed": 1})})
    updates.add(digest(trained(replace(agent, protocol=reseeded), train_task(reseeded, sent)).update))
    assert len(updates) == 4


def test_sites_that_share_a_bench_do_not_touch_one_another(tiny: Any, tmp_path: Path) -> None:
    """In simulation one model serves all sites in turn; who came before shows in no reply."""
    protocol = tiny.protocol(model={"unfreeze": [{"round": 1, "from": "layer4"}], "norm": "batch"})
    bench = tiny.bench(protocol)
    sent = initial(bench, "layer4")
    agents = {name: tiny.agent(protocol, tmp_path, bench=bench, name=name) for name in ("north", "south")}

    def update(site: str) -> str:
        return digest(trained(agents[site], train_task(protocol, sent, site=site)).update)

    north = update("north")
    assert update("south") != north
    assert update("north") == north


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"protocol_digest": "0" * 64}, Refusal.UNKNOWN_PROTOCOL), ({"site": "south"}, Refusal.WRONG_SITE)],
)
@pytest.mark.parametrize("kind", list(Kind))
def test_another_study_or_address_is_refused(
    tiny: Any, tmp_path: Path, kind: Kind, changes: dict[str, str], expected: Refusal
) -> None:
    """A task that names a study which the hospital did not approve, or another hospital, gets nothing of any kind."""
    protocol = tiny.protocol()
    agent = tiny.agent(protocol, tmp_path)
    arrays = initial(agent.bench)
    task: Task = {
        Kind.READY: ReadyTask(header=header(protocol, kind, **changes)),
        Kind.LANDMARKS: LandmarksTask(header=header(protocol, kind, **changes)),
        Kind.TRAIN: train_task(protocol, arrays, **changes),
        Kind.EVALUATE: evaluate_task(protocol, arrays, **changes),
        Kind.DESCRIBE: DescribeTask(header=header(protocol, kind, **changes), arrays=arrays),
        Kind.DELIVER: DeliverTask(header=header(protocol, kind, **changes), arrays=arrays, thresholds=(), documents={}),
    }[kind]
    answer = ask(agent, task)
    assert (code(answer), answer.task_id) == (expected, task.header.task_id)
    assert digest(initial(agent.bench)) == digest(arrays)


SCALE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)


def test_landmarks_are_those_of_training_patients_without_disease(tiny: Any, tmp_path: Path) -> None:
    """One image a patient, of the training side, without the finding, before any harmonising: as computed by hand."""
    protocol = tiny.protocol(images={"harmonise": "landmarks"})
    agent = tiny.agent(protocol, tmp_path)
    reply = ask(agent, LandmarksTask(header=header(protocol, Kind.LANDMARKS, round=0))).reply
    site = tiny.hospital(protocol, tmp_path)
    clear = [
        row
        for row, image in enumerate(site.cohort.images)
        if image.split is Split.TRAIN and image.labels == (0.0,) and image.path.name.endswith("-0.dcm")
    ]
    own = [
        np.percentile(film[film > 0], range(10, 100, 10), method="inverted_cdf") for film in site.pixels.cached[clear]
    ]
    assert isinstance(reply, LandmarksReply)
    assert isinstance(reply.landmarks, Landmarks)
    assert len(clear) > 1
    assert reply.landmarks.positions == pytest.approx(np.mean(own, axis=0) / 255)


def test_landmarks_that_coincide_are_refused_at_the_site(tiny: Any, tmp_path: Path) -> None:
    """Films of two grey levels have landmarks on these alone, of which no scale can be made; the site says so."""
    protocol = tiny.protocol(images={"harmonise": "landmarks"})
    site, bench = tiny.hospital(protocol, tmp_path), tiny.bench(protocol)
    films = np.where(site.pixels.cached > 100, 200, 100).astype(site.pixels.cached.dtype)
    site = replace(site, pixels=replace(site.pixels, cached=films, digest="two levels"))
    inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
    agent = compose_agent(site, protocol, bench, inputs, folder=tmp_path / "two")
    answer = ask(agent, LandmarksTask(header=header(protocol, Kind.LANDMARKS, round=0)))
    assert code(answer) == Refusal.DATA
    few = replace(agent, min_patients=1000, guard=replace(agent.guard, min_cell=1000))
    hidden = ask(few, LandmarksTask(header=header(protocol, Kind.LANDMARKS, round=0)))
    assert hidden.reply == LandmarksReply(landmarks=Withheld())


def test_descriptions_tell_the_guard_how_many_patients_they_are_of(tiny: Any, tmp_path: Path) -> None:
    """The number is that of the patient flow: of training patients, under [privacy] of validation patients."""
    agent = tiny.agent(tiny.protocol(), tmp_path)
    assert agent.guard.described == agent.flow.splits[Split.TRAIN].patients == agent.records.patients(Split.TRAIN)
    held = replace(agent, guard=replace(agent.guard, min_cell=agent.guard.described))
    arrays = initial(agent.bench)
    asked = ask(held, DescribeTask(header=header(agent.protocol, Kind.DESCRIBE), arrays=arrays)).reply
    assert isinstance(asked, DescribeReply)
    assert isinstance(asked.description.intensity, Withheld)


def test_a_study_that_does_not_harmonise_tells_no_landmarks(tiny: Any, tmp_path: Path) -> None:
    """Neither the question nor a scale of a study that was not approved with it gets anything."""
    protocol = tiny.protocol()
    agent = tiny.agent(protocol, tmp_path)
    assert code(ask(agent, LandmarksTask(header=header(protocol, Kind.LANDMARKS)))) == Refusal.WRONG_FORM
    arrays = initial(agent.bench)
    for task in (
        ReadyTask(header=header(protocol, Kind.READY, standard=SCALE)),
        train_task(protocol, arrays, standard=SCALE),
        evaluate_task(protocol, arrays, standard=SCALE),
        DescribeTask(header=header(protocol, Kind.DESCRIBE, standard=SCALE), arrays=arrays),
    ):
        assert code(ask(agent, task)) == Refusal.WRONG_FORM


def test_training_and_evaluation_see_harmonised_images(tiny: Any, tmp_path: Path) -> None:
    """Without a scale nothing is trained or scored; with one, the images are those of the contract with it."""
    protocol = tiny.protocol(images={"harmonise": "landmarks"})
    agent = tiny.agent(protocol, tmp_path)
    arrays = initial(agent.bench)
    assert code(ask(agent, train_task(protocol, arrays))) == Refusal.WRONG_FORM
    assert code(ask(agent, evaluate_task(protocol, arrays))) == Refusal.WRONG_FORM
    site = tiny.hospital(protocol, tmp_path)
    moved = replace(site, pixels=replace(site.pixels, cached=harmonise(site.pixels.cached, SCALE), digest="harmonised"))
    plain = tiny.protocol()
    bench = tiny.bench(plain)
    inputs = site_inputs(moved, plain, bench, progress=lambda *_: None)
    by_hand = compose_agent(moved, plain, bench, inputs, folder=tmp_path / "by hand")
    update = trained(agent, train_task(protocol, arrays, standard=SCALE)).update
    expected = trained(by_hand, train_task(plain, arrays)).update
    assert digest(update) == digest(expected)
    raw = tiny.agent(plain, tmp_path / "raw")
    assert digest(update) != digest(trained(raw, train_task(plain, arrays)).update)


def frames_of(task: Task) -> list[bytes]:
    return list(to_frames(encode_task(task)))


def test_malformed_frames_are_refused_as_such(tiny: Any, tmp_path: Path) -> None:
    """Nothing, noise, a cut or changed header, missing or surplus bytes: each is malformed, and has no task id."""
    protocol = tiny.protocol()
    agent = tiny.agent(protocol, tmp_path)
    head, *arrays = frames_of(train_task(protocol, initial(agent.bench)))
    broken: list[list[bytes]] = [
        [],
        [b"\x00\xff"],
        [b"{}"],
        [b"[]", *arrays],
        [head[:-3], *arrays],
        [head.replace(b'"train"', b'"steal"'), *arrays],
        [head.replace(b'"round": 1', b'"round": 2'), *arrays],
        [head],
        [head, *arrays[:-1]],
        [head, *arrays, b"more"],
        [head, arrays[0][:-1], *arrays[1:]],
        [head.replace(b"float32", b"float64"), *arrays],
    ]
    for frames in broken:
        answer = decode_answer(from_frames(agent.handle(frames)))
        assert (code(answer), answer.task_id) == (Refusal.MALFORMED, "")


def test_a_transport_may_cut_the_arrays_as_it_likes(tiny: Any, tmp_path: Path) -> None:
    """Frames of any size give the same answer."""
    protocol = tiny.protocol()
    agent = tiny.agent(protocol, tmp_path)
    task = train_task(protocol, initial(agent.bench))
    head, *arrays = frames_of(task)
    cut = [array[first : first + 700] for array in arrays for first in range(0, len(array), 700)]
    reply = decode_answer(from_frames(agent.handle([head, *cut]))).reply
    assert isinstance(reply, TrainReply)
    assert digest(reply.update) == digest(trained(agent, task).update)


def test_only_the_arrays_of_this_rounds_stages_are_taken(tiny: Any, tmp_path: Path) -> None:
    """In a round that trains the head the head is taken, and once layer4 trains, layer4 and head: no more, no less."""
    protocol = tiny.protocol(model={"unfreeze": [{"round": 2, "from": "layer4"}]})
    agent = tiny.agent(protocol, tmp_path)
    head, layer4 = initial(agent.bench), initial(agent.bench, "layer4")
    assert code(ask(agent, train_task(protocol, layer4, round=1))) == Refusal.WRONG_FORM
    assert code(ask(agent, train_task(protocol, head, round=2))) == Refusal.WRONG_FORM
    assert code(ask(agent, train_task(protocol, {}, round=1))) == Refusal.WRONG_FORM
    assert code(ask(agent, train_task(protocol, dict(reversed(head.items())), round=1))) == Refusal.WRONG_FORM
    wrong_shape = head | {"fc.bias": np.zeros(2, np.float32)}
    assert code(ask(agent, train_task(protocol, wrong_shape, round=1))) == Refusal.WRONG_FORM
    assert set(trained(agent, train_task(protocol, head, round=1)).update) == set(head)
    assert set(trained(agent, train_task(protocol, layer4, round=2)).update) == set(layer4)


def test_a_model_is_scored_only_with_all_that_trains(tiny: Any, tmp_path: Path) -> None:
    """Whoever asks to score sends the round's arrays, or all that train in any: no fewer, and none beside them."""
    protocol = tiny.protocol(model={"unfreeze": [{"round": 2, "from": "layer4"}]})
    agent = tiny.agent(protocol, tmp_path)
    head, layer4 = initial(agent.bench), initial(agent.bench, "layer4")
    assert code(ask(agent, evaluate_task(protocol, head, round=2))) == Refusal.WRONG_FORM
    assert code(ask(agent, evaluate_task(protocol, head, round=1))) == Refusal.WRONG_FORM
    assert code(ask(agent, evaluate_task(protocol, {}, round=1))) == Refusal.WRONG_FORM
    assert isinstance(ask(agent, evaluate_task(protocol, layer4, round=1)).reply, EvaluateReply)
    for arrays in (head, layer4):
        look = replace(evaluate_task(protocol, arrays, round=1), split=Split.VALIDATION)
        assert isinstance(ask(agent, look).reply, EvaluateReply)


def test_a_site_with_too_few_patients_does_not_train(tiny: Any, tmp_path: Path) -> None:
    """Ten training patients at min_cell 11 are too few: an update could speak of them one by one."""
    protocol = tiny.protocol()
    for min_cell, refused in ((10, False), (11, True)):
        agent = tiny.agent(protocol, tmp_path / str(min_cell), min_cell=min_cell)
        reply = ask(agent, train_task(protocol, initial(agent.bench))).reply
        assert (reply == RefusalReply(code=Refusal.TOO_FEW_PATIENTS)) == refused
        assert isinstance(reply, TrainReply) != refused


def test_evidence_leaves_through_the_guard(tiny: Any, tmp_path: Path) -> None:
    """A test split with two positive patients is withheld at min_cell 3 and leaves at 2."""
    protocol = tiny.protocol()
    for min_cell, withheld in ((2, False), (3, True)):
        agent = tiny.agent(protocol, tmp_path / str(min_cell), min_cell=min_cell)
        reply = ask(agent, evaluate_task(protocol, initial(agent.bench), thresholds=(0.5,))).reply
        assert isinstance(reply, EvaluateReply)
        assert [type(item).__name__ == "Withheld" for item in reply.evidence] == [withheld]


def test_what_travels_is_half_precision_where_the_study_says_so(tiny: Any, tmp_path: Path) -> None:
    """With wire = "fp16" the update is fp16, and what was sent in fp16 is where training starts."""
    protocol = tiny.protocol(federation={"wire": "fp16"})
    agent = tiny.agent(protocol, tmp_path)
    half = {name: array.astype(np.float16) for name, array in initial(agent.bench).items()}
    update = trained(agent, train_task(protocol, half)).update
    assert {array.dtype for array in update.values()} == {np.dtype(np.float16)}
    now = initial(agent.bench)
    for name, array in half.items():
        np.testing.assert_array_equal(update[name], (now[name] - array.astype(np.float32)).astype(np.float16))


def test_classes_are_trained_and_scored(tiny: Any, tmp_path: Path) -> None:
    """A study of exclusive classes runs through the same agent."""
    protocol = tiny.protocol(task={"classes": ["normal", "bacterial", "viral"]})
    agent = tiny.agent(protocol, tmp_path, labels=lambda patient: np.eye(3)[patient // 4 % 3], patients=24)
    sent = initial(agent.bench)
    assert trained(agent, train_task(protocol, sent)).update["fc.weight"].all()
    reply = ask(agent, evaluate_task(protocol, sent)).reply
    assert isinstance(reply, EvaluateReply)
    assert [item.units for item in reply.evidence] == [6, 6, 6]  # type: ignore[union-attr]


def test_weighted_cross_entropy_weighs_by_this_sites_training_labels(tiny: Any, tmp_path: Path) -> None:
    """Two positives of ten training images count fourfold, which changes the update; five of ten count once."""

    def update(loss: str, positives: set[int]) -> Any:
        protocol = tiny.protocol(training={"loss": loss, "batch_size": 64})
        folder = tmp_path / f"{loss} {len(positives)}"
        agent = tiny.agent(protocol, folder, labels=lambda patient: [patient in positives], patients=16)
        return trained(agent, train_task(protocol, initial(agent.bench))).update["fc.weight"]

    few, half = {0}, {0, 2, 4, 6}
    assert not np.allclose(update("weighted_bce", few), update("bce", few))
    np.testing.assert_allclose(update("weighted_bce", half), update("bce", half), rtol=1e-4)


class SpeakingInputs:
    """Inputs that fail with a patient's name in the exception."""

    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    def training(self, *_: Any, **__: Any) -> Any:
        raise self._fault

    evaluation = training


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ValueError(NAME), Refusal.INTERNAL),
        (FileNotFoundError(2, "No such file", f"{NAME}.dcm"), Refusal.STORAGE),
        (MemoryError(NAME), Refusal.OUT_OF_MEMORY),
        (DataError("an image cannot be read"), Refusal.DATA),
        (StorageError("the cache is full"), Refusal.STORAGE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exceptions_text_reaches_nobody(
    tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Exception, expected: Refusal
) -> None:
    """A name in an exception deep within a task is in no reply, no audit line and no log; the task gets a code."""
    protocol = tiny.protocol()
    agent = replace(tiny.agent(protocol, tmp_path), inputs=SpeakingInputs(fault))
    sent = initial(agent.bench)
    for task in (train_task(protocol, sent), evaluate_task(protocol, sent)):
        with caplog.at_level(logging.DEBUG):
            frames = list(agent.handle(frames_of(task)))
        assert code(decode_answer(from_frames(frames))) == expected
        assert NAME.encode() not in b"".join(frames)
    assert NAME not in caplog.text
    (audit,) = tmp_path.rglob("audit.jsonl")
    assert NAME not in audit.read_text()
    assert [line["kind"] for line in verify(audit)] == ["refusal", "refusal"]


def test_a_transport_that_fails_is_an_internal_error(tiny: Any, tmp_path: Path) -> None:
    """Frames that stop coming are answered too."""

    def frames() -> Iterable[bytes]:
        yield b""
        raise ConnectionError(NAME)

    agent = tiny.agent(tiny.protocol(), tmp_path)
    assert code(decode_answer(from_frames(agent.handle(frames())))) == Refusal.MALFORMED

    def none() -> Iterable[bytes]:
        raise ConnectionError(NAME)
        yield b""

    assert code(decode_answer(from_frames(agent.handle(none())))) == Refusal.INTERNAL


def test_a_model_that_diverges_is_refused(tiny: Any, tmp_path: Path) -> None:
    """A site whose loss is not finite says so, and sends no arrays."""
    protocol = tiny.protocol(training={"local_epochs": 3})
    agent = tiny.agent(protocol, tmp_path)
    huge = {name: np.full_like(array, 3e38) for name, array in initial(agent.bench).items()}
    assert code(ask(agent, train_task(protocol, huge))) == Refusal.DIVERGED


def test_wrong_thresholds_are_malformed(tiny: Any, tmp_path: Path) -> None:
    """Two thresholds for one finding are refused."""
    protocol = tiny.protocol()
    agent = tiny.agent(protocol, tmp_path)
    task = evaluate_task(protocol, initial(agent.bench), thresholds=(0.1, 0.2))
    assert code(ask(agent, task)) == Refusal.MALFORMED


def test_every_answer_is_in_the_audit_log(tiny: Any, tmp_path: Path) -> None:
    """One line each for flow, update, evidence and refusal, in order, chained."""
    protocol = tiny.protocol()
    agent = tiny.agent(protocol, tmp_path)
    sent = initial(agent.bench)
    for task in (
        ReadyTask(header=header(protocol, Kind.READY)),
        train_task(protocol, sent),
        evaluate_task(protocol, sent),
        train_task(protocol, {}),
    ):
        ask(agent, task)
    (audit,) = tmp_path.rglob("audit.jsonl")
    assert [line["kind"] for line in verify(audit)] == ["query", "train", "evaluate", "refusal"]


def test_local_normalisation_layers_stay_and_go_on(tiny: Any, tmp_path: Path) -> None:
    """With local_norm nothing of them is asked for or sent, and a later round starts from this site's own."""
    protocol = tiny.protocol(
        model={"unfreeze": [{"round": 1, "from": "layer4"}], "norm": "batch"}, federation={"local_norm": True}
    )
    bench = tiny.bench(protocol)
    sent, whole = initial(bench, "layer4", local_norm=True), initial(bench, "layer4")
    kept = sorted(set(whole) - set(sent))
    agents = {name: tiny.agent(protocol, tmp_path, bench=bench, name=name) for name in ("north", "south")}
    assert code(ask(agents["north"], train_task(protocol, whole))) == Refusal.WRONG_FORM

    def layers_after(task: Task) -> str:
        assert not isinstance(ask(agents[task.header.site], task).reply, RefusalReply)
        return digest({name: array.copy() for name, array in bench.arrays(kept).items()})

    first = {site: layers_after(train_task(protocol, sent, site=site)) for site in agents}
    assert len({*first.values(), digest({name: whole[name] for name in kept})}) == 3
    assert set(trained(agents["north"], train_task(protocol, sent)).update) == set(sent)
    for site, layers in first.items():
        assert layers_after(evaluate_task(protocol, sent, site=site)) == layers
    second = layers_after(train_task(protocol, sent, round=2))
    assert second != first["north"]
    assert layers_after(train_task(protocol, sent, round=2)) == second
    assert layers_after(evaluate_task(protocol, sent, round=1)) == first["north"]


@pytest.mark.parametrize("loss", ["focal", "weighted_bce"])
def test_a_finding_that_too_few_were_assessed_for_is_not_learnt(tiny: Any, tmp_path: Path, loss: str) -> None:
    """The attack: the head's row of a finding that one patient was assessed for was that patient's features."""
    protocol = tiny.protocol(task={"findings": ["a", "b"]}, training={"loss": loss})
    every = tiny.agent(protocol, tmp_path, min_cell=3)
    labels_NK = every.records.labels_NK.copy()
    few = np.isin(every.records.patients_N, np.unique(every.records.patients_N[every.records.rows(Split.TRAIN)])[:2])
    labels_NK[~few, 1] = np.nan
    agent = replace(every, records=replace(every.records, labels_NK=labels_NK))
    unlabelled = replace(every, records=replace(every.records, labels_NK=np.where([0, 1], np.nan, labels_NK)))
    task = train_task(protocol, initial(agent.bench))
    update, same = trained(agent, task).update, trained(unlabelled, task).update
    for name, array in update.items():
        assert array[0].any()
        assert not array[1].any()
        assert np.array_equal(array, same[name])
    alone = np.where([1, 0], np.nan, labels_NK)
    assert code(ask(replace(agent, records=replace(agent.records, labels_NK=alone)), task)) == Refusal.TOO_FEW_PATIENTS


def test_training_patients_are_scored_for_nobody(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation of them is refused before an image is read or the model loaded."""
    agent = tiny.agent(tiny.protocol(), tmp_path)
    task = replace(evaluate_task(agent.protocol, initial(agent.bench)), split=Split.TRAIN)
    monkeypatch.setattr("client.agent.evaluate_split", lambda *_, **__: pytest.fail("it was computed"))
    monkeypatch.setattr(Workbench, "load", lambda *_: pytest.fail("the model was loaded"))
    assert code(ask(agent, task)) == Refusal.WRONG_FORM
