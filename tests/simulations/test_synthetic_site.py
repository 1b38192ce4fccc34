"""Synthetic hospitals: real DICOM files, untidy labels, a planted shift and a planted shortcut."""

import csv
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from client.cohort import build_cohort
from client.dicom import read_image
from client.patient_flow import Exclusion, RowReason
from client.site import read_site
from simulations import synthetic_site
from simulations.scanner import expose
from simulations.synthetic_site import SyntheticSite, Targets, write
from simulations.synthetic_study import hospitals


def small(which, **changes) -> SyntheticSite:
    """Take one of the four hospitals, with few patients and small films."""
    site = next(site for site in hospitals(7) if site.name == which)
    scanner = replace(site.scanner, rows=64, columns=57)
    return replace(site, **({"patients": 12, "scanner": scanner} | changes))


def make(site, folder, findings=("pneumonia",), *, exclusive=False, workers=1):
    """Write a hospital and return its site.toml."""
    return write(site, folder, findings=findings, exclusive=exclusive, workers=workers, progress=lambda *_: None)


def cohort_of(site_file, targets=("pneumonia",), *, exclusive=False):
    """Read a hospital as a study would."""
    return build_cohort(
        site=read_site(site_file),
        targets=targets,
        exclusive=exclusive,
        modality="CR",
        objects="anatomy",
        frames="first",
        private=False,
        study="Test",
        seed=0,
        train=0.6,
        validation=0.2,
        progress=lambda *_: None,
    )


def datasets(folder):
    """Read all of a hospital's files, in order."""
    return [pydicom.dcmread(path) for path in sorted((folder / "dicom").rglob("*.dcm"))]


def content(folder):
    """All bytes under a folder, by path."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_content_does_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    """Made by one process or by two, every byte is the same."""
    monkeypatch.setattr(synthetic_site, "PATIENTS_WORTH_A_WORKER", 4)
    make(small("south"), tmp_path / "one", workers=1)
    make(small("south"), tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_another_seed_or_name_is_another_hospital(tmp_path):
    """No file, UID or film is shared by two hospitals."""
    make(small("north", patients=3), tmp_path / "a")
    make(small("north", patients=3, seed=8), tmp_path / "b")
    make(small("north", patients=3, name="elsewhere"), tmp_path / "c")
    films = [datasets(tmp_path / folder) for folder in "abc"]
    uids = [dataset.SOPInstanceUID for group in films for dataset in group]
    pixels = {dataset.PixelData for group in films for dataset in group}
    assert len(set(uids)) == len(uids) == len(pixels)


@pytest.mark.parametrize("name", ["north", "east", "south", "west"])
def test_each_hospital_is_read_as_a_study_reads_it(tmp_path, name):
    """Whatever its join, words and transfer syntax, a hospital's films are read and labelled, but for the untidy."""
    site = small(name, patients=40)
    site = replace(site, labels=replace(site.labels, untidy=0.15))
    cohort = cohort_of(make(site, tmp_path))
    reasons = [file.reason for file in cohort.files if file.reason]
    assert set(reasons) == {Exclusion.NO_LABEL_ROW, Exclusion.NOT_LABELLED}
    assert {row.reason for row in cohort.rows} == {None, RowReason.NO_IMAGE, RowReason.NOT_LABELLED}
    assert len(cohort.images) > 30
    assert 0.2 < cohort.labels_NK.mean() < 0.8
    image = read_image(cohort.images[0].path, frames="first")
    assert image.pixels_FHWC.shape == (1, 64, 57, 1)
    assert image.spacing_mm == (site.scanner.spacing_mm,) * 2


def test_patients_have_several_exams_and_exams_several_images(tmp_path):
    """One to four exams a patient, one or two images an exam, and an exam's images share its study and number."""
    make(small("north", patients=60), tmp_path)
    exams: dict[str, set[str]] = {}
    images: dict[tuple[str, str], int] = {}
    for dataset in datasets(tmp_path):
        exams.setdefault(dataset.PatientID, set()).add(dataset.StudyInstanceUID)
        key = (dataset.StudyInstanceUID, dataset.AccessionNumber)
        images[key] = images.get(key, 0) + 1
    assert {len(found) for found in exams.values()} == {1, 2, 3, 4}
    assert set(images.values()) == {1, 2}
    assert len({study for study, _ in images}) == len(images)


