"""Commands for researchers: check and simulate a study, and partition a data set into virtual hospitals.

Each imports what it needs, so that help is there at once.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.device import Device

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from shared.protocol import StudyProtocol
    from simulations.partition import PartitionSummary

ROWS_SHOWN = 12
"""Row numbers that are printed for a reason; the rest are counted."""

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
        str,
        typer.Option(
            help="Also train for comparison, separated by commas: local (each site alone), pooled, personal (each site "
            "keeps its own normalisation layers), blend (each site's own head and the federated one, half and half), "
            "twin (a private study without noise)."
        ),
    ] = "",
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also train without each hospital in turn, and test there.")
    ] = False,
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
    from server.last_line import last_line
    from server.run_folder import default_folder, open_run
    from shared.protocol import read_protocol
    from simulations.console import Console
    from simulations.simulate import Simulation
    from simulations.simulate import simulate as run_simulation

    overrides = [*(setting or []), *([] if seed is None else [f"study.seed={seed}"])]
    protocol = read_protocol(study, overrides=overrides)
    run = open_run(out or default_folder(protocol), protocol, resume=resume)
    job = Simulation(
        protocol=protocol,
        run=run,
        sites=sites,
        baselines=[name.strip() for name in baselines.split(",") if name.strip()],
        leave_one_out=leave_one_out,
        weights_file=weights,
        device=device,
    )
    try:
        with Console() as console:
            run_simulation(job, console)
    except KeyboardInterrupt:
        again = f" --sites {sites}" if sites else ""
        typer.echo(
            "Stopped by Ctrl-C. Finished rounds are kept. To go on: "
            f"polyclinic simulate {run.protocol}{again} --resume --out {run.path}",
            err=True,
        )
        raise typer.Exit(130) from None
    typer.echo(last_line(run))


study = typer.Typer(no_args_is_help=True, help="For whoever writes a study: check it before anybody is asked.")


@study.callback()
def _study() -> None:
    """For whoever writes a study: check it before anybody is asked."""


@study.command()
def check(
    file: Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)],
    picture: Annotated[Path | None, typer.Option(help="Draw what the augmentation does, as a new PNG file.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change the study, as `simulate` does: section.key=value. May be given several times."
        ),
    ] = None,
) -> None:
    """Check a study: print it with every default, its digest, and whether its augmentation keeps left on the left.

    Of a study with [privacy] it also prints what its budget comes to in noise, and what else has its price.
    """
    from rich.console import Console as RichConsole
    from rich.table import Table

    from shared.augmentation import Augmentation
    from shared.laterality import laterality_rows, laterality_scores
    from shared.protocol import read_protocol
    from shared.storage import new_file

    protocol = read_protocol(file, overrides=setting or [])
    place = new_file(picture) if picture else None
    augmentation = Augmentation(**protocol.augmentation.model_dump())
    scores = laterality_scores(augmentation, size=protocol.images.size, seed=protocol.study.seed)
    table = Table(title="Augmentation of a phantom: the draw nearest to a mirror image")
    for heading in ("setting", "correlation", "with the mirror image", "verdict"):
        table.add_column(heading)
    for row in laterality_rows(scores):
        table.add_row(*row)
    out = RichConsole(highlight=False)
    out.print(protocol.to_toml(), markup=False, soft_wrap=True)
    out.print(table)
    if protocol.privacy:
        _print_price(protocol, out)
    if place:
        from simulations.augmentation_sheet import write_sheet

        write_sheet(augmentation, place, seed=protocol.study.seed)
        out.print(f"Picture: {place}", markup=False, soft_wrap=True)


@study.command()
def pointing(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a study of phantom films.", show_default=False)],
    films: Annotated[int, typer.Option(min=1, help="Phantom films of each finding.")] = 200,
    seed: Annotated[int, typer.Option(help="Which phantoms.")] = 0,
) -> None:
    """Play the pointing game: how often a map's highest place lies on the finding that was drawn into a phantom.

    Beside it stands how often a place drawn at random would lie there. It says how far the maps of `site review` can be
    trusted on phantoms, and nothing about patients. What is found is kept beside the model, and `site review` says it.
    """
    from shared.pointing import write_pointing
    from shared.saved_model import open_model
    from simulations.pointing_game import play, pointing_lines

    saved = open_model(model)
    found = list(play(saved, films=films, seed=seed))
    for line in pointing_lines(found, size=saved.facts.contract.size):
        typer.echo(line)
    kept = write_pointing(model, saved.facts.arrays_sha256, found)
    typer.echo(f"Kept for the page of `polyclinic site review`, which reads it beside the model: {kept}")


def _print_price(protocol: "StudyProtocol", out: "RichConsole") -> None:
    from rich.table import Table

    from simulations.privacy_price import EXPLAINED, HEADINGS, price_rows

    table = Table(title="Price of privacy: the noise that this budget asks of each site")
    for heading in HEADINGS:
        table.add_column(heading)
    for row in price_rows(protocol):
        table.add_row(*row)
    out.print(table)
    for line in (EXPLAINED, *protocol.privacy_warnings()):
        out.print(line, markup=False, soft_wrap=True)


def partition(
    table: Annotated[Path, typer.Argument(help="CSV table with one row an image.", show_default=False)],
    images: Annotated[
        Path, typer.Option(help="Folder of images (PNG, JPEG, TIFF), or an .npz file.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the hospitals; made if it is not there.", show_default=False)],
    image_column: Annotated[
        str, typer.Option(help="Column with the image's path, or its number in the .npz.")
    ] = "image",
    patient_column: Annotated[str, typer.Option(help="Column that says whose image it is.")] = "patient_id",
    site_column: Annotated[str, typer.Option(help="Column that says which hospital has it.")] = "site",
    finding: Annotated[
        list[str] | None,
        typer.Option(help="A finding and its column: name=column. May be given several times. Default: label=label."),
    ] = None,
    keep: Annotated[str, typer.Option(help="Columns to carry along, separated by commas: age,sex,view.")] = "",
    modality: Annotated[str, typer.Option(help="The DICOM modality to write; OT claims nothing.")] = "OT",
    public: Annotated[
        str | None,
        typer.Option(
            help="Why anybody may see these images, e.g. a licence. Each site.toml then has min_cell = 1 with the "
            "reason, and no count is withheld.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn an image collection and its table into virtual hospitals: DICOM files, labels and a site.toml each.

    Every row of the table is accounted for. The hospitals are then used with `polyclinic simulate --sites`.
    """
    from shared.errors import DataError
    from simulations.console import Console
    from simulations.foretold import of_a_partition
    from simulations.partition import partition as partition_table
    from simulations.partition_plan import Columns

    if public is not None and not public.strip():
        raise DataError("--public: no reason is given. Say why anybody may see these images, e.g. their licence.")
    columns = Columns(
        image=image_column,
        patient=patient_column,
        site=site_column,
        findings=dict(_named_column(text) for text in finding or ["label=label"]),
        keep=[name.strip() for name in keep.split(",") if name.strip()],
    )
    with Console() as console:
        summary = partition_table(
            table,
            images=images,
            out=out,
            columns=columns,
            modality=modality,
            workers=len(os.sched_getaffinity(0)),
            progress=lambda done, total: console.step("rows read", done, total),
            public=(public or "").strip(),
        )
        foretold = of_a_partition(out, [site.name for site in summary.sites], console)
        for line in (*_in_words(summary), *foretold):
            console.say(line)
    typer.echo(out)


