"""Which replies enter the aggregate: form, dtype, finite, norm bound; each refusal has a reason."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
from flwr.app import Message

from shared.description import Description
from shared.evidence import Evidence
from shared.feature_summary import FeatureSummary
from shared.messages import (
    Answer,
    DeliverReply,
    DescribeReply,
    EvaluateReply,
    LandmarksReply,
    MalformedError,
    OtherVersionError,
    ReadyReply,
    RefusalReply,
    TrainReply,
    decode_answer,
)
from shared.packing import same_form
from shared.parameters import NamedArrays, Wire, l2_norm
from shared.refusal_codes import FROM_THE_COURIER
from shared.released_flow import ReleasedFlow
from shared.signing import Purpose, signed_digest
from shared.split import Split

LARGEST_STEP = 1000.0
"""An update of more than so many times the norm of the model that it changes is a fault or an attack, and does not
enter even where the study sets no norm bound."""

Accepted = TypeVar("Accepted", ReadyReply, LandmarksReply, TrainReply, EvaluateReply, DescribeReply, DeliverReply)


class Reason(StrEnum):
    """Why the coordinator could not use a site's reply; a site's own refusal carries its own code."""

    NO_REPLY = "no_reply"
    MALFORMED = "malformed_reply"
    NOT_SIGNED = "not_signed_by_the_site"
    OTHER_VERSION = "other_version"
    OTHER_TASK = "answers_another_task"
    OTHER_REQUEST = "answers_another_request"
    WRONG_FORM = "arrays_of_wrong_form"
    NOT_FINITE = "update_not_finite"
    TOO_LARGE = "update_too_large"
    WRONG_COUNT = "counts_of_wrong_form"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A reply that does not enter, with its reason: the coordinator's or the site's own code."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An update that enters, with its L2 norm; how far it may move the model is decided when all are there."""

    reply: TrainReply
    norm: float


def open_reply(
    message: Message, *, task_id: str, kind: type[Accepted], key: str | None = None, request: str = ""
) -> Accepted | Refused:
    """Decode a site's reply and check that it answers this task with this kind of reply.

    `key` is the site's enrolled signing key (hexadecimal), and `request` the digest of all that was asked: what was
    changed on the way to the site has another. Without a key nothing but form and task are checked.
    """
    if not message.has_content():
        return Refused(reason=Reason.NO_REPLY)
    try:
        answer: Answer = decode_answer(message.content)
    except OtherVersionError:
        return Refused(reason=Reason.OTHER_VERSION)
    except MalformedError:
        return Refused(reason=Reason.MALFORMED)
    # A site that cannot read its task does not know its id.
    refusal = answer.reply if isinstance(answer.reply, RefusalReply) and answer.task_id in (task_id, "") else None
    unsigned = key is not None and signed_digest(message.content, key, Purpose.REPLY) is None
    if unsigned and not (refusal and refusal.code in FROM_THE_COURIER):
        return Refused(reason=Reason.NOT_SIGNED)
    if refusal:
        return Refused(reason=refusal.code)
    if answer.task_id != task_id:
        return Refused(reason=Reason.OTHER_TASK)
    if key is not None and answer.request != request:
        return Refused(reason=Reason.OTHER_REQUEST)
    return answer.reply if isinstance(answer.reply, kind) else Refused(reason=Reason.MALFORMED)


def admit_flow(reply: ReadyReply, *, targets: int) -> ReleasedFlow | Refused:
    """Check that a patient flow has every split, every target in each, and no more patients than exams or files."""
    splits, found = reply.flow.splits, reply.flow.found
    fits = splits.keys() == set(Split) and all(
        len(split.classes) == targets and _at_most(split.patients, split.exams) and _at_most(split.exams, found)
        for split in splits.values()
    )
    return reply.flow if fits else Refused(reason=Reason.WRONG_COUNT)


def _at_most(count: int | None, other: int | None) -> bool:
    """Compare two counts, of which either may be suppressed."""
    return count is None or other is None or count <= other


def admit_update(reply: TrainReply, *, model: NamedArrays, wire: Wire) -> Admitted | Refused:
    """Check an update against the model that was sent."""
    if same_form(reply.update, model, wire=wire):
        return Refused(reason=Reason.WRONG_FORM)
    norm = l2_norm(reply.update)
    if not math.isfinite(norm):
        return Refused(reason=Reason.NOT_FINITE)
    if norm > LARGEST_STEP and norm > LARGEST_STEP * l2_norm(model):
        return Refused(reason=Reason.TOO_LARGE)
    return Admitted(reply=reply, norm=norm)


def admit_evidence(reply: EvaluateReply, *, targets: int, bins: int, counted: bool) -> EvaluateReply | Refused:
    """Check that evidence covers every target, in the study's bins, and counts at the thresholds where it should."""
    full = [item for item in reply.evidence if isinstance(item, Evidence)]
    fits = len(reply.evidence) == targets and all(
        len(item.histogram.positives) == len(item.histogram.negatives) == bins
        and (item.confusion is not None) == counted
        for item in full
    )
    return reply if fits else Refused(reason=Reason.WRONG_COUNT)


def admit_description(reply: DescribeReply, *, targets: int) -> Description | Refused:
    """Check that a description has both corner tests for every target, and that its covariance is one."""
    features = reply.description.features
    fits = len(reply.description.corners) == len(reply.description.marks) == targets
    if isinstance(features, FeatureSummary):
        _, covariance = features.moments(features.dimensions)
        least, *_, most = np.linalg.eigvalsh(covariance)
        fits = fits and least >= -1e-6 * max(most, 1e-12)
    return reply.description if fits else Refused(reason=Reason.WRONG_COUNT)
