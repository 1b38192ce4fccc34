"""The exporter beside the agent's metrics socket, over real sockets."""

import socket
import stat
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from client.exporter import exporting
from client.metrics import SiteMetrics
from client.metrics_socket import MODE, MOST_BYTES, MOST_CONNECTIONS, read_page, serve_page
from shared.errors import StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the place of a socket, whose path must be short."""
    return tmp_path / "metrics.sock"


def _scrape(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return reply.read().decode()


def test_the_agents_figures_come_through(path: Path):
    """What the agent counts stands on the exporter's page, beside that the agent is up."""
    metrics = SiteMetrics(site="north", version="0.1.0", studies=["ab12"])
    metrics.refused("unknown_protocol")
    with serve_page(path, metrics.page), exporting(path, host="127.0.0.1", port=0) as port:
        page = _scrape(port)
    assert "polyclinic_agent_up 1.0" in page
    assert 'polyclinic_site_info{site="north",study="ab12",version="0.1.0"} 1.0' in page
    assert 'polyclinic_site_refusals_total{code="unknown_protocol"} 1.0' in page


def test_an_agent_that_is_away_is_down_and_the_exporter_stays(path: Path):
    """Before the agent starts, and after it has gone, the page says 0; when it comes, 1."""
    with exporting(path, host="127.0.0.1", port=0) as port:
        assert "polyclinic_agent_up 0.0" in _scrape(port)
        with serve_page(path, SiteMetrics(site="n", version="1", studies=["s"]).page):
            assert "polyclinic_agent_up 1.0" in _scrape(port)
        page = _scrape(port)
    assert "polyclinic_agent_up 0.0" in page
    assert "polyclinic_site_info" not in page


def test_no_other_name_label_or_word_gets_out(path: Path):
    """A page with a metric, a label or a text that is not on the list loses just that."""
    rogue = (
        "# HELP polyclinic_site_round DOE^JANE\n# TYPE polyclinic_site_round gauge\npolyclinic_site_round 2\n"
        "# TYPE patients gauge\npatients 7\n"
        '# TYPE polyclinic_site_info gauge\npolyclinic_site_info{patient="DOE^JANE"} 1\n'
        f'polyclinic_site_info{{site="{"x" * 101}"}} 1\n'
        'polyclinic_site_info{site="north"} 1\n'
    )
    with serve_page(path, rogue.encode), exporting(path, host="127.0.0.1", port=0) as port:
        page = _scrape(port)
    assert "polyclinic_site_round 2.0" in page
    assert 'polyclinic_site_info{site="north"} 1.0' in page
    assert not any(word in page for word in ("DOE", "patients", "patient=", "xxx"))


@pytest.mark.parametrize("page", [b"no metrics at all {", b"\xff\xfe", b"x" * (MOST_BYTES + 1)])
def test_a_page_that_is_none_counts_as_down(path: Path, page: bytes):
    """What cannot be read is not passed on, and stops nothing."""
    with serve_page(path, lambda: page), exporting(path, host="127.0.0.1", port=0) as port:
        assert "polyclinic_agent_up 0.0" in _scrape(port)


def test_the_socket_gives_the_page_and_no_more(path: Path):
    """Another path is not found, another method not known, and others of the machine may not connect."""
    with serve_page(path, lambda: b"page\n"):
        assert read_page(path, timeout_seconds=5) == b"page\n"
        assert stat.S_IMODE(path.stat().st_mode) == MODE == 0o660
        for request in (b"GET /etc/passwd HTTP/1.0\r\n\r\n", b"POST /metrics HTTP/1.0\r\n\r\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(request)
                assert client.makefile("rb").readline().split()[1] in (b"404", b"501")
    assert not path.exists()


def test_a_socket_left_behind_by_a_killed_agent_is_replaced(path: Path):
    """A file from before does not keep the agent from starting."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serve_page(path, lambda: b"new\n"):
        assert read_page(path, timeout_seconds=5) == b"new\n"


def test_a_path_that_is_too_long_is_refused_with_the_reason(tmp_path: Path):
    """A socket's path has at most 107 bytes."""
    with pytest.raises(StorageError, match="107 bytes"), serve_page(tmp_path / ("x" * 120), lambda: b""):
        pass


def test_a_port_that_is_taken_is_refused_with_what_to_do(path: Path):
    """The message names the port and the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match=f"{port}.*--port"), exporting(path, host="127.0.0.1", port=port):
            pass


def test_the_exporter_answers_reading_only(path: Path):
    """Nothing can be posted to it."""
    with exporting(path, host="127.0.0.1", port=0) as port:
        request = Request(f"http://127.0.0.1:{port}/metrics", data=b"x", method="POST")
        with pytest.raises(HTTPError, match="405"):
            urlopen(request, timeout=10)


def test_connections_without_end_take_no_more_than_a_few_of_the_agents_files(path: Path):
    """One too many is closed unheard, by whoever it comes; when the others have gone there is a page again."""
    with serve_page(path, lambda: b"page\n"):
        with ExitStack() as held:
            clients = [held.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(40)]
            open_still = 0
            for client in clients:
                client.connect(str(path))
                client.settimeout(0.2)
                try:
                    with suppress(ConnectionError):
                        assert client.recv(1) == b""
                except TimeoutError:
                    open_still += 1
            assert open_still == MOST_CONNECTIONS
        for _ in range(100):
            with suppress(OSError):
                assert read_page(path, timeout_seconds=5) == b"page\n"
                return
            time.sleep(0.05)
    pytest.fail("no page")
