"""Make study_result.json, the report's sample study: `python tests/golden/make_study_result.py` after a new schema.

Five invented sites, so that every case stands on one page: two alike, one shifted (st_marys), one with too few
positives to rank (island_clinic; nobody there has an effusion), and one whose small splits are suppressed (hillcrest).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.explanation import Explanation
from server.finding_result import AreaUnderCurve, FindingResult, Why, absent, finding_result
from server.image_shift import mostly_apart, site_pairs
from server.new_hospital import new_hospital
from server.other_thresholds import OtherThresholds, other_thresholds
from server.receipt import Receipt
from server.remedies import Remedies, Scale, remedies
from server.results import (
    BaselineModel,
    Baselines,
    Environment,
    Harmonised,
    RoundResult,
    Selection,
    SiteRound,
    StudyFacts,
    StudyResult,
    ValidationAuc,
    Weights,
)
from server.results_json import write
from server.shift_facts import Judgement, what_stands_out
from shared.average_precision import average_precision
from shared.description import CornerEffect, CornerTest, Description, MarkTest
from shared.estimates import ScoreQuality
from shared.evidence import Evidence, Withheld
from shared.feature_summary import summarise as summarise_features
from shared.intensity import summarise as summarise_intensity
from shared.intervals import wilson
from shared.landmarks import TENTHS, Landmarks, standard_scale
from shared.metrics import Confusion, Count, Proportion, ScoreHistogram
from shared.operating_point import OperatingPoint
from shared.protocol import Evaluation
from shared.refusal_codes import Refusal
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.score_calibration import brier_score, calibration
from shared.scores import ScoredUnits
from shared.split import Split as Side
from shared.subgroups import GroupEvidence
from simulations.receipts import receipt

FINDINGS = ("pneumonia", "effusion")
SITES = ("hillcrest", "island_clinic", "northgate", "riverside", "st_marys")
TARGET, BINS = 0.95, 64
# Positives and negatives in the test split, and how far apart their scores lie (on the logit scale).
TEST = {
    ("northgate", "pneumonia"): (148, 262, 5.0),
    ("riverside", "pneumonia"): (96, 310, 4.8),
    ("st_marys", "pneumonia"): (84, 151, 2.5),
    ("island_clinic", "pneumonia"): (12, 61, 4.6),
    ("northgate", "effusion"): (91, 319, 4.2),
    ("riverside", "effusion"): (60, 346, 4.1),
    ("st_marys", "effusion"): (45, 190, 4.3),
    ("island_clinic", "effusion"): (0, 73, 4.0),
}
random = np.random.default_rng(20)
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]


def scores(positives: int, negatives: int, apart: float) -> Scores:
    """Draw logits; a site that is harder also has lower scores among its positives."""
    return random.normal(apart - 2.2, 1.5, positives), random.normal(-2.2, 1.5, negatives)


def counted(logits: NDArray[np.float64]) -> tuple[int, ...]:
    edges = np.linspace(-8, 8, BINS + 1)[1:-1]
    return tuple(int(number) for number in np.bincount(np.digitize(logits, edges), minlength=BINS))


def area(pair: Scores) -> AreaUnderCurve | None:
    """Mann-Whitney's AUC with Hanley and McNeil's interval: independent of the code that the report trusts."""
    positives, negatives = pair
    if not len(positives):
        return None
    value = float((positives[:, None] > negatives[None, :]).mean())
    first, second = value / (2 - value), 2 * value**2 / (1 + value)
    within = (len(positives) - 1) * (first - value**2) + (len(negatives) - 1) * (second - value**2)
    error = 1.96 * ((value * (1 - value) + within) / (len(positives) * len(negatives))) ** 0.5
    low, high = max(0.0, value - error), min(1.0, value + error)
    return AreaUnderCurve(value=value, low=low, high=high, method="DeLong on exact scores", ties=None)


def share(found: int, of: int) -> Proportion | None:
    return wilson(Count(k=found, n=of), confidence=0.95)


def measured(pair: Scores, threshold: float) -> FindingResult:
    positives, negatives = pair
    probabilities = 1 / (1 + np.exp(-np.concatenate(pair)))
    truth = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    found, cleared = int((positives >= threshold).sum()), int((negatives < threshold).sum())
    units = ScoredUnits(scores_M=probabilities, positive_M=truth == 1, patients_M=np.arange(len(truth)))
    return finding_result(
        ppv=share(found, found + len(negatives) - cleared),
        npv=share(cleared, cleared + len(positives) - found),
        quality=ScoreQuality(
            average_precision=average_precision(units, confidence=0.95),
            brier=brier_score(units, confidence=0.95),
            calibration=calibration(units, confidence=0.95),
            called_design_effect=1.0,
            cleared_design_effect=1.0,
        ),
        units=len(truth),
        patients=int(len(truth) * 0.82),
        sensitivity=share(found, len(positives)),
        specificity=share(cleared, len(negatives)),
        auc=area(pair),
        brier=float(((probabilities - truth) ** 2).mean()),
        histogram=ScoreHistogram(positives=counted(positives), negatives=counted(negatives)),
        min_positives_to_rank=30,
    )


def together(pairs: Iterable[Scores]) -> Scores:
    one, other = zip(*pairs, strict=True)
    return np.concatenate(one), np.concatenate(other)


def chosen(pair: Scores) -> tuple[float, OperatingPoint]:
    """Choose the highest bin edge that finds the target's share of the validation positives."""
    edges = np.linspace(-8, 8, BINS + 1)
    edge = max(float(one) for one in edges if (pair[0] >= one).mean() >= TARGET)
    reached = share(int((pair[0] >= edge).sum()), len(pair[0]))
    return edge, OperatingPoint(threshold=float(1 / (1 + np.exp(-edge))), target=TARGET, claim="point", reached=reached)


