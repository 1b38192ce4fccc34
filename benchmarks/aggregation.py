"""Adding up updates of 25.6 M parameters: memory beside the model, and time beside what its bandwidth allows."""

import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from benchmarks.record import Record, Target
from benchmarks.sides import ONE_THREAD, TIMED, Work, interleaved, median_of, side
from benchmarks.workload import Scale
from server.aggregation import ServerOptimiser
from server.asking import Desk
from server.combining import weighted_mean
from server.strategy import FederatedStrategy, Rules, Site
from shared.messages import Answer, TrainReply, decode_task, encode_answer
from shared.model import ModelSpec, build
from shared.parameters import Array
from shared.views import AS_IT_IS
from shared.vision import Backbone
from shared.wire import from_frames, record_of, to_frames
from simulations.in_process_grid import Handler, InProcessGrid

MEMORY = Target(limit=2.2, side="at most")
TIME = Target(limit=1.5, side="at most")

BYTES_AN_UPDATE = 32
"""A parameter's bytes that one update must move: read to check its norm; copied to a file and back, each read and
written; read again, with the sum read and written."""

BYTES_A_ROUND = 12
"""And once a round: the sum and the current model read, the next model written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """CPU seconds of one aggregation, and those in which a plain copy would move the bytes that it must move."""

    seconds: float
    bandwidth_seconds: float


def run(scale: Scale) -> Iterator[Record]:
    """Measure memory and time for each number of replies, and Flower's own aggregation beside them."""
    backbone = scale.aggregated
    for replies in scale.replies:
        yield _memory(backbone, replies)
    for replies in scale.replies:
        yield _time(backbone, replies, scale)
    few = scale.replies[1]
    sides = [side(make, environment=TIMED, backbone=backbone, replies=few) for make in (ours, flower)]
    timed = interleaved(sides, times=scale.pairs, warm_up=scale.warm_up)
    ratio = median_of([b.result.seconds / a.result.seconds for a, b in zip(*timed, strict=True)])
    milliseconds = [median_of([s.result.seconds for s in samples]).value / few * 1e3 for samples in timed]
    yield Record(
        name="aggregation_flower_time",
        value=ratio.value,
        unit="x our CPU seconds",
        against=f"Flower's aggregate_arrayrecords, {few} replies, {milliseconds[1]:.0f} ms an update, ours "
        f"{milliseconds[0]:.0f}; {ratio}",
    )
    with side(flower_memory, environment=ONE_THREAD, backbone=backbone, replies=few) as ask_side:
        copies = ask_side().result
    yield Record(
        name="aggregation_flower_memory",
        value=copies,
        unit="model copies",
        against=f"Flower's aggregate_arrayrecords, {few} replies: it needs all of them at once",
    )


def _memory(backbone: str, replies: int) -> Record:
    with side(ours_memory, environment=ONE_THREAD, backbone=backbone, replies=replies) as ask_side:
        copies = ask_side().result
    return Record(
        name=f"aggregation_memory_{replies}_sites",
        value=copies,
        unit="model copies",
        target=MEMORY,
        against="at the peak, beyond the current model and FedAdam's state; the one reply in memory is counted",
    )


def _time(backbone: str, replies: int, scale: Scale) -> Record:
    alone = side(ours, environment=TIMED, backbone=backbone, replies=replies)
    (samples,) = interleaved([alone], times=scale.pairs, warm_up=scale.warm_up)
    ratio = median_of([sample.result.seconds / sample.result.bandwidth_seconds for sample in samples])
    return Record(
        name=f"aggregation_time_{replies}_sites",
        value=ratio.value,
        unit="x bandwidth time",
        target=TIME,
        against=f"a numpy copy in the same process ({BYTES_AN_UPDATE} bytes a parameter and update, {BYTES_A_ROUND} a "
        f"round); {ratio}",
    )


def ours(*, backbone: Backbone, replies: int) -> Work:
    """Prepare a round of FedAvg; its work gives its Timing. Making and decoding of frames is not counted."""
    model = _model(backbone)
    aggregate = _round(model, replies, ServerOptimiser(kind="fedavg"), _as_they_are)
    source, target = (np.ones(sum(array.size for array in model.values()), np.float32) for _ in range(2))

    def work() -> Timing:
        seconds = aggregate()
        began = time.process_time()
        np.copyto(target, source)
        bytes_a_second = 2 * source.nbytes / (time.process_time() - began)
        moved = source.size * (replies * BYTES_AN_UPDATE + BYTES_A_ROUND)
        return Timing(seconds=seconds, bandwidth_seconds=moved / bytes_a_second)

    return work


