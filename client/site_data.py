"""One site's prepared images with their labels, patients, exams and sides, as arrays."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from shared.landmarks import Standard, harmonise
from shared.preprocessing import normalise_each
from shared.scores import Aggregate, ScoredUnits, Unit, unit_scores
from shared.split import Split

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What is known of each image but its pixels; row i of every array is image i.

    Patients and exams are opaque numbers within this site; a patient's follows from who it is alone
    (`client/cohort.py`), so that draws can be keyed by it. `labels_NK` is NaN where not assessed.
    `groups` has by axis the place of each image's group in `shared.subgroups.AXES`. `content` stands for the images
    themselves (`Pixels.digest`).
    """

    labels_NK: npt.NDArray[np.float32]
    patients_N: npt.NDArray[np.int64]
    exams_N: npt.NDArray[np.int64]
    split_N: npt.NDArray[np.str_]
    content: str = ""
    groups: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.split_N)

    def units(
        self, scores_N: npt.NDArray[np.float64], rows: Rows, place: int, *, unit: Unit, aggregate: Aggregate
    ) -> ScoredUnits:
        """Gather the scores of the images `rows` into the study's units, as far as target `place` was assessed."""
        return unit_scores(
            scores_N,
            self.labels_NK[rows, place],
            exams_N=self.exams_N[rows],
            patients_N=self.patients_N[rows],
            unit=unit,
            aggregate=aggregate,
        )

    def digest(self) -> str:
        """SHA-256 of whose data there are and of what they say: another one where a patient, image or label differs."""
        total = hashlib.sha256(f"{self.content}\n{' '.join(self.split_N.tolist())}\n".encode())
        for array in (self.patients_N, self.exams_N, self.labels_NK):
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()

    def names(self) -> list[str]:
        """Name each image by its patient and its place among the patient's own: nobody else's are in it."""
        seen: dict[int, int] = {}
        named = []
        for patient in self.patients_N.tolist():
            seen[patient] = seen.get(patient, -1) + 1
            named.append(f"{patient} {seen[patient]}")
        return named

    def rows(self, split: Split) -> Rows:
        """Row numbers of one side's images, ascending."""
        return np.flatnonzero(self.split_N == split.value)

    def training_rows(self) -> Rows:
        """Row numbers of the training side's images that have at least one target assessed."""
        rows = self.rows(Split.TRAIN)
        return rows[~np.isnan(self.labels_NK[rows]).all(axis=1)]

    def assessed_patients(self, split: Split) -> tuple[int, ...]:
        """How many patients of one side were assessed for each target."""
        rows = self.rows(split)
        return tuple(len(np.unique(self.patients_N[rows[~np.isnan(labels_N)]])) for labels_N in self.labels_NK[rows].T)

    def learnable(self, *, least: int) -> Self:
        """Give the records without what too few training patients were assessed for, as if nobody had been.

        The head's row of such a finding would be made of those few alone: of one, it is that patient's features.
        """
        few_K = np.array([patients < least for patients in self.assessed_patients(Split.TRAIN)], dtype=bool)
        return replace(self, labels_NK=np.where(few_K, np.float32(np.nan), self.labels_NK)) if few_K.any() else self

    def patients(self, split: Split) -> int:
        """How many patients one side has."""
        return len(np.unique(self.patients_N[self.rows(split)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """The prepared images of the same rows: a memory-mapped (rows in the cache, channels, size, size) array.

    `digest` identifies the images and their order to a cache of their features. With a `standard`, each image's
    landmarks are moved to it as it is read (shared/landmarks.py).
    """

    cached: npt.NDArray[Any]
    cached_row_N: Rows
    digest: str
    standard: Standard = ()

    def read(self, rows: Rows) -> torch.Tensor:
        """Read images: (len(rows), channels, size, size), uint8 or uint16, in the order of `rows`."""
        images = np.ascontiguousarray(self.cached[self.cached_row_N[rows]])
        return torch.from_numpy(harmonise(images, self.standard) if self.standard else images)

    def normalised(self, rows: Rows) -> torch.Tensor:
        """Give images as the backbone takes them, (len(rows), 3, size, size) in fp32, without a copy in between."""
        size = self.cached.shape[2:]
        if self.standard:
            return normalise_each(self.read(rows).unbind(), size=size)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to it
            every = torch.from_numpy(self.cached)
        return normalise_each([every[row] for row in self.cached_row_N[rows].tolist()], size=size)

    def harmonised(self, standard: Standard) -> Self:
        """Give the same images with their landmarks at the standard ones; without one, as they are."""
        return replace(self, standard=standard, digest=f"{self.digest} {standard}") if standard else self

    def __len__(self) -> int:
        return len(self.cached_row_N)
