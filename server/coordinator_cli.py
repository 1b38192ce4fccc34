"""Commands for coordinators: make a coordinator, invite and enrol sites, serve, and run studies over them.

Each imports what it needs, so that help is there at once.
"""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from server.coordinator_folder import CoordinatorFolder
    from server.run_folder import RunFolder

app = typer.Typer(no_args_is_help=True, help="For whoever coordinates a study over real hospitals.")

FolderOption = Annotated[Path, typer.Option("--folder", help="The coordinator's folder.")]
RunOption = Annotated[
    str | None, typer.Option("--run", help="The run's name. Default: the newest.", show_default=False)
]
HERE = Path("coordinator")

OWN, SENT = 0o027, 0o022
"""What the commands write is for their user and group, as which the monitor reads; an invitation is for everybody."""


@app.callback()
def _coordinator() -> None:
    """For whoever coordinates a study over real hospitals."""
    os.umask(OWN)


@app.command()
def init(
    host: Annotated[str, typer.Option(help="Name or address by which sites reach this server.", show_default=False)],
    site: Annotated[list[str], typer.Option(help="A site that runs go to; give it once a site.", show_default=False)],
    port: Annotated[int, typer.Option(help="The proxy's port, the only one that sites reach.")] = 443,
    listen: Annotated[
        str, typer.Option(help="Address of this machine to listen at; 0.0.0.0 for all of them, so that sites reach it.")
    ] = "127.0.0.1",
    superlink_port: Annotated[int, typer.Option(help="Flower's port, on loopback.")] = 18000,
    folder: FolderOption = HERE,
) -> None:
    """Make a coordinator: its folder, its certificate authority, its server certificate and coordinator.toml."""
    from server import coordinator

    settings = {
        "address": {"host": host, "port": port, "listen": listen},
        "sites": {"names": site},
        "superlink": {"port": superlink_port},
    }
    coordinator.make_folder(_at(folder), settings, now=datetime.now(UTC))
    typer.echo(f"Made {folder}. Its settings: {folder / 'coordinator.toml'}. Next: `invite` each site.")
    if listen in ("127.0.0.1", "localhost", "::1"):
        typer.echo("It listens on this machine alone. For sites elsewhere set its [address] listen, e.g. to 0.0.0.0.")


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="The site, as in coordinator.toml.", show_default=False)],
    study: Annotated[Path, typer.Option(help="The study: a TOML file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the invitation, to be sent to the site.", show_default=False)],
    weights: Annotated[
        Path | None, typer.Option(help="The pretrained weights, where the study starts from a file; once is enough.")
    ] = None,
    folder: FolderOption = HERE,
) -> None:
    """Write the folder that a site gets: study, invitation, certificate, bundle, weights. No secret is in it."""
    from server import coordinator
    from server.enrolment import Register
    from shared.fingerprints import coordinator_line, invitation_line
    from shared.protocol import read_protocol

    os.umask(SENT)
    invitation = coordinator.invite(_at(folder), site, read_protocol(study), out, weights=weights)
    typer.echo(f"{out}: invitation of {site} to {invitation.study!r}, digest {invitation.digest}.")
    typer.echo(coordinator_line(invitation.signing))
    typer.echo(invitation_line(invitation))
    typer.echo(f"Compare both lines by telephone with what `polyclinic site approve` shows at {site}.")
    known = site in Register(_at(folder).sites).records()
    keys = " Its keys are here already." if known else " It sends back its public keys, which you `enroll`."
    typer.echo(f"Next: send the folder to {site}, which approves it.{keys}")


@app.command()
def key(
    new: Annotated[bool, typer.Option("--new", help="Draw a new one: to rotate it, or because it is lost.")] = False,
    folder: FolderOption = HERE,
) -> None:
    """Show the fingerprint of the key that signs this coordinator's tasks; with --new, draw another in its place."""
    from server import coordinator
    from server.coordinator_key import succession_of
    from shared.fingerprints import coordinator_line

    place = _at(folder)
    found = coordinator.new_key(place) if new else succession_of(place)
    typer.echo(coordinator_line(found.key))
    if new:
        signed = "The old key has signed it." if found.endorsement else "No earlier key has signed it."
        typer.echo(f"{signed} Sites refuse tasks until they have approved a new invitation: `invite` each of them.")


@app.command()
def enroll(
    keys: Annotated[Path, typer.Argument(help="The file with public keys that the site sent.", show_default=False)],
    replace: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="The site whose enrolled keys these replace, once it confirmed them by telephone."
        ),
    ] = None,
    folder: FolderOption = HERE,
) -> None:
    """Take in a site's public keys; older ones give way only to --replace. Compare their fingerprint by telephone."""
    from server import coordinator
    from server.fleet import fleet
    from shared.fingerprints import keys_line
    from shared.invitation import read_keys

    read = read_keys(keys)
    with fleet(_at(folder)) as superlink:
        done = coordinator.enroll(_at(folder), read, superlink, replace=replace)
    typer.echo(f"{read.site}: {done}.\n{keys_line(read)}")
    typer.echo(
        f"Compare that line by telephone with what `polyclinic site keys` said at {read.site}. If it differs, somebody "
        f"has changed the file: `revoke {read.site}`."
    )


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site.", show_default=False)], folder: FolderOption = HERE
) -> None:
    """Take a site's keys back: its link is refused at once. The site makes new keys to come back."""
    from server import coordinator
    from server.fleet import fleet

    with fleet(_at(folder)) as superlink:
        coordinator.revoke(_at(folder), site, superlink)
    typer.echo(f"{site}: revoked.")