def ours_memory(*, backbone: Backbone, replies: int) -> Work:
    """Prepare a round of FedAdam, whose every reply is fresh memory; its work gives the peak in model copies."""
    model = _model(backbone)
    optimiser = ServerOptimiser(kind="fedadam", lr=0.01, beta1=0.9, beta2=0.99)
    aggregate = _round(model, replies, optimiser, _fresh)
    aggregate()  # makes the optimiser's state
    return partial(_peak_copies, aggregate, model)


def flower(*, backbone: Backbone, replies: int) -> Work:
    """Prepare Flower's aggregation of replies that are all there."""
    contents = _flower_replies(_model(backbone), replies)

    def work() -> Timing:
        began = time.process_time()
        aggregate_arrayrecords(contents, "patients")
        return Timing(seconds=time.process_time() - began, bandwidth_seconds=0.0)

    return work


def flower_memory(*, backbone: Backbone, replies: int) -> Work:
    """Prepare the same; its work collects the replies first, and gives the peak in model copies."""
    model = _model(backbone)
    (template,) = _flower_replies(model, 1)

    def aggregate() -> None:
        contents = [from_frames(_fresh(to_frames(template))) for _ in range(replies)]
        aggregate_arrayrecords(contents, "patients")

    return partial(_peak_copies, aggregate, model)


def _flower_replies(model: dict[str, Array], replies: int) -> list[RecordDict]:
    return [RecordDict({"arrays": record_of(model), "weight": MetricRecord({"patients": 1.0})}) for _ in range(replies)]


def _model(backbone: Backbone) -> dict[str, Array]:
    spec = ModelSpec(
        backbone=backbone,
        weights="none",
        weights_fallback=None,
        norm="frozen",
        features="pooled",
        views=AS_IT_IS,
        centred=False,
        dropout=0.0,
        outputs=1000,
        seed=0,
    )
    network, _ = build(spec, weights_file=None)
    return {name: weight.detach().numpy() for name, weight in network.named_parameters()}


Delivery = Callable[[Iterator[bytes]], Iterator[bytes]]


def _as_they_are(frames: Iterator[bytes]) -> Iterator[bytes]:
    yield from frames


def _fresh(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Copy each frame, as one that came over a network would be new."""
    for frame in frames:
        yield frame[:1] + frame[1:]


def _round(model: dict[str, Array], replies: int, optimiser: ServerOptimiser, deliver: Delivery) -> Callable[[], float]:
    """Compose a round over sites that always reply the same update; it gives the seconds that it took to aggregate."""
    update = record_of(model)
    strategy = _strategy(replies, optimiser)
    grid = InProcessGrid({site.node_id: _site(update, deliver) for site in strategy.sites})

    def aggregate() -> float:
        watch = _Stopwatch()
        asked = strategy.configure_train(1, current, ConfigRecord(), grid)
        began = time.process_time()
        after, _ = strategy.aggregate_train(1, watch.waiting_for(Desk(grid).ask(asked, deadline_seconds=1e9)))
        seconds = time.process_time() - began - watch.seconds
        if after is None:
            raise RuntimeError(f"the replies were refused: {strategy.outcome.training}")
        return seconds

    current: ArrayRecord = record_of(model)
    return aggregate


def _site(update: ArrayRecord, deliver: Delivery) -> Handler:
    reply = TrainReply(update={}, loss_by_epoch=(0.5,), update_norm=1.0, images_per_second=1.0, seconds=1.0)

    def handle(frames: Iterable[bytes]) -> Iterator[bytes]:
        task = decode_task(from_frames(frames))
        content = encode_answer(Answer(task_id=task.header.task_id, reply=reply))
        content["arrays"] = update
        return deliver(to_frames(content))

    return handle


def _strategy(sites: int, optimiser: ServerOptimiser) -> FederatedStrategy:
    rules = Rules(
        protocol_digest="",
        run_id="benchmark",
        optimiser=optimiser,
        min_sites=sites,
        weight_cap=1.0,
        combine=partial(weighted_mean, cap=1.0),
        norm_multiple=1.0,
        norm_bound=0.0,
        epochs=1,
        targets=("finding",),
        axes=(),
        bins=64,
        wire="fp32",
    )
    roster = [Site(name=f"site{number:02d}", node_id=number, weight=1.0) for number in range(1, sites + 1)]
    return FederatedStrategy(sites=roster, rules=rules, optimiser_state={})


class _Stopwatch:
    """Measures how long someone else takes to make what is waited for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def waiting_for(self, messages: Iterator[Message]) -> Iterator[Message]:
        while True:
            began = time.process_time()
            message = next(messages, None)
            self.seconds += time.process_time() - began
            if message is None:
                return
            yield message
            del message  # held here, it would be in memory beside the next one


def _peak_copies(work: Callable[[], object], model: dict[str, Array]) -> float:
    """Give the most memory that Python and numpy allocate at once while this works, in copies of the model."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / sum(array.nbytes for array in model.values())
