"""What the agent tells its hospital's monitoring: rounds, speed, refusals, last contact; never a patient's value."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

NAMES = {
    "polyclinic_site_info": "The site, its version of Polyclinic and the digest of each study that it serves.",
    "polyclinic_site_tasks_total": "Tasks that were answered, by kind.",
    "polyclinic_site_refusals_total": "Tasks that were refused or failed, by fixed code.",
    "polyclinic_site_rounds_total": "Rounds that were trained since the agent started.",
    "polyclinic_site_round": "The last round that was trained.",
    "polyclinic_site_loss": "Mean training loss of the last round's last epoch; absent in a private study.",
    "polyclinic_site_images_per_second": "Speed of the last training.",
    "polyclinic_site_train_seconds": "Duration of the last training.",
    "polyclinic_site_cache_fill_ratio": "Images that are prepared in the cache, as a share of those of its studies.",
    "polyclinic_site_last_contact_timestamp_seconds": "When a task last came in.",
    "polyclinic_site_busy": "1 while a task is being worked on, else 0.",
    "polyclinic_site_epsilon_spent": "Privacy loss charged to the ledger over all studies; absent without [privacy].",
    "polyclinic_site_epsilon_left": "What the hospital's max_epsilon leaves; absent without [privacy].",
}
"""Every name that the agent's page may hold, with its meaning; the exporter lets no other through."""


@dataclass(slots=True, kw_only=True, eq=False)
class SiteMetrics(Collector):
    """The agent's figures since it started; safe to read from another thread while the agent works.

    A figure that is not known is absent, and never 0. Times are seconds since 1970, and passed in.
    """

    site: str
    version: str
    studies: Sequence[str]
    _cached: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _tasks: Counter[str] = field(default_factory=Counter, init=False)
    _refusals: Counter[str] = field(default_factory=Counter, init=False)
    _rounds: int = field(default=0, init=False)
    _gauges: dict[str, float] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def began(self, *, at: float) -> None:
        """Note that a task came in."""
        with self._lock:
            self._gauges |= {"last_contact_timestamp_seconds": at, "busy": 1}

    def answered(self, kind: str) -> None:
        """Count a task that was answered, by its kind; a refusal is an answer of the kind "refusal"."""
        with self._lock:
            self._tasks[kind] += 1
            self._gauges["busy"] = 0

    def refused(self, code: str) -> None:
        """Count a refusal by its fixed code."""
        with self._lock:
            self._refusals[code] += 1

    def trained(self, *, round: int, loss: float | None, images_per_second: float, seconds: float) -> None:  # noqa: A002  # the field's word
        """Note a round that was trained; `loss` is None where the study is private."""
        known = {"round": round, "loss": loss, "images_per_second": images_per_second, "train_seconds": seconds}
        with self._lock:
            self._rounds += 1
            self._gauges.pop("loss", None)
            self._gauges |= {name: value for name, value in known.items() if value is not None}

    def cached(self, study: str, *, images: int, of: int) -> None:
        """Note how full the cache is with one study's images; the figure is that of all of them."""
        with self._lock:
            self._cached[study] = images, of
            there, wanted = map(sum, zip(*self._cached.values(), strict=True))
            self._gauges["cache_fill_ratio"] = there / wanted if wanted else 1.0

    def spent(self, *, epsilon: float, left: float) -> None:
        """Note what the ledger has charged over all studies, and what the hospital's limit leaves."""
        with self._lock:
            self._gauges |= {"epsilon_spent": epsilon, "epsilon_left": left}

    def page(self) -> bytes:
        """Give all figures in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Yield each figure that is known."""
        with self._lock:
            gauges, tasks, refusals, rounds = (
                dict(self._gauges),
                Counter(self._tasks),
                Counter(self._refusals),
                self._rounds,
            )
        info = _gauge("polyclinic_site_info", "site", "version", "study")
        for study in self.studies:
            info.add_metric([self.site, self.version, study], 1)
        yield info
        yield _counter("polyclinic_site_tasks_total", "kind", tasks)
        yield _counter("polyclinic_site_refusals_total", "code", refusals)
        yield CounterMetricFamily("polyclinic_site_rounds", NAMES["polyclinic_site_rounds_total"], value=rounds)
        for name, value in gauges.items():
            yield GaugeMetricFamily(f"polyclinic_site_{name}", NAMES[f"polyclinic_site_{name}"], value=value)


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, NAMES[name], labels=labels)


def _counter(name: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(name.removesuffix("_total"), NAMES[name], labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
