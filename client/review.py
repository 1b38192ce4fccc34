"""Which of a hospital's images a person should look at: a model's hits and misses, with maps of what raised scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.bootstrap import PreparedSite
from client.device import Device
from client.explain import METHODS, SHOWN, map_stage
from client.scorers import torch_scorer
from client.site_data import Rows
from shared.preprocessing import normalise
from shared.saved_model import SavedModel
from shared.scores import units_of
from shared.split import Split

KINDS = ("false negative", "false positive", "true positive", "true negative")
"""In the order of the page: what was missed comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image that stands for its unit: that with the highest score. `file` is relative to the DICOM folder.

    `pixels_CHW` is the prepared image, `map_HW` what raised the score, not negative; all 0 where nothing did.
    """

    file: str = field(repr=False)
    frame: int
    score: float
    pixels_CHW: npt.NDArray[Any]
    map_HW: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """One finding at the shared threshold: how many units there are of each kind, and some of each.

    `threshold` is None where the study could choose none; then there is nothing to show.
    """

    finding: str
    threshold: float | None
    counts: Mapping[str, int]
    cases: Mapping[str, tuple[Case, ...]]


def review(site: PreparedSite, saved: SavedModel, *, split: Split, most: int, device: Device) -> list[Gallery]:
    """Score one side's images as an evaluation does, and pick at most `most` of each kind for each finding.

    Of the mistakes those that are farthest from the threshold, of the right calls those that are nearest to it: they
    are the ones to learn from.
    """
    task = saved.facts.protocol.task
    rows = site.records.rows(split)
    pixels = replace(site.pixels, cached_row_N=site.pixels.cached_row_N[rows])
    scores_NK = torch_scorer(saved, device=device)(pixels)
    return [
        _gallery(site, saved, rows, scores_NK[:, place], place=place, most=most) for place in range(len(task.targets))
    ]


def _gallery(
    site: PreparedSite, saved: SavedModel, rows: Rows, scores_N: npt.NDArray[np.float64], *, place: int, most: int
) -> Gallery:
    task, records = saved.facts.protocol.task, site.records
    finding = task.targets[place]
    threshold = saved.facts.thresholds.get(finding)
    if threshold is None:
        return Gallery(finding=finding, threshold=None, counts={}, cases={})
    assessed = np.flatnonzero(~np.isnan(records.labels_NK[rows, place]))
    rows, scores_N = rows[assessed], scores_N[assessed]
    units = records.units(scores_N, rows, place, unit=task.unit, aggregate=task.aggregate)
    unit_of = units_of(exams_N=records.exams_N[rows], patients_N=records.patients_N[rows], unit=task.unit)
    chosen: dict[str, list[int]] = {}
    counts = {}
    for kind, picks in kinds(units.scores_M, units.positive_M, threshold=threshold).items():
        counts[kind], chosen[kind] = len(picks), picks[:most].tolist()
    shown = {kind: [_shown(unit, unit_of, scores_N) for unit in picked] for kind, picked in chosen.items()}
    maps = _maps(site, saved, rows[[place for places in shown.values() for place in places]], target=place)
    cases = {
        kind: tuple(
            _case(site, int(rows[image]), float(units.scores_M[unit]), maps[int(rows[image])])
            for unit, image in zip(chosen[kind], shown[kind], strict=True)
        )
        for kind in KINDS
    }
    return Gallery(finding=finding, threshold=threshold, counts=counts, cases=cases)


def kinds(
    scores_M: npt.NDArray[np.float64], positive_M: npt.NDArray[np.bool_], *, threshold: float
) -> dict[str, npt.NDArray[np.int64]]:
    """Give the units of each kind, in the order in which they should be looked at."""
    called = scores_M >= threshold
    distance = np.abs(scores_M - threshold)
    members = {
        "false negative": (positive_M & ~called, -distance),
        "false positive": (~positive_M & called, -distance),
        "true positive": (positive_M & called, distance),
        "true negative": (~positive_M & ~called, distance),
    }
    return {kind: np.flatnonzero(mask)[np.argsort(key[mask], kind="stable")] for kind, (mask, key) in members.items()}


def _shown(unit: int, unit_of: npt.NDArray[np.int64], scores_N: npt.NDArray[np.float64]) -> int:
    """Give the place of the unit's image with the highest score."""
    own = np.flatnonzero(unit_of == unit)
    return int(own[np.argmax(scores_N[own])])


def _maps(site: PreparedSite, saved: SavedModel, rows: Rows, *, target: int) -> dict[int, npt.NDArray[np.float32]]:
    """Compute the maps image by image: gradients of many images at once take much memory."""
    stage = map_stage(saved.facts.protocol.images.size)
    maps = {}
    device = next(saved.classifier.parameters()).device
    for row in rows.tolist():
        image = normalise(site.pixels.read(np.array([row])), dtype=torch.float32).to(device)
        maps[row] = METHODS[SHOWN](saved.classifier, image, target=target, stage=stage)[0].cpu().numpy()
    return maps


def _case(site: PreparedSite, row: int, score: float, map_HW: npt.NDArray[np.float32]) -> Case:
    image = site.cohort.images[row]
    return Case(
        file=image.path.relative_to(site.cohort.folder).as_posix(),
        frame=image.frame,
        score=score,
        pixels_CHW=site.pixels.read(np.array([row])).numpy()[0],
        map_HW=map_HW,
    )
