"""Inclusion criteria and split applied to one site, with a patient-flow table."""

import hashlib
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from client.anatomy import Objects
from client.dicom import Frames, Header
from client.identifiers import spelled
from client.image_index import IndexedFile, Progress, index_images, printable
from client.inclusion import exclusions
from client.labels import LabelRow, Labels, Match, join, path_key, read_labels
from client.patient_flow import Exclusion, FileFate, FileReason, PatientFlow, RowFate, account
from client.people import Doubts, People, nobody, patient_keys, people_of, table_names
from client.refusals import Reason
from client.site import Data, Join, SiteConfig
from client.traits import group_codes, table_words
from shared.errors import DataError
from shared.split import Split, assign

H = TypeVar("H", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortImage:
    """One frame to learn from or to test on; the exam is a number within this cohort, and stands for nothing.

    `frame` is the place among the frames that the study reads of the file.
    """

    path: Path = field(repr=False)
    frame: int
    patient: int = field(repr=False)
    exam: int
    split: Split
    labels: Labels
    traits: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The images of one site that take part in a study, and the account of all that do not.

    Images are in the order of (SOP Instance UID, frame), whatever the file system's. No patient (`client/people.py`)
    and no study has images in two splits. An exam is a patient's StudyInstanceUID, where absent the AccessionNumber,
    else the object itself. `doubts` are for the hospital alone.
    """

    folder: Path = field(repr=False)
    images: tuple[CohortImage, ...] = field(repr=False)
    files: tuple[FileFate, ...] = field(repr=False)
    rows: tuple[RowFate, ...] = field(repr=False)
    targets: int
    doubts: Doubts

    @property
    def labels_NK(self) -> npt.NDArray[np.float32]:
        """One row an image: 1, 0 or NaN (not assessed) for each of the K targets."""
        return np.array([image.labels for image in self.images], dtype=np.float32).reshape(-1, self.targets)

    @property
    def patients_N(self) -> npt.NDArray[np.int64]:
        """The patient of each image."""
        return np.array([image.patient for image in self.images], dtype=np.int64)

    @property
    def exams_N(self) -> npt.NDArray[np.int64]:
        """The exam of each image."""
        return np.array([image.exam for image in self.images], dtype=np.int64)

    @property
    def split_N(self) -> npt.NDArray[np.str_]:
        """The split of each image."""
        return np.array([image.split.value for image in self.images], dtype=np.str_)

    @property
    def groups(self) -> dict[str, npt.NDArray[np.int64]]:
        """The group of each image by axis, as places in `shared.subgroups.AXES`."""
        codes = group_codes([image.traits for image in self.images])
        return {axis: np.array(own, dtype=np.int64) for axis, own in codes.items()}

    def of(self, split: Split) -> npt.NDArray[np.int64]:
        """Places of one split's images, ascending."""
        return np.flatnonzero(self.split_N == split.value)

    @property
    def flow(self) -> PatientFlow:
        """Account for every file and every label row."""
        return account(
            files=self.files,
            rows=self.rows,
            split_N=self.split_N,
            patients_N=self.patients_N,
            exams_N=self.exams_N,
            labels_NK=self.labels_NK,
        )

    def without(self, unreadable: Mapping[int, FileReason]) -> "Cohort":
        """Leave out images whose pixels turned out unreadable; a file is left out with all of its frames.

        Raises:
            NoImagesError: no image is left.
        """
        reasons = {self.images[place].path: reason for place, reason in unreadable.items()}
        files = (replace(file, reason=reasons.get(self.folder / file.relative, file.reason)) for file in self.files)
        images = tuple(image for image in self.images if image.path not in reasons)
        return _not_empty(replace(self, files=tuple(files), images=images))

    def only(self, takes_part: Callable[[int], bool]) -> "Cohort":
        """Leave out the patients who came after the study's patients were first counted.

        Raises:
            NoImagesError: no image is left.
        """
        later = [place for place, image in enumerate(self.images) if not takes_part(image.patient)]
        return self.without(dict.fromkeys(later, Exclusion.CAME_LATER)) if later else self

    def local_listing(self) -> list[tuple[str, str]]:
        """List (path, reason) of every file that is left out: for a file at the hospital, never for a message."""
        return [(printable(file.relative), file.reason.value) for file in self.files if file.reason is not None]


class NoImagesError(DataError):
    """No image of a site can be used; `cohort` still holds the account of why."""

    def __init__(self, cohort: Cohort) -> None:
        flow = cohort.flow
        found = "holds no file" if flow.files == 0 else "has no image that the study can use"
        remedy = _WHOLE.get(flow.steps[0].reason if len(flow.steps) == 1 else None, "Correct what is listed.")
        super().__init__(f"[data] dicom: the folder {found}. {remedy}\n{flow.in_words()}".strip())
        self.cohort = cohort


_WHOLE: Mapping[FileReason | None, str] = {
    Exclusion.NO_LABEL_ROW: "No row of the label table fits: see whether [data] join and key name what both have.",
    Exclusion.NOT_LABELLED: "No row has a label: see whether [data.findings] names the right columns.",
    Exclusion.SCREENSHOT: (
        "All of them say that they are secondary captures. If films were scanned or converted so, they are the exams: "
        "the study has to say [images] objects = 'all'. Ask the coordinator."
    ),
    Reason.NOT_DICOM: "See whether [data] dicom names the right folder.",
}
"""What to do where all files of a site are left out for one reason: it is then the settings, and not the files."""


def build_cohort(
    *,
    site: SiteConfig,
    targets: Sequence[str],
    exclusive: bool,
    modality: str,
    objects: Objects,
    frames: Frames,
    private: bool,
    study: str,
    seed: int,
    train: float,
    validation: float,
    progress: Progress,
    withdrawn: Container[str] = frozenset(),
    counted: Callable[[int], bool] | None = None,
) -> Cohort:
    """Find a site's images and labels, and apply the study's inclusion criteria and split.

    Reads headers only: what the pixels hold against an image comes with `Cohort.without`. A file is counted under
    the first of these that holds: its header's reason, wrong modality, no patient, a withdrawn one, a second copy, no
    anatomy, its
    labels' reason.

    Args:
        site: where the hospital's images and labels are.
        targets: the study's findings or classes.
        exclusive: True for classes.
        modality: as in the header, or "any".
        objects: "anatomy" leaves out what is no image of the exam's own; "all" takes all.
        frames: which frames of a file the study reads; "all" makes an image of each.
        private: True under [privacy]: no patient's words are read by those of others.
        study: name of the study, part of the split's key.
        seed: seed of the study, part of the split's key.
        train: fraction of patients.
        validation: fraction of patients.
        progress: called with files done and files found.
        withdrawn: the PatientIDs that take part in nothing any more.
        counted: tells by a patient's number who was counted when the study began, so that nobody is renamed since.

    Raises:
        SiteError: site.toml names a column that the table has not, or none of the study's targets; or rows are joined
            on PatientIDs that several issuers gave, and site.toml does not say whose the table's are.
        DataError: the folder or the table cannot be read.
        NoImagesError: nothing is left; it holds the account.
    """
    data = site.data
    rows = read_labels(
        data.labels,
        key=data.key_column,
        columns=data.findings,
        targets=targets,
        exclusive=exclusive,
        patient=data.patient_column,
        sheet=data.sheet,
        private=private,
    )
    said = table_words(data.labels, data.subgroups, private=private, sheet=data.sheet) if data.subgroups else []
    index = index_images(data.dicom, workers=site.compute.workers, progress=progress)
    matches, row_fates, people = whose(data, rows, index, counted=counted)
    many_keys = data.join == "AccessionNumber"
    reasons = exclusions(
        index,
        matches,
        people,
        modality=modality,
        objects=objects,
        frames=frames,
        one_exam_many_keys=many_keys,
        withdrawn=withdrawn,
    )
    included = sorted(
        (place for place, reason in enumerate(reasons) if reason is None),
        key=lambda place: (index[place].identity.sop_instance_uid, index[place].relative),
    )
    patients: dict[str | None, int] = {person: patient_number(person) for person in people.person_N if person}
    exams = numbers((people.name_N[place], index[place].exam) for place in included)
    split_of: dict[str | None, Split] = {
        patient: assign(study=study, seed=seed, site=site.site.name, patient=key, train=train, validation=validation)
        for patient, key in people.split_keys.items()
    }
    images = tuple(
        CohortImage(
            path=data.dicom / index[place].relative,
            frame=frame,
            patient=patients[people.person_N[place]],
            exam=exams[people.name_N[place], index[place].exam],
            split=split_of[people.person_N[place]],
            labels=matches[place].labels,
            traits=_traits(index[place]) | (said[row] if said and (row := matches[place].row) is not None else {}),
        )
        for place in included
        for frame in range(index[place].frames if frames == "all" else 1)
    )
    fates = tuple(
        FileFate(relative=file.relative, patient=patients.get(person), row=match.row, reason=reason)
        for file, person, match, reason in zip(index, people.person_N, matches, reasons, strict=True)
    )
    return _not_empty(
        Cohort(
            folder=data.dicom,
            images=images,
            files=fates,
            rows=tuple(row_fates),
            targets=len(targets),
            doubts=people.doubts,
        )
    )


def whose(
    data: Data,
    rows: Sequence[LabelRow],
    index: Sequence[IndexedFile],
    *,
    counted: Callable[[int], bool] | None = None,
) -> tuple[list[Match], list[RowFate], People]:
    """Join rows and images as the hospital says, and find out whose each image is.

    Raises:
        SiteError: rows are joined on PatientIDs that several issuers gave, and site.toml does not say whose they are.
    """
    keys: Sequence[str | None]
    if data.join == "PatientID":
        rows = [replace(row, key=spelled(row.key)) for row in rows]
        keys = patient_keys(index, known={row.key for row in rows}, issuer=data.issuer)
    else:
        keys = [_JOINED_ON[data.join](file) for file in index]
    matches, fates = join(rows, keys, by_path=data.join == "path", ids=[table_names(file) for file in index])
    by_table = data.patient_column is not None
    known = nobody if counted is None else lambda name: counted(patient_number(name))
    return matches, fates, people_of(index, matches, by_table=by_table, counted=known)


def _traits(file: IndexedFile) -> dict[str, str]:
    return dict(file.found.traits) if isinstance(file.found, Header) else {}


_JOINED_ON: Mapping[Join, Callable[[IndexedFile], str]] = {
    "SOPInstanceUID": lambda file: file.identity.sop_instance_uid,
    "AccessionNumber": lambda file: file.identity.accession_number,
    "StudyInstanceUID": lambda file: file.identity.study_instance_uid,
    "path": lambda file: path_key(file.relative),
}


def patient_number(identity: str) -> int:
    """Give a patient's number: 63 bits of a digest of who it is, so that no other patient has a part in it.

    It never leaves this process: a digest of a PatientID can be guessed by trying PatientIDs.
    """
    return int.from_bytes(hashlib.sha256(f"patient\x1f{identity}".encode()).digest()[:8], "big") >> 1


def numbers(names: Iterable[H]) -> dict[H, int]:
    """Give each name a number from 0 by its first appearance; "" is nobody's and gets none."""
    return {name: number for number, name in enumerate(dict.fromkeys(name for name in names if name))}


def _not_empty(cohort: Cohort) -> Cohort:
    if not cohort.images:
        raise NoImagesError(cohort)
    return cohort
