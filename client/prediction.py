"""Scores a folder of images with a study's model, by the very code that the study's evaluation runs at a site."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from client.cache import fill
from client.cohort import CohortImage, numbers
from client.features import Progress
from client.image_index import IndexedFile, index_images, printable
from client.inclusion import exclusions
from client.labels import Match
from client.patient_flow import FileReason
from client.people import People, people_of
from client.pictures import read_either, with_pictures
from client.refusals import Reason
from client.site_data import Pixels
from shared.errors import DataError
from shared.model_facts import ModelFacts
from shared.own_settings import Own, OwnSettings
from shared.protocol import Task
from shared.score_calibration import recalibrated
from shared.scores import unit_scores, units_of
from shared.split import Split

Scorer = Callable[[Pixels], npt.NDArray[np.float64]]
"""Gives each prepared image's probabilities (N, K)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImage:
    """One image; `unit` is the number of the exam or patient that it belongs to, and stands for nothing else.

    `unit_scores` are what the study's threshold is for: its images' scores joined as the study joins them. `above` is
    None for a target for which the study could choose no threshold. `calibrated` are the unit's scores as a site's own
    calibration reads them, None where it has none or none was asked for.
    """

    file: str = field(repr=False)
    frame: int
    unit: int
    scores: tuple[float, ...]
    unit_scores: tuple[float, ...]
    above: tuple[bool | None, ...]
    calibrated: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Every file of a folder: scored, image by image, or left out for a reason; both in the order of their paths.

    `pictures` of the files are no DICOM (client/pictures.py).
    """

    files: int
    pictures: int
    images: tuple[ScoredImage, ...] = field(repr=False)
    excluded: tuple[tuple[str, FileReason], ...] = field(repr=False)


def predict(
    folder: Path,
    facts: ModelFacts,
    score: Scorer,
    *,
    cache: Path,
    workers: int,
    progress: Progress,
    own: Own = MappingProxyType({}),
) -> Prediction:
    """Read, prepare and score every file of a folder that the study would have taken.

    Left out are, for the study's own reasons, what cannot be read, another modality, a file without PatientID and the
    second copy of an object. A picture (PNG, JPEG, TIFF) is read as `partition` would have written it. `cache` gets the
    prepared images. `own` are a site's own settings, where they are asked for: its threshold in the place of the shared
    one, and its calibration. An exam is what it is in a study (client/cohort.py).

    Raises:
        DataError: the folder is missing or may not be read, or nothing in it can be scored; or a score is no number.
        StorageError: the cache cannot be written.
    """
    if not folder.is_dir():
        is_what = "this is no folder" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {is_what}. Name the folder that holds the DICOM files or pictures.")
    task, images = facts.protocol.task, facts.protocol.images
    found = index_images(folder, workers=workers, progress=lambda *counts: progress("headers read", *counts))
    index = with_pictures(folder, found, modality=images.modality)
    unlabelled = [Match(labels=(), row=None, reason=None)] * len(index)
    people = people_of(index, unlabelled, by_table=False)
    reasons = exclusions(
        index,
        unlabelled,
        people,
        modality=images.modality,
        objects=images.objects,
        frames=images.frames,
        one_exam_many_keys=False,
        withdrawn=(),
    )
    cohort = _images(folder, index, people, reasons, every_frame=images.frames == "all")
    cached = fill(
        cohort,
        contract=facts.contract,
        frames=images.frames,
        folder=cache,
        workers=workers,
        progress=lambda *counts: progress("images prepared", *counts),
        read=read_either,
    )
    unreadable = {cohort[place].path: reason for place, reason in cached.unreadable.items()}
    kept = [image for image in cohort if image.path not in unreadable]
    excluded = tuple(
        (printable(file.relative), reason)
        for file, left_out in zip(index, reasons, strict=True)
        if (reason := left_out or unreadable.get(folder / file.relative)) is not None
    )
    if not kept:
        counts = {reason: sum(other == reason for _, other in excluded) for _, reason in excluded}
        lines = [f"{count:,} files: {reason.sentence}" for reason, count in counts.items()]
        raise DataError("\n".join([f"{folder}: none of its {len(index):,} files can be scored.", *lines]))
    rows = np.array([row for image, row in zip(cohort, cached.rows, strict=True) if image.path not in unreadable])
    scores_NK = score(Pixels(cached=cached.array, cached_row_N=rows, digest=cached.digest))
    scored = _scored(folder, kept, scores_NK, task=task, thresholds=thresholds_of(facts, own), own=own)
    pictures = sum(isinstance(file.found, Reason) for file in found) - sum(
        isinstance(file.found, Reason) for file in index
    )
    return Prediction(files=len(index), pictures=pictures, images=tuple(scored), excluded=excluded)


def thresholds_of(facts: ModelFacts, own: Own) -> list[float | None]:
    """Give each target's threshold: a site's own where it has one, else the study's."""
    shared = {target: facts.thresholds.get(target) for target in facts.protocol.task.targets}
    return [
        one.threshold if (one := own.get(target)) and one.threshold is not None else point
        for target, point in shared.items()
    ]


