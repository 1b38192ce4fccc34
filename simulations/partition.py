"""Turns an image folder or npz and a table into virtual hospitals as DICOM, by patient."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from client.labels import KNOWN_WORDS, POSITIVE
from client.pictures import Picture
from client.worker_pool import map_files
from shared.errors import DataError
from shared.plain_text import is_plain
from shared.storage import atomic_file
from simulations.dicom_writer import Encoding, made_up_uid, write_dicom
from simulations.hospital_folder import DICOM_FOLDER, SiteFile, write_labels, write_site_file
from simulations.image_source import ImageSource, Skip, Unusable, open_images
from simulations.partition_plan import LABEL_KEY, Columns, PlannedImage, folder_name, plan_partition

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage: images converted to DICOM from elsewhere (PS3.3 A.8.1). Digital X-Ray would need
what no such table holds, as presentation intent, image laterality and a coded view (PS3.3 A.26)."""

RECEIPT = "partition.json"
"""In the out folder: from which table and by which options it was made."""

IMAGES_WORTH_A_WORKER = 300
"""A worker starts in the time of about so many images."""

SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSummary:
    """What one virtual hospital got, in images by finding: positives, and those whose label no study can read."""

    name: str
    patients: int
    images: int
    positives: Mapping[str, int]
    unread: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSummary:
    """What a partition wrote and what it left out: every row of the table is in `sites` or, by number, in `skipped`.

    A patient at several sites counts as another patient at each, so that the same person may be in one site's
    training and another's test patients.
    """

    rows: int
    sites: tuple[SiteSummary, ...]
    skipped: Mapping[Skip, tuple[int, ...]]
    patients_at_several_sites: int


def partition(
    table: Path,
    *,
    images: Path,
    out: Path,
    columns: Columns,
    modality: str,
    workers: int,
    progress: Callable[[int, int], None],
    public: str = "",
) -> PartitionSummary:
    """Write out/<site>/ for each site of the table: dicom/<hash of the patient>/<image>.dcm, labels.csv, site.toml.

    Pixels keep every bit. Each image is an exam of its own, since the table doesn't say which belong together. UIDs
    are hashes of site, patient and image name: the same table gives the same files. `modality` is what the files
    say of themselves; "OT" (PS3.3 C.7.3.1.1.1, other) claims nothing. `public` is the reason why the images are open
    to anybody: each site.toml then says it, and lets every count leave.

    Raises:
        DataError: the table, the images, the modality or the reason cannot be used, no row gives an image, or `out`
            holds something else.
        StorageError: the disk is full or cannot be written.
    """
    if not re.fullmatch("[A-Z]{2,16}", modality):
        raise DataError(f"--modality {modality}: a DICOM modality has 2 to 16 capital letters, as DX, CR or OT.")
    if "\n" in public or not is_plain(public):
        raise DataError("--public: the reason has a line break or another unprintable character. Give it in one line.")
    source = open_images(images)
    plan = plan_partition(table, columns)
    _claim(out, _origin(table, columns, modality))
    skipped = defaultdict(list, {reason: list(rows) for reason, rows in plan.skipped.items()})
    written: dict[str, list[PlannedImage]] = defaultdict(list)
    make = partial(_write_image, source, out, columns.carried, modality)
    made = map_files(make, plan.images, workers=workers, chunk=16, worth_a_worker=IMAGES_WORTH_A_WORKER)
    for done, (image, reason) in enumerate(zip(plan.images, made, strict=True), start=1):
        progress(done, len(plan.images))
        if reason:
            skipped[reason].append(image.row)
        else:
            written[image.site].append(image)
    counts = {reason: tuple(rows) for reason, rows in sorted(skipped.items())}
    if not written:
        raise DataError(
            f"{table.name}: none of its rows gives an image ({_counted(counts)}). What its image column "
            f"names was looked for under {images}. Correct --images or the table. "
            f"{out / RECEIPT} is all that was written."
        )
    return PartitionSummary(
        rows=sum(map(len, (*written.values(), *counts.values()))),
        sites=tuple(_write_site(out, site, written[site], columns, public=public) for site in sorted(written)),
        skipped=counts,
        patients_at_several_sites=plan.patients_at_several_sites,
    )


def _origin(table: Path, columns: Columns, modality: str) -> str:
    """Say from what and how a partition is made."""
    return json.dumps(
        {
            "table_sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
            "columns": [columns.image, columns.patient, columns.site, *columns.carried],
            "findings": dict(columns.findings),
            "modality": modality,
        },
        indent=1,
    )


def _claim(out: Path, origin: str) -> None:
    """Take an empty folder for this partition, or one that an earlier run of the same partition began."""
    receipt = out / RECEIPT
    if receipt.is_file() and receipt.read_text(encoding="utf-8") == origin:
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(
            f"--out {out}: it is there already, and was not made from this table by these options. "
            "Choose another folder, or empty this one."
        )
    with atomic_file(receipt) as part:
        part.write_text(origin, encoding="utf-8")


