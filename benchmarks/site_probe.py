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

from client.bootstrap import prepare, site_inputs, unseen
from client.describing import clear_rows, features, one_a_patient
from client.site import read_site
from client.workbench import Workbench
from server.bootstrap import compose
from shared.feature_summary import project, summarise
from shared.protocol import read_protocol
from shared.scores import Floats
from shared.site_identifiability import identifiability
from shared.split import Split
from simulations.cross_fitting import RIDGE, SEED, accuracy


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
        site = prepare(read_site(file), protocol, progress=unseen)
        inputs = site_inputs(site, protocol, bench, progress=unseen)
        rows = np.sort(
            np.concatenate([clear_rows(site.records, split, exclusive=protocol.task.exclusive) for split in Split])
        )
        known[site.name] = features(bench, inputs, one_a_patient(rows, site.records), start="head")
    seed = protocol.random_seed("description", "projection")
    print(f"patients: {', '.join(f'{site} {len(data)}' for site, data in known.items())}\n")
    print(f"all sites, raw features: {accuracy(list(known.values()), ridge=RIDGE):.3f}\n")
    print(
        "| sites | raw features | p | projected, cross-fitted | released estimate | interval |\n"
        "|---|---|---|---|---|---|"
    )
    for one, other in combinations(known, 2):
        raw = accuracy([known[one], known[other]], ridge=RIDGE)
        projected = [project(known[site], seed=seed) for site in (one, other)]
        sums = [summarise(data, split=Split.TRAIN, seed=SEED) for data in projected]
        told = identifiability(sums[0], sums[1], confidence=protocol.evaluation.confidence)
        if told is not None:
            fitted = accuracy([data[:, : told.dimensions] for data in projected], ridge=0.0)
            cells = f"{raw:.3f} | {told.dimensions} | {fitted:.3f} | {told.accuracy:.3f}"
            print(f"| {one}, {other} | {cells} | {told.low:.3f} to {told.high:.3f} |")


if __name__ == "__main__":
    main()
