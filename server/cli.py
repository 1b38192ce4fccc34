"""Commands for coordinators: write a run's report again."""

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
