"""Prometheus endpoint of this site: reads the agent's metrics socket, in a process without any right to the data."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Sample

from client.metrics import NAMES
from client.metrics_socket import read_page
from shared.errors import StorageError

TIMEOUT_SECONDS = 5.0
"""The agent's page comes from memory: longer than this, and it hangs."""

UP = "polyclinic_agent_up"
LABELS = frozenset({"site", "version", "study", "kind", "code"})
"""The only labels that pass; each holds a name, a digest or a fixed code."""

LONGEST_LABEL = 100
"""Characters of a label's value; a site's name has at most 64, as has a digest."""


class Exporter(Collector):
    """Passes on the agent's figures by name: an allow-list, so that no other word of the agent's gets out this way."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        """`read` gives the agent's page, or raises OSError."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield whether the agent answers, and what it says."""
        up = GaugeMetricFamily(UP, "1 where the agent answers at its metrics socket, else 0.")
        try:
            families = list(text_string_to_metric_families(self._read().decode("utf-8")))
        except (OSError, ValueError):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _allowed(families)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing beforehand: the agent may not be up yet."""
        yield from ()


@contextmanager
def exporting(socket: Path, *, host: str, port: int) -> Iterator[int]:
    """Serve the figures of the agent behind `socket` over TCP while the context is open; gives the port.

    Port 0 lets the system choose.

    Raises:
        StorageError: the port is taken, or is not this user's to open.
    """
    registry = CollectorRegistry()
    registry.register(Exporter(lambda: read_page(socket, timeout_seconds=TIMEOUT_SECONDS)))
    try:
        server, thread = start_http_server(port, host, registry=registry)
    except OSError as fault:
        raise StorageError(f"{host}:{port} cannot be opened ({fault.strerror}). Choose another --port.") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _allowed(families: Iterable[Metric]) -> Iterator[Metric]:
    for family in families:
        kept = Metric(family.name, "", family.type)
        kept.samples = [one for one in family.samples if _passes(one)]
        if kept.samples:
            kept.documentation = NAMES[kept.samples[0].name]
            yield kept


def _passes(sample: Sample) -> bool:
    words = sample.labels.values()
    return sample.name in NAMES and set(sample.labels) <= LABELS and all(len(word) <= LONGEST_LABEL for word in words)
