"""What one round's validation shows: AUC by target, pooled over the sites and at each."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from server.admission import Refused
from shared.evidence import Evidence
from shared.messages import EvaluateReply
from shared.metrics import Confusion, Count, ScoreHistogram
from shared.operating_point import OperatingPoint
from shared.scores import lower_edges
from shared.tasks import Thresholds

Evaluations = Mapping[str, EvaluateReply | Refused]

Choose = Callable[[Collection[Evidence]], OperatingPoint | None]
"""Chooses a threshold on the sites' released evidence, as the study says; None where it cannot."""


def merged_histogram(evaluations: Evaluations, place: int) -> ScoreHistogram | None:
    """Add up one target's histograms over all sites that released theirs; None where none did."""
    histograms = [item.histogram for item in released(evaluations, place).values()]
    return sum(histograms[1:], start=histograms[0]) if histograms else None


def released(evaluations: Evaluations, place: int) -> dict[str, Evidence]:
    """One target's evidence by site, without the sites that refused or withheld it."""
    replies = {site: reply.evidence[place] for site, reply in evaluations.items() if isinstance(reply, EvaluateReply)}
    return {site: item for site, item in replies.items() if isinstance(item, Evidence)}


def assessed_somewhere(evaluations: Evaluations, place: int) -> bool:
    """Tell whether any site may assess a target: all but those that answered, and said that they do not."""
    replies = [reply.evidence[place] for reply in evaluations.values() if isinstance(reply, EvaluateReply)]
    return not replies or any(isinstance(item, Evidence) or item.assessed for item in replies)


def rate_counts(evaluations: Evaluations, place: int) -> dict[str, dict[str, Count]]:
    """Count what is right at the shared threshold by measure and site, of one target's released evidence."""
    return by_measure({site: item.confusion for site, item in released(evaluations, place).items() if item.confusion})


def by_measure(confusions: Mapping[str, Confusion]) -> dict[str, dict[str, Count]]:
    """Give the counts behind sensitivity and specificity, of each name that has a confusion."""
    return {
        "sensitivity": {name: confusion.sensitivity for name, confusion in confusions.items()},
        "specificity": {name: confusion.specificity for name, confusion in confusions.items()},
    }


def operating_points(
    evaluations: Evaluations, targets: tuple[str, ...], choose: Choose
) -> dict[str, OperatingPoint | None]:
    """Choose every target's threshold; None for one of which no site released a positive."""
    return {target: choose(list(released(evaluations, place).values())) for place, target in enumerate(targets)}


def thresholds_of(points: Mapping[str, OperatingPoint | None], targets: Sequence[str]) -> Thresholds:
    """Give each target's threshold in the study's order; None where there is none."""
    return tuple(point.threshold if (point := points.get(target)) else None for target in targets)


def validation_record(evaluations: Evaluations, targets: tuple[str, ...], choose: Choose) -> dict[str, Any]:
    """Describe a round: pooled AUC by target (from merged bins), each site's own (exact), and the mean over targets.

    `site_rates` has each site's sensitivity and specificity as [k, n], at the threshold that would be chosen now.
    """
    pooled = {target: _auc(merged_histogram(evaluations, place)) for place, target in enumerate(targets)}
    sites = {
        target: {site: item.auc.value if item.auc else None for site, item in released(evaluations, place).items()}
        for place, target in enumerate(targets)
    }
    rates = {target: _rates(evaluations, place, choose) for place, target in enumerate(targets)}
    return {"macro_auc": _mean(pooled.values()), "pooled_auc": pooled, "site_auc": sites, "site_rates": rates}


def _rates(evaluations: Evaluations, place: int, choose: Choose) -> dict[str, dict[str, list[int]]]:
    """Count what is right at one threshold for all sites; a threshold is a bin's edge, so that the counts are exact."""
    histograms = {site: item.histogram for site, item in released(evaluations, place).items()}
    point = choose(list(released(evaluations, place).values()))
    if point is None:
        return {}
    bins = len(next(iter(histograms.values())).positives)
    edge = lower_edges(bins=bins).tolist().index(point.threshold)
    return {
        site: {
            "sensitivity": [sum(one.positives[edge:]), one.n_pos],
            "specificity": [sum(one.negatives[:edge]), one.n_neg],
        }
        for site, one in histograms.items()
    }


def _auc(histogram: ScoreHistogram | None) -> float | None:
    if histogram is None:
        return None
    bounds = histogram.auc()
    return None if bounds is None else bounds.value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
