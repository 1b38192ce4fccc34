"""Writes a small fake hospital to disk: real DICOM files, labels, site.toml, a known shift."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from client.worker_pool import map_files
from simulations.dicom_writer import made_up_uid, write_dicom
from simulations.hospital_folder import DICOM_FOLDER, SiteFile, write_labels, write_site_file
from simulations.phantom import Anatomy, Blob, Film, draw_anatomy, draw_film, draw_finding, draw_pose
from simulations.scanner import Scanner, expose

COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
"""Computed Radiography Image Storage (DICOM PS3.4 B.5): a plain film, 8 to 16 bits, MONOCHROME1 or 2."""

CLEAR = frozenset({"normal", "healthy", "clear", "negative", "no finding"})
"""Names of classes (in lower case) whose films are drawn without any opacity."""

EXAMS_OF_A_PATIENT = (0.6, 0.2, 0.12, 0.08)
"""Chances of 1, 2, 3 and 4 exams."""

PATIENTS_WORTH_A_WORKER = 40
"""A worker starts in the time of about so many patients."""

SECOND_IMAGE, SAME_STATE = 0.25, 0.6
"""Chance that an exam has a second image, and that it shows what the patient usually has."""

Row = tuple[str, ...]
State = tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelStyle:
    """How this hospital keeps its label table, and how untidy it is.

    `untidy` is the fraction of exams left unassessed, again of exams missing from the table, and again of rows
    that belong to no image; all three must turn up in the patient flow.
    """

    join: Literal["SOPInstanceUID", "AccessionNumber", "StudyInstanceUID", "path"]
    key: str
    yes: str
    no: str
    untidy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSite:
    """One fake hospital, entirely determined by these values: the same value gives the same files, byte for byte.

    `prevalence` is the chance of each finding in an exam; of classes, the chance of any but the clear (or first)
    one. A marker is burned in with chance `marked_diseased` or `marked_clear`: where they differ it is a shortcut.
    """

    name: str
    seed: int
    patients: int
    prevalence: float
    scanner: Scanner
    labels: LabelStyle
    marked_diseased: float
    marked_clear: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What the study predicts: findings, each present or absent, or classes, of which exactly one holds."""

    names: tuple[str, ...]
    exclusive: bool

    @property
    def clear(self) -> int:
        """Index of the class that stands for a patient without disease: by its name, else the first."""
        return next((index for index, name in enumerate(self.names) if name.lower() in CLEAR), 0)

    def draws(self, index: int) -> bool:
        """Whether this target shows on the film when it holds."""
        return not (self.exclusive and self.names[index].lower() in CLEAR)

    def diseased(self, state: State) -> bool:
        """Whether a film in this state counts as diseased, to which a shortcut may point."""
        return not state[self.clear] if self.exclusive else any(state)


def write(
    site: SyntheticSite,
    folder: Path,
    *,
    findings: Sequence[str],
    exclusive: bool,
    workers: int,
    progress: Callable[[int, int], None],
) -> Path:
    """Write the hospital into `folder` and return the path of its site.toml.

    The content does not depend on `workers`. `findings` are the study's findings, or with `exclusive` its classes:
    then exactly one holds for each exam. `progress` is called with (patients done, patients in all).

    Raises:
        StorageError: the disk is full or cannot be written.
        DataError: a worker was killed, mostly for want of memory.
    """
    targets = Targets(names=tuple(findings), exclusive=exclusive)
    rows: list[Row] = []
    make = partial(_write_patient, site, folder / DICOM_FOLDER, targets)
    made = map_files(make, range(site.patients), workers=workers, chunk=4, worth_a_worker=PATIENTS_WORTH_A_WORKER)
    for done, patient_rows in enumerate(made, start=1):
        rows += patient_rows
        progress(done, site.patients)
    write_labels(folder, columns=(site.labels.key, *findings), rows=rows)
    return write_site_file(
        folder,
        SiteFile(
            name=site.name,
            comment="A synthetic hospital: no patient exists, so no count is too small to show.",
            join=site.labels.join,
            key=site.labels.key,
            findings={finding: finding for finding in findings},
            policy={"min_cell": 1},
        ),
    )


