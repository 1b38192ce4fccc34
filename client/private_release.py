"""What may leave of each reply under [privacy]: every field's class, and replies rebuilt from what is left."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from client.count_release import CountRelease
from shared.description import Description
from shared.errors import EgressError
from shared.evidence import Evidence, Withheld
from shared.messages import EvaluateTask, TrainReply
from shared.parameters import NamedArrays, l2_norm
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.split import Split


class Release(StrEnum):
    """Why a field may leave a site under [privacy]."""

    NOISED = "clipped, noised and charged to the ledger"
    FREE = "computed from what was released already: post-processing"
    PUBLIC = "touches no training patient: the task's, the study's, the program's own, or the declared size"
    CONTROLLED = "of validation and test patients: disclosure control, and noise where the study asks for it"
    NEVER = "touches a training patient and is not noised: it does not leave"


FIELDS: Final[Mapping[str, Release]] = {
    "Answer.task_id": Release.PUBLIC,
    "Answer.request": Release.PUBLIC,
    "Answer.version": Release.PUBLIC,
    "RefusalReply.code": Release.PUBLIC,
    "ReadyReply.package": Release.PUBLIC,
    "ReadyReply.approval": Release.PUBLIC,
    "DeliverReply.arrays_digest": Release.FREE,
    "TrainReply.update": Release.NOISED,
    "TrainReply.loss_by_epoch": Release.NEVER,
    "TrainReply.update_norm": Release.FREE,
    "TrainReply.images_per_second": Release.PUBLIC,
    "TrainReply.seconds": Release.PUBLIC,
    "ReleasedFlow.found": Release.NEVER,
    "ReleasedFlow.excluded": Release.NEVER,
    "SplitCounts.patients": Release.PUBLIC,
    "SplitCounts.exams": Release.NEVER,
    "ClassCounts.positive_patients": Release.NEVER,
    "ClassCounts.negative_patients": Release.NEVER,
    "ClassCounts.positive_exams": Release.NEVER,
    "ClassCounts.negative_exams": Release.NEVER,
    "Evidence.units": Release.CONTROLLED,
    "Evidence.patients": Release.CONTROLLED,
    "Evidence.positive_patients": Release.CONTROLLED,
    "Evidence.negative_patients": Release.CONTROLLED,
    "Evidence.brier": Release.CONTROLLED,
    "ScoreHistogram.positives": Release.CONTROLLED,
    "ScoreHistogram.negatives": Release.CONTROLLED,
    "Confusion.tp": Release.CONTROLLED,
    "Confusion.fp": Release.CONTROLLED,
    "Confusion.tn": Release.CONTROLLED,
    "Confusion.fn": Release.CONTROLLED,
    "Confusion.positives_design_effect": Release.CONTROLLED,
    "Confusion.negatives_design_effect": Release.CONTROLLED,
    "Estimate.value": Release.CONTROLLED,
    "Estimate.low": Release.CONTROLLED,
    "Estimate.high": Release.CONTROLLED,
    "ScoreQuality.brier": Release.CONTROLLED,
    "ScoreQuality.average_precision": Release.CONTROLLED,
    "ScoreQuality.called_design_effect": Release.CONTROLLED,
    "ScoreQuality.cleared_design_effect": Release.CONTROLLED,
    "Calibration.intercept": Release.CONTROLLED,
    "Calibration.slope": Release.CONTROLLED,
    "Coefficient.value": Release.CONTROLLED,
    "Coefficient.low": Release.CONTROLLED,
    "Coefficient.high": Release.CONTROLLED,
    "CalledAs.units": Release.CONTROLLED,
    "Withheld.assessed": Release.PUBLIC,
    "GroupEvidence.axis": Release.PUBLIC,
    "GroupEvidence.group": Release.CONTROLLED,
    "GroupEvidence.positive_patients": Release.CONTROLLED,
    "GroupEvidence.negative_patients": Release.CONTROLLED,
    "Landmarks.positions": Release.NEVER,
    "FeatureSummary.split": Release.PUBLIC,
    "FeatureSummary.patients": Release.CONTROLLED,
    "FeatureSummary.mean": Release.CONTROLLED,
    "FeatureSummary.covariance": Release.CONTROLLED,
    "FeatureSummary.split_null": Release.CONTROLLED,
    "IntensitySummary.patients": Release.NEVER,
    "IntensitySummary.shares": Release.NEVER,
    "IntensitySummary.split_null": Release.NEVER,
    "CornerTest.positive_patients": Release.CONTROLLED,
    "CornerTest.negative_patients": Release.CONTROLLED,
    "CornerEffect.value": Release.CONTROLLED,
    "CornerEffect.error": Release.CONTROLLED,
    "CornerEffect.freedom": Release.CONTROLLED,
    "CornerEffect.auc": Release.CONTROLLED,
    "CornerEffect.auc_without": Release.CONTROLLED,
    "MarkTest.split": Release.PUBLIC,
    "MarkTest.positive_patients": Release.CONTROLLED,
    "MarkTest.negative_patients": Release.CONTROLLED,
    "MarkTest.areas": Release.CONTROLLED,
}
"""Each field of each reply (the README's table "What may leave"), and why it may leave; a test allows no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateRelease:
    """Takes out of a reply whatever touched a training patient without being noised.

    `public_size` is the site's rounded number of training patients, `images_a_round` what a round is expected to take
    by that size: neither is this data's own count. `counts` noises evidence, where the study asks for that.
    """

    public_size: int
    images_a_round: float
    counts: CountRelease | None = None

    def flow(self, flow: ReleasedFlow) -> ReleasedFlow:
        """Keep of a patient flow only the public size."""
        splits = {
            name: _nothing(len(split.classes), patients=self.public_size if name == Split.TRAIN else None)
            for name, split in flow.splits.items()
        }
        return ReleasedFlow(found=None, excluded={}, splits=splits)

    def description(self, description: Description) -> Description:
        """Keep what is of validation patients: their features and both corner tests, and no intensity histogram.

        Where the study noises what leaves of these patients too, there is no noise for sums of images: none leaves.

        Raises:
            EgressError: features or marks are of other patients.
        """
        if self.counts is not None:
            withheld = tuple(Withheld() for _ in description.corners)
            return Description(features=Withheld(), intensity=Withheld(), corners=withheld, marks=withheld)
        for part in (description.features, *description.marks):
            if not isinstance(part, Withheld) and part.split is not Split.VALIDATION:
                raise EgressError(
                    "under [privacy] features and marks leave of validation patients alone. Report this: it is a fault "
                    "of Polyclinic."
                )
        return replace(description, intensity=Withheld())

    def evidence(self, task: EvaluateTask, evidence: Sequence[Evidence | Withheld]) -> tuple[Evidence | Withheld, ...]:
        """Noise the counts of validation and test patients, where the study asks for it; else leave them as they are.

        Raises:
            PrivacyError, TaskError, StorageError: the release cannot be charged.
        """
        return tuple(evidence) if self.counts is None else self.counts.release(task, evidence)

    def update(self, update: NamedArrays, *, seconds: float) -> TrainReply:
        """Send a noised update with its own norm, and how long it took, in whole seconds.

        The rate follows from that and from public sizes: the true one would tell how many patients were drawn.
        """
        whole_seconds = float(max(1, math.ceil(seconds)))
        return TrainReply(
            update=update,
            loss_by_epoch=(),
            update_norm=l2_norm(update),
            images_per_second=self.images_a_round / whole_seconds,
            seconds=whole_seconds,
        )


def _nothing(targets: int, *, patients: int | None) -> SplitCounts:
    none = ClassCounts(positive_patients=None, negative_patients=None, positive_exams=None, negative_exams=None)
    return SplitCounts(patients=patients, exams=None, classes=tuple(none for _ in range(targets)))
