"""What `coordinator status` shows: the certificate, each site and its link, and where a run stands."""

from collections.abc import Iterator

from server.certificates import expires
from server.coordinator import find_run
from server.coordinator_config import read_coordinator
from server.coordinator_folder import CoordinatorFolder
from server.enrolment import Register
from server.fleet import fleet
from server.progress import how_it_failed, table
from server.run_status import read_status
from shared.errors import FederationError


def status_lines(place: CoordinatorFolder, run: str | None) -> Iterator[str]:
    """Yield a line on each, of the run that is named or of the newest.

    Raises:
        CoordinatorError: what is stored cannot be read, or there is no run of that name.
    """
    yield f"certificate valid until {expires(place.server_certificate):%Y-%m-%d}"
    yield from _site_lines(place)
    if run is not None or any(place.runs.glob("*/run.json")):
        yield from _run_lines(place, run)


def _site_lines(place: CoordinatorFolder) -> Iterator[str]:
    names, records, online = read_coordinator(place.config).sites.names, Register(place.sites).records(), set[int]()
    try:
        with fleet(place) as superlink:
            online = {node.node_id for node in superlink.nodes() if node.online}
    except FederationError as fault:
        yield str(fault)
    for name, record in records.items():
        word = "revoked" if record.revoked else "link online" if record.node_id in online else "not reachable"
        yield f"  {name}: {word}{'' if name in names else ', not in coordinator.toml'}"
    yield from (f"  {name}: not enrolled" for name in names if name not in records)


def _run_lines(place: CoordinatorFolder, run: str | None) -> Iterator[str]:
    found = find_run(place, run)
    state = read_status(found.status)
    yield found.path.name
    yield from table(state) if state else ["  not begun"]
    yield from how_it_failed(found)
    others = sorted({path.parent.name for path in place.runs.glob("*/run.json")} - {found.path.name})
    if others:
        yield f"Other runs here, shown with --run: {', '.join(others)}"