Split = dict[str, FindingResult]


def evaluated(
    harder: dict[str, float], kept: dict[tuple[str, str], Scores]
) -> tuple[dict[str, OperatingPoint], dict[str, dict[str, Split]], dict[str, Split]]:
    """Score every site's patients with one model: its operating points, each site's splits, and all sites' splits.

    The scores of test patients are `kept`.
    """
    points: dict[str, OperatingPoint] = {}
    sites: dict[str, dict[str, Split]] = {site: {"validation": {}, "test": {}} for site in SITES}
    pool: dict[str, Split] = {"validation": {}, "test": {}}
    for finding in FINDINGS:
        sizes = {site: size for (site, name), size in TEST.items() if name == finding}
        pairs = {
            "validation": {
                site: scores(p // 2, n // 2, apart - harder.get(site, 0)) for site, (p, n, apart) in sizes.items()
            },
            "test": {site: scores(p, n, apart - harder.get(site, 0)) for site, (p, n, apart) in sizes.items()},
        }
        kept |= {(site, finding): pair for site, pair in pairs["test"].items()}
        edge, points[finding] = chosen(together(pairs["validation"].values()))
        for split, by_site in pairs.items():
            for site in SITES:
                pair = by_site.get(site)
                sites[site][split][finding] = measured(pair, edge) if pair else absent(Why.SUPPRESSED)
            pool[split][finding] = pooled(together(by_site.values()), edge)
    return points, sites, pool


def pooled(pair: Scores, threshold: float) -> FindingResult:
    exact = measured(pair, threshold)
    auc = replace(exact.auc, method="DeLong on score bins", ties=(exact.auc.value - 0.004, exact.auc.value + 0.004))
    return replace(exact, auc=auc, brier=None)


def curve(start: float, end: float, number: int) -> float:
    """Fall or rise from start to end, with a little noise."""
    return float(end + (start - end) * np.exp(-number / 3.5) + random.normal(0, 0.006))


def one_round(number: int) -> RoundResult:
    refusals = {(3, "hillcrest"): "no_reply", (7, "riverside"): "update_not_finite"}
    sites = {}
    for place, site in enumerate(SITES):
        refusal = refusals.get((number, site))
        losses = tuple(curve(0.16 + 0.012 * place, 0.045 + 0.01 * place, number) for _ in range(2))
        sites[site] = SiteRound(
            refusal=refusal,
            loss=None if refusal else sum(losses) / 2,
            loss_by_epoch=() if refusal else losses,
            update_norm=None if refusal else curve(2.1, 0.6, number),
            seconds=None if refusal else curve(14, 11, number),
            images_per_second=None if refusal else curve(120, 131, number),
        )
    ends = {"island_clinic": 0.93, "northgate": 0.972, "riverside": 0.965, "st_marys": 0.885}
    validation = {
        finding: ValidationAuc(
            pooled=curve(0.68, 0.951 - 0.02 * place, number),
            sites={site: curve(0.62, end - 0.02 * place, number) for site, end in ends.items()} | {"hillcrest": None},
        )
        for place, finding in enumerate(FINDINGS)
    }
    start = "head" if number < 5 else "layer4"
    return RoundResult(
        round=number, lost=False, trained_from=start, sites=sites, validation=validation, seconds=curve(63, 58, number)
    )


def flow(place: int) -> ReleasedFlow:
    small = SITES[place] == "hillcrest"
    patients = (60, 400, 2600, 2500, 1400)[place]
    reasons = {
        "truncated": 11 * place,
        "no_patient": None,
        "not_labelled": patients // 9,
        "duplicate_image": 37 * place,
    }
    return ReleasedFlow(
        found=int(patients * 1.42),
        excluded=reasons,
        splits={
            split: SplitCounts(
                patients=None if patients * part < 10 else int(patients * part),
                exams=None if patients * part < 10 else int(patients * part * 1.2),
                classes=tuple(counts(patients * part, hidden=small and split != "train") for _ in FINDINGS),
            )
            for split, part in (("train", 0.7), ("validation", 0.1), ("test", 0.2))
        },
    )


def counts(patients: float, *, hidden: bool) -> ClassCounts:
    numbers = [None] * 4 if hidden else [int(patients * part) for part in (0.3, 0.72, 0.36, 0.84)]
    names = ("positive_patients", "negative_patients", "positive_exams", "negative_exams")
    return ClassCounts(**dict(zip(names, numbers, strict=True)))


AWAY = {"hillcrest": 1.9, "island_clinic": 1.4, "northgate": 0.5, "riverside": 0.9, "st_marys": 1.3}


def alone(
    home: str, federated: dict[tuple[str, str], Scores], points: dict[str, OperatingPoint]
) -> tuple[BaselineModel, dict[str, Receipt]]:
    """Train at one site: worse elsewhere, and at st_marys better at home than what was learnt together.

    At home it scores the patients that the federated model scored: `federated` has those scores.
    """
    model = baseline(dict.fromkeys(SITES, AWAY[home]))
    at_home, found = -1.1 if home == "st_marys" else AWAY[home] * 1.5, {}
    for finding in FINDINGS:
        if (pair := federated.get((home, finding))) is None:
            continue
        own = tuple(0.8 * side + random.normal(0, 0.6, len(side)) for side in pair)
        own = (own[0] - at_home, own[1])
        threshold = model.operating_point[finding].threshold
        model.sites[home][finding] = measured(own, float(np.log(threshold / (1 - threshold))))
        found[finding] = receipt(
            as_units(pair),
            as_units(own),
            thresholds=(points[finding].threshold, threshold),
            min_positives=30,
            confidence=0.95,
        )
    return model, found


def own_layers(
    scored: dict[tuple[str, str], Scores], points: dict[str, OperatingPoint]
) -> dict[str, dict[str, Receipt]]:
    """Give each site its own layers: they help st_marys, and change little elsewhere."""
    found: dict[str, dict[str, Receipt]] = {finding: {} for finding in FINDINGS}
    for (site, finding), pair in scored.items():
        own = pair[0] + (1.2 if site == "st_marys" else 0.0) + random.normal(0, 0.3, len(pair[0]))
        at = points[finding].threshold
        found[finding][site] = receipt(
            as_units((own, pair[1])), as_units(pair), thresholds=(at, at), min_positives=30, confidence=0.95
        )
    return found


def left_out(home: str) -> BaselineModel:
    """Train at all other sites: a little worse where nothing was learnt of that site."""
    return baseline({site: 0.6 if site == home else 0.1 for site in SITES})


def elsewhere_counts(unseen: dict[str, BaselineModel], finding: str) -> dict[str, dict[str, Count]]:
    found: dict[str, dict[str, Count]] = {"sensitivity": {}, "specificity": {}}
    for site, model in unseen.items():
        for measure, counts in found.items():
            if rate := getattr(model.sites[site][finding], measure):
                counts[site] = Count(k=rate.k, n=rate.n)
    return found


def as_units(pair: Scores) -> ScoredUnits:
    return ScoredUnits(
        scores_M=1 / (1 + np.exp(-np.concatenate(pair))),
        positive_M=np.arange(len(pair[0]) + len(pair[1])) < len(pair[0]),
        patients_M=np.arange(len(pair[0]) + len(pair[1])),
    )


def baseline(harder: dict[str, float]) -> BaselineModel:
    points, sites, _ = evaluated(harder, {})
    return BaselineModel(operating_point=points, sites={site: splits["test"] for site, splits in sites.items()})


def elsewhere(sites: dict[str, dict[str, Split]]) -> dict[str, OtherThresholds]:
    """Look at every other threshold, by the histograms that the sites released."""

    def released(split: str, finding: str) -> dict[str, Evidence]:
        results = {site: splits[split][finding] for site, splits in sites.items()}
        return {site: evidence(one) for site, one in results.items() if one.histogram}

    return {
        finding: other_thresholds(
            released("validation", finding), released("test", finding), target=TARGET, claim="point", confidence=0.95
        )
        for finding in FINDINGS
    }


def tried(
    sites: dict[str, dict[str, Split]], points: dict[str, OperatingPoint], told: dict[str, dict[str, Explanation]]
) -> dict[str, dict[str, Remedies]]:
    """Look at what each site's validation units ask for."""
    others, found = elsewhere(sites), {}
    for finding in FINDINGS:
        released = {
            split: {site: evidence(one[split][finding]) for site, one in sites.items() if one[split][finding].histogram}
            for split in ("validation", "test")
        }
        found[finding] = remedies(
            released["validation"],
            released["test"],
            threshold=points[finding].threshold,
            others=others[finding],
            explained=told[finding],
            apart=mostly_apart(site_pairs(descriptions())),
            scale=Scale.LANDMARKS,
            min_positives=30,
            confidence=0.95,
        )
    return found


def evidence(one: FindingResult) -> Evidence:
    tp, fn = (one.sensitivity.k, one.sensitivity.n - one.sensitivity.k) if one.sensitivity else (0, 0)
    tn, fp = one.specificity.k, one.specificity.n - one.specificity.k
    return Evidence(
        units=one.units,
        patients=one.patients,
        positive_patients=one.positives,
        negative_patients=one.negatives,
        histogram=one.histogram,
        confusion=Confusion(tp=tp, fp=fp, tn=tn, fn=fn),
        auc=None,
        brier=None,
        quality=one.quality,
    )


def harmonised() -> Harmonised:
    """Invent where each site's landmarks lay; hillcrest's are held back."""
    own = {
        site: None if site == "hillcrest" else Landmarks(positions=tuple(tenth / 10 - 0.04 * apart for tenth in TENTHS))
        for site, apart in APART.items()
    }
    standard = standard_scale(one for one in own.values() if one)
    return Harmonised(standard=standard, sites=own, absent={"hillcrest": Refusal.TOO_FEW_PATIENTS})


APART = {"hillcrest": 0.0, "island_clinic": 0.2, "northgate": 0.0, "riverside": 0.3, "st_marys": 1.5}


def descriptions() -> dict[str, Description]:
    """Invent how each site's images look: st_marys' lie apart, and a mark in its corner goes with pneumonia."""
    drawn = np.random.default_rng(21)
    found = {}
    for place, (site, apart) in enumerate(APART.items()):
        patients = (30, 60, 200, 180, 120)[place]
        levels = np.exp(-0.5 * ((np.arange(64) - 25 - 12 * apart - drawn.normal(0, 1, (patients, 1))) / 9) ** 2)
        features = summarise_features(drawn.standard_normal((patients, 32)) + apart, split=Side.TRAIN, seed=0)
        found[site] = Description(
            features=features if features.dimensions else Withheld(),
            intensity=summarise_intensity(levels / levels.sum(axis=1, keepdims=True), seed=0),
            corners=tuple(corner_test(site, finding, drawn) for finding in FINDINGS),
            marks=tuple(mark_test(site, finding) for finding in FINDINGS),
        )
    return found


def corner_test(site: str, finding: str, drawn: np.random.Generator) -> CornerTest | Withheld:
    if site == "hillcrest":
        return Withheld()
    marked = site == "st_marys" and finding == "pneumonia"
    values = [*([1.6] if marked else []), *drawn.normal(0, 0.08, 4)][:4]
    return CornerTest(
        positive_patients=18,
        negative_patients=40,
        effects=tuple(
            CornerEffect(value=value, error=0.1, freedom=17, auc=0.93, auc_without=0.93 - max(0.0, value) / 16)
            for value in values
        ),
    )


def mark_test(site: str, finding: str) -> MarkTest | Withheld:
    if site == "hillcrest":
        return Withheld()
    marked = {("st_marys", "pneumonia"): 0.91, ("riverside", "effusion"): 0.88}.get((site, finding), 0.52)
    return MarkTest(split=Side.TRAIN, positive_patients=64, negative_patients=151, areas=(marked, 0.49, 0.54, 0.5))


def standing_out(sites: dict[str, dict[str, Split]], points: dict[str, OperatingPoint]) -> Judgement:
    """Compare the sites and their images, and adjust all at once."""
    test = {
        finding: {
            site: by_sex(site, splits["test"][finding])
            for site, splits in sites.items()
            if splits["test"][finding].histogram
        }
        for finding in FINDINGS
    }
    wish = Evaluation(subgroups=("sex",), target_sensitivity=TARGET)
    return what_stands_out(test, descriptions(), points, findings=FINDINGS, wish=wish, seed=lambda _purpose: 0)


def by_sex(site: str, one: FindingResult) -> Evidence:
    """Divide a site's counts by sex; at st_marys nearly all that are missed are women."""
    whole = evidence(one)
    at = whole.confusion
    missed, alarms = round(at.fn * (0.9 if site == "st_marys" else 0.5)), at.fp // 2
    men = Confusion(tp=at.tp // 2, fn=at.fn - missed, tn=at.tn // 2, fp=alarms)
    women = Confusion(tp=at.tp - men.tp, fn=missed, tn=at.tn - men.tn, fp=at.fp - alarms)
    groups = tuple(
        GroupEvidence(
            axis="sex",
            group=group,
            positive_patients=counts.sensitivity.n,
            negative_patients=counts.specificity.n,
            confusion=counts,
            auc=None,
        )
        for group, counts in (("female", women), ("male", men))
    )
    return replace(whole, subgroups=groups)


def study_result() -> StudyResult:
    scored: dict[tuple[str, str], Scores] = {}
    points, sites, pool = evaluated({}, scored)
    local = {site: alone(site, scored, points) for site in SITES}
    unseen = {site: left_out(site) for site in SITES}
    found = standing_out(sites, points)
    study = StudyFacts(
        name="Chest films of five hospitals",
        intended_use="Marks chest films that a radiologist should read first. Research only: not for diagnosis.",
        version="1",
        digest="9f2c61e0a5d44b1c8c7be0a1f1d2c3b4a5968778695a4b3c2d1e0f9a8b7c6d5e",
        findings=FINDINGS,
        exclusive=False,
        unit="exam",
        confidence=0.95,
        min_positives_to_rank=30,
        protocol='[study]\nname = "Chest films of five hospitals"\n\n[federation]\nrounds = 12\n',
    )
    return StudyResult(
        study=study,
        environment=Environment(
            versions={"polyclinic": "0.1.0", "torch": "2.13.0", "flwr": "1.41.0", "python": "3.11.9"},
            device="cpu",
            threads=2,
            seed=0,
            deterministic=True,
        ),
        weights=Weights(
            source="fallback",
            sha256=None,
            sentence="Pretrained weights could not be found, and the study allows random ones: the backbone began "
            "untrained, so that these numbers are lower than a pretrained model's.",
        ),
        rounds=tuple(one_round(number) for number in range(1, 13)),
        selected=Selection(round=11, why="best pooled validation AUC"),
        operating_point=points,
        sites=sites,
        pooled=pool,
        patient_flow={site: flow(place) for place, site in enumerate(SITES)},
        domain_shift=found.shift,
        tested=found.tested,
        privacy={},
        baselines=Baselines(
            local={site: model for site, (model, _) in local.items()}, pooled=baseline(dict.fromkeys(SITES, -0.1))
        ),
        remedies=tried(sites, points, found.explanations),
        harmonised=harmonised(),
        personal=own_layers(scored, points),
        unseen=unseen,
        new_hospital={
            finding: new_hospital(elsewhere_counts(unseen, finding), unseen=True, confidence=0.95, seed=0)
            for finding in FINDINGS
        },
        receipts={
            finding: {site: own[finding] for site, (_, own) in local.items() if finding in own} for finding in FINDINGS
        },
        other_thresholds=elsewhere(sites),
        explanations=found.explanations,
        subgroups=found.subgroups,
        notes=("northgate and riverside use the same vendor's scanners.",),
        blended=own_layers(scored, points),
    )


if __name__ == "__main__":
    write(study_result(), Path(__file__).with_name("study_result.json"))
