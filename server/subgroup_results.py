"""Subgroups inside each site and over all: counts with intervals, and differences between groups."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from server.family import Adjusted, Hypothesis
from server.score_evidence import proportion
from server.validation import by_measure
from shared.domain_shift import SiteDifference, site_differences
from shared.estimates import Estimate
from shared.evidence import Evidence
from shared.metrics import Confusion, Proportion
from shared.protocol import Evaluation
from shared.subgroups import AXES, GroupEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgroupResult:
    """One group at one site, or over all sites (`site` None), at the shared threshold on test patients.

    Differences are to all other shown groups of the axis in the same place; None where there is no other, or too few
    positives to compare. Their p is adjusted over the study's one family (server/family.py). AUC is a site's own.
    """

    site: str | None
    axis: str
    group: str
    sensitivity: Proportion | None
    specificity: Proportion | None
    auc: Estimate | None
    sensitivity_difference: SiteDifference | None
    specificity_difference: SiteDifference | None

    def differences(self) -> Iterator[tuple[str, SiteDifference]]:
        """Give the differences that were tested, by measure."""
        for measure in ("sensitivity", "specificity"):
            if (one := getattr(self, f"{measure}_difference")) is not None:
                yield measure, one

    def hypothesis(self, measure: str) -> Hypothesis:
        """Name what was tested of it, but for the finding."""
        return ("group", measure, self.axis, self.group, *([] if self.site is None else [self.site]))

    def adjusted(self, finding: str, family: Adjusted) -> "SubgroupResult":
        """Put the family's p in."""
        own = {
            measure: replace(one, adjusted_p=family[finding, *self.hypothesis(measure)])
            for measure, one in self.differences()
        }
        return replace(
            self, sensitivity_difference=own.get("sensitivity"), specificity_difference=own.get("specificity")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroups:
    """One finding's subgroups; `comparisons` is how many differences were tested."""

    rows: tuple[SubgroupResult, ...]
    comparisons: int

    def raw(self, finding: str) -> dict[Hypothesis, float]:
        """List the hypotheses, each with its p."""
        return {(finding, *row.hypothesis(measure)): one.p for row in self.rows for measure, one in row.differences()}

    def adjusted(self, finding: str, family: Adjusted) -> "Subgroups":
        """Put the family's p in."""
        return replace(self, rows=tuple(row.adjusted(finding, family) for row in self.rows))


Places = dict[str | None, list[GroupEvidence]]


def subgroups(test: Mapping[str, Evidence], *, wish: Evaluation, seed: int) -> Subgroups:
    """State what the sites released by group, each site by itself and all together."""
    places: Places = {site: list(item.subgroups) for site, item in sorted(test.items()) if item.subgroups}
    places |= {None: _merged([one for groups in places.values() for one in groups])}
    tested = _differences(places, wish=wish, seed=seed)
    rows = tuple(
        SubgroupResult(
            site=site,
            axis=one.axis,
            group=one.group,
            sensitivity=proportion(one.confusion.sensitivity, one.positive_patients, wish),
            specificity=proportion(one.confusion.specificity, one.negative_patients, wish),
            auc=one.auc,
            sensitivity_difference=tested.get((site, one.axis, one.group, "sensitivity")),
            specificity_difference=tested.get((site, one.axis, one.group, "specificity")),
        )
        for site, groups in places.items()
        for one in groups
    )
    return Subgroups(rows=rows, comparisons=len(tested))


def _merged(groups: list[GroupEvidence]) -> list[GroupEvidence]:
    """Add up each group over the sites; devices are another one at each site, and are not added."""
    found: dict[tuple[str, str], GroupEvidence] = {}
    for one in groups:
        key = (one.axis, one.group)
        if one.axis != "device":
            found[key] = _sum(found[key], one) if key in found else replace(one, auc=None)
    return sorted(found.values(), key=lambda one: (list(AXES).index(one.axis), AXES[one.axis].index(one.group)))


def _sum(one: GroupEvidence, other: GroupEvidence) -> GroupEvidence:
    at: Confusion = one.confusion + other.confusion
    return replace(
        one,
        positive_patients=one.positive_patients + other.positive_patients,
        negative_patients=one.negative_patients + other.negative_patients,
        confusion=at,
    )


def _differences(
    places: Places, *, wish: Evaluation, seed: int
) -> dict[tuple[str | None, str, str, str], SiteDifference]:
    """Compare each group with all others of its axis in the same place, where both sides have positives enough."""
    found = {}
    for site, groups in places.items():
        for axis in dict.fromkeys(one.axis for one in groups):
            own = {one.group: one.confusion for one in groups if one.axis == axis}
            enough = {group: at for group, at in own.items() if at.sensitivity.n >= wish.min_positives_to_rank}
            for measure, counts in by_measure(enough).items():
                for one in site_differences(counts, confidence=wish.confidence, seed=seed):
                    found[site, axis, one.site, measure] = one
    return found
