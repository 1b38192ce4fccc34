"""FindingResult: how well one finding is told on one split, or why that is not known."""

from dataclasses import dataclass
from enum import StrEnum

from shared.estimates import ScoreQuality
from shared.metrics import Proportion, ScoreHistogram, Undefined, undefined


class Why(StrEnum):
    """Why a number is not there."""

    SUPPRESSED = "suppressed"
    NO_POSITIVES = Undefined.NO_POSITIVES
    NO_NEGATIVES = Undefined.NO_NEGATIVES
    NO_EXAMS = Undefined.NO_EXAMS
    NO_OPERATING_POINT = "no_operating_point"
    NOT_ASSESSED = "not_assessed"
    NO_REPLY = "no_reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaUnderCurve:
    """AUC with interval and the method of both; `ties` bounds a value from score bins (all ties lost, all won)."""

    value: float
    low: float | None
    high: float | None
    method: str
    ties: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingResult:
    """How well one finding is told on one split, at the shared operating point.

    `units`, `positives` and `negatives` count the study's unit. `histogram` gives the ROC curve. `ppv` and `npv` hold
    at this site's prevalence and no other. None: see `why`. `called_as` is there of classes: the units of this one by
    the class that scored highest, in the study's order; a count that a site withheld is None.
    """

    units: int | None
    patients: int | None
    positives: int | None
    negatives: int | None
    sensitivity: Proportion | None
    specificity: Proportion | None
    auc: AreaUnderCurve | None
    brier: float | None
    histogram: ScoreHistogram | None
    ranked: bool
    why: Why | None
    ppv: Proportion | None = None
    npv: Proportion | None = None
    quality: ScoreQuality | None = None
    called_as: tuple[int | None, ...] = ()


def finding_result(
    *,
    units: int,
    patients: int,
    sensitivity: Proportion | None,
    specificity: Proportion | None,
    auc: AreaUnderCurve | None,
    brier: float | None,
    histogram: ScoreHistogram,
    min_positives_to_rank: int,
    ppv: Proportion | None = None,
    npv: Proportion | None = None,
    quality: ScoreQuality | None = None,
    called_as: tuple[int | None, ...] = (),
) -> FindingResult:
    """State what was measured; a proportion of nothing is None, and so are both where no threshold was chosen.

    A site ranks with at least `min_positives_to_rank` positives, and a negative.
    """
    positives, negatives = histogram.n_pos, histogram.n_neg
    return FindingResult(
        units=units,
        patients=patients,
        positives=positives,
        negatives=negatives,
        sensitivity=sensitivity,
        specificity=specificity,
        auc=auc,
        brier=brier,
        histogram=histogram,
        ranked=positives >= min_positives_to_rank and negatives > 0,
        why=_why(positives, negatives, has_threshold=sensitivity is not None or specificity is not None),
        ppv=ppv,
        npv=npv,
        quality=quality,
        called_as=called_as,
    )


def absent(why: Why) -> FindingResult:
    """State that nothing is known of a finding, and why."""
    return FindingResult(
        units=None,
        patients=None,
        positives=None,
        negatives=None,
        sensitivity=None,
        specificity=None,
        auc=None,
        brier=None,
        histogram=None,
        ranked=False,
        why=why,
    )


def _why(positives: int, negatives: int, *, has_threshold: bool) -> Why | None:
    if missing := undefined(positives=positives, negatives=negatives):
        return Why(missing)
    return None if has_threshold else Why.NO_OPERATING_POINT
