"""Cross-fitted accuracy is of rules that never saw the patient; its features are those that sites describe."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from server.image_shift import CrossFitted
from server.report import render
from server.results_json import read
from server.wording import NO_BREAK
from shared.description import Description
from shared.feature_summary import FeatureSummary, project, summarise
from shared.scores import Floats
from shared.split import Split
from simulations.cross_fitting import FOLDS, REPEATS, SEED, accuracy, cross_fitted, discriminant
from simulations.federation import Federation

pytestmark = pytest.mark.usefixtures("one_thread")


def site(seed: int, *, patients: int, width: int, apart: float = 0.0) -> Floats:
    found: Floats = np.random.default_rng(seed).standard_normal((patients, width)) + apart
    return found


def test_it_is_the_accuracy_of_scikit_learns_rule_on_the_same_folds() -> None:
    """Fisher's rule with equal priors, each fold by the others, each site weighing the same, over all repeats."""
    sites = [site(1, patients=70, width=9), site(2, patients=45, width=9, apart=0.35)]
    rng, found = np.random.default_rng(SEED), []
    for _ in range(REPEATS):
        folds = [rng.permutation(len(data)) % FOLDS for data in sites]
        right: list[list[bool]] = [[], []]
        for fold in range(FOLDS):
            known = [data[own != fold] for data, own in zip(sites, folds, strict=True)]
            truth = np.repeat([0, 1], [len(data) for data in known])
            model = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5]).fit(np.concatenate(known), truth)
            # Its covariance weighs the classes by their priors; the rule here by their patients. Set that one in.
            within = np.concatenate([data - data.mean(axis=0) for data in known])
            pooled = within.T @ within / (len(within) - 2)
            directions = np.linalg.solve(pooled, model.means_.T).T
            offsets = np.sum(directions * model.means_, axis=1) / 2
            for place, (data, own) in enumerate(zip(sites, folds, strict=True)):
                right[place] += (np.argmax(data[own == fold] @ directions.T - offsets, axis=1) == place).tolist()
        found.append(np.mean([np.mean(one) for one in right]))
    assert accuracy(sites, ridge=0.0) == pytest.approx(np.mean(found))
    assert 0.55 < accuracy(sites, ridge=0.0) < 0.9


def test_alike_sites_are_not_told_apart_however_many_features_there_are() -> None:
    """With more features than patients a rule knows all that it was fitted on, and no one else."""
    sites = [site(3, patients=60, width=512), site(4, patients=60, width=512)]
    rule = discriminant(sites, ridge=0.1)
    assert np.mean([np.mean(rule(data) == place) for place, data in enumerate(sites)]) == 1
    assert abs(accuracy(sites, ridge=0.1) - 0.5) < 0.12


def test_both_ways_to_the_ridge_are_one() -> None:
    """By way of the patients' Gram matrix the rule is that of the features' covariance."""
    few = [site(5, patients=20, width=60), site(6, patients=15, width=60, apart=0.3)]
    means = np.stack([data.mean(axis=0) for data in few])
    within = np.concatenate([data - mean for data, mean in zip(few, means, strict=True)])
    pooled = within.T @ within / 33
    pooled += 0.1 * np.trace(pooled) / 60 * np.eye(60)
    directions = np.linalg.solve(pooled, means.T).T
    rows = site(7, patients=200, width=60, apart=0.15)
    expected = np.argmax(rows @ directions.T - np.sum(directions * means, axis=1) / 2, axis=1)
    np.testing.assert_array_equal(discriminant(few, ridge=0.1)(rows), expected)


def test_every_pair_that_bears_the_dimensions_is_compared() -> None:
    """Sites far apart are told for sure, on all features and in the projection; one of few patients has no pair."""
    found = cross_fitted(
        {
            "south": site(8, patients=60, width=64, apart=2.0),
            "north": site(9, patients=60, width=64),
            "west": site(10, patients=30, width=64),
        },
        seed=1,
    )
    assert list(found) == ["north"]
    assert list(found["north"]) == ["south"]
    assert found["north"]["south"].raw > 0.98
    assert found["north"]["south"].projected > 0.9


def test_the_page_shows_it_beside_the_released_estimate() -> None:
    """Both accuracies stand below the estimate, with what they are; where no simulation was, neither does."""
    result = read(Path(__file__).parents[1] / "golden" / "study_result.json")
    first, *others = result.domain_shift.site_identifiability
    told = replace(first, cross_fitted=CrossFitted(raw=0.981, projected=0.735))
    shift = replace(result.domain_shift, site_identifiability=(told, *others))
    page = render(replace(result, domain_shift=shift))
    said = f"cross-fitted: 73.5{NO_BREAK}% in the projection, 98.1{NO_BREAK}% from all features"
    assert page.count(said) == 1
    assert "patients whom it was not fitted on (5 folds by patient)" in page
    assert "cross-fitted" not in render(result)


def test_features_are_those_that_sites_describe(tiny: Any, tmp_path: Path) -> None:
    """Summed up in the public projection they are, to the last digit, what the same sites' guards released."""
    protocol = tiny.protocol(federation={"rounds": 1})
    federation = Federation(
        protocol=protocol,
        sites=[tiny.hospital(protocol, tmp_path, name=name, patients=180) for name in ("north", "south")],
        device=torch.device("cpu"),
        weights_file=None,
        folder=tmp_path / "run",
        progress=lambda *_: None,
    )
    run = federation.run(
        "federated", train_on=("north", "south"), min_sites=1, folder=tmp_path / "run", progress=lambda _: None
    )
    told, known = run.describe(), run.features()
    assert set(known) == {"north", "south"}
    for name, features in known.items():
        released = told[name]
        assert isinstance(released, Description)
        assert isinstance(released.features, FeatureSummary)
        projected = project(features, seed=protocol.random_seed("description", "projection"))
        halves = protocol.random_seed("description", "halves")
        assert summarise(projected, split=Split.TRAIN, seed=halves) == released.features
