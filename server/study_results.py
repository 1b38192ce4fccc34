"""From the sites' evidence to the facts of a study: merged counts, intervals, who stands out."""

from collections.abc import Iterator, Mapping
from typing import Any

from server.admission import Refused
from server.alternatives import Alternatives
from server.checkpoint import RunState
from server.evaluated_model import baseline_model, of_pool, of_site
from server.image_shift import mostly_apart
from server.new_hospital import new_hospital
from server.other_thresholds import other_thresholds
from server.privacy_facts import site_privacy
from server.remedies import harmonising, remedies
from server.results import (
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
from server.shift_facts import what_stands_out
from server.study_run import Conclusion
from server.validation import released
from shared.description import Description
from shared.protocol import StudyProtocol
from shared.released_flow import ReleasedFlow
from shared.split import Split
from shared.weights import WeightsProvenance


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
    validation, test = (
        {target: released(found, place) for place, target in enumerate(protocol.task.targets)}
        for found in (conclusion.validation, conclusion.test)
    )
    found = what_stands_out(
        test,
        descriptions,
        conclusion.operating_point,
        findings=protocol.task.targets,
        wish=protocol.evaluation,
        seed=protocol.random_seed,
        cross_fitted=alternatives.cross_fitted,
    )
    others = {
        target: other_thresholds(
            validation[target],
            test[target],
            target=protocol.evaluation.target_sensitivity,
            claim=protocol.evaluation.claim,
            confidence=protocol.evaluation.confidence,
        )
        for target in protocol.task.targets
    }
    apart = mostly_apart(found.shift.distances)
    return StudyResult(
        study=_facts(protocol),
        environment=environment,
        weights=Weights(source=provenance.source, sha256=provenance.sha256, sentence=provenance.sentence),
        rounds=rounds,
        selected=_selection(conclusion, protocol),
        operating_point=conclusion.operating_point,
        sites={
            site: {split: of_site(found, site, conclusion, protocol) for split, found in splits.items()}
            for site in sorted(conclusion.test)
        },
        pooled={split: of_pool(found, conclusion, protocol) for split, found in splits.items()},
        patient_flow={site: flow for site, flow in flows.items() if isinstance(flow, ReleasedFlow)},
        domain_shift=found.shift,
        tested=found.tested,
        privacy=site_privacy(protocol, flows, rounds, seeded=seeded),
        baselines=Baselines(
            local={site: baseline_model(model, protocol) for site, model in alternatives.local.items()},
            pooled=baseline_model(alternatives.pooled, protocol) if alternatives.pooled else None,
            twin=baseline_model(alternatives.twin, protocol) if alternatives.twin else None,
        ),
        receipts=alternatives.receipts,
        personal=alternatives.personal,
        blended=alternatives.blended,
        unseen={site: baseline_model(model, protocol) for site, model in alternatives.unseen.items()},
        new_hospital={
            target: new_hospital(
                alternatives.counts(conclusion, place, target),
                unseen=bool(alternatives.unseen),
                confidence=protocol.evaluation.confidence,
                seed=protocol.random_seed("prediction"),
            )
            for place, target in enumerate(protocol.task.targets)
        },
        notes=tuple(_notes(protocol, flows)),
        other_thresholds=others,
        remedies={
            target: remedies(
                validation[target],
                test[target],
                threshold=point.threshold,
                others=others[target],
                explained=found.explanations[target],
                apart=apart,
                scale=harmonising(protocol.images),
                min_positives=protocol.evaluation.min_positives_to_rank,
                confidence=protocol.evaluation.confidence,
            )
            for target in found.explanations
            if (point := conclusion.operating_point[target])
        },
        own=conclusion.own,
        own_switched_on=protocol.evaluation.own_settings,
        harmonised=_harmonised(conclusion.state),
        explanations=found.explanations,
        subgroups=found.subgroups,
    )


def _harmonised(state: RunState) -> Harmonised | None:
    if not state.landmarks:
        return None
    return Harmonised(standard=state.standard, sites=state.landmarks, absent=state.no_landmarks)


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


def _notes(protocol: StudyProtocol, flows: Mapping[str, ReleasedFlow | Refused]) -> Iterator[str]:
    for site, flow in flows.items():
        if isinstance(flow, Refused):
            yield f"{site} did not take part: {flow.reason}."
    if protocol.model.weights == "none":
        yield "The study starts from random weights, as it says itself."
    yield from protocol.privacy_warnings()
    if protocol.federation.local_norm:
        yield "Each site kept its own normalisation layers; model.safetensors holds the initial ones in their place."
