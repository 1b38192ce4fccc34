"""`polyclinic predict`: a study's model scores a folder of DICOM files, into tables that stay here."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from client.prediction import Prediction, ScoredImage, thresholds_of
from client.prediction import predict as predict_folder
from client.scorers import open_scorer
from client.workbench import Device
from shared.errors import WeightsError
from shared.model_facts import ModelFacts
from shared.own_settings import Own
from shared.protocol import Task
from shared.storage import private_file

NOT_FOR_CARE = "A score of this kind is evidence, and not a diagnosis. The study's report says where the model fails."


def predict(
    model: Annotated[
        Path, typer.Argument(help="model.safetensors of a run, or an .onnx made of it.", show_default=False)
    ],
    dicom: Annotated[Path, typer.Argument(help="Folder with DICOM files, subfolders included.", show_default=False)],
    out: Annotated[Path, typer.Option(help="CSV file for the scores.")] = Path("scores.csv"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that read files.")] = 1,
    site: Annotated[
        str, typer.Option(help="Use this hospital's own threshold and calibration, where the study let it have them.")
    ] = "",
    device: Annotated[Device, typer.Option(help="Where to compute: auto, cpu or cuda. ONNX: the CPU.")] = "auto",
) -> None:
    """Score DICOM files as the study's evaluation did: same reading, same preprocessing, same model.

    Writes a row for each image: its file, its score for each finding, and whether its exam (or what else the study
    counts) reaches the study's threshold. Files that were left out are listed beside it, with the reason.
    """
    console = Console(highlight=False, stderr=True)
    facts, scorer = open_scorer(model, device=device)
    own = _own(facts, site, where=model.name)
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
    listing = out.with_name(f"{out.stem}.excluded.csv")
    _write(out, _table(found, facts.protocol.task, own, every_frame=facts.protocol.images.frames == "all"))
    _write(listing, [("file", "reason"), *((file, reason.value) for file, reason in found.excluded)])
    for line in _summary(found, facts, own, site, listing):
        console.print(line, markup=False, soft_wrap=True)
    typer.echo(out)


def _own(facts: ModelFacts, site: str, *, where: str) -> Own:
    """Find what a site may use of its own.

    Raises:
        WeightsError: the file has nothing of this site's own.
    """
    if site and site not in facts.own:
        known = f"It has: {', '.join(facts.own)}." if facts.own else "It has none: leave --site out."
        raise WeightsError(
            f"{where}: no settings of {site!r}'s own, which a study allows by [evaluation] own_settings. {known}"
        )
    return facts.own[site] if site else {}


def _table(found: Prediction, task: Task, own: Own, *, every_frame: bool) -> Iterator[tuple[str, ...]]:
    """Lay out the scores; a unit's own columns are left out where it is the image itself."""
    joined = () if task.unit == "image" else (task.unit,)
    heads = [
        f"{target}{part}"
        for target in task.targets
        for part in (
            *("_score", *(f"_{u}_score" for u in joined), "_above"),
            *(("_calibrated",) if target in own and own[target].calibration else ()),
        )
    ]
    yield ("file", *(("frame",) if every_frame else ()), *joined, *heads)
    for image in found.images:
        frame = (str(image.frame),) if every_frame else ()
        yield (image.file, *frame, *(str(image.unit) for _ in joined), *_cells(image, joined=bool(joined)))


def _cells(image: ScoredImage, *, joined: bool) -> Iterator[str]:
    for score, unit_score, above, calibrated in zip(
        image.scores, image.unit_scores, image.above, image.calibrated, strict=True
    ):
        yield repr(score)  # every digit: a rounded score could seem to lie on the other side of the threshold
        if joined:
            yield repr(unit_score)
        yield "" if above is None else "yes" if above else "no"
        if calibrated is not None:
            yield repr(calibrated)


def _summary(found: Prediction, facts: ModelFacts, own: Own, site: str, listing: Path) -> Iterator[str]:
    task = facts.protocol.task
    yield f"{found.files:,} files: {len(found.images):,} images scored, {len(found.excluded):,} files left out"
    for reason, count in Counter(reason for _, reason in found.excluded).most_common():
        yield f"  {count:,} left out: {reason.sentence}"
    if found.excluded:
        yield f"  each with its reason: {listing}"
    points = thresholds_of(facts, own)
    for place, target in enumerate(task.targets):
        units = {image.unit: image.above[place] for image in found.images}
        point = points[place]
        whose = f"{site}'s own" if target in own and own[target].threshold is not None else "the study's"
        yield (
            f"{target}: the study could choose no threshold; scores alone"
            if point is None
            else f"{target}: {sum(map(bool, units.values())):,} of {len(units):,} {task.unit}s reach {whose} "
            f"threshold, {point:.4g}"
        )
    yield f"Intended use: {facts.protocol.study.intended_use}"
    yield NOT_FOR_CARE


def _write(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    with private_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