def _images(
    folder: Path,
    index: Sequence[IndexedFile],
    people: People,
    reasons: Sequence[FileReason | None],
    *,
    every_frame: bool,
) -> list[CohortImage]:
    """List the images in a cohort's order, with numbers for patients and exams."""
    included = sorted(
        (place for place, reason in enumerate(reasons) if reason is None),
        key=lambda place: (index[place].identity.sop_instance_uid, index[place].relative),
    )
    patients = numbers(people.person_N[place] for place in included)
    exams = numbers((people.name_N[place], index[place].exam) for place in included)
    return [
        CohortImage(
            path=folder / index[place].relative,
            frame=frame,
            patient=patients[people.person_N[place]],
            exam=exams[people.name_N[place], index[place].exam],
            split=Split.TEST,
            labels=(),
        )
        for place in included
        for frame in range(index[place].frames if every_frame else 1)
    ]


def _scored(
    folder: Path,
    images: Sequence[CohortImage],
    scores_NK: npt.NDArray[np.float64],
    *,
    task: Task,
    thresholds: Sequence[float | None],
    own: Own,
) -> list[ScoredImage]:
    """Join the images' scores to the study's units, and compare these with the thresholds."""
    exams = np.array([image.exam for image in images])
    patients = np.array([image.patient for image in images])
    unit_of = units_of(exams_N=exams, patients_N=patients, unit=task.unit)
    columns = [
        unit_scores(
            scores_NK[:, place],
            np.zeros(len(images)),
            exams_N=exams,
            patients_N=patients,
            unit=task.unit,
            aggregate=task.aggregate,
        ).scores_M[unit_of]
        for place in range(len(task.targets))
    ]
    joined_NK = np.stack(columns, axis=1)
    calibrated_KN = [_calibrated(own.get(target), joined_NK[:, place]) for place, target in enumerate(task.targets)]
    scored = [
        ScoredImage(
            file=printable(image.path.relative_to(folder).as_posix()),
            frame=image.frame,
            unit=int(unit),
            scores=tuple(scores.tolist()),
            unit_scores=tuple(joined.tolist()),
            above=tuple(
                None if point is None else bool(score >= point) for score, point in zip(joined, thresholds, strict=True)
            ),
            calibrated=calibrated,
        )
        for image, unit, scores, joined, calibrated in zip(
            images, unit_of, scores_NK, joined_NK, zip(*calibrated_KN, strict=True), strict=True
        )
    ]
    return sorted(scored, key=lambda image: (image.file, image.frame))


def _calibrated(own: OwnSettings | None, scores_N: npt.NDArray[np.float64]) -> list[float | None]:
    if own is None or own.calibration is None:
        return [None] * len(scores_N)
    intercept, slope = own.calibration
    return [*recalibrated(scores_N, intercept=intercept, slope=slope).tolist()]
