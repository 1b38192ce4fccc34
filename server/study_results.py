"""From the sites' evidence to the facts of a study: merged counts, intervals, who stands out."""

from collections.abc import Iterator, Mapping
from typing import Any

from server.admission import Refused
from server.alternatives import Alternatives
from server.explanation import explanations
from server.finding_result import AreaUnderCurve, FindingResult, Why, absent, finding_result
from server.other_thresholds import other_thresholds
from server.privacy_facts import site_privacy
from server.results import (
    BaselineModel,
    Baselines,
    Environment,
    RoundResult,
    Selection,
    SiteRound,
    StudyFacts,
    StudyResult,
    ValidationAuc,
    Weights,
)
from server.score_evidence import pooled_quality, predictive_values, proportion
from server.shift_facts import domain_shift
from server.study_run import Conclusion
from server.validation import Evaluations, released
from shared.description import Description
from shared.evidence import Evidence, Withheld
from shared.intervals import binned_auc
from shared.messages import EvaluateReply
from shared.metrics import Confusion, ScoreHistogram
from shared.protocol import Evaluation, StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.weights import WeightsProvenance

SITE_METHOD = "exact scores at the site, DeLong with patients as clusters, Newcombe's variance"
POOLED_METHOD = "merged score bins, DeLong with Newcombe's variance, units taken as independent"


def study_result(
    protocol: StudyProtocol,
    conclusion: Conclusion,
    flows: Mapping[str, ReleasedFlow | Refused],
    descriptions: Mapping[str, Description | Refused],
    provenance: WeightsProvenance,
    environment: Environment,
    *,
    alternatives: Alternatives,
    seeded: bool,
) -> StudyResult:
    """State every fact that the report may state, from what the sites released.

    `seeded` says that what noise there is came from the study's seed.
    """
    rounds = tuple(_round(record, protocol) for record in conclusion.state.history)
    splits = {Split.VALIDATION.value: conclusion.validation, Split.TEST.value: conclusion.test}
    told = {
        target: explanations(
            released(conclusion.test, place),
            threshold=conclusion.operating_point[target].threshold,
            min_positives=protocol.evaluation.min_positives_to_rank,
            confidence=protocol.evaluation.confidence,
            seed=protocol.random_seed("explanations"),
        )
        for place, target in enumerate(protocol.task.targets)
        if target in conclusion.operating_point
    }
    return StudyResult(
        study=_facts(protocol),
        environment=environment,
        weights=Weights(source=provenance.source, sha256=provenance.sha256, sentence=provenance.sentence),
        rounds=rounds,
        selected=_selection(conclusion, protocol),
        operating_point=conclusion.operating_point,
        sites={
            site: {split: _of_site(found, site, conclusion, protocol) for split, found in splits.items()}
            for site in sorted(conclusion.test)
        },
        pooled={split: _of_pool(found, conclusion, protocol) for split, found in splits.items()},
        patient_flow={site: flow for site, flow in flows.items() if isinstance(flow, ReleasedFlow)},
        domain_shift=domain_shift(protocol, conclusion.test, descriptions, told),
        privacy=site_privacy(protocol, flows, rounds, seeded=seeded),
        baselines=Baselines(
            local={site: _baseline(model, protocol) for site, model in alternatives.local.items()},
            pooled=_baseline(alternatives.pooled, protocol) if alternatives.pooled else None,
            twin=_baseline(alternatives.twin, protocol) if alternatives.twin else None,
        ),
        receipts=alternatives.receipts,
        notes=tuple(_notes(protocol, flows)),
        other_thresholds={
            target: other_thresholds(
                released(conclusion.validation, place),
                released(conclusion.test, place),
                target=protocol.evaluation.target_sensitivity,
                claim=protocol.evaluation.claim,
                confidence=protocol.evaluation.confidence,
            )
            for place, target in enumerate(protocol.task.targets)
        },
        explanations=told,
    )


def _facts(protocol: StudyProtocol) -> StudyFacts:
    return StudyFacts(
        name=protocol.study.name,
        intended_use=protocol.study.intended_use,
        version=protocol.study.version,
        digest=protocol.digest(),
        findings=protocol.task.targets,
        exclusive=protocol.task.exclusive,
        unit=protocol.task.unit,
        confidence=protocol.evaluation.confidence,
        min_positives_to_rank=protocol.evaluation.min_positives_to_rank,
        protocol=protocol.to_toml(),
    )


def _round(record: Mapping[str, Any], protocol: StudyProtocol) -> RoundResult:
    validation = record["validation"]
    return RoundResult(
        round=record["round"],
        lost=record["lost"],
        trained_from=protocol.model.trains_from(record["round"]),
        sites={site: _site_round(entry) for site, entry in record["sites"].items()},
        validation={
            target: ValidationAuc(pooled=validation["pooled_auc"][target], sites=validation["site_auc"][target])
            for target in protocol.task.targets
        },
        seconds=record["seconds"],
    )


