"""Commands on a finished run: write its report again, and export its model."""

from pathlib import Path
from typing import Annotated

import typer

from server.report import write
from server.results_json import read


def report(run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]) -> None:
    """Write report.html again from a run's results.json, and print its path."""
    page = run / "report.html"
    write(read(run / "results.json"), page)
    typer.echo(page)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or its model file.", show_default=False)],
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write.", show_default=False)],
) -> None:
    """Write a run's model as ONNX, from prepared image to score, with all that one must know to use it.

    It is written only if onnxruntime gives the scores that the model gives.
    """
    from server.onnx_export import export_onnx

    difference = export_onnx(run / "model.safetensors" if run.is_dir() else run, onnx)
    typer.echo(f"{onnx}: its scores differ from the model's by {difference:.1g} at most, on images of noise.")