def _counted(skipped: Mapping[Skip, Sequence[int]]) -> str:
    return ", ".join(f"{reason}: {len(rows)}" for reason, rows in skipped.items()) or "it has none"


def _write_image(
    source: ImageSource, out: Path, carried: tuple[str, ...], modality: str, image: PlannedImage
) -> Skip | None:
    """Convert one image; return why it could not be, or None."""
    try:
        picture = source.read(image.image)
    except Unusable as fault:
        return fault.reason
    patient = hashlib.sha256(image.patient.encode()).hexdigest()
    # The digest keeps a/1.png and b/1.png of one patient apart.
    name = f"{folder_name(Path(image.image).stem)}-{hashlib.sha256(image.image.encode()).hexdigest()[:8]}.dcm"
    write_dicom(
        out / image.site / DICOM_FOLDER / patient[:16] / name,
        picture.pixels,
        bits_stored=picture.pixels.dtype.itemsize * 8,
        photometric="RGB" if picture.pixels.ndim == 3 else "MONOCHROME2",
        encoding=Encoding.EXPLICIT,
        attributes={
            **_identity(image, patient),
            "Modality": modality,
            # Workstation (PS3.3 C.8.6.1): a file was converted, no film was digitised.
            "ConversionType": "WSD",
            # Made from an image of the exam, and meant as one (PS3.3 C.7.6.1.1.2).
            "ImageType": "DERIVED\\PRIMARY",
            **_compression(picture),
            **kept_attributes(dict(zip(carried, image.cells, strict=True))),
        },
    )
    return None


def _identity(image: PlannedImage, patient_hash: str) -> dict[str, str]:
    # A backslash separates values in DICOM, and 64 is the longest LO (PS3.5 6.2): such an ID travels as its hash.
    fits = len(image.patient) <= 64 and image.patient.isprintable() and "\\" not in image.patient
    words = ("partition", image.site, image.patient, image.image)
    return {
        "SOPClassUID": SECONDARY_CAPTURE,
        "SOPInstanceUID": sop_instance_uid(image),
        "StudyInstanceUID": made_up_uid(*words, "study"),
        "SeriesInstanceUID": made_up_uid(*words, "series"),
        "PatientID": image.patient if fits else patient_hash,
        "PatientName": "",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyID": "",
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesNumber": "1",
        "InstanceNumber": "1",
    }


def sop_instance_uid(image: PlannedImage) -> str:
    """Name an image for DICOM; the label table is joined on it."""
    return made_up_uid("partition", image.site, image.patient, image.image, "image")


def _compression(picture: Picture) -> dict[str, str]:
    """Mark what was once lossy, though it is stored without loss from here on (PS3.3 C.7.6.1.1.5)."""
    if picture.lossy_ratio is None:
        return {}
    return {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": f"{picture.lossy_ratio:.3f}",
        "LossyImageCompressionMethod": "ISO_10918_1",
    }


def kept_attributes(cells: Mapping[str, str]) -> dict[str, str]:
    """Map the columns age, sex and view to DICOM, where a value can be said there; others stay in labels.csv alone."""
    value = {column.lower(): cell for column, cell in cells.items()}
    age = re.fullmatch(r"0*(\d{1,3})(?:\.0*)?([YMWD]?)", value.get("age", "").upper())
    view = value.get("view", "").upper()
    found = {
        "PatientAge": f"{int(age[1]):03d}{age[2] or 'Y'}" if age else "",
        "PatientSex": SEXES.get(value.get("sex", "").lower(), ""),
        "ViewPosition": view if re.fullmatch(r"[A-Z0-9_ ]{1,16}", view) else "",
    }
    return {keyword: text for keyword, text in found.items() if text}


def _write_site(out: Path, name: str, images: Sequence[PlannedImage], columns: Columns, *, public: str) -> SiteSummary:
    """Write a hospital's label table and site.toml beside its images."""
    write_labels(
        out / name,
        columns=(LABEL_KEY, *columns.carried),
        rows=[(sop_instance_uid(image), *image.cells) for image in images],
    )
    write_site_file(
        out / name,
        SiteFile(
            name=name,
            comment="A virtual hospital, made by `polyclinic partition`.",
            join="SOPInstanceUID",
            key=LABEL_KEY,
            findings=columns.findings,
            policy={"min_cell": 1} if public else {},
            public=public,
        ),
    )
    return SiteSummary(
        name=name,
        patients=len({image.patient for image in images}),
        images=len(images),
        # Yes, or the name of the class.
        positives={name: _counted_cells(images, name, columns, POSITIVE | {name.lower()}) for name in columns.findings},
        unread={
            name: len(images)
            - _counted_cells(images, name, columns, KNOWN_WORDS | set(map(str.lower, columns.findings)))
            for name in columns.findings
        },
    )


def _counted_cells(images: Sequence[PlannedImage], finding: str, columns: Columns, words: Set[str]) -> int:
    """Count the images whose cell for a finding holds one of the words."""
    place = columns.carried.index(columns.findings[finding])
    return sum(image.cells[place].lower() in words for image in images)
