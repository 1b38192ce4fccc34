"""One DP-SGD plan: Poisson sampling of patients, clipping and noise together, under constants fixed before round 1.

The unit is the patient: adding or removing one, with all of their images, changes the sum of a step by at most the
plan's clip, and only if a coin of the plan's rate fell so. Each step is thus a Poisson-subsampled Gaussian mechanism
(Abadi et al. 2016; Mironov et al. 2019), which is what the plan's ε counts. No denominator depends on the batch.

For that to hold, whatever a patient adds must be the same whoever else is there. So all that chance decides for a
patient (coins, images, augmentation, dropout) is drawn from a stream that is keyed by that patient, and by no place in
a batch or a cohort.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch

from client.noise import SecretStreams, in_unit_interval
from client.site_data import Rows
from shared.privacy import PrivacyPlan

TOSSED_AT_ONCE: Final = 256
"""Patients whose coins of a round are held in memory together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """The training images by patient: those of patient p are the `count_P[p]` rows from `first_P[p]` on.

    `number_P` has each patient's number, by which draws are keyed: it follows from who the patient is.
    """

    number_P: npt.NDArray[np.int64]
    rows_N: Rows
    first_P: npt.NDArray[np.int64]
    count_P: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows, patients_N: npt.NDArray[np.int64]) -> Self:
        """Group training rows by their patients; `patients_N` has the patient of each image of the site."""
        order = np.argsort(patients_N[rows], kind="stable")
        number_P, first_P, count_P = np.unique(patients_N[rows][order], return_index=True, return_counts=True)
        return cls(
            number_P=number_P.astype(np.int64),
            rows_N=rows[order],
            first_P=first_P.astype(np.int64),
            count_P=count_P.astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.count_P)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Patients of one step: K images each, whose gradients are added up with weights that add up to 1.

    A patient with fewer images than K has some of them again, with weight 0. `seeds_PK` is for what else chance decides
    for each.
    """

    rows_PK: Rows
    weights_PK: npt.NDArray[np.float32]
    seeds_PK: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows_PK)

    def virtual_batches(self, *, images: int) -> Iterator["Sample"]:
        """Cut into parts of about so many images, for memory's sake: no part knows where the cut is."""
        size = max(1, images // max(1, self.rows_PK.shape[1]))
        for first in range(0, len(self), size):
            yield self.part(first, first + size)

    def part(self, first: int, end: int) -> "Sample":
        """Give the patients from `first` up to `end`."""
        places = slice(first, end)
        return Sample(rows_PK=self.rows_PK[places], weights_PK=self.weights_PK[places], seeds_PK=self.seeds_PK[places])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What one patient brings to one step, as in `Sample`; `places` are those of the images among `Patients.rows_N`."""

    step: int
    places: list[int]
    weights: list[float]
    seeds: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSteps:
    """The steps of one private round at one site: who takes part in each, and what is released of their sum.

    `streams` are the task's, of which coins and all else of a patient's are drawn; `noise` is the task's over the data
    that the sum is of.
    """

    plan: PrivacyPlan
    patients: Patients
    streams: SecretStreams
    noise: SecretStreams
    _turns: Sample = field(init=False, repr=False, compare=False)
    _ends: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Toss all coins of the round: a patient's stream is begun once, for all of its steps."""
        turns = [turn for place, steps in self._taking() for turn in self._turns_of(place, steps)]
        turns.sort(key=lambda turn: turn.step)  # within a step they stay in the order of their patients
        width = self.plan.images_per_patient
        sample = Sample(
            rows_PK=self.patients.rows_N[np.array([turn.places for turn in turns], np.int64).reshape(-1, width)],
            weights_PK=np.array([turn.weights for turn in turns], np.float32).reshape(-1, width),
            seeds_PK=np.array([turn.seeds for turn in turns], np.int64).reshape(-1, width),
        )
        object.__setattr__(self, "_turns", sample)
        steps = np.arange(self.plan.steps_per_round + 1)
        object.__setattr__(self, "_ends", np.searchsorted([turn.step for turn in turns], steps))

    def sample(self, step: int) -> Sample:
        """Give the patients whose coin fell so, with the images drawn of each, without regard to the rest."""
        return self._turns.part(int(self._ends[step]), int(self._ends[step + 1]))

    def _taking(self) -> Iterator[tuple[int, list[int]]]:
        """Toss every patient's coin for each step, and give by place the steps of who takes part in any."""
        steps = self.plan.steps_per_round
        for first in range(0, len(self.patients), TOSSED_AT_ONCE):
            some = range(first, min(first + TOSSED_AT_ONCE, len(self.patients)))
            bits = b"".join(self.streams.bits(steps, step=0, purpose=f"{self._whose(p)}, inclusion") for p in some)
            tossed_PS = in_unit_interval(np.frombuffer(bits, dtype="<u8")).reshape(len(some), steps)
            for place, taking_S in zip(some, tossed_PS < self.plan.sample_rate, strict=True):
                if (taking := np.flatnonzero(taking_S)).size:
                    yield place, taking.tolist()

    def _turns_of(self, place: int, steps: list[int]) -> Iterator["_Turn"]:
        """Draw what one patient brings to each step: different images, or all that there are, each equally likely."""
        wanted, count = self.plan.images_per_patient, int(self.patients.count_P[place])
        bits = self.streams.bits(len(steps) * (count + wanted), step=0, purpose=f"{self._whose(place)}, images")
        words = iter(struct.unpack(f"<{len(bits) // 8}Q", bits))
        begins = int(self.patients.first_P[place])
        for step in steps:
            lots = [next(words) for _ in range(count)]
            drawn = sorted(range(count), key=lots.__getitem__)[:wanted]
            more = wanted - len(drawn)
            yield _Turn(
                step=step,
                places=[begins + image for image in drawn + drawn[-1:] * more],
                weights=[1 / len(drawn)] * len(drawn) + [0.0] * more,
                seeds=[next(words) >> 1 for _ in range(wanted)],
            )

    def _whose(self, place: int) -> str:
        return f"patient {self.patients.number_P[place]}"

    def release(self, total_D: torch.Tensor, step: int) -> None:
        """Turn a step's clipped sum, in place, into what may be seen: (sum + noise) / (clip × rate × public size).

        The noise is there whoever took part, and if nobody did. Divided by the clip, a learning rate means the same
        at every clip (De et al. 2022, section 2.2): a patient moves the weights by at most rate⁻¹ × size⁻¹ × lr.
        """
        plan = self.plan
        if plan.noise_multiplier > 0:  # 0 is the twin without noise, whose ε is infinite
            self.noise.perturb(total_D, scale=plan.noise_multiplier * plan.clip, step=step, purpose="noise")
        total_D /= plan.clip * plan.sample_rate * plan.expected_patients
