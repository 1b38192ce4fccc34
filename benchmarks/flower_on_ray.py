"""The same federated rounds on Flower's own engine, Ray: its FedAvg, and clients that train as the plain loop does."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks import simulation
from benchmarks.plain_loop import PlainLoop
from benchmarks.record import Record
from benchmarks.sides import TIMED, Work, interleaved, median_of, side, tree_cpu_seconds
from benchmarks.workload import Scale

WARM_UP_ROUNDS = 1
"""Not counted: in these Ray starts its workers, and each of them imports torch."""

RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}
"""No reports to anybody; and at Ray's own niceness of 15, its workers would starve on a busy machine."""


def run(scale: Scale) -> Iterator[Record]:
    """Compare CPU seconds of the process trees."""
    if importlib.util.find_spec("ray") is None:
        why = "not run: Ray is not installed here, it comes with pip install '.[bench]'"
        yield Record(name="flower_on_ray", value=None, unit="x our CPU seconds", against=why)
        return
    with tempfile.TemporaryDirectory() as folder:
        start = partial(side, scale=scale, folder=Path(folder))
        # Ray's workers are processes of their own, and must find this package.
        environment = TIMED | RAY | {"PYTHONPATH": str(Path(__file__).parents[1])}
        sides = [
            start(simulation.ours, environment=TIMED, where="cpu"),
            start(flower, environment=environment),
        ]
        ours, theirs = interleaved(sides, times=scale.few_pairs, warm_up=scale.warm_up)
    ratio = median_of([b.result / a.cpu_seconds for a, b in zip(ours, theirs, strict=True)])
    yield Record(
        name="flower_on_ray",
        value=ratio.value,
        unit="x our CPU seconds",
        against=f"Flower's FedAvg on Ray over the simulation's work, start-up not counted; {ratio}",
    )


def flower(*, scale: Scale, folder: Path) -> Work:
    """Prepare a simulation on Ray; its work gives the CPU seconds of the rounds after the warm-up."""

    def work() -> float:
        seconds: dict[int, float] = {}
        run_simulation(
            server_app=_server(scale, folder / "server", seconds),
            client_app=_client(scale, folder),
            num_supernodes=scale.sites,
            backend_config={
                "init_args": {"include_dashboard": False, "log_to_driver": False},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
        return seconds[WARM_UP_ROUNDS + scale.rounds] - seconds[WARM_UP_ROUNDS]

    return work


def _server(scale: Scale, folder: Path, seconds: dict[int, float]) -> ServerApp:
    app = ServerApp()

    def note(number: int, _arrays: ArrayRecord) -> MetricRecord:
        """Note the CPU seconds up to the end of a round."""
        seconds[number] = tree_cpu_seconds()
        return MetricRecord()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        initial = simulation.loop(scale, folder, "cpu").model.state_dict()
        strategy = FedAvg(min_available_nodes=scale.sites, weighted_by_key="images")
        rounds = WARM_UP_ROUNDS + scale.rounds
        strategy.start(grid=grid, initial_arrays=ArrayRecord(initial), num_rounds=rounds, evaluate_fn=note)

    return app


def _client(scale: Scale, folder: Path) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        loop, number = _loaded(message, scale, folder), int(context.node_config["partition-id"])
        loss = loop.train(loop.sites[number], int(message.content["config"]["server-round"]))  # type: ignore[arg-type]
        figures = MetricRecord({"images": scale.images, "loss": loss})
        return Message(
            RecordDict({"arrays": ArrayRecord(loop.model.state_dict()), "metrics": figures}), reply_to=message
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        loop, number = _loaded(message, scale, folder), int(context.node_config["partition-id"])
        loss, auc = loop.validate(loop.sites[number])
        figures = MetricRecord({"images": scale.images, "loss": loss, "auc": auc})
        return Message(RecordDict({"metrics": figures}), reply_to=message)

    return app


def _loaded(message: Message, scale: Scale, folder: Path) -> PlainLoop:
    """Give this process's loop, with the message's weights loaded."""
    loop = _loop(scale, folder / f"worker{os.getpid()}")
    loop.model.load_state_dict(message.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
    return loop


@lru_cache(maxsize=1)
def _loop(scale: Scale, folder: Path) -> PlainLoop:
    torch.set_num_threads(1)
    return simulation.loop(scale, folder, "cpu")
