"""Commands on a finished run: write its report again, and export its model; each imports what it needs."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished run, or a results.json as a site got it.", show_default=False)
    ],
    against: Annotated[
        Path | None, typer.Option(help="An earlier run's folder: how far has each site moved from itself?")
    ] = None,
    pack: Annotated[Path | None, typer.Option(help="Also write the evidence pack: a new zip file.")] = None,
) -> None:
    """Write report.html again from a run's results.json, and print its path.

    A hospital that was given a results.json makes its own page of it so: nothing is fetched, and nothing else is read.

    With an earlier run beside it, the page also compares each site's images with its own of then.

    The evidence pack holds model card, counts by site, preprocessing, approvals, privacy, records and digests, and a
    table of what GMLP, EU MDR, EU AI Act and TRIPOD+AI ask: where it is, and what is not covered.
    """
    from server.drift import drift
    from server.report import write
    from server.results_json import read
    from server.run_folder import RunFolder
    from server.wording_drift import headline
    from shared.storage import new_file

    place = new_file(pack) if pack else None
    file = run if run.is_file() else run / "results.json"
    run, page = file.parent, file.with_name("report.html")
    result = read(file)
    moved = drift(RunFolder(path=run), RunFolder(path=against)) if against else None
    write(result, page, moved=moved)
    if moved:
        typer.echo(headline(moved), err=True)
    typer.echo(page)
    if place is not None:
        from server.evidence_pack import DIGESTS, write_pack

        digest = write_pack(RunFolder(path=run), place)
        typer.echo(f"{place}  SHA-256 of its {DIGESTS}: {digest}")


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or its model file.", show_default=False)],
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write, a new one.", show_default=False)],
) -> None:
    """Write a run's model as ONNX, from prepared image to score, with all that one must know to use it.

    It is written only if onnxruntime gives the scores that the model gives.
    """
    from server.onnx_export import export_onnx
    from shared.storage import new_file

    difference = export_onnx(run / "model.safetensors" if run.is_dir() else run, new_file(onnx))
    typer.echo(f"{onnx}: its scores differ from the model's by {difference:.1g} at most, on images of noise.")
