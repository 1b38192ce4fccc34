"""How surely the hospital is read off real films: cross-fitted probes, beside what a study's sites would release.

python -m benchmarks.site_probe STUDY.toml --sites DIR --weights FILE [--projections 100:120]

Films without disease, one a patient. Raw features: ridge-regularised linear discriminant on all of them, 5 folds by
patient, accuracy over all sites and for each two. Projected: the same in the study's public projection, in p = a fifth
of the smaller site's patients, at most 32, fitted without regularisation; beside it the released estimate.
With --projections the released interval is judged instead, on films prepared both ways and in a projection of each of
these seeds: how often it holds the cross-fitted accuracy; and, where sites release the sums of a random half of their
patients, how often it holds the share that the rule of that half tells of the other half.
The recipe was committed before its first figure was seen.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from shared.protocol import StudyProtocol, read_protocol
from shared.scores import Floats
from shared.site_identifiability import Identifiability, identifiability
from shared.split import Split
from simulations.cross_fitting import RIDGE, SEED, accuracy, discriminant

FITS = ("crop", "pad")
"""The middle square of a film, and the whole film with black borders."""

Sites = Mapping[str, Floats]


def main() -> None:
    """Read the films, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--sites", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--projections", type=_seeds, metavar="FIRST:END")
    asked = parser.parse_args()
    if asked.projections is None:
        protocol = read_protocol(asked.study)
        probe(
            _films(asked, protocol),
            seed=protocol.random_seed("description", "projection"),
            confidence=protocol.evaluation.confidence,
        )
        return
    held: list[Held] = []
    for fit in FITS:
        protocol = read_protocol(asked.study, overrides=[f"images.fit={fit}"])
        held += judge(
            _films(asked, protocol), seeds=asked.projections, fit=fit, confidence=protocol.evaluation.confidence
        )
    _print(held)


def _seeds(text: str) -> range:
    first, end = map(int, text.split(":"))
    return range(first, end)


def _films(asked: argparse.Namespace, protocol: StudyProtocol) -> Sites:
    """Give each site's features of its films without disease, one a patient."""
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
    return known


def probe(known: Sites, *, seed: int, confidence: float) -> None:
    """Print how surely a site is told from all features, in the projection, and by what is released."""
    print(f"patients: {', '.join(f'{site} {len(data)}' for site, data in known.items())}\n")
    print(f"all sites, raw features: {accuracy(list(known.values()), ridge=RIDGE):.3f}\n")
    print(
        "| sites | raw features | p | projected, cross-fitted | released estimate | interval |\n"
        "|---|---|---|---|---|---|"
    )
    for one, other in combinations(known, 2):
        raw = accuracy([known[one], known[other]], ridge=RIDGE)
        projected = [project(known[site], seed=seed) for site in (one, other)]
        told = _released(projected, confidence=confidence)
        if told is not None:
            fitted = accuracy([data[:, : told.dimensions] for data in projected], ridge=0.0)
            cells = f"{raw:.3f} | {told.dimensions} | {fitted:.3f} | {told.accuracy:.3f}"
            print(f"| {one}, {other} | {cells} | {told.low:.3f} to {told.high:.3f} |")


def _released(projected: Sequence[Floats], *, confidence: float) -> Identifiability | None:
    """Estimate from what two sites would release."""
    one, other = (summarise(data, split=Split.TRAIN, seed=SEED) for data in projected)
    return identifiability(one, other, confidence=confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What was found beside the released estimate, in one projection of two sites' films.

    `fitted_on` is "all" for the cross-fitted accuracy, and "half" for the share told of the other half.
    """

    fit: str
    pair: str
    fitted_on: str
    found: float
    told: Identifiability

    @property
    def holds(self) -> bool:
        """True where it lies in the interval; a share of patients may lie on its end."""
        return self.told.low - 1e-9 <= self.found <= self.told.high + 1e-9


def judge(known: Sites, *, seeds: range, fit: str, confidence: float) -> Iterator[Held]:
    """Compare in each projection, and for every two sites."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for pair in combinations(known, 2):
            projected = [project(known[site], seed=seed) for site in pair]
            told = _released(projected, confidence=confidence)
            if told is None:
                continue
            all_of = accuracy([data[:, : told.dimensions] for data in projected], ridge=0.0)
            yield Held(fit=fit, pair=", ".join(pair), fitted_on="all", found=all_of, told=told)
            mixed = [data[rng.permutation(len(data))] for data in projected]
            told = _released([data[::2] for data in mixed], confidence=confidence)
            if told is not None:
                p = told.dimensions
                rule = discriminant([data[::2, :p] for data in mixed], ridge=0.0)
                shares = [np.mean(rule(data[1::2, :p]) == place) for place, data in enumerate(mixed)]
                yield Held(fit=fit, pair=", ".join(pair), fitted_on="half", found=float(np.mean(shares)), told=told)


def _print(held: list[Held]) -> None:
    print(
        "| films | sites | fitted on | held | below | above | found, mean | released, mean | ends, mean |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for fitted_on in ("all", "half"):
        of_one = [one for one in held if one.fitted_on == fitted_on]
        for fit, pair in sorted({(one.fit, one.pair) for one in of_one}):
            _line(fit, pair, fitted_on, [one for one in of_one if (one.fit, one.pair) == (fit, pair)])
        if of_one:
            _line("both", "all", fitted_on, of_one)


def _line(fit: str, pair: str, fitted_on: str, held: list[Held]) -> None:
    holds = sum(one.holds for one in held)
    below = sum(not one.holds and one.found < one.told.low for one in held)
    found, told, low, high = np.mean(
        [[one.found, one.told.accuracy, one.told.low, one.told.high] for one in held], axis=0
    )
    counts = f"{holds} of {len(held)} | {below} | {len(held) - holds - below}"
    print(f"| {fit} | {pair} | {fitted_on} | {counts} | {found:.4f} | {told:.4f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
