"""Receipts of a simulation: each site's test patients under two models, scored in one release of the test split."""

from collections.abc import Mapping

from server.receipt import Receipt
from server.study_run import Conclusion
from server.validation import released
from shared.paired import paired_auc, paired_rates
from shared.protocol import StudyProtocol
from shared.scores import ScoredUnits
from simulations.federation import Run


def receipts(protocol: StudyProtocol, federated: Run, others: Mapping[str, Run]) -> dict[str, dict[str, Receipt]]:
    """Give each site's receipt against its own run in `others`, by target and site.

    Exact scores never leave a hospital, so that receipts exist in simulation alone; and there too a site has one only
    where its guard released the evidence of both models.
    """
    found: dict[str, dict[str, Receipt]] = {}
    for place, target in enumerate(protocol.task.targets):
        open_at = released(federated.conclusion.test, place)
        found[target] = {
            site: receipt(
                federated.test_units[site][place],
                other.test_units[site][place],
                thresholds=_thresholds(target, federated.conclusion, other.conclusion),
                min_positives=protocol.evaluation.min_positives_to_rank,
                confidence=protocol.evaluation.confidence,
            )
            for site, other in sorted(others.items())
            if site in open_at and open_at[site].units and site in released(other.conclusion.test, place)
        }
    return found


def receipt(
    first: ScoredUnits,
    second: ScoredUnits,
    *,
    thresholds: tuple[float, float] | None,
    min_positives: int,
    confidence: float,
) -> Receipt:
    """Compare two models on one site's test units."""
    positives = int(first.positive_M.sum())
    sensitivity, specificity = (
        paired_rates(first, second, thresholds=thresholds, of_positives=side, confidence=confidence)
        if thresholds
        else None
        for side in (True, False)
    )
    return Receipt(
        units=first.positive_M.size,
        positives=positives,
        ranked=positives >= min_positives and positives < first.positive_M.size,
        auc=paired_auc(first, second, confidence=confidence),
        sensitivity=sensitivity,
        specificity=specificity,
    )


def _thresholds(target: str, first: Conclusion, second: Conclusion) -> tuple[float, float] | None:
    """Give both models' own operating points; None where one has none."""
    points = [conclusion.operating_point.get(target) for conclusion in (first, second)]
    found = [point.threshold for point in points if point]
    return (found[0], found[1]) if len(found) == 2 else None
