"""Why a site differs: what its gap to all others is consistent with, and never what caused it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from server.comparisons import SHARE, Comparisons
from shared.case_mix import CaseMix, case_mix
from shared.evidence import Evidence
from shared.gap import Gap, Measure, Side, split_gap
from shared.metrics import Confusion
from shared.scores import lower_edges

MEASURES: tuple[Measure, ...] = ("sensitivity", "specificity")


class Pattern(StrEnum):
    """What a site's numbers look like beside the others'."""

    THRESHOLD = "threshold"
    DISCRIMINATION = "discrimination"
    BOTH = "both"
    UNCLEAR = "unclear"
    PREVALENCE = "prevalence"
    NONE_SHOWN = "none_shown"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The share of positives, and the positive predictive value, at a site and at all others together."""

    here: float
    elsewhere: float
    ppv_here: float | None
    ppv_elsewhere: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One site's pattern; `gaps` holds both measures' splits, `measure` is the one that the pattern is read off.

    `case_mix` splits the difference in AUC; the pattern does not rest on it.

    `p` is the smallest of its comparisons (sensitivity, specificity, share of positives), adjusted over the study's one
    family of hypotheses (server/family.py).
    """

    pattern: Pattern
    measure: str | None
    p: float | None
    gaps: Mapping[str, Gap]
    shares: Shares | None
    case_mix: CaseMix | None = None


def explanations(compared: Comparisons, *, threshold: float, confidence: float, seed: int) -> dict[str, Explanation]:
    """Explain every site of which there is evidence on one finding.

    What differs is decided by the comparisons' adjusted p (server/family.py); a part of the gap counts where its
    interval, not adjusted, lies on the gap's side of 0.
    """
    alpha = round(1 - confidence, 12)
    p = {(one.site, name): one.adjusted_p for name, ones in compared.differences.items() for one in ones}
    found = {}
    for site, item in compared.known.items():
        others = [other for name, other in compared.known.items() if name != site]
        own = {name: p[site, name] for name in (*MEASURES, SHARE) if (site, name) in p}
        if not own:
            found[site] = Explanation(pattern=Pattern.NOT_COMPARED, measure=None, p=None, gaps={}, shares=None)
            continue
        place = int(np.searchsorted(lower_edges(bins=len(item.histogram.positives)), threshold))
        here, there = _side([item]), _side(others)
        gaps = _gaps(here, there, place=place, confidence=confidence, seed=seed)
        told = _explain(own, gaps, _shares(item, others), alpha=alpha)
        found[site] = replace(told, case_mix=case_mix(here, there, confidence=confidence, seed=seed))
    return found


def _explain(p: Mapping[str, float], gaps: Mapping[str, Gap], shares: Shares, *, alpha: float) -> Explanation:
    measure = min(MEASURES, key=lambda name: p.get(name, 1.0))
    if p.get(measure, 1.0) < alpha:
        pattern = _pattern(measure, gaps) if measure in gaps else Pattern.UNCLEAR
        return Explanation(pattern=pattern, measure=measure, p=p[measure], gaps=gaps, shares=shares)
    pattern = Pattern.PREVALENCE if p.get(SHARE, 1.0) < alpha else Pattern.NONE_SHOWN
    return Explanation(pattern=pattern, measure=None, p=min(p.values()), gaps=gaps, shares=shares)


def _pattern(measure: Measure, gaps: Mapping[str, Gap]) -> Pattern:
    """Read the pattern off the curves, which are compared where sensitivities are: many negatives fix that place.

    A gap in specificity with no difference shown between the curves is one of the threshold.
    """
    along, curve = gaps["sensitivity"].threshold, gaps["sensitivity"].discrimination
    if curve.low is None:
        return Pattern.UNCLEAR
    sign = 1 if gaps[measure].value > 0 else -1
    if measure == "specificity":
        return Pattern.DISCRIMINATION if curve.shown(sign) else Pattern.THRESHOLD
    match (along.shown(sign), curve.shown(sign)):
        case (True, True):
            return Pattern.BOTH
        case (True, False):
            return Pattern.THRESHOLD
        case (False, True):
            return Pattern.DISCRIMINATION
        case _:
            return Pattern.UNCLEAR


def _gaps(here: Side, there: Side, *, place: int, confidence: float, seed: int) -> dict[str, Gap]:
    found = {
        measure: split_gap(here, there, measure=measure, place=place, confidence=confidence, seed=seed)
        for measure in MEASURES
    }
    return {measure: gap for measure, gap in found.items() if gap}


def _side(items: list[Evidence]) -> Side:
    at = _merged(items)
    return Side(
        histogram=sum((one.histogram for one in items[1:]), start=items[0].histogram),
        positives_design_effect=at.positives_design_effect,
        negatives_design_effect=at.negatives_design_effect,
    )


def _merged(items: list[Evidence]) -> Confusion:
    return sum((one.confusion for one in items if one.confusion), start=Confusion(tp=0, fp=0, tn=0, fn=0))


def _shares(item: Evidence, others: list[Evidence]) -> Shares:
    def share(items: list[Evidence]) -> tuple[float, float | None]:
        ppv = _merged(items).ppv
        return sum(one.histogram.n_pos for one in items) / sum(one.units for one in items), (
            ppv.k / ppv.n if ppv.n else None
        )

    (here, ppv_here), (elsewhere, ppv_elsewhere) = share([item]), share(others)
    return Shares(here=here, elsewhere=elsewhere, ppv_here=ppv_here, ppv_elsewhere=ppv_elsewhere)
