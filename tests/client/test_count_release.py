"""Evidence under noise: paid for first, computed from noised score bins alone, the same again for the same task."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.count_noise import nearest_counts
from client.count_release import CountRelease
from client.egress import EgressGuard
from client.evaluation import evidence_on
from client.private_release import FIELDS, PrivateRelease, Release
from shared.audit import AuditLog
from shared.called_as import CalledAs
from shared.errors import EgressError, PrivacyError
from shared.evidence import Evidence, Withheld
from shared.messages import EvaluateReply, EvaluateTask, Header, Kind, decode_answer
from shared.scores import ScoredUnits
from shared.split import Split
from shared.wire import from_frames

BINS, THRESHOLD = 16, 0.5


def task(*, run_id: str = "run", thresholds: tuple[float, ...] = (THRESHOLD,)) -> EvaluateTask:
    head = Header(protocol_digest="d", run_id=run_id, round=1, site="north", kind=Kind.EVALUATE)
    return EvaluateTask(
        header=head, arrays={"fc.bias": np.zeros(1, np.float32)}, split=Split.VALIDATION, thresholds=thresholds
    )


def evidence(patients: int = 200, seed: int = 0) -> Evidence:
    """Make exact evidence: nearly every score is another, and none is its bin's middle."""
    rng = np.random.default_rng(seed)
    positive = np.arange(patients) % 2 == 0
    scores = 1 / (1 + np.exp(-rng.normal(np.where(positive, 2, -2), 2)))
    units = ScoredUnits(scores_M=scores, positive_M=positive, patients_M=np.arange(patients))
    return evidence_on(units, bins=BINS, confidence=0.95, threshold=THRESHOLD)


def release(
    epsilon: float = 1.0,
    pay: Callable[[EvaluateTask], float] | None = None,
    *,
    data: str = "these patients",
    targets: int = 1,
) -> CountRelease:
    return CountRelease(pay=pay or (lambda _: epsilon), key=bytes(32), confidence=0.95, data=data, targets=targets)


def leave(folder: Path, noise: CountRelease, item: Evidence, *, min_cell: int = 10) -> Evidence | Withheld:
    """Let evidence through the guard, and read what comes out of its frames."""
    private = PrivateRelease(public_size=100, images_a_round=100.0, counts=noise)
    audit = AuditLog(folder / "audit.jsonl")
    guard = EgressGuard(min_cell=min_cell, audit=audit, exclusive=False, wire="fp32", private=private)
    reply = decode_answer(from_frames(guard.release(task(), EvaluateReply(evidence=(item,))))).reply
    assert isinstance(reply, EvaluateReply)
    return reply.evidence[0]


def numbers(item: Any) -> dict[str, Any]:
    """Lay evidence out as 'Kind.field': value, to its last number."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{key}": inner for key, inner in numbers(value).items()}
        else:
            found[f"{type(item).__name__}.{field.name}"] = value
    return found


def test_every_field_that_leaves_follows_from_the_noised_bins(tmp_path: Path) -> None:
    """Whoever has the released histogram can compute all the rest: no number of it saw an exact score or count."""
    calls = CalledAs(units=(40, 2, 30))  # exact too, and no part of what follows from the bins
    exact = dataclasses.replace(evidence(), subgroups=("exact counts of a group",), called_as=calls)
    left = leave(tmp_path, release(), exact)
    assert isinstance(left, Evidence)
    assert left.histogram != exact.histogram
    assert left.subgroups == ()
    assert left.called_as is None
    again = evidence_on(left.histogram.units(), bins=BINS, confidence=0.95, threshold=THRESHOLD)
    assert numbers(left) == numbers(again)
    names = {key.rpartition(".")[0].rpartition(".")[2] + "." + key.rpartition(".")[2] for key in numbers(left)}
    assert {FIELDS[name] for name in names - {"Evidence.subgroups", "Evidence.called_as"}} == {Release.CONTROLLED}
    assert {"Confusion.tp", "Estimate.low", "Coefficient.value", "ScoreHistogram.negatives"} <= names


def test_it_is_paid_for_before_any_noise_is_drawn(tmp_path: Path) -> None:
    """What the ledger cannot pay for does not leave, noised or not."""

    def broke(_: EvaluateTask) -> float:
        raise PrivacyError("nothing is left.")

    with pytest.raises(PrivacyError):
        leave(tmp_path, release(pay=broke), evidence())
    assert not (tmp_path / "audit.jsonl").exists()


def test_one_task_has_one_noise() -> None:
    """A task that comes again gets the same counts; another run's, or one with other thresholds, gets others."""
    first, again = (release().release(task(), [evidence()]) for _ in range(2))
    assert first == again
    others = [task(run_id="another"), task(thresholds=(0.6,))]
    assert all(release().release(other, [evidence()])[0].histogram != first[0].histogram for other in others)
    over_others = release(data="these and one more").release(task(), [evidence()])
    assert over_others[0].histogram != first[0].histogram


def test_targets_share_what_a_release_may_cost() -> None:
    """A patient is in one bin of each target: three targets have noise of three times the scale."""
    exact = [dataclasses.replace(evidence(20_000))] * 3
    spread = []
    for targets in (1, 3):
        errors = []
        for number in range(40):
            noised = release(targets=targets).release(
                task(run_id=str(number), thresholds=(0.5,) * targets), exact[:targets]
            )
            errors += list(np.subtract(noised[0].histogram.positives, exact[0].histogram.positives))
        spread.append(np.mean(np.abs(errors)))
    # The mean of |Z| is 2r / (1 - r^2) with r = exp(-1 / targets): .85 and 2.94.
    assert spread == pytest.approx([0.85, 2.94], rel=0.1)


def test_what_is_too_small_is_told_by_the_noised_counts(tmp_path: Path) -> None:
    """Held back or not, it says no more about a patient than the noise lets it."""
    assert isinstance(leave(tmp_path, release(epsilon=50.0), evidence(18), min_cell=10), Withheld)
    assert isinstance(leave(tmp_path, release(epsilon=50.0), evidence(20), min_cell=10), Evidence)


def test_evidence_that_was_withheld_before_its_noise_is_an_error() -> None:
    """Whether a count was small must not be told by exact counts."""
    with pytest.raises(EgressError):
        release().release(task(), [Withheld()])


@pytest.mark.parametrize(
    ("noised", "nearest"),
    [
        ([5, -1, 3, -1], [4, 0, 2, 0]),
        ([2, 2, 2, -1], [2, 2, 1, 0]),
        ([-3, 1, 1], [0, 0, 0]),
        ([7], [7]),
        ([], []),
        ([0, 4, -1], [0, 3, 0]),
    ],
)
def test_counts_from_0_on_keep_the_noised_total(noised: list[int], nearest: list[int]) -> None:
    """Cut off one by one, near-empty bins would add up to patients who are not there."""
    assert nearest_counts(noised) == nearest
    assert sum(nearest) == max(0, sum(noised))