def _site_round(entry: Mapping[str, Any]) -> SiteRound:
    losses = tuple(entry.get("loss_by_epoch", ()))
    return SiteRound(
        refusal=entry["refusal"],
        loss=sum(losses) / len(losses) if losses else None,
        loss_by_epoch=losses,
        update_norm=entry.get("update_norm"),
        seconds=entry.get("seconds"),
        images_per_second=entry.get("images_per_second"),
    )


def _selection(conclusion: Conclusion, protocol: StudyProtocol) -> Selection:
    if protocol.federation.select == "last":
        return Selection(round=conclusion.chosen, why="the last round, as the study says")
    if conclusion.state.best is None:
        return Selection(round=conclusion.chosen, why="the last round: no site released validation evidence")
    return Selection(
        round=conclusion.chosen,
        why=f"the round with the highest mean validation AUC ({conclusion.state.best[1]:.3f}), as the study says",
    )


def _of_site(
    evaluations: Evaluations, site: str, conclusion: Conclusion, protocol: StudyProtocol
) -> dict[str, FindingResult]:
    reply = evaluations.get(site)
    if not isinstance(reply, EvaluateReply):
        return {target: absent(Why.NO_REPLY) for target in protocol.task.targets}
    return {
        target: _of_evidence(item, known=target in conclusion.operating_point, wish=protocol.evaluation)
        for target, item in zip(protocol.task.targets, reply.evidence, strict=True)
    }


def _of_evidence(item: Evidence | Withheld, *, known: bool, wish: Evaluation) -> FindingResult:
    """State one site's evidence; without an operating point there is no sensitivity to state."""
    if isinstance(item, Withheld):
        return absent(Why.SUPPRESSED)
    if not item.units:
        return absent(Why.NOT_ASSESSED)
    at = item.confusion if known else None
    ppv, npv = predictive_values([item] if at else [], wish)
    return finding_result(
        exams=item.units,
        patients=item.patients,
        sensitivity=proportion(at.sensitivity, item.positive_patients, wish) if at else None,
        specificity=proportion(at.specificity, item.negative_patients, wish) if at else None,
        auc=AreaUnderCurve(value=item.auc.value, low=item.auc.low, high=item.auc.high, method=SITE_METHOD, ties=None)
        if item.auc
        else None,
        brier=item.brier,
        histogram=item.histogram,
        min_positives_to_rank=wish.min_positives_to_rank,
        ppv=ppv,
        npv=npv,
        quality=item.quality,
    )


def _of_pool(evaluations: Evaluations, conclusion: Conclusion, protocol: StudyProtocol) -> dict[str, FindingResult]:
    return {
        target: _pooled(list(released(evaluations, place).values()), target in conclusion.operating_point, protocol)
        for place, target in enumerate(protocol.task.targets)
    }


def _pooled(items: list[Evidence], known: bool, protocol: StudyProtocol) -> FindingResult:
    """Merge what was released; sites that withheld theirs are not in it, and the report says who they are."""
    full = [item for item in items if item.units]
    if not full:
        return absent(Why.NOT_ASSESSED if items else Why.SUPPRESSED)
    wish = protocol.evaluation
    merged = sum((item.histogram for item in full[1:]), start=full[0].histogram)
    counts = [item.confusion for item in full if item.confusion]
    at: Confusion | None = sum(counts[1:], start=counts[0]) if counts and known else None
    ppv, npv = predictive_values(full if at else [], wish)
    return finding_result(
        exams=sum(item.units for item in full),
        patients=sum(item.patients for item in full),
        sensitivity=proportion(at.sensitivity, sum(one.positive_patients for one in full), wish) if at else None,
        specificity=proportion(at.specificity, sum(one.negative_patients for one in full), wish) if at else None,
        auc=_binned_area(merged, wish),
        brier=_mean([(item.brier, item.units) for item in full]),
        histogram=merged,
        min_positives_to_rank=wish.min_positives_to_rank,
        ppv=ppv,
        npv=npv,
        quality=pooled_quality(full, confidence=wish.confidence),
    )


def _binned_area(merged: ScoreHistogram, wish: Evaluation) -> AreaUnderCurve | None:
    bounds = merged.auc()
    if bounds is None:
        return None
    area = binned_auc(merged, confidence=wish.confidence)
    low, high = (area.low, area.high) if area else (None, None)
    return AreaUnderCurve(
        value=bounds.value, low=low, high=high, method=POOLED_METHOD, ties=(bounds.lower, bounds.upper)
    )


def _mean(weighted: list[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in weighted if value is not None]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None


def _baseline(conclusion: Conclusion, protocol: StudyProtocol) -> BaselineModel:
    return BaselineModel(
        operating_point=conclusion.operating_point,
        sites={site: _of_site(conclusion.test, site, conclusion, protocol) for site in sorted(conclusion.test)},
    )


def _notes(protocol: StudyProtocol, flows: Mapping[str, ReleasedFlow | Refused]) -> Iterator[str]:
    for site, flow in flows.items():
        if isinstance(flow, Refused):
            yield f"{site} did not take part: {flow.reason}."
    if protocol.model.weights == "none":
        yield "The study starts from random weights, as it says itself."
    yield from protocol.privacy_warnings()
    if protocol.federation.local_norm:
        yield "Each site kept its own normalisation layers; model.safetensors holds the initial ones in their place."