def test_all_that_names_someone_is_plainly_fake(tmp_path):
    """Names say SYNTHETIC, and so do maker and patient numbers."""
    make(small("west", patients=3), tmp_path)
    for dataset in datasets(tmp_path):
        assert str(dataset.PatientName).startswith("SYNTHETIC^WEST^")
        assert dataset.PatientID.startswith("SYN")
        assert dataset.Manufacturer.startswith("SYNTHETIC")
        assert dataset.PatientBirthDate == ""


def test_the_shortcut_goes_with_disease_at_one_hospital_only(tmp_path):
    """At `east` a marker tells the label nine times out of ten; at `north` it tells nothing."""

    def marked(name, positive):
        site = small(name, patients=25)
        scanner = replace(site.scanner, rows=16, columns=16)
        folder = tmp_path / name / positive
        make(replace(site, scanner=scanner, prevalence=float(positive == "diseased")), folder)
        return np.mean([dataset.BurnedInAnnotation == "YES" for dataset in datasets(folder)])

    assert marked("east", "diseased") > 0.8
    assert marked("east", "clear") < 0.2
    assert abs(marked("north", "diseased") - marked("north", "clear")) < 0.3


def test_one_hospital_has_the_planted_shift():
    """On the same film, a finding's contrast against the noise is several times lower at `south` than elsewhere."""

    def visible(site):
        scanner = replace(site.scanner, rows=64, columns=64, bits_stored=12, monochrome1=False)
        film, opacity = np.full((64, 64), 0.25, np.float32), np.full((64, 64), 0.35, np.float32)
        clear, diseased = (
            expose(one, scanner, marked=False, rng=np.random.default_rng(0)).astype(float) for one in (film, opacity)
        )
        return (diseased.mean() - clear.mean()) / clear.std()

    contrast = {site.name: visible(site) for site in hospitals(0)}
    others = [value for name, value in contrast.items() if name != "south"]
    assert contrast["south"] < 0.4 * min(others)


def test_exactly_one_class_holds(tmp_path):
    """Classes exclude one another, and all of them occur."""
    classes = ("bacterial", "viral", "Normal")
    site_file = make(small("north", patients=40), tmp_path, classes, exclusive=True)
    cohort = cohort_of(site_file, classes, exclusive=True)
    assert (cohort.labels_NK.sum(axis=1) == 1).all()
    assert (cohort.labels_NK.sum(axis=0) > 0).all()


def test_findings_come_independently(tmp_path):
    """A film may show none, one or two of two findings, whatever these are called."""
    findings = ("effusion, left (new)", "nodule/mass")
    cohort = cohort_of(make(small("north", patients=40), tmp_path, findings), findings)
    assert set(cohort.labels_NK.sum(axis=1)) == {0, 1, 2}


def test_a_class_called_normal_is_drawn_without_an_opacity():
    """What is normal shows nothing; without such a name the first class counts as free of disease, but is drawn."""
    named = Targets(names=("pneumonia", "No finding"), exclusive=True)
    assert [named.draws(0), named.draws(1)] == [True, False]
    assert [named.diseased((True, False)), named.diseased((False, True))] == [True, False]
    unnamed = Targets(names=("grade 0", "grade 1"), exclusive=True)
    assert [unnamed.draws(0), unnamed.diseased((True, False)), unnamed.diseased((False, True))] == [True, False, True]
    finding = Targets(names=("normal",), exclusive=False)
    assert [finding.draws(0), finding.diseased((True,)), finding.diseased((False,))] == [True, True, False]


def test_a_tidy_hospital_has_every_label(tmp_path):
    """Without untidiness each image has its row and each row its image."""
    site = small("north")
    make(replace(site, labels=replace(site.labels, untidy=0.0)), tmp_path)
    with (tmp_path / "labels.csv").open(encoding="utf-8") as table:
        rows = {row["SOPInstanceUID"]: row["pneumonia"] for row in csv.DictReader(table)}
    assert set(rows) == {dataset.SOPInstanceUID for dataset in datasets(tmp_path)}
    assert set(rows.values()) == {"0", "1"}


def test_progress_counts_patients(tmp_path):
    """The caller hears of each patient, up to all of them."""
    heard = []
    site = small("west", patients=3)
    write(site, tmp_path, findings=("x",), exclusive=False, workers=1, progress=lambda *step: heard.append(step))
    assert heard == [(1, 3), (2, 3), (3, 3)]
