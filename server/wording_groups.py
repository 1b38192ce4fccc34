"""Groups of patients that differ from the others of their place, in words: for summary, warnings and card."""

from collections.abc import Iterator
from dataclasses import dataclass

from server import wording
from server.results import StudyResult
from server.subgroup_results import SubgroupResult
from shared.domain_shift import SiteDifference


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupApart:
    """One measure of one group that differs beyond chance: its p is that of the study's one family, as everywhere."""

    finding: str
    measure: str
    row: SubgroupResult
    difference: SiteDifference

    @property
    def named(self) -> str:
        """Name the group and its place."""
        place = f"at {self.row.site}" if self.row.site else "over all sites"
        return f"{self.row.axis}: {self.row.group} {place}"


def groups_apart(result: StudyResult) -> list[GroupApart]:
    """Give the groups shown to differ from the others of their kind in their place, the smallest p first.

    A group that is lower makes the others look higher: these are left out where one of their kind is lower.
    """
    every = list(_apart(result))
    lower = {_kind(one) for one in every if one.difference.difference < 0}
    found = [one for one in every if one.difference.difference < 0 or _kind(one) not in lower]
    return sorted(found, key=lambda one: (one.difference.adjusted_p, one.difference.difference, one.named))


def group_in_short(one: GroupApart, *, several: bool) -> str:
    """Name a group for the summary; the finding stands there too where a study has `several`."""
    finding = f"{one.finding}, " if several else ""
    return (
        f"{one.named} ({finding}{one.measure} {wording.points(one.difference.difference)} to the other groups, "
        f"{wording.p_value(one.difference.adjusted_p)}, adjusted)"
    )


def _apart(result: StudyResult) -> Iterator[GroupApart]:
    for finding in result.study.findings:
        told = result.subgroups.get(finding)
        for row in told.rows if told else ():
            for measure, one in row.differences():
                if one.adjusted_p < result.study.significance:
                    yield GroupApart(finding=finding, measure=measure, row=row, difference=one)


def _kind(one: GroupApart) -> tuple[str, str, str | None, str]:
    return one.finding, one.measure, one.row.site, one.row.axis