def _write_patient(site: SyntheticSite, folder: Path, targets: Targets, patient: int) -> list[Row]:
    """Write all films of one patient and return this patient's rows of the label table."""
    words = "\x1f".join(("synthetic patient", str(site.seed), site.name, str(patient)))
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(words.encode()).digest()))
    anatomy = draw_anatomy(rng)
    usual = _draw_state(site, targets, rng)
    rows: list[Row] = []
    for exam in range(1 + int(rng.choice(len(EXAMS_OF_A_PATIENT), p=EXAMS_OF_A_PATIENT))):
        state = usual if rng.random() < SAME_STATE else _draw_state(site, targets, rng)
        blobs = _draw_blobs(targets, state, anatomy, rng)
        marked = rng.random() < (site.marked_diseased if targets.diseased(state) else site.marked_clear)
        keys = []
        for image in range(1 + (rng.random() < SECOND_IMAGE)):
            attributes = _attributes(site, patient, exam, image)
            path = Path(attributes["PatientID"], f"exam{exam}_image{image}.dcm")
            _write_image(site.scanner, folder / path, anatomy, blobs, marked, attributes, rng)
            keys.append(path.as_posix() if site.labels.join == "path" else attributes[site.labels.join])
        rows += _label_rows(site.labels, list(dict.fromkeys(keys)), state, rng)
    return rows


def _draw_state(site: SyntheticSite, targets: Targets, rng: np.random.Generator) -> State:
    """Decide what one exam shows."""
    if not targets.exclusive:
        return tuple(bool(rng.random() < site.prevalence) for _ in targets.names)
    others = [index for index in range(len(targets.names)) if index != targets.clear]
    held = int(rng.choice(others)) if rng.random() < site.prevalence else targets.clear
    return tuple(index == held for index in range(len(targets.names)))


def _draw_blobs(targets: Targets, state: State, anatomy: Anatomy, rng: np.random.Generator) -> tuple[Blob, ...]:
    shown = [index for index, holds in enumerate(state) if holds and targets.draws(index)]
    return tuple(blob for index in shown for blob in draw_finding(rng, number=index, anatomy=anatomy))


def _attributes(site: SyntheticSite, patient: int, exam: int, image: int) -> dict[str, str]:
    """Identify one image: fake values, and plainly so."""
    words = ("synthetic", site.seed, site.name, patient, exam)
    return {
        "SOPClassUID": COMPUTED_RADIOGRAPHY,
        "SOPInstanceUID": made_up_uid(*words, "image", image),
        "StudyInstanceUID": made_up_uid(*words, "study"),
        "SeriesInstanceUID": made_up_uid(*words, "series"),
        "AccessionNumber": f"SYN{patient:05d}E{exam}",
        "PatientID": f"SYN{patient:05d}",
        "PatientName": f"SYNTHETIC^{site.name.upper()}^{patient:05d}",
        "PatientBirthDate": "",
        "PatientSex": "MF"[patient % 2],
        "StudyID": str(exam),
        "StudyDate": (date(2000, 1, 1) + timedelta(days=patient + 97 * exam)).strftime("%Y%m%d"),
        "StudyTime": "",
        "ReferringPhysicianName": "",
        "InstanceNumber": str(image + 1),
    }


def _write_image(
    scanner: Scanner,
    path: Path,
    anatomy: Anatomy,
    blobs: Sequence[Blob],
    marked: bool,
    attributes: dict[str, str],
    rng: np.random.Generator,
) -> None:
    film = draw_film(anatomy, blobs, draw_pose(rng), rows=scanner.rows, columns=scanner.columns)
    write_film(scanner, path, film, marked=marked, attributes=attributes, rng=rng)


def write_film(
    scanner: Scanner, path: Path, film: Film, *, marked: bool, attributes: dict[str, str], rng: np.random.Generator
) -> None:
    """Expose a film as a scanner does, and write it as its DICOM file; `attributes` say whose it is."""
    spacing = [scanner.spacing_mm, scanner.spacing_mm]
    write_dicom(
        path,
        expose(film, scanner, marked=marked, rng=rng),
        bits_stored=scanner.bits_stored,
        photometric=scanner.photometric,
        encoding=scanner.encoding,
        attributes=attributes
        | {
            "Modality": "CR",
            "Manufacturer": scanner.manufacturer,
            "ManufacturerModelName": scanner.model_name,
            "SeriesNumber": "1",
            "BodyPartExamined": "CHEST",
            "ViewPosition": "PA",
            "PatientOrientation": ["L", "F"],
            # Equal spacings say: as at the detector, not calibrated (PS3.3 10.7.1.3).
            "PixelSpacing": spacing,
            "ImagerPixelSpacing": spacing,
            "BurnedInAnnotation": "YES" if marked else "NO",
        },
    )


def _label_rows(style: LabelStyle, keys: list[str], state: State, rng: np.random.Generator) -> list[Row]:
    """Write one exam into the table, or fail to, as an untidy hospital does."""
    cells = tuple(style.yes if holds else style.no for holds in state)
    luck = rng.random() / style.untidy if style.untidy else 3.0
    if luck < 1:
        return []
    if luck < 2:
        cells = ("",) * len(state)
    stray = [("no-such-image-" + keys[0], *cells)] if luck < 3 else []
    return [(key, *cells) for key in keys] + stray
