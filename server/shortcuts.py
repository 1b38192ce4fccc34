"""What each corner of the images adds to telling positives from negatives at each site, held together by Holm."""

from collections.abc import Mapping
from dataclasses import dataclass

from server.admission import Refused
from shared.corner_test import Shown, shown
from shared.description import CORNERS, CornerEffect, CornerTest, Description
from shared.domain_shift import holm


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerFinding:
    """One corner at one site: how far blanking it brings the classes together, in logits, and what AUC that leaves.

    `adjusted_p` is adjusted for all corners and sites of the finding; the interval is not.
    """

    corner: str
    value: float
    low: float
    high: float
    adjusted_p: float
    auc: float
    auc_without: float


def corner_findings(
    descriptions: Mapping[str, Description | Refused], place: int, *, confidence: float
) -> dict[str, tuple[CornerFinding, ...]]:
    """State one finding's corner tests by site; a site without any is left out."""
    effects: dict[tuple[str, str], tuple[CornerEffect, Shown]] = {}
    for site, one in sorted(descriptions.items()):
        test = one.corners[place] if isinstance(one, Description) else None
        if isinstance(test, CornerTest):
            for corner, effect in zip(CORNERS, test.effects, strict=False):
                interval = shown(effect.value, effect.error, effect.freedom, confidence=confidence)
                effects[site, corner] = effect, interval
    adjusted = dict(zip(effects, holm([interval.p for _, interval in effects.values()]), strict=True))
    return {
        site: tuple(
            CornerFinding(
                corner=key[1],
                value=interval.value,
                low=interval.low,
                high=interval.high,
                adjusted_p=adjusted[key],
                auc=effect.auc,
                auc_without=effect.auc_without,
            )
            for key, (effect, interval) in effects.items()
            if key[0] == site
        )
        for site in dict.fromkeys(key[0] for key in effects)
    }
