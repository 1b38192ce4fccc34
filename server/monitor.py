"""The long-lived page and Prometheus endpoint of running studies: reading only, over HTTP, on loopback by default."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import quote, unquote

from server import monitor_page
from server.live_run import LiveRun, read_run, run_names, stamp
from server.monitor_metrics import CONTENT_TYPE, RunMetrics
from server.run_folder import RunFolder
from shared.errors import PolyclinicError, StorageError

log = logging.getLogger("polyclinic.monitor")

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""A browser runs no script of these pages, and sends nothing of them elsewhere, whatever a site's name holds."""

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""By other names nobody is answered, so that a web page elsewhere cannot read this one by renaming its own address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is sent for one address."""

    status: int
    kind: str
    body: bytes
    location: str = ""


class Monitor:
    """Answers for a folder of runs; it opens only what is listed there, and writes nothing."""

    def __init__(self, runs: Path, *, now: Callable[[], datetime]) -> None:
        self._folder = runs
        self._now = now
        self._read: dict[str, tuple[tuple[int, ...], LiveRun]] = {}
        self._lock = Lock()  # one reader at a time: figures are drawn by a library that is not safe to share

    def answer(self, address: str) -> Answer:
        """Give the page of an address: the runs, one run, its report, or the figures for Prometheus."""
        path = unquote(address.partition("?")[0])
        with self._lock:
            if path == "/":
                return _page(monitor_page.overview(self._all()[0], now=self._now()))
            if path == "/metrics":
                return Answer(status=200, kind=CONTENT_TYPE, body=RunMetrics(self._all).page())
            if path == "/health":
                return Answer(status=200, kind=TEXT, body=b"ok\n")
            asked = re.fullmatch(r"/runs/([^/]+)(?:/(report\.html)?)?", path)
            if asked and asked[1] in run_names(self._folder):
                if not path.startswith(f"/runs/{asked[1]}/"):  # its links are relative to the folder
                    return Answer(status=308, kind=TEXT, body=b"", location=run_address(asked[1]))
                return self._report(asked[1]) if asked[2] else self._run(asked[1])
        return Answer(status=404, kind=TEXT, body=b"There is no such page. The runs are listed at /\n")

    def _run(self, name: str) -> Answer:
        try:
            return _page(monitor_page.live(self._one(name), now=self._now()))
        except PolyclinicError as fault:
            return Answer(status=503, kind=TEXT, body=f"{fault}\n".encode())

    def _report(self, name: str) -> Answer:
        report = RunFolder(path=self._folder / name).report
        if not report.is_file():
            return Answer(status=404, kind=TEXT, body=b"The report is written when the run ends.\n")
        return Answer(status=200, kind=HTML, body=report.read_bytes())

    def _all(self) -> tuple[list[LiveRun], int]:
        found, unreadable = [], 0
        for name in run_names(self._folder):
            try:
                found.append(self._one(name))
            except PolyclinicError as fault:
                log.warning("%s", fault)
                unreadable += 1
        return found, unreadable

    def _one(self, name: str) -> LiveRun:
        """Read a run again only where one of its files has changed."""
        now = stamp(self._folder / name)
        before = self._read.get(name)
        if before is None or before[0] != now:
            before = self._read[name] = now, read_run(self._folder / name)
        return before[1]


@contextmanager
def monitoring(monitor: Monitor, *, host: str, port: int, names: tuple[str, ...] = ()) -> Iterator[int]:
    """Serve while the context is open; gives the port, which 0 lets the system choose.

    `names` are those by which it may be called beside loopback's.

    Raises:
        StorageError: the port is taken, or is not this user's to open.
    """
    try:
        server = ThreadingHTTPServer((host, port), _handler(monitor, {*LOOPBACK, host, *names}))
    except OSError as fault:
        raise StorageError(f"{host}:{port} cannot be opened ({fault.strerror}). Choose another --port.") from None
    thread = Thread(target=server.serve_forever, name="monitor", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_address(name: str) -> str:
    """Give the address of a run's page on the monitor."""
    return f"/runs/{quote(name, safe='')}/"


def _page(html: str) -> Answer:
    return Answer(status=200, kind=HTML, body=html.encode())


def _handler(monitor: Monitor, names: set[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30
        server_version, sys_version = "polyclinic", ""

        def do_GET(self) -> None:
            self.wfile.write(self._head())

        def do_HEAD(self) -> None:
            self._head()

        def _head(self) -> bytes:
            """Send status and headers, and give what a GET sends after them."""
            answer = self._answer()
            self.send_response(answer.status)
            for name, value in {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            for name, value in (HEADERS | ({"Location": answer.location} if answer.location else {})).items():
                self.send_header(name, value)
            self.end_headers()
            return answer.body

        def _answer(self) -> Answer:
            called = re.sub(r":\d+$", "", self.headers.get("Host", ""))
            if called not in names:
                return Answer(status=421, kind=TEXT, body=b"Not by this name: see --name of `coordinator monitor`.\n")
            try:
                return monitor.answer(self.path)
            except Exception:
                log.exception("a page could not be made")
                return Answer(status=500, kind=TEXT, body=b"The page could not be made; the monitor's log says why.\n")

        def log_message(self, *_: object) -> None:
            """Say nothing: pages that reload themselves are no event."""

    return Handler
