"""`polyclinic predict`: a study's model scores a folder of images, into tables that stay here."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from client.device import Device


def predict(
    model: Annotated[
        Path, typer.Argument(help="model.safetensors of a run, or an .onnx made of it.", show_default=False)
    ],
    dicom: Annotated[
        Path,
        typer.Argument(
            help="Folder with DICOM files or pictures (PNG, JPEG, TIFF), subfolders included.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="CSV file for the scores; earlier scores are replaced.")] = Path(
        "scores.csv"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Processes that read files.")] = 1,
    site: Annotated[
        str, typer.Option(help="Use this hospital's own threshold and calibration, where the study let it have them.")
    ] = "",
    device: Annotated[Device, typer.Option(help="Where to compute: auto, cpu or cuda. ONNX: the CPU.")] = "auto",
) -> None:
    """Score DICOM files or pictures as the study's evaluation did: same reading, same preprocessing, same model.

    Pictures (PNG, JPEG, TIFF) are read as `polyclinic partition` reads them.

    Writes a row for each image: its file, its score for each finding, and whether its exam (or what else the study
    counts) reaches the study's threshold. Files that were left out are listed beside it, with the reason.
    """
    from rich.console import Console

    from client.prediction import predict as predict_folder
    from client.score_table import check_places, own_settings, score_table, summary_lines, write_table
    from client.scorers import open_scorer

    listing = out.with_name(f"{out.stem}.excluded.csv")
    check_places(out, listing)
    console = Console(highlight=False, stderr=True)
    facts, scorer = open_scorer(model, device=device)
    own = own_settings(facts, site, where=model.name)
    with console.status("reading") as status, TemporaryDirectory(prefix="polyclinic-") as cache:
        found = predict_folder(
            dicom,
            facts,
            scorer,
            cache=Path(cache),
            workers=workers,
            progress=lambda what, done, total: status.update(f"{what}: {done:,} of {total:,}"),
            own=own,
        )
    write_table(out, score_table(found, facts.protocol.task, own, every_frame=facts.protocol.images.frames == "all"))
    write_table(listing, [("file", "reason"), *((file, reason.value) for file, reason in found.excluded)])
    for line in summary_lines(found, facts, own, site, listing):
        console.print(line, markup=False, soft_wrap=True)
    typer.echo(out)
