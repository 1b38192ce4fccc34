"""What other thresholds would do: a table of targets, what each site would need for itself, and net benefit."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from shared.evidence import Evidence
from shared.intervals import wilson
from shared.metrics import Confusion, Proportion, ScoreHistogram
from shared.operating_point import Claim, Need, OperatingPoint, choose_on, need_on
from shared.scores import lower_edges

TARGETS = (0.9, 0.95, 0.99)
"""Sensitivities of the table."""

WEIGHED = (0.05, 0.1, 0.2, 0.3)
"""Threshold probabilities of the table of net benefit: a missed positive weighs as 19, 9, 4 and 2.3 false alarms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Sensitivity and specificity at one threshold on test units; a proportion of nothing is None."""

    sensitivity: Proportion | None
    specificity: Proportion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRow:
    """The threshold that all sites' validation units ask for at one target, and what it gives on test units."""

    point: OperatingPoint
    pooled: Rates
    sites: Mapping[str, Rates]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnThreshold:
    """What one site would need for itself, by its own validation units, and what that gives on its test units."""

    need: Need
    test: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class NetBenefit:
    """Net benefit of acting on the model where its score reaches a threshold probability, on test units.

    True positives minus false positives weighed by the odds of the threshold, a unit (Vickers and Elkin, Med Decis
    Making 2006;26:565). `treat_all` is what acting on everyone gives; acting on nobody gives 0.
    """

    threshold: float
    value: float
    low: float
    high: float
    treat_all: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherThresholds:
    """One finding under thresholds that are not the shared one; sites that withheld their evidence have no entry."""

    table: tuple[TargetRow, ...]
    own: Mapping[str, OwnThreshold]
    benefit: tuple[NetBenefit, ...]
    site_benefit: Mapping[str, tuple[NetBenefit, ...]]


def other_thresholds(
    validation: Mapping[str, Evidence],
    test: Mapping[str, Evidence],
    *,
    target: float,
    claim: Claim,
    confidence: float,
) -> OtherThresholds:
    """Look at one finding's released histograms under other thresholds.

    All thresholds are bin edges, at which the histograms' counts are exact. A threshold is chosen on validation units
    and shown on test units. Intervals use the design effects that the sites found at the shared threshold.
    """
    merged, tested = _merged(validation), _merged(test)
    if merged is None or tested is None or not merged.histogram.n_pos:
        return OtherThresholds(table=(), own={}, benefit=(), site_benefit={})
    rows = []
    for wish in sorted({*TARGETS, target}):
        point = choose_on(list(validation.values()), target=wish, claim=claim, confidence=confidence)
        if point is None:
            continue
        sites = {site: rates(item, point.threshold, confidence=confidence) for site, item in test.items()}
        pooled = _rates(tested, point.threshold, confidence=confidence)
        rows.append(TargetRow(point=point, pooled=pooled, sites=sites))
    return OtherThresholds(
        table=tuple(rows),
        own={
            site: _own(found, test.get(site), confidence=confidence)
            for site, item in validation.items()
            if (found := need_on(item, target=target, claim=claim, confidence=confidence))
        },
        benefit=_benefits(tested, confidence=confidence),
        site_benefit={
            site: _benefits(_Counts.of(item), confidence=confidence) for site, item in test.items() if item.units
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """A histogram and how much patients repeat in it, as found at the shared threshold."""

    histogram: ScoreHistogram
    positives_design_effect: float
    negatives_design_effect: float

    @classmethod
    def of(cls, item: Evidence) -> "_Counts":
        at = item.confusion
        return cls(
            histogram=item.histogram,
            positives_design_effect=at.positives_design_effect if at else 1.0,
            negatives_design_effect=at.negatives_design_effect if at else 1.0,
        )

    def at(self, threshold: float) -> Confusion:
        edges = lower_edges(bins=len(self.histogram.positives))
        plain = self.histogram.at_bin(int(np.searchsorted(edges, threshold)))
        return Confusion(
            tp=plain.tp,
            fp=plain.fp,
            tn=plain.tn,
            fn=plain.fn,
            positives_design_effect=self.positives_design_effect,
            negatives_design_effect=self.negatives_design_effect,
        )


def _merged(items: Mapping[str, Evidence]) -> _Counts | None:
    full = [item for item in items.values() if item.units]
    if not full:
        return None
    confusions = [item.confusion for item in full if item.confusion]
    at = sum(confusions[1:], start=confusions[0]) if confusions else None
    histogram = sum((item.histogram for item in full[1:]), start=full[0].histogram)
    return _Counts(
        histogram=histogram,
        positives_design_effect=at.positives_design_effect if at else 1.0,
        negatives_design_effect=at.negatives_design_effect if at else 1.0,
    )


def rates(item: Evidence, threshold: float, *, confidence: float) -> Rates:
    """Count one site's units at a bin edge."""
    return _rates(_Counts.of(item), threshold, confidence=confidence)


def _rates(counts: _Counts, threshold: float, *, confidence: float) -> Rates:
    at = counts.at(threshold)
    return Rates(
        sensitivity=wilson(at.sensitivity, confidence=confidence),
        specificity=wilson(at.specificity, confidence=confidence),
    )


def _own(found: Need, test: Evidence | None, *, confidence: float) -> OwnThreshold:
    nothing = Rates(sensitivity=None, specificity=None)
    return OwnThreshold(need=found, test=rates(test, found.threshold, confidence=confidence) if test else nothing)


def _benefits(counts: _Counts, *, confidence: float) -> tuple[NetBenefit, ...]:
    edges = lower_edges(bins=len(counts.histogram.positives))
    nearest = sorted({int(np.abs(edges - one).argmin()) for one in WEIGHED} - {0})
    return tuple(_benefit(counts, float(edges[place]), confidence=confidence) for place in nearest)


def _benefit(counts: _Counts, threshold: float, *, confidence: float) -> NetBenefit:
    """Give it with the interval of a mean over units that count 1, -odds or 0, widened by the larger design effect."""
    at, odds = counts.at(threshold), threshold / (1 - threshold)
    n = at.tp + at.fp + at.tn + at.fn
    value = (at.tp - odds * at.fp) / n
    variance = max(0.0, (at.tp + odds**2 * at.fp) / n - value**2) / max(1, n - 1)
    effect = max(counts.positives_design_effect, counts.negatives_design_effect)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(variance * effect)
    positives = at.tp + at.fn
    return NetBenefit(
        threshold=threshold,
        value=value,
        low=value - reach,
        high=value + reach,
        treat_all=(positives - odds * (n - positives)) / n,
    )
