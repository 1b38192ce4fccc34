"""`polyclinic federation`: a study over hospitals that are real processes on this machine; all are stopped after."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from simulations.compartments import Compartments
    from simulations.console import Console

DEADLINES: Mapping[str, Mapping[str, float]] = {
    "deadlines": {"ready_minutes": 30.0, "round_minutes": 60.0, "deliver_minutes": 10.0}
}


def federation(
    study: Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)],
    sites: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder a hospital, each with a site.toml. Left out: synthetic hospitals."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/federation"),
    weights: Annotated[Path | None, typer.Option(help="File with the pretrained weights.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the study: section.key=value. May be given several times."),
    ] = None,
) -> None:
    """Run a study with a coordinator and hospitals as real processes on this machine, with TLS, keys and proxy.

    Stops everything that it started, also on Ctrl-C or where it is killed; the same command goes on after the last
    finished round.
    """
    from server.last_line import last_line
    from server.run_folder import RunFolder
    from shared.protocol import read_protocol
    from simulations.console import Console
    from simulations.local_federation import LocalFederation
    from simulations.simulate import Simulation, site_files, synthetic_hospitals

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    protocol = read_protocol(study, overrides=setting or [])
    if sites is not None:
        site_files(sites)
    with Console() as console:
        hospitals = sites or synthetic_hospitals(
            Simulation(
                protocol=protocol,
                run=RunFolder(path=out),
                sites=None,
                baselines=(),
                leave_one_out=False,
                weights_file=None,
                device="cpu",
            ),
            console,
        )
        compartments = _compartments(out, sites, console)
        with LocalFederation(
            out,
            protocol,
            hospitals,
            compartments=compartments,
            variables={},
            settings=DEADLINES,
            say=console.say,
            weights=weights,
        ) as running:
            place = running.place.path
            console.say(
                f"{len(running.sites)} hospitals are up, each with link, courier and agent. Logs: {out / 'logs'}"
            )
            console.say(f"Watch it from another terminal: polyclinic coordinator status --folder {place}")
            console.say(f"or as a page: polyclinic coordinator monitor --folder {place}")
            run = running.run(console.say)
    typer.echo(last_line(run))


def _compartments(out: Path, sites: Path | None, console: "Console") -> "Compartments":
    """Choose the compartments of a real site where they can be made, or say what is missing, and why."""
    from server.coordinator_config import read_coordinator
    from server.coordinator_folder import CoordinatorFolder
    from shared.errors import FederationError
    from simulations.compartments import MISSING, OneUser
    from simulations.namespaces import KEPT_APART, Namespaces, obstacle

    config = CoordinatorFolder(path=out / "coordinator").config
    earlier = read_coordinator(config).address.host if config.exists() else None
    reason = obstacle()
    if earlier not in (None, OneUser.host):
        if reason:
            raise FederationError(f"{out}: was begun with compartments, and {reason}. Go on as root, or choose --out.")
        return Namespaces(earlier)
    if earlier:
        reason = reason or f"{out} was begun without"
    elif sites:
        reason = reason or "the agents would need to own the hospitals' files, and --sites stay yours"
    if reason:
        console.say(MISSING.format(reason=reason))
        return OneUser()
    console.say(KEPT_APART)
    return Namespaces()
