"""How surely the hospital is read off real films: cross-fitted probes, beside what a study's sites would release.

python -m benchmarks.site_probe STUDY.toml --sites DIR --weights FILE

Films without disease, one a patient. Raw features: ridge-regularised linear discriminant on all of them, 5 folds by
patient, accuracy over all sites and for each two. Projected: the same in the study's public projection, in p = a fifth
of the smaller site's patients, at most 32, fitted without regularisation; beside it the released estimate.
The recipe was committed before its first figure was seen.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from client.bootstrap import prepare, site_inputs
from client.describing import clear_rows, features, one_a_patient
from client.site import read_site
from client.workbench import Workbench
from server.bootstrap import compose
from shared.feature_summary import project, summarise
from shared.protocol import read_protocol
from shared.scores import Floats
from shared.site_identifiability import identifiability
from shared.split import Split

FOLDS, REPEATS, SEED = 5, 20, 0
RIDGE = 0.1
"""Share of the mean variance that is added to each feature's own, where there are more features than patients."""


def main() -> None:
    """Read the films, and print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--sites", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    asked = parser.parse_args()
    protocol = read_protocol(asked.study)
    _, model = compose(protocol, weights_file=asked.weights)
    bench = Workbench(model, device=torch.device("cpu"), precision="fp32")
    known: dict[str, Floats] = {}
    for file in sorted(asked.sites.glob("*/site.toml")):
        site = prepare(read_site(file), protocol, progress=lambda *_: None)
        inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
        rows = np.sort(
            np.concatenate([clear_rows(site.records, split, exclusive=protocol.task.exclusive) for split in Split])
        )
        known[site.name] = features(bench, inputs, one_a_patient(rows, site.records), start="head")
    seed = protocol.random_seed("description", "projection")
    print(f"patients: {', '.join(f'{site} {len(data)}' for site, data in known.items())}\n")
    print(f"all sites, raw features: {_accuracy(list(known.values()), ridge=RIDGE):.3f}\n")
    print(
        "| sites | raw features | p | projected, cross-fitted | released estimate | interval |\n"
        "|---|---|---|---|---|---|"
    )
    for one, other in combinations(known, 2):
        raw = _accuracy([known[one], known[other]], ridge=RIDGE)
        projected = [project(known[site], seed=seed) for site in (one, other)]
        sums = [summarise(data, split=Split.TRAIN, seed=SEED) for data in projected]
        told = identifiability(sums[0], sums[1], confidence=protocol.evaluation.confidence)
        if told is not None:
            fitted = _accuracy([data[:, : told.dimensions] for data in projected], ridge=0.0)
            cells = f"{raw:.3f} | {told.dimensions} | {fitted:.3f} | {told.accuracy:.3f}"
            print(f"| {one}, {other} | {cells} | {told.low:.3f} to {told.high:.3f} |")


def _accuracy(sites: list[Floats], *, ridge: float) -> float:
    """Give the share of patients whose site is told, each site weighing the same, on folds that were not fitted on."""
    rng, found = np.random.default_rng(SEED), []
    for _ in range(REPEATS if ridge == 0 else 1):
        folds = [rng.permutation(len(data)) % FOLDS for data in sites]
        right: list[list[bool]] = [[] for _ in sites]
        for fold in range(FOLDS):
            fit = [data[own != fold] for data, own in zip(sites, folds, strict=True)]
            rule = _discriminant(fit, ridge=ridge)
            for place, (data, own) in enumerate(zip(sites, folds, strict=True)):
                right[place] += (rule(data[own == fold]) == place).tolist()
        found.append(np.mean([np.mean(one) for one in right]))
    return float(np.mean(found))


def _discriminant(fit: list[Floats], *, ridge: float):  # type: ignore[no-untyped-def]  # a function of an array
    """Fit Fisher's linear rule with equal priors; with a ridge, by way of the patients' own Gram matrix."""
    means = np.stack([data.mean(axis=0) for data in fit])
    within = np.concatenate([data - mean for data, mean in zip(fit, means, strict=True)])
    freedom = len(within) - len(fit)
    if ridge:
        level = ridge * np.mean(np.sum(within**2, axis=0)) / freedom
        gram = within @ within.T / freedom + level * np.eye(len(within))
        directions = (means - (within.T @ np.linalg.solve(gram, within @ means.T)).T / freedom) / level  # Woodbury
    else:
        directions = np.linalg.solve(within.T @ within / freedom, means.T).T
    offsets = np.sum(directions * means, axis=1) / 2
    return lambda rows: np.argmax(rows @ directions.T - offsets, axis=1)


if __name__ == "__main__":
    main()
