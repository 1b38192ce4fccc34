"""One model's evidence as results: each site's, and that of all sites together."""

from server.finding_result import AreaUnderCurve, FindingResult, Why, absent, finding_result
from server.results import BaselineModel
from server.score_evidence import pooled_quality, predictive_values, proportion
from server.study_run import Conclusion
from server.validation import Evaluations, assessed_somewhere, released
from shared.evidence import Evidence, Withheld
from shared.intervals import binned_auc
from shared.messages import EvaluateReply
from shared.metrics import Confusion, ScoreHistogram
from shared.protocol import Evaluation, StudyProtocol

SITE_METHOD = "exact scores at the site, DeLong with patients as clusters, Newcombe's variance"
POOLED_METHOD = "merged score bins, DeLong with Newcombe's variance, units taken as independent"


def of_site(
    evaluations: Evaluations, site: str, conclusion: Conclusion, protocol: StudyProtocol
) -> dict[str, FindingResult]:
    """State what one site released of a split, by target; a site that sent nothing has results that say so."""
    reply = evaluations.get(site)
    if not isinstance(reply, EvaluateReply):
        return {target: absent(Why.NO_REPLY) for target in protocol.task.targets}
    return {
        target: _of_evidence(item, known=conclusion.operating_point.get(target) is not None, wish=protocol.evaluation)
        for target, item in zip(protocol.task.targets, reply.evidence, strict=True)
    }


def _of_evidence(item: Evidence | Withheld, *, known: bool, wish: Evaluation) -> FindingResult:
    """State one site's evidence; without an operating point there is no sensitivity to state."""
    if isinstance(item, Withheld):
        return absent(Why.SUPPRESSED if item.assessed else Why.NOT_ASSESSED)
    if not item.units:
        return absent(Why.NOT_ASSESSED)
    at = item.confusion if known else None
    ppv, npv = predictive_values([item] if at else [], wish)
    return finding_result(
        units=item.units,
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
        called_as=item.called_as.units if item.called_as else (),
    )


def of_pool(evaluations: Evaluations, conclusion: Conclusion, protocol: StudyProtocol) -> dict[str, FindingResult]:
    """State what all sites released of a split, together, by target."""
    known = {target for target, point in conclusion.operating_point.items() if point}
    return {
        target: _pooled(
            list(released(evaluations, place).values()),
            target in known,
            protocol,
            asked=assessed_somewhere(evaluations, place),
        )
        for place, target in enumerate(protocol.task.targets)
    }


def _pooled(items: list[Evidence], known: bool, protocol: StudyProtocol, *, asked: bool) -> FindingResult:
    """Merge what was released; sites that withheld theirs are not in it, and the report says who they are.

    `asked` is False where no site assesses the finding.
    """
    full = [item for item in items if item.units]
    if not full:
        return absent(Why.NOT_ASSESSED if items or not asked else Why.SUPPRESSED)
    wish = protocol.evaluation
    merged = sum((item.histogram for item in full[1:]), start=full[0].histogram)
    counts = [item.confusion for item in full if item.confusion]
    at: Confusion | None = sum(counts[1:], start=counts[0]) if counts and known else None
    ppv, npv = predictive_values(full if at else [], wish)
    return finding_result(
        units=sum(item.units for item in full),
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
        called_as=_called(full),
    )


def _called(items: list[Evidence]) -> tuple[int, ...]:
    """Add up the rows of the sites that released the whole of theirs; nothing where none did."""
    rows = [item.called_as.units for item in items if item.called_as and item.called_as.whole]
    return tuple(sum(count or 0 for count in counts) for counts in zip(*rows, strict=True))


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


def baseline_model(conclusion: Conclusion, protocol: StudyProtocol) -> BaselineModel:
    """State another model at its own operating points, on every site's test patients."""
    return BaselineModel(
        operating_point=conclusion.operating_point,
        sites={site: of_site(conclusion.test, site, conclusion, protocol) for site in sorted(conclusion.test)},
    )
