"""Commands for researchers: simulate a study on one machine, and partition a data set into virtual hospitals."""

from pathlib import Path
from typing import Annotated

import typer

from client.workbench import Device
from shared.protocol import read_protocol
from simulations.console import Console
from simulations.run_folder import default_folder, open_run
from simulations.simulate import Simulation
from simulations.simulate import simulate as run_simulation

DeviceOption = Annotated[
    Device, typer.Option(help="Where to compute: auto (a CUDA device where there is one), cpu or cuda.")
]


def simulate(
    study: Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)],
    sites: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder a hospital, each with a site.toml. Left out: synthetic hospitals."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run. Default: runs/ and the study's name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out after its last round.")] = False,
    baselines: Annotated[
        str, typer.Option(help="Also train for comparison: local (each site alone), pooled, or local,pooled.")
    ] = "",
    weights: Annotated[Path | None, typer.Option(help="File with the pretrained weights.")] = None,
    device: DeviceOption = "auto",
    seed: Annotated[int | None, typer.Option(help="The same as --set study.seed=N.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change the study: section.key=value. May be given several times."),
    ] = None,
) -> None:
    """Run a whole study on this machine: every hospital, the coordinator, and a report to open.

    Ends with the path of report.html. Everything of the run is in its folder: protocol.toml, rounds.jsonl,
    checkpoints/, results.json, report.html, model.safetensors.
    """
    overrides = [*(setting or []), *([] if seed is None else [f"study.seed={seed}"])]
    protocol = read_protocol(study, overrides=overrides)
    run = open_run(out or default_folder(protocol), protocol, resume=resume)
    job = Simulation(
        protocol=protocol,
        run=run,
        sites=sites,
        baselines=[name.strip() for name in baselines.split(",") if name.strip()],
        weights_file=weights,
        device=device,
    )
    with Console() as console:
        run_simulation(job, console)
    typer.echo(run.report)
