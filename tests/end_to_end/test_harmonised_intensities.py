"""Harmonised intensities where one hospital's scanner bends the contrast: images come together, and so do the figures.

Three hospitals of phantom films that differ in nothing but the scanner's curve at `south`. Seeds, sizes and the curve
were committed before the first result was seen; what came of them is in docs/results.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from server.results import StudyResult
from server.results_json import read
from server.run_folder import open_run
from simulations.console import Console
from simulations.simulate import Simulation, simulate
from simulations.synthetic_site import write
from simulations.synthetic_study import plain_hospital

pytestmark = pytest.mark.usefixtures("one_thread")

SITES, PLANTED = ("east", "north", "south"), "south"
GAMMA, STEEPNESS = 1.8, 4.0
SEEDS = (1, 2, 3)

SHORT = {"split": {"train": 0.5, "validation": 0.25, "test": 0.25}}
LONG = {
    "images": {"size": 64},
    "split": {"train": 0.6, "validation": 0.1, "test": 0.3},
    "model": {"norm": "group", "unfreeze": [{"round": 1, "from": "stem"}]},
    "training": {"lr_head": 3e-4, "lr_backbone": 3e-4, "local_epochs": 3, "batch_size": 16},
    "federation": {"rounds": 5},
    "evaluation": {"target_sensitivity": 0.9, "score_bins": 512},
}


def hospitals(folder: Path, *, patients: int, seed: int) -> Path:
    """Write three hospitals that differ in nothing but the curve at `south`."""
    for name in SITES:
        site = replace(plain_hospital(name, patients=patients), seed=seed)
        if name == PLANTED:
            site = replace(site, scanner=replace(site.scanner, gamma=GAMMA, steepness=STEEPNESS))
        write(site, folder / name, findings=["opacity"], exclusive=False, workers=1, progress=lambda *_: None)
    return folder


def result(tiny: Any, folder: Path, sites: Path, *, harmonise: str, seed: int, study: dict[str, Any]) -> StudyResult:
    """Run the study as it is, or with harmonised images."""
    sections = study | {
        "study": {"name": "Tiny", "intended_use": "Tests.", "seed": seed},
        "images": study.get("images", {}) | {"harmonise": harmonise},
    }
    protocol = tiny.protocol(**sections)
    run = open_run(folder / harmonise, protocol, resume=False)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        simulate(
            Simulation(
                protocol=protocol,
                run=run,
                sites=sites,
                baselines=(),
                leave_one_out=False,
                weights_file=None,
                device="cpu",
            ),
            Console(),
        )
    finally:
        torch.use_deterministic_algorithms(before)
    return read(run.results)


def shift(found: StudyResult) -> float:
    """Give the mean Wasserstein distance between the planted site's intensities and each other site's."""
    pairs = [pair for pair in found.domain_shift.distances if PLANTED in (pair.one, pair.other)]
    return mean(pair.brightness.value for pair in pairs if pair.brightness)


def gap(found: StudyResult) -> float:
    """Give how far the planted site's Youden index at the shared threshold lies below the mean of the others'."""

    def youden(site: str) -> float:
        one = found.of_site(site, "test", "opacity")
        assert one.sensitivity is not None
        assert one.specificity is not None
        return one.sensitivity.value + one.specificity.value - 1

    return mean(youden(site) for site in SITES if site != PLANTED) - youden(PLANTED)


def pairs_of_runs(tiny: Any, folder: Path, seeds: Sequence[int], *, patients: int, study: dict[str, Any]) -> Any:
    """Yield both runs of each seed."""
    for seed in seeds:
        sites = hospitals(folder / f"sites-{seed}", patients=patients, seed=seed)
        yield tuple(
            result(tiny, folder / f"runs-{seed}", sites, harmonise=wish, seed=seed, study=study)
            for wish in ("none", "landmarks")
        )


def test_a_planted_curve_is_undone(tiny: Any, tmp_path: Path) -> None:
    """Landmarks that the sites send bring the planted site's intensities nearer to the others', by half or more."""
    ((plain, harmonised),) = pairs_of_runs(tiny, tmp_path, SEEDS[:1], patients=60, study=SHORT)
    assert shift(harmonised) < shift(plain) / 2


@pytest.mark.nightly
def test_the_planted_sites_gap_shrinks(tiny: Any, tmp_path: Path) -> None:
    """In each seed the images come together; over the seeds the planted site's gap to the others is smaller."""
    runs = list(pairs_of_runs(tiny, tmp_path, SEEDS, patients=120, study=LONG))
    for plain, harmonised in runs:
        print(f"shift {shift(plain):.4f} to {shift(harmonised):.4f}, gap {gap(plain):.3f} to {gap(harmonised):.3f}")
        assert shift(harmonised) < shift(plain) / 2
    assert mean(gap(harmonised) for _, harmonised in runs) < mean(gap(plain) for plain, _ in runs)
