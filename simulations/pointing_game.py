"""Plays the pointing game on phantoms: whether a map's highest place lies on the finding drawn into the film.

Zhang et al., IJCV 2018;126:1084 (doi 10.1007/s11263-017-1059-x): a hit is a maximum inside the finding, or within a
tolerance of it; the score is hits / (hits + misses). Here the tolerance is half a cell of the map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from client.dicom import read_image
from client.explain import METHODS, SHOWN, STRIDES, Method, all_the_same, map_stage
from shared.bounded import apart
from shared.errors import DataError
from shared.intervals import wilson
from shared.metrics import Count
from shared.model import Classifier
from shared.pointing import Pointing
from shared.preprocessing import Contract, normalise, prepare
from shared.saved_model import SavedModel
from simulations.dicom_writer import made_up_uid
from simulations.phantom import draw_anatomy, draw_film, draw_finding, draw_pose
from simulations.synthetic_site import COMPUTED_RADIOGRAPHY, write_film
from simulations.synthetic_study import hospitals

INSIDE = 0.3
"""Where a finding adds this share of the most that it adds anywhere, a pixel counts as the finding."""

CONFIDENCE = 0.95

Mask = npt.NDArray[np.bool_]


def play(saved: SavedModel, *, films: int, seed: int) -> Iterator[Pointing]:
    """Play for each finding of a model, on films with that finding alone.

    Raises:
        DataError: the study is of classes, one of which is to have none.
    """
    task, contract = saved.facts.protocol.task, saved.facts.contract
    if task.exclusive:
        raise DataError("the pointing game is for findings, each drawn or not, and this study has classes.")
    stage = map_stage(contract.size)
    reach = STRIDES[stage] // 2
    for place, finding in enumerate(task.targets):
        drawn = [phantom(contract, number=place, seed=(seed, place, film)) for film in range(films)]
        regions = [widened(mask, by=reach) for _, mask in drawn]
        for method, make in METHODS.items():
            maps = (_map(make, saved.classifier, image, target=place, stage=stage) for image, _ in drawn)
            yield Pointing(
                finding=finding,
                method=method,
                films=films,
                hits=sum(is_hit(map_HW, region) for map_HW, region in zip(maps, regions, strict=True)),
                chance=float(np.mean([region.mean() for region in regions])),
            )


def pointing_lines(found: Sequence[Pointing], *, size: int) -> Iterator[str]:
    """Say what came of it, finding by finding; both methods in one line where they make the same map."""
    same = all_the_same(map_stage(size))
    for one in found:
        if same and one.method != SHOWN:
            continue
        method = " and ".join(METHODS) + " (the same map here)" if same else one.method
        share = wilson(Count(k=one.hits, n=one.films), confidence=CONFIDENCE)
        rate = f"{_percent(share.value)} ({_percent(share.low)} to {_percent(share.high)})" if share else "no film"
        yield (
            f"{one.finding}, {method}: {one.hits:,} of {one.films:,} maxima lie on the finding, {rate}; "
            f"a place at random would in {_percent(one.chance)}"
        )


def _percent(share: float) -> str:
    return f"{apart(100 * share, 1, bounds=(0, 100))}%"


def phantom(contract: Contract, *, number: int, seed: tuple[int, ...]) -> tuple[npt.NDArray[Any], Mask]:
    """Draw one film with a finding: as prepared from a DICOM file (C, H, W), and where the finding is (H, W)."""
    rng, scanner = np.random.default_rng(seed), hospitals(0)[0].scanner
    anatomy, pose = draw_anatomy(rng), draw_pose(rng)
    blobs = draw_finding(rng, number=number, anatomy=anatomy)
    shape = {"rows": scanner.rows, "columns": scanner.columns}
    film, clear = draw_film(anatomy, blobs, pose, **shape), draw_film(anatomy, (), pose, **shape)
    added = film - clear
    spacing = (scanner.spacing_mm, scanner.spacing_mm)
    with TemporaryDirectory() as folder:
        path = Path(folder, "film.dcm")
        own = {"SOPInstanceUID": made_up_uid("pointing game", *seed), "PatientID": "PHANTOM"}
        write_film(
            scanner,
            path,
            film,
            marked=False,
            attributes={"SOPClassUID": COMPUTED_RADIOGRAPHY} | own,
            rng=rng,
        )
        image = read_image(path, frames="first")
    prepared = prepare(image.pixels_FHWC[0], spacing_mm=spacing, window=image.window, contract=contract)
    # The finding goes the way of the film: scaled and placed by the same contract, black below half of it.
    inside = (added >= INSIDE * added.max()).astype(np.float32)[..., np.newaxis]
    placed = prepare(inside, spacing_mm=spacing, window=(0.5, 1.0), contract=_plain(contract))
    return prepared, placed[0] > np.iinfo(placed.dtype).max // 2


def is_hit(map_HW: npt.NDArray[np.float32], region_HW: Mask) -> bool:
    """Tell whether the map's highest place, the first of equals, lies in the region."""
    return bool(map_HW.max() > 0 and region_HW.flat[int(map_HW.argmax())])


def widened(mask_HW: Mask, *, by: int) -> Mask:
    """Add every pixel that is at most so many rows and columns away."""
    padded = np.pad(mask_HW, by)
    side = 2 * by + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return np.asarray(windows.any(axis=(2, 3)), dtype=np.bool_)


def _plain(contract: Contract) -> Contract:
    """Give the same geometry with the window of a mask."""
    return replace(contract, window="dicom", channels=1)


def _map(
    make: Method, classifier: Classifier, prepared_CHW: npt.NDArray[Any], *, target: int, stage: str
) -> npt.NDArray[np.float32]:
    image = normalise(torch.from_numpy(prepared_CHW[np.newaxis]), dtype=torch.float32)
    found: npt.NDArray[np.float32] = make(classifier, image, target=target, stage=stage)[0].numpy()
    return found
