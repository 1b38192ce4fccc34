"""What `polyclinic predict` writes and says: the table of scores, the table of files left out, and a summary."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from client.prediction import Prediction, ScoredImage, thresholds_of
from shared.errors import WeightsError
from shared.model_facts import ModelFacts
from shared.own_settings import Own
from shared.plain_text import quoted
from shared.protocol import Task
from shared.storage import new_file, private_file

NOT_FOR_CARE = "A score of this kind is evidence, and not a diagnosis. The study's report says where the model fails."


def own_settings(facts: ModelFacts, site: str, *, where: str) -> Own:
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


def score_table(found: Prediction, task: Task, own: Own, *, every_frame: bool) -> Iterator[tuple[str, ...]]:
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


def summary_lines(found: Prediction, facts: ModelFacts, own: Own, site: str, listing: Path) -> Iterator[str]:
    """Say how many images were scored, how many reach a threshold, why files were left out, and what it is not for."""
    task = facts.protocol.task
    yield f"{found.files:,} files: {len(found.images):,} images scored, {len(found.excluded):,} files left out"
    if found.pictures:
        yield (
            f"  {found.pictures:,} are pictures and no DICOM, taken as `polyclinic partition` writes them: brighter is "
            "more, without spacing or window, of the study's modality, each an exam and a patient of its own"
        )
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
    yield f"Intended use, in the words of its author:\n{quoted(facts.protocol.study.intended_use)}"
    yield NOT_FOR_CARE


def check_places(scores: Path, listing: Path) -> None:
    """Refuse to write over anything but tables that an earlier call wrote there.

    Raises:
        StorageError: something else is there.
    """
    for path, word in ((scores, "_score"), (listing, "reason")):
        if not _begins(path, word):
            new_file(path)


def _begins(path: Path, word: str) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline(_LONGEST).strip().split(",")
    except (OSError, ValueError):
        return False
    return first[0] == "file" and any(name.endswith(word) for name in first[1:])


_LONGEST = 2**16


def write_table(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write a table that only this user can read.

    Raises:
        StorageError: it cannot be written.
    """
    with private_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