@app.command()
def certificate(folder: FolderOption = HERE) -> None:
    """Make a new server certificate, e.g. before the old one ends. Sites need to do nothing; restart `serve`."""
    from server import coordinator
    from server.certificates import expires
    from server.coordinator_config import read_coordinator

    place = _at(folder)
    coordinator.renew_server(place, read_coordinator(place.config), now=datetime.now(UTC))
    typer.echo(f"{place.server_certificate}: valid until {expires(place.server_certificate):%Y-%m-%d}.")


@app.command()
def serve(
    program: Annotated[
        str | None, typer.Argument(help="superlink, superexec or proxy: only this one, in the foreground.")
    ] = None,
    folder: FolderOption = HERE,
) -> None:
    """Run the coordinator's programs until stopped; with a name, become that one program (for units and containers)."""
    from server.coordinator_config import read_coordinator
    from server.programs import Programs
    from server.serving import how_to_start, prepare

    place = _at(folder)
    config = read_coordinator(place.config)
    if program is not None:
        start = how_to_start(place, config, program, os.environ)
        for file in start.held:
            os.set_inheritable(file, True)
        os.execve(start.command[0], start.command, start.variables)  # noqa: S606  # the unit watches this very process
    serving, programs, ended = prepare(place, config, os.environ), Programs(place.logs, {}), _stopped()
    try:
        serving.start(programs)
        typer.echo(f"Serving at port {config.address.port}. Logs: {place.logs}. Stop: Ctrl-C.\n{serving.words()}")
        while not ended.wait(0.5):
            programs.revive(typer.echo)
    finally:
        programs.stop()
        serving.close()


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)],
    folder: FolderOption = HERE,
) -> None:
    """Run a study over the sites in coordinator.toml, wait, and print the report's path. Ctrl-C leaves it running.

    A study that is finished is not run again.
    """
    from server import coordinator
    from shared.protocol import read_protocol

    found = coordinator.begin_run(_at(folder), read_protocol(study))
    found.refuse_finished()
    _play(_at(folder), found)


@app.command()
def resume(run: RunOption = None, folder: FolderOption = HERE) -> None:
    """Go on with a run after its last finished round, or follow one that is running."""
    from server import coordinator

    _play(_at(folder), coordinator.find_run(_at(folder), run))


@app.command()
def stop(run: RunOption = None, folder: FolderOption = HERE) -> None:
    """Stop a run. What is finished is kept; `resume` goes on."""
    from server import coordinator
    from server.fleet import fleet
    from server.playing import stop as stop_run

    place = _at(folder)
    found = coordinator.find_run(place, run)
    with fleet(place) as superlink:
        stop_run(found, superlink)
    typer.echo(f"{found.path.name}: stopped.")


@app.command()
def drop(
    site: Annotated[str, typer.Argument(help="The site.", show_default=False)],
    run: RunOption = None,
    folder: FolderOption = HERE,
) -> None:
    """Leave a site out of the rest of a run. For later runs, take it out of coordinator.toml."""
    from server import coordinator

    found = coordinator.find_run(_at(folder), run)
    coordinator.drop_site(found, site)
    typer.echo(f"{found.path.name}: {site} is not asked any more.")


@app.command()
def status(run: RunOption = None, folder: FolderOption = HERE) -> None:
    """Show who is enrolled and reachable, and where the newest run stands."""
    from server.coordinator_status import status_lines

    for line in status_lines(_at(folder), run):
        typer.echo(line)


@app.command()
def monitor(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve at.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to serve at; beyond loopback only behind a login.")] = "127.0.0.1",
    name: Annotated[list[str] | None, typer.Option(help="Another name by which it may be called, once a name.")] = None,
    folder: FolderOption = HERE,
) -> None:
    """Serve a page and Prometheus figures of the runs in FOLDER/runs until stopped; it reads, and changes nothing."""
    from server.monitor import Monitor, monitoring
    from shared.errors import CoordinatorError

    if not folder.is_dir():
        raise CoordinatorError(f"{folder}: there is no such folder. Name the coordinator's with --folder.")
    watch = Monitor(_at(folder).runs, now=lambda: datetime.now(UTC))
    with monitoring(watch, host=host, port=port, names=tuple(name or ())) as opened:
        typer.echo(f"Runs: http://{host}:{opened}/   Figures: http://{host}:{opened}/metrics   Stop: Ctrl-C.")
        _stopped().wait()


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The new file to write.", show_default=False)],
    folder: FolderOption = HERE,
) -> None:
    """Write settings, keys, records of sites and all runs into one file. Keep it as safe as the keys in it."""
    from server.backup import backup as write_backup

    write_backup(_at(folder), file)
    typer.echo(file)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.", show_default=False)],
    folder: FolderOption = HERE,
) -> None:
    """Put a backup into an empty folder; then `serve` and `resume`."""
    from server.backup import restore as read_backup

    read_backup(file, _at(folder))
    typer.echo(f"{folder}: restored. Next: `serve`, then `resume`.")


def _at(folder: Path) -> "CoordinatorFolder":
    from server.coordinator_folder import CoordinatorFolder

    return CoordinatorFolder(path=folder)


def _stopped() -> Event:
    """Give what is set when somebody stops this process."""
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended


def _play(place: "CoordinatorFolder", found: "RunFolder") -> None:
    from server.fleet import fleet
    from server.last_line import last_line
    from server.playing import Player

    with fleet(place) as superlink:
        try:
            Player(place, found, superlink, say=typer.echo).play()
        except KeyboardInterrupt:
            again = f"polyclinic coordinator resume --run {found.path.name} --folder {place.path}"
            typer.echo(f"Left running. Follow it with `{again}`.")
            raise typer.Exit(130) from None
    if found.outcome.exists():
        typer.echo(last_line(found))
