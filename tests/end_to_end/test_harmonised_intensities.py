"""Harmonised intensities where one hospital's scanner bends the contrast: images come together, and so do the figures.

Hospitals of phantom films that differ in nothing but the scanner's curve at `south`. Seeds, sizes and the curve were
committed before the first result was seen; what came of them is in docs/results.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from client.workbench import Workbench
from server.results import StudyResult
from server.results_json import read
from server.run_folder import open_run
from shared.landmarks import harmonise, standard_scale, summarise
from shared.operating_point import choose
from shared.split import Split
from simulations.console import Console
from simulations.simulate import Simulation, simulate
from simulations.synthetic_site import write
from simulations.synthetic_study import plain_hospital

pytestmark = pytest.mark.usefixtures("one_thread")

_FILE = Path(__file__).with_name("test_planted_causes.py")
_SPEC = spec_from_file_location("planted_causes", _FILE)
assert _SPEC
assert _SPEC.loader
planted = module_from_spec(_SPEC)
sys.modules["planted_causes"] = planted  # dataclasses look their module up
_SPEC.loader.exec_module(planted)

SITES, PLANTED = ("east", "north", "south"), "south"
GAMMA, STEEPNESS = 1.8, 4.0
SEED = 1

SHORT = {"split": {"train": 0.5, "validation": 0.25, "test": 0.25}}


def hospitals(folder: Path, *, patients: int, seed: int) -> Path:
    """Write three hospitals that differ in nothing but the curve at `south`."""
    for name in SITES:
        site = replace(plain_hospital(name, patients=patients), seed=seed)
        if name == PLANTED:
            site = replace(site, scanner=replace(site.scanner, gamma=GAMMA, steepness=STEEPNESS))
        write(site, folder / name, findings=["opacity"], exclusive=False, workers=1, progress=lambda *_: None)
    return folder


def result(tiny: Any, folder: Path, sites: Path, *, wish: str, seed: int, study: dict[str, Any]) -> StudyResult:
    """Run the study as it is, or with harmonised images."""
    sections = study | {
        "study": {"name": "Tiny", "intended_use": "Tests.", "seed": seed},
        "images": study.get("images", {}) | {"harmonise": wish},
    }
    protocol = tiny.protocol(**sections)
    run = open_run(folder / wish, protocol, resume=False)
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


def test_a_planted_curve_is_undone(tiny: Any, tmp_path: Path) -> None:
    """Landmarks that the sites send bring the planted site's intensities nearer to the others', by half or more."""
    sites = hospitals(tmp_path / "sites", patients=60, seed=SEED)
    plain, harmonised = (
        result(tiny, tmp_path / "runs", sites, wish=wish, seed=SEED, study=SHORT) for wish in ("none", "landmarks")
    )
    assert shift(harmonised) < shift(plain) / 2


def gap(seed: int, protocol: Any, *, harmonised: bool) -> float:
    """Give how far the planted site's Youden index lies below the mean of the others', on test films.

    Films, scores and threshold are the project's own; the model is the small one of test_planted_causes.py, fitted on
    all sites' training films together.
    """
    curve = planted.Plant(expected=frozenset(), scanner=replace(planted.SCANNER, gamma=GAMMA, steepness=STEEPNESS))
    sites = {
        site: planted.hospital(site, seed, curve if site == PLANTED else planted.PLANTS["nothing"])
        for site in planted.SITES
    }
    if harmonised:
        standard = standard_scale(
            summarise([films.films[known.rows(Split.TRAIN)].numpy()]) for films, known in sites.values()
        )
        sites = {
            site: (planted.Films(films=torch.from_numpy(harmonise(films.films.numpy(), standard))), known)
            for site, (films, known) in sites.items()
        }
    model = planted.SmallModel(seed)
    planted.fit(model, sites)
    bench = Workbench(model, device=torch.device("cpu"), precision="fp32")  # type: ignore[arg-type]

    def evaluated(split: Split, thresholds: tuple[float, ...]) -> dict[str, Any]:
        return {
            site: planted.evaluated_at(bench, films, known, protocol, split, thresholds)[0]
            for site, (films, known) in sites.items()
        }

    first, *rest = [one.histogram for one in evaluated(Split.VALIDATION, ()).values()]
    point = choose(sum(rest, start=first), target=0.85, claim="point", confidence=0.95)
    youden = {
        site: one.confusion.sensitivity.k / one.confusion.sensitivity.n
        + one.confusion.specificity.k / one.confusion.specificity.n
        - 1
        for site, one in evaluated(Split.TEST, (point.threshold,)).items()
    }
    return mean(value for site, value in youden.items() if site != PLANTED) - youden[PLANTED]


def gaps(seeds: Sequence[int], tiny: Any) -> list[tuple[float, float]]:
    """Give each seed's gap without and with harmonised films."""
    protocol = tiny.protocol(evaluation={"target_sensitivity": 0.85, "score_bins": 256})
    return [(gap(seed, protocol, harmonised=False), gap(seed, protocol, harmonised=True)) for seed in seeds]


def test_the_planted_sites_gap_shrinks(tiny: Any) -> None:
    """Over three seeds the planted site's gap to the others is smaller with harmonised films; nightly over twenty."""
    found = gaps(range(3), tiny)
    assert mean(after for _, after in found) < mean(before for before, _ in found)


@pytest.mark.nightly
def test_the_gap_shrinks_to_less_than_half(tiny: Any) -> None:
    """Over twenty fixed seeds the mean gap falls to less than half."""
    found = gaps(range(20), tiny)
    print(f"gap {mean(before for before, _ in found):.3f} to {mean(after for _, after in found):.3f}; {found}")
    assert mean(after for _, after in found) < mean(before for before, _ in found) / 2
