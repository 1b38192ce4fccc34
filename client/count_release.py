"""Noised evidence: score counts charged to the ledger and noised before they leave; all else is computed from them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from client.count_noise import drawn_words, noisy_counts
from client.evaluation import evidence_for
from client.noise import SecretStreams
from client.task_store import request_digest
from shared.errors import EgressError, TaskError
from shared.evidence import Evidence, Withheld
from shared.messages import EvaluateTask, Refusal
from shared.metrics import ScoreHistogram

PayCounts = Callable[[EvaluateTask], float]
"""Charges one release of a split's counts, durably and once, and gives the ε that it may cost, or raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRelease:
    """Noises what a validation or test split shows; `pay` is the ledger's, `key` the site's secret.

    The study's unit is the patient (`shared/private_study.py` sees to that), so that one patient, added or removed,
    changes one score bin of each target by 1: the sensitivity of all counts together is the number of targets.
    `confidence` is the study's, for the intervals. `data` stands for whose data there are and what they say: the noise
    is bound to it, so that the same task over other patients has other noise.
    """

    pay: PayCounts
    key: bytes = field(repr=False)
    confidence: float
    data: str
    targets: int

    def charge(self, task: EvaluateTask) -> float:
        """Charge the release that a task asks for, and give its ε; a task that is charged already costs nothing more.

        Raises:
            TaskError: there is not a threshold for each target, or the task id was charged for another request.
            PrivacyError: the ledger cannot pay for the release.
            StorageError: the charge cannot be written.
        """
        if task.thresholds and len(task.thresholds) != self.targets:
            raise TaskError(
                Refusal.MALFORMED,
                "the task gives more or fewer thresholds than the study has targets. Ask the coordinator for one each.",
            )
        return self.pay(task)

    def release(self, task: EvaluateTask, evidence: Sequence[Evidence | Withheld]) -> tuple[Evidence, ...]:
        """Rebuild the evidence on each target from its noised score bins alone; the release was charged, or is now.

        The same task over the same data gives the same noise, however often it is asked.

        Raises:
            PrivacyError: the ledger cannot pay for the release.
            TaskError: the task id was charged for another request.
            StorageError: the charge cannot be written; no noise was drawn then.
            EgressError: evidence is missing.
        """
        epsilon = self.charge(task)
        streams = SecretStreams(key=self.key, task_id=task.header.task_id, arrays_digest=request_digest(task)).over(
            self.data
        )
        words = drawn_words(lambda count, asked: iter(streams.uniform(count, step=asked, purpose="counts").tolist()))
        return tuple(
            self._noised(
                item,
                task=task,
                place=place,
                epsilon=epsilon,
                targets=len(evidence),
                words=words,
            )
            for place, item in enumerate(evidence)
        )

    def _noised(
        self,
        item: Evidence | Withheld,
        *,
        task: EvaluateTask,
        place: int,
        epsilon: float,
        targets: int,
        words: Iterator[int],
    ) -> Evidence:
        if isinstance(item, Withheld):
            raise EgressError(
                "evidence was withheld before its noise, by an exact count. Report this: it is a fault of Polyclinic."
            )
        positives, negatives = (
            tuple(noisy_counts(counts, epsilon=epsilon, sensitivity=targets, words=words))
            for counts in (item.histogram.positives, item.histogram.negatives)
        )
        # Post-processing: nothing of the exact scores or counts goes into it.
        units = ScoreHistogram(positives=positives, negatives=negatives).units()
        return evidence_for(
            units, bins=len(positives), confidence=self.confidence, thresholds=task.thresholds, place=place
        )
