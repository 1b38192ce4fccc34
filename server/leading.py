"""What the report says first of one finding: the one pattern that is most worth a look, and at which site."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from server.explanation import Explanation, Pattern
from server.shortcuts import CornerFinding, CornerFindings, MarkFinding

MARK_AREA = 0.65
"""The AUC that what stands out in a corner must reach for sure, by its interval's nearer end, or 1 minus that, to be
taken for a mark: a mark that nine of ten patients with and one of ten without have gives .9. On three hospitals' real
films (docs/results.md), where a finding and the window of the whole film change corners too, it is .37 to .62."""


MATERIAL = 0.5
"""Logits that a corner must add for sure, by its interval's lower end, to lead: odds of 1.65. The rim of a finding that
reaches into a corner adds a few tenths, truly and at any site; a mark that the model reads adds more."""


class Cause(StrEnum):
    """What a pattern is consistent with; none of them is proven by it."""

    MARKER = "marker"
    MARK = "mark"
    THRESHOLD = "threshold"
    DISCRIMINATION = "discrimination"
    BOTH = "both"
    UNCLEAR = "unclear"
    PREVALENCE = "prevalence"
    NONE_SHOWN = "none_shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading:
    """The leading pattern; `site` and `p` (adjusted over the study's one family) are None where none was shown.

    `compared` is at how many sites numbers were compared, `looked_at` at how many corners were tested: where both are 0
    nothing was tested, which is not the same as nothing shown.

    MARKER is a corner that the model was shown to read, MARK one that was shown of the images alone: `area` is then its
    AUC, and `beside` the pattern that leads among the sites' numbers, which such a mark does not call in question.
    """

    cause: Cause
    site: str | None
    p: float | None
    corner: str | None = None
    area: float | None = None
    beside: "Leading | None" = None
    compared: int = 0
    looked_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    leading: Leading
    rank: tuple[float, ...]


def leading(
    told: Mapping[str, Explanation], corners: CornerFindings, *, alpha: float, short: Collection[str] = ()
) -> Leading:
    """Choose what to say first; `short` are the sites that fall short of the target beyond chance.

    A corner that speaks for the disease comes first: where the model reads a mark, no comparison of sites stands. Then
    a mark in the images that the model may come to read. Then a gap in sensitivity or specificity: at a site that falls
    short before all others, since there it harms, and where the model does worse before where it does better. Then the
    share of positives. Within each, the smallest p, and the largest difference.
    """
    first = _first((*_markers(corners.blanked), *_marks(corners.marks)), alpha=alpha)
    gap = _first(_gaps(told, short), alpha=alpha)
    beside = gap if first is not None and first.cause is Cause.MARK else None
    return replace(
        first or gap or Leading(cause=Cause.NONE_SHOWN, site=None, p=None),
        beside=beside,
        compared=sum(one.pattern is not Pattern.NOT_COMPARED for one in told.values()),
        looked_at=len({*corners.blanked, *corners.marks}),
    )


def _first(candidates: Iterable[_Candidate], *, alpha: float) -> Leading | None:
    known = [one for one in candidates if one.leading.p is not None and one.leading.p < alpha]
    return min(known, key=lambda one: one.rank).leading if known else None


def _markers(blanked: Mapping[str, tuple[CornerFinding, ...]]) -> Iterator[_Candidate]:
    for site, findings in blanked.items():
        for one in findings:
            # Extreme logits lose half a logit with any corner; a mark also helps to tell cases apart.
            if one.low > MATERIAL and one.auc_without < one.auc:
                p = one.adjusted_p
                lead = Leading(cause=Cause.MARKER, site=site, p=p, corner=one.corner)
                yield _Candidate(leading=lead, rank=(0, 0, p, -one.value))


def _marks(marks: Mapping[str, tuple[MarkFinding, ...]]) -> Iterator[_Candidate]:
    for site, findings in marks.items():
        for one in findings:
            if max(one.low, 1 - one.high) > MARK_AREA:
                p = one.adjusted_p
                lead = Leading(cause=Cause.MARK, site=site, p=p, corner=one.corner, area=one.value)
                yield _Candidate(leading=lead, rank=(1, 0, p, -abs(one.value - 0.5)))


def _gaps(told: Mapping[str, Explanation], short: Collection[str]) -> Iterator[_Candidate]:
    for site, one in told.items():
        if one.p is None or one.pattern in (Pattern.NONE_SHOWN, Pattern.NOT_COMPARED):
            continue
        p, lead = one.p, Leading(cause=Cause(one.pattern.value), site=site, p=one.p)
        if one.pattern is Pattern.PREVALENCE:
            apart = abs(one.shares.here - one.shares.elsewhere) if one.shares else 0.0
            yield _Candidate(leading=lead, rank=(3, 0, p, -apart))
        elif one.measure:
            gap = one.gaps[one.measure].value if one.measure in one.gaps else 0.0
            better = gap > 0 and one.pattern in (Pattern.DISCRIMINATION, Pattern.BOTH)
            yield _Candidate(leading=lead, rank=(2, float(site not in short), float(better), p, -abs(gap)))
