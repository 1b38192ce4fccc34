"""The coordinator's Prometheus endpoint: each run's progress, and each site's state, sensitivity, update and speed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from server.live_run import LiveRun, LiveSite

CONTENT_TYPE = CONTENT_TYPE_LATEST

RUN, SITE, FINDING = ("run",), ("run", "site"), ("run", "site", "finding")

GAUGES = {
    "polyclinic_run_info": (
        (*RUN, "study", "digest"),
        "A run, its study's name and the digest that its sites approved.",
    ),
    "polyclinic_run_stage": ((*RUN, "stage"), "1 for the stage that a run is in."),
    "polyclinic_run_running": (RUN, "1 while a run is under way, 0 once it has finished or failed."),
    "polyclinic_run_rounds_planned": (RUN, "Rounds of the study."),
    "polyclinic_run_round_seconds": (RUN, "Duration of the last round."),
    "polyclinic_run_site_state": ((*SITE, "state"), "1 for what last happened to a site's task."),
    "polyclinic_run_site_heard_timestamp_seconds": (SITE, "When a reply of a site last came."),
    "polyclinic_run_site_sensitivity": (FINDING, "On validation units, at the last round's own threshold."),
    "polyclinic_run_site_specificity": (FINDING, "On validation units, at the last round's own threshold."),
    "polyclinic_run_site_auc": (FINDING, "On validation units after the last round, on exact scores."),
    "polyclinic_run_site_update_norm": (SITE, "L2 norm of the last update that was used."),
    "polyclinic_run_site_update_bytes": (SITE, "Size of the last update that was used."),
    "polyclinic_run_site_train_seconds": (SITE, "Duration of the last training."),
    "polyclinic_run_site_images_per_second": (SITE, "Speed of the last training."),
    "polyclinic_run_site_loss": (SITE, "Training loss of the last round's last epoch; absent in a private study."),
    "polyclinic_run_site_test_sensitivity": (
        FINDING,
        "On test units at the study's operating point; once, at the end.",
    ),
    "polyclinic_run_site_test_specificity": (
        FINDING,
        "On test units at the study's operating point; once, at the end.",
    ),
}
COUNTERS = {
    "polyclinic_run_rounds_total": (RUN, "Rounds that were finished, lost ones too."),
    "polyclinic_run_rounds_lost_total": (RUN, "Rounds in which fewer sites than min_sites could be used."),
    "polyclinic_run_site_updates_refused_total": (
        (*SITE, "reason"),
        "Updates that did not enter the model, by reason.",
    ),
    "polyclinic_run_site_late_replies_total": (SITE, "Replies that came after the round's deadline."),
}
UNREADABLE = "polyclinic_monitor_unreadable_runs"
NAMES = frozenset({*GAUGES, *COUNTERS, UNREADABLE})
"""Every name on the page; the alerts and the dashboard are checked against it."""

Sample = tuple[str, tuple[str, ...], float]


class RunMetrics(Collector):
    """All runs' figures; a figure that is not known is absent, and never 0."""

    def __init__(self, runs: Callable[[], tuple[list[LiveRun], int]]) -> None:
        """Take what reads the runs, and says how many could not be read."""
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        """Yield every figure of every run."""
        runs, unreadable = self._runs()
        yield GaugeMetricFamily(UNREADABLE, "Folders of runs that could not be read.", value=unreadable)
        samples: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        for run in runs:
            for name, labels, value in _of_run(run):
                samples.setdefault(name, []).append(((run.name, *labels), value))
        for name, (labels, meaning) in GAUGES.items():
            yield _filled(GaugeMetricFamily(name, meaning, labels=labels), samples.get(name, ()))
        for name, (labels, meaning) in COUNTERS.items():
            yield _filled(
                CounterMetricFamily(name.removesuffix("_total"), meaning, labels=labels), samples.get(name, ())
            )

    def describe(self) -> Iterator[Metric]:
        """Describe nothing beforehand: runs come and go."""
        yield from ()

    def page(self) -> bytes:
        """Give all figures in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _of_run(run: LiveRun) -> Iterator[Sample]:
    yield "polyclinic_run_info", (run.protocol.study.name, run.digest), 1
    yield "polyclinic_run_stage", (run.stage,), 1
    yield "polyclinic_run_running", (), int(run.running)
    yield "polyclinic_run_rounds_planned", (), run.protocol.federation.rounds
    yield "polyclinic_run_rounds_total", (), run.rounds_done
    yield "polyclinic_run_rounds_lost_total", (), run.lost
    if run.records:
        yield "polyclinic_run_round_seconds", (), run.records[-1]["seconds"]
    for site in run.sites:
        for name, labels, value in _of_site(site):
            yield f"polyclinic_run_site_{name}", (site.name, *labels), value
    yield from _tested(run)


def _of_site(site: LiveSite) -> Iterator[Sample]:
    if site.state:
        yield "state", (site.state,), 1
    if site.heard:
        yield "heard_timestamp_seconds", (), datetime.fromisoformat(site.heard).timestamp()
    for finding, rates in site.rates.items():
        for measure, (right, total) in rates.items():
            yield measure, (finding,), right / total
    for finding, area in site.auc.items():
        yield "auc", (finding,), area
    for name, value in _last_update(site.last):
        if value is not None:
            yield name, (), value
    for reason, times in site.refusals.items():
        yield "updates_refused_total", (reason,), times
    yield "late_replies_total", (), site.late


def _last_update(last: Mapping[str, object]) -> Iterator[tuple[str, float | None]]:
    for name, key in (
        ("update_norm", "update_norm"),
        ("update_bytes", "update_bytes"),
        ("train_seconds", "seconds"),
        ("images_per_second", "images_per_second"),
    ):
        value = last.get(key)
        yield name, float(value) if isinstance(value, int | float) else None
    losses = last.get("loss_by_epoch")
    yield "loss", float(losses[-1]) if isinstance(losses, list) and losses else None


def _tested(run: LiveRun) -> Iterator[Sample]:
    if run.result is None:
        return
    for site in run.result.site_names:
        for finding in run.result.study.findings:
            test = run.result.of_site(site, "test", finding)
            for measure, rate in (("sensitivity", test.sensitivity), ("specificity", test.specificity)):
                if rate is not None:
                    yield f"polyclinic_run_site_test_{measure}", (site, finding), rate.value
