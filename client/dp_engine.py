"""One DP-SGD plan: Poisson sampling of patients, clipping and noise together, under constants fixed before round 1.

The unit is the patient: adding or removing one, with all of their images, changes the sum of a step by at most the
plan's clip, and only if a coin of the plan's rate fell so. Each step is thus a Poisson-subsampled Gaussian mechanism
(Abadi et al. 2016; Mironov et al. 2019), which is what the plan's ε counts. No denominator depends on the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from client.noise import SecretStreams
from client.site_data import Rows
from shared.privacy import PrivacyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """The training images by patient: those of patient p are the `count_P[p]` rows from `first_P[p]` on."""

    rows_N: Rows
    first_P: npt.NDArray[np.int64]
    count_P: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows, patients_N: npt.NDArray[np.int64]) -> Self:
        """Group training rows by their patients; `patients_N` has the patient of each image of the site."""
        order = np.argsort(patients_N[rows], kind="stable")
        _, first_P, count_P = np.unique(patients_N[rows][order], return_index=True, return_counts=True)
        return cls(rows_N=rows[order], first_P=first_P.astype(np.int64), count_P=count_P.astype(np.int64))

    def __len__(self) -> int:
        return len(self.count_P)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Patients of one step: K images each, whose gradients are added up with weights that add up to 1.

    A patient with fewer images than K has some of them again, with weight 0.
    """

    rows_PK: Rows
    weights_PK: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows_PK)

    def virtual_batches(self, *, images: int) -> Iterator["Sample"]:
        """Cut into parts of about so many images, for memory's sake: no part knows where the cut is."""
        size = max(1, images // max(1, self.rows_PK.shape[1]))
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            yield Sample(rows_PK=self.rows_PK[part], weights_PK=self.weights_PK[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSteps:
    """The steps of one private round at one site: who takes part in each, and what is released of their sum."""

    plan: PrivacyPlan
    patients: Patients
    streams: SecretStreams

    def sample(self, step: int) -> Sample:
        """Toss a coin for each patient, and draw the images of each one who takes part, without regard to the rest."""
        tossed_P = self.streams.uniform(len(self.patients), step=step, purpose="inclusion")
        taking = np.flatnonzero(tossed_P < self.plan.sample_rate)
        return self._draw_images(taking, step)

    def _draw_images(self, taking: npt.NDArray[Any], step: int) -> Sample:
        """Draw `images_per_patient` different images of each, or all that there are, each equally likely."""
        wanted, count_P = self.plan.images_per_patient, self.patients.count_P[taking]
        most = int(count_P.max(initial=1))
        lots_PM = self.streams.uniform(len(taking) * most, step=step, purpose="images").reshape(len(taking), most)
        lots_PM = np.where(np.arange(most) < count_P[:, None], lots_PM, np.inf)
        drawn_PK = lots_PM.argsort(axis=1)[:, :wanted]
        drawn_PK = np.pad(drawn_PK, ((0, 0), (0, wanted - drawn_PK.shape[1])))
        real_PK = np.arange(wanted) < count_P[:, None]
        place_PK = np.where(real_PK, drawn_PK, 0) + self.patients.first_P[taking][:, None]
        weights_PK = real_PK / np.minimum(count_P, wanted)[:, None]
        return Sample(rows_PK=self.patients.rows_N[place_PK], weights_PK=weights_PK.astype(np.float32))

    def release(self, total_D: torch.Tensor, step: int) -> None:
        """Turn a step's clipped sum, in place, into what may be seen: (sum + noise) / (clip × rate × public size).

        The noise is there whoever took part, and if nobody did. Divided by the clip, a learning rate means the same
        at every clip (De et al. 2022, section 2.2): a patient moves the weights by at most rate⁻¹ × size⁻¹ × lr.
        """
        plan = self.plan
        if plan.noise_multiplier > 0:  # 0 is the twin without noise, whose ε is infinite
            self.streams.perturb(total_D, scale=plan.noise_multiplier * plan.clip, step=step, purpose="noise")
        total_D /= plan.clip * plan.sample_rate * plan.expected_patients
