"""The one-page summary's facts: how each hospital stands to the target, and at which one the model is least safe."""

from dataclasses import dataclass
from enum import StrEnum

from server.finding_result import FindingResult
from server.results import StudyResult


class Standing(StrEnum):
    """How a site's test sensitivity stands to the study's target."""

    REACHED = "reached"
    BELOW = "below"
    SHORT = "short"
    TOO_FEW = "too_few"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """One finding at one site: BELOW the target by what may be chance, SHORT of it beyond chance.

    `p` is that of a sensitivity that is the target, adjusted over the study's one family (server/family.py); None where
    the site is not ranked. `sure` is whether it lies beyond chance, on whichever side.
    """

    finding: str
    site: str
    target: float | None
    test: FindingResult
    standing: Standing
    p: float | None
    sure: bool

    @property
    def lacking(self) -> float | None:
        """How much sensitivity lacks to the target, less than 0 where there is more; None where nobody can say."""
        if self.target is None or self.test.sensitivity is None or not self.test.ranked:
            return None
        return self.target - self.test.sensitivity.value


def stands(result: StudyResult, finding: str) -> list[Stand]:
    """Give every site's standing, those that lack most first, then those of which too little is known.

    Of two that lack as much the one whose interval reaches farther down comes first.
    """
    found = [_stand(result, finding, site) for site in result.site_names]
    return sorted(found, key=lambda one: (one.lacking is None, _most(one), one.test.units is None, one.site))


def least_safe(result: StudyResult) -> Stand | None:
    """Name the ranked site and finding that lack most; None where no site has enough cases to say."""
    every = [one for finding in result.study.findings for one in stands(result, finding)]
    known = [one for one in every if one.lacking is not None]
    return min(known, key=_most, default=None)


def tied(result: StudyResult, worst: Stand) -> tuple[str, ...]:
    """Name the other sites that lack exactly as much on the same finding."""
    every = stands(result, worst.finding)
    return tuple(one.site for one in every if one.site != worst.site and one.lacking == worst.lacking)


def _most(one: Stand) -> tuple[float, float]:
    """Order by what lacks, the most first, then by the lower end of the interval."""
    return -(one.lacking or 0.0), one.test.sensitivity.low if one.test.sensitivity else 0.0


def _stand(result: StudyResult, finding: str, site: str) -> Stand:
    test, point = result.of_site(site, "test", finding), result.operating_point.get(finding)
    target = point.target if point else None
    p = result.domain_shift.targets.get(finding, {}).get(site)
    sure = p is not None and p < result.study.significance
    standing = _standing(test, target, sure=sure)
    return Stand(finding=finding, site=site, target=target, test=test, standing=standing, p=p, sure=sure)


def _standing(test: FindingResult, target: float | None, *, sure: bool) -> Standing:
    reached = test.sensitivity
    if reached is None or target is None:
        return Standing.UNKNOWN
    if not test.ranked:
        return Standing.TOO_FEW
    if reached.value >= target:
        return Standing.REACHED
    return Standing.SHORT if sure else Standing.BELOW
