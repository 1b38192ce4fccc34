"""What the command line costs before it does anything: its help, and a site's courier up to Flower's own program."""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.record import Record, Target
from benchmarks.sides import median_of
from benchmarks.workload import Scale

HELP = Target(limit=2.0, side="at most")
COURIER = Target(limit=5.0, side="at most")

LIBRARIES = "import typer, rich"
"""What is compared with: the two libraries of a command line, which every such program loads."""

COMMAND = """
import os, sys
os.execve = lambda *_: os._exit(0)
from shared.cli import main
main()
"""
"""`polyclinic`, ending where it would become one of Flower's programs."""

SITE = """
[site]
name = "north"
[data]
dicom = "dicom"
labels = "labels.csv"
join = "AccessionNumber"
[data.findings]
pneumonia = "pneumonia"
"""


def run(scale: Scale) -> Iterator[Record]:
    """Start each program and the libraries alone by turns."""
    pairs = 2 * scale.pairs
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site.toml"
        site.write_text(SITE, encoding="utf-8")
        for name, words, target in (
            ("command_line_help", ("--help",), HELP),
            ("command_line_group_help", ("site", "--help"), HELP),
            ("command_line_courier", ("site", "courier", str(site)), COURIER),
        ):
            ratios = []
            for _ in range(pairs):
                ours = _cpu_seconds((COMMAND, *words))
                ratios.append(ours / _cpu_seconds((LIBRARIES,)))
            found = median_of(ratios)
            yield Record(
                name=name,
                value=found.value,
                unit="x",
                against=f"`polyclinic {' '.join(words[:2])}` against `python -c '{LIBRARIES}'`, CPU seconds, {found}",
                target=target,
            )


def _cpu_seconds(program: Sequence[str]) -> float:
    """CPU seconds of a Python that runs a program to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", *program]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # noqa: S603  # our own program
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
