"""What each corner of the images adds to the scores, and what stands out there, at each site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from server.admission import Refused
from server.family import Adjusted, Hypothesis
from shared.corner_test import shown, shown_area
from shared.description import CORNERS, CornerEffect, CornerTest, Description, MarkTest


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerFinding:
    """One corner at one site: how far blanking it brings the classes together, in logits, and what AUC that leaves.

    `p` is the test's own, `adjusted_p` that over the study's one family (server/family.py); the interval is not
    adjusted.
    """

    corner: str
    value: float
    low: float
    high: float
    p: float
    adjusted_p: float
    auc: float
    auc_without: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFinding:
    """One corner at one site: how well what stands out there tells patients with the finding from those without.

    `value` is an AUC: below .5 it goes with the finding's absence. Both p are those of CornerFinding.
    """

    corner: str
    value: float
    low: float
    high: float
    p: float
    adjusted_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CornerFindings:
    """One finding's corners by site: `blanked` tests what the model reads, `marks` the images whatever it reads."""

    blanked: Mapping[str, tuple[CornerFinding, ...]]
    marks: Mapping[str, tuple[MarkFinding, ...]]

    def raw(self, finding: str) -> dict[Hypothesis, float]:
        """List the hypotheses, each with its p."""
        kinds: Mapping[str, Tests] = {"blanked": self.blanked, "mark": self.marks}
        return {
            (finding, kind, site, one.corner): one.p
            for kind, tests in kinds.items()
            for site, ones in tests.items()
            for one in ones
        }

    def adjusted(self, finding: str, family: Adjusted) -> "CornerFindings":
        """Put the family's p in."""
        return CornerFindings(
            blanked={
                site: tuple(replace(one, adjusted_p=family[finding, "blanked", site, one.corner]) for one in ones)
                for site, ones in self.blanked.items()
            },
            marks={
                site: tuple(replace(one, adjusted_p=family[finding, "mark", site, one.corner]) for one in ones)
                for site, ones in self.marks.items()
            },
        )


Tests = Mapping[str, Sequence[CornerFinding | MarkFinding]]


def corner_findings(
    descriptions: Mapping[str, Description | Refused], place: int, *, confidence: float
) -> CornerFindings:
    """State one finding's corner tests by site; a site without any is left out."""
    blanked: dict[str, tuple[CornerFinding, ...]] = {}
    marks: dict[str, tuple[MarkFinding, ...]] = {}
    for site, one in sorted(descriptions.items()):
        if not isinstance(one, Description):
            continue
        if isinstance(test := one.corners[place], CornerTest) and test.effects:
            pairs = zip(CORNERS, test.effects, strict=False)
            blanked[site] = tuple(_blanked(corner, effect, confidence=confidence) for corner, effect in pairs)
        if isinstance(mark := one.marks[place], MarkTest) and mark.areas:
            sizes = {"positives": mark.positive_patients, "negatives": mark.negative_patients}
            found = (
                (corner, shown_area(area, **sizes, confidence=confidence))
                for corner, area in zip(CORNERS, mark.areas, strict=False)
            )
            marks[site] = tuple(
                MarkFinding(corner=corner, value=its.value, low=its.low, high=its.high, p=its.p, adjusted_p=its.p)
                for corner, its in found
            )
    return CornerFindings(blanked=blanked, marks=marks)


def _blanked(corner: str, effect: CornerEffect, *, confidence: float) -> CornerFinding:
    interval = shown(effect.value, effect.error, effect.freedom, confidence=confidence)
    return CornerFinding(
        corner=corner,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        p=interval.p,
        adjusted_p=interval.p,
        auc=effect.auc,
        auc_without=effect.auc_without,
    )
