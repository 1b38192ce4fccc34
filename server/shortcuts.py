"""What each corner of the images adds to the scores, and what stands out there, at each site, held together by Holm."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.admission import Refused
from shared.corner_test import Shown, shown, shown_area
from shared.description import CORNERS, CornerEffect, CornerTest, Description, MarkTest
from shared.domain_shift import holm


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerFinding:
    """One corner at one site: how far blanking it brings the classes together, in logits, and what AUC that leaves.

    `adjusted_p` is adjusted for both tests of all corners and sites of the finding; the interval is not.
    """

    corner: str
    value: float
    low: float
    high: float
    adjusted_p: float
    auc: float
    auc_without: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFinding:
    """One corner at one site: how well what stands out there tells patients with the finding from those without.

    `value` is an AUC: below .5 it goes with the finding's absence. `adjusted_p` is that of CornerFinding.
    """

    corner: str
    value: float
    low: float
    high: float
    adjusted_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerFindings:
    """One finding's corners by site: `blanked` tests what the model reads, `marks` the images whatever it reads."""

    blanked: Mapping[str, tuple[CornerFinding, ...]]
    marks: Mapping[str, tuple[MarkFinding, ...]]


def corner_findings(
    descriptions: Mapping[str, Description | Refused], place: int, *, confidence: float
) -> CornerFindings:
    """State one finding's corner tests by site; a site without any is left out."""
    effects: dict[tuple[str, str], tuple[CornerEffect, Shown]] = {}
    areas: dict[tuple[str, str], Shown] = {}
    for site, one in sorted(descriptions.items()):
        if not isinstance(one, Description):
            continue
        if isinstance(test := one.corners[place], CornerTest):
            for corner, effect in zip(CORNERS, test.effects, strict=False):
                interval = shown(effect.value, effect.error, effect.freedom, confidence=confidence)
                effects[site, corner] = effect, interval
        if isinstance(mark := one.marks[place], MarkTest):
            sizes = {"positives": mark.positive_patients, "negatives": mark.negative_patients}
            for corner, area in zip(CORNERS, mark.areas, strict=False):
                areas[site, corner] = shown_area(area, **sizes, confidence=confidence)
    adjusted = holm([one.p for one in (*(interval for _, interval in effects.values()), *areas.values())])
    of_effects, of_areas = adjusted[: len(effects)], adjusted[len(effects) :]
    blanked: dict[str, tuple[CornerFinding, ...]] = {}
    for ((site, corner), (effect, interval)), p in zip(effects.items(), of_effects, strict=True):
        blanked[site] = (*blanked.get(site, ()), _blanked(corner, effect, interval, adjusted_p=p))
    marks: dict[str, tuple[MarkFinding, ...]] = {}
    for ((site, corner), found), p in zip(areas.items(), of_areas, strict=True):
        mark_found = MarkFinding(corner=corner, value=found.value, low=found.low, high=found.high, adjusted_p=p)
        marks[site] = (*marks.get(site, ()), mark_found)
    return CornerFindings(blanked=blanked, marks=marks)


def _blanked(corner: str, effect: CornerEffect, interval: Shown, *, adjusted_p: float) -> CornerFinding:
    return CornerFinding(
        corner=corner,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        adjusted_p=adjusted_p,
        auc=effect.auc,
        auc_without=effect.auc_without,
    )
