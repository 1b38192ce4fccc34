"""What a coordinator may ask of a site, as typed values: each task has an id that stays however often it is sent."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from shared.landmarks import Standard
from shared.parameters import NamedArrays
from shared.split import Split

WIRE_VERSION = "3"
"""Changes whenever a message of one version could be misread by another. Since 3 both sides sign what they send."""


class Kind(StrEnum):
    """What a task asks for; also Flower's message type."""

    READY = "query"
    TRAIN = "train"
    EVALUATE = "evaluate"
    LANDMARKS = "query.landmarks"
    DESCRIBE = "query.describe"
    DELIVER = "query.deliver"


Thresholds = tuple[float | None, ...]
"""A probability for each target in the study's order; None for one of which no threshold could be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What every task carries: the approved protocol it belongs to, and its place in the run.

    `standard` is the scale that the site is to bring its images to; empty but in a study that harmonises, once known.
    """

    protocol_digest: str
    run_id: str
    round: int
    site: str
    kind: Kind
    detail: str = ""
    standard: Standard = ()

    @property
    def task_id(self) -> str:
        """H(protocol digest, run, round, kind, site): the same however often the task is sent."""
        parts = (self.protocol_digest, self.run_id, str(self.round), self.kind + self.detail, self.site)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyTask:
    """Ask a site for its patient flow and whether it can take part."""

    header: Header


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarksTask:
    """Ask a site where the intensity landmarks of its images lie; of whose images is not asked."""

    header: Header


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """Ask a site to train one round from the given arrays."""

    header: Header
    arrays: NamedArrays


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateTask:
    """Ask a site to score one split; with thresholds (one a target, or None), also to count at them."""

    header: Header
    arrays: NamedArrays
    split: Split
    thresholds: Thresholds = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeTask:
    """Ask a site how its images look to the study's final (or best) model; of whom, and in what form, is not asked."""

    header: Header
    arrays: NamedArrays


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverTask:
    """Hand a site the study's final (or best) model, its thresholds, and the report: the last task of a study.

    `arrays` are those that train in any round; the header's round is the one that they come from. `documents` are
    files by name, of those in DOCUMENTS. `own` are the site's own settings (shared/own_settings.py), empty or three
    numbers a target.
    """

    header: Header
    arrays: NamedArrays
    thresholds: Thresholds
    documents: Mapping[str, bytes]
    own: tuple[float, ...] = ()


DOCUMENTS = ("results.json",)
"""What may come with a delivered model: numbers and names, no page. A site makes no file of any other name."""

Task = ReadyTask | LandmarksTask | TrainTask | EvaluateTask | DescribeTask | DeliverTask


def to_floats(thresholds: Thresholds) -> list[float]:
    """Write thresholds as the list of numbers that travels: it can hold no None, and NaN stands there for it."""
    return [math.nan if one is None else one for one in thresholds]


def from_floats(numbers: Iterable[object]) -> Thresholds:
    """Read what `to_floats` wrote.

    Raises:
        TypeError, ValueError: a threshold is no number, or no score.
    """
    found = tuple(float(number) for number in numbers)  # type: ignore[arg-type]  # a wrong type raises, as is said
    if not all(math.isnan(one) or 0 <= one <= 1 for one in found):
        raise ValueError("a threshold is a score")
    return tuple(None if math.isnan(one) else one for one in found)