def _in_words(summary: "PartitionSummary") -> Iterator[str]:
    for site in summary.sites:
        positives = ", ".join(f"{count:,} with {finding}" for finding, count in site.positives.items())
        yield f"{site.name}: {site.patients:,} patients, {site.images:,} images, {positives}"
        for finding, count in site.unread.items():
            if count:
                yield (
                    f"{site.name}: the label of {count:,} images for {finding} is neither 0/1, true/false, yes/no, "
                    "y/n, positive/negative nor a finding's name, and a study leaves them out. Correct the table, or "
                    "name another column."
                )
    for reason, rows in summary.skipped.items():
        shown = ", ".join(map(str, rows[:ROWS_SHOWN])) + (" ..." if len(rows) > ROWS_SHOWN else "")
        yield f"{len(rows):,} of {summary.rows:,} rows left out: {reason.sentence} Rows (1 is the header): {shown}"
    if summary.patients_at_several_sites:
        yield f"{summary.patients_at_several_sites:,} patients are at several sites, and count as others at each."


def _named_column(text: str) -> tuple[str, str]:
    from shared.errors import DataError

    name, _, column = text.partition("=")
    if not (name and column):
        raise DataError(f"--finding {text}: not of the form name=column, e.g. --finding pneumonia=label.")
    return name, column
