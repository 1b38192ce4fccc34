"""Which images take part, on which side, and that nothing is lost on the way."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import cohort as cohort_module
from client.cache import fill
from client.cohort import Cohort, NoImagesError, build_cohort
from client.dicom import Header, Identity
from client.image_index import IndexedFile, index_images
from client.patient_flow import Exclusion, RowReason
from client.refusals import Reason
from client.site import SiteConfig
from shared.errors import DataError, SiteError
from shared.preprocessing import Contract
from shared.split import Split, assign


def build(site: SiteConfig, **changes: Any) -> Cohort:
    study: dict[str, Any] = {
        "targets": ("pna",),
        "exclusive": False,
        "modality": "any",
        "objects": "anatomy",
        "frames": "first",
        "private": False,
        "study": "lungs",
        "seed": 0,
        "train": 0.6,
        "validation": 0.2,
        "progress": lambda *_: None,
    }
    return build_cohort(site=site, **study | changes)


def reasons(cohort: Cohort) -> dict[str, str]:
    return dict(cohort.local_listing())


def rows_left_out(cohort: Cohort) -> dict[str, tuple[int, ...]]:
    return {step.reason.value: step.where for step in cohort.flow.row_steps}


def test_images_find_their_labels_by_every_join(hospital: Any) -> None:
    """SOPInstanceUID, AccessionNumber, StudyInstanceUID, PatientID and path lead to the same labels."""
    film = hospital.image("a/x.dcm", patient="P1", exam="1", SOPInstanceUID="1.9.1")
    hospital.image("y", patient="P2", exam="2", SOPInstanceUID="1.9.2")
    keys = {
        "SOPInstanceUID": ("1.9.1", "1.9.2"),
        "AccessionNumber": ("A1", "A2"),
        "StudyInstanceUID": ("1.2.1", "1.2.2"),
        "PatientID": ("P1", "P2"),
        "path": ("a\\x", "y.dcm"),
    }
    for join, (first, second) in keys.items():
        hospital.labels(f"{join},label", f"{second},0", f"{first},1")
        cohort = build(hospital.site(join=join, pna="label"))
        assert [image.labels for image in cohort.images] == [(1,), (0,)]
        assert cohort.images[0].path == film
        assert (cohort.flow.files_kept, cohort.flow.rows_used) == (2, 2)


def test_each_file_is_left_out_for_its_first_reason(hospital: Any) -> None:
    """One hospital with everything wrong: every file and every row is found again under one reason."""
    hospital.image("kept.dcm", patient="P1", exam="1")
    hospital.image("second_view.dcm", patient="P1", exam="1")
    hospital.image("wrong_modality.dcm", patient="P1", exam="1", Modality="CT")
    hospital.image("no_patient.dcm", patient="", exam="1")
    hospital.image("copy.dcm", patient="P1", exam="1", SOPInstanceUID="1.9.9")
    hospital.image("original.dcm", patient="P1", exam="1", SOPInstanceUID="1.9.9")
    hospital.image("no_row.dcm", patient="P2", exam="2")
    hospital.image("conflict.dcm", patient="P3", exam="3")
    hospital.image("unclear.dcm", patient="P4", exam="4")
    hospital.image("open.dcm", patient="P5", exam="5")
    hospital.image("only_ct.dcm", patient="P6", exam="6", Modality="CT")
    (hospital.dicom / "notes.txt").write_text("not a film")
    (hospital.dicom / "nothing.dcm").touch()
    os.mkfifo(hospital.dicom / "pipe")
    (hospital.dicom / "broken_link").symlink_to("nowhere")
    hospital.labels("acc,label", "A1,1", "A1,1", "A3,1", "A3,0", "A4,?", "A5,", "A6,1", "A7,1", ",1", "A8,1,1")
    cohort = build(hospital.site(join="AccessionNumber", key="acc", pna="label"), modality="DX")
    assert reasons(cohort) == {
        "broken_link": "no_access",
        "conflict.dcm": "conflicting_labels",
        "no_patient.dcm": "no_patient",
        "no_row.dcm": "no_label_row",
        "nothing.dcm": "empty",
        "notes.txt": "not_dicom",
        "only_ct.dcm": "wrong_modality",
        "open.dcm": "not_labelled",
        "original.dcm": "duplicate_image",
        "pipe": "no_access",
        "unclear.dcm": "unreadable_label",
        "wrong_modality.dcm": "wrong_modality",
    }
    assert rows_left_out(cohort) == {
        "ragged_row": (11,),
        "no_key": (10,),
        "unreadable_label": (6,),
        "no_image": (9,),
        "conflicting_labels": (4, 5),
        "not_labelled": (7,),
        "duplicate_row": (3,),
        "image_excluded": (8,),
    }
    flow = cohort.flow
    assert (flow.files, flow.files_kept, flow.rows, flow.rows_used) == (15, 3, 10, 1)
    counts = {step.reason: (step.files, step.patients) for step in flow.steps}
    assert counts[Reason.WRONG_MODALITY] == (2, 2)
    assert counts[Reason.NO_ACCESS] == (2, 0)


def test_nothing_that_is_shown_names_anyone(hospital: Any) -> None:
    """repr, account and errors are read by people who may not know who the patients are."""
    hospital.image("Doe^Jane.dcm", patient="Doe^Jane", exam="77")
    hospital.image("Roe^Rick.dcm", patient="Roe^Rick", exam="78")
    hospital.labels("PatientID,label", "Doe^Jane,1", "Foe^Fay,0")
    cohort = build(hospital.site(join="PatientID", pna="label"))
    shown = [repr(cohort), repr(cohort.images), repr(cohort.files), repr(cohort.flow), cohort.flow.in_words()]
    with pytest.raises(NoImagesError) as fault:
        cohort.without({0: Reason.NOT_FINITE})
    shown.append(str(fault.value))
    for text in shown:
        for secret in ("Doe", "Roe", "Foe", "Jane", "1.2.77", "A77", ".dcm"):
            assert secret not in text
    assert "1 of 2 files: No row of the label table belongs to this image." in cohort.flow.in_words()
    assert "1 of 2 label rows: No image in the folder belongs to this row." in cohort.flow.in_words()


def test_where_nothing_fits_the_settings_are_suspected(hospital: Any) -> None:
    """A whole table that is empty, or joins on the wrong column, is no row of which there is "nothing to do"."""
    hospital.image("a.dcm", patient="P1", exam="77")
    hospital.image("b.dcm", patient="P2", exam="78")
    hospital.labels("PatientID,label", "P1,", "P2,")
    with pytest.raises(NoImagesError, match=r"No row has a label: see whether \[data.findings\]"):
        build(hospital.site(join="PatientID", pna="label"))
    hospital.labels("PatientID,label", "Q1,1", "Q2,0")
    with pytest.raises(NoImagesError, match=r"No row of the label table fits: see whether \[data\] join and key"):
        build(hospital.site(join="PatientID", pna="label"))


def test_an_empty_folder_is_said(hospital: Any) -> None:
    """An empty folder is no cohort of nobody; the label rows are accounted for all the same."""
    hospital.labels("PatientID,label", "P1,1")
    with pytest.raises(NoImagesError, match="holds no file") as fault:
        build(hospital.site(join="PatientID", pna="label"))
    assert fault.value.cohort.flow.files == 0
    assert rows_left_out(fault.value.cohort) == {"no_image": (2,)}
    assert fault.value.cohort.labels_NK.shape == (0, 1)


def test_a_missing_folder_or_table_is_said(hospital: Any) -> None:
    """What site.toml names and is not there is named."""
    site = hospital.site(join="PatientID", pna="label")
    with pytest.raises(DataError, match=r"no file labels\.csv"):
        build(site)
    hospital.labels("PatientID,label", "P1,1")
    hospital.dicom.rmdir()
    with pytest.raises(DataError, match="no folder dicom"):
        build(site)


def test_an_unknown_column_names_the_nearest(hospital: Any) -> None:
    """The error says which key of site.toml to correct, and how."""
    hospital.labels("patient_id,label", "P1,1")
    with pytest.raises(SiteError, match=r"no column 'PatientID' among its 2\. Did you mean 'patient_id'"):
        build(hospital.site(join="PatientID", pna="label"))


def test_a_folder_that_cannot_be_listed_stops(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that nobody can count would be lost in silence."""
    hospital.image("Doe^Jane/x.dcm", patient="P1", exam="1")
    hospital.labels("PatientID,label", "P1,1")
    scandir = os.scandir

    def forbid(path: str) -> Any:
        if str(path).endswith("Jane"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(DataError, match=r"cannot be listed \(Permission denied\)") as fault:
        build(hospital.site(join="PatientID", pna="label"))
    assert "Jane" not in str(fault.value)


def test_linked_folders_are_followed_once(hospital: Any) -> None:
    """A link to another disk is data; a link in a circle ends."""
    hospital.image("disk/x.dcm", patient="P1", exam="1")
    (hospital.dicom / "disk" / "circle").symlink_to(hospital.dicom, target_is_directory=True)
    elsewhere = hospital.folder / "elsewhere"
    elsewhere.mkdir()
    hospital.image("y.dcm", patient="P2", exam="2").rename(elsewhere / "y.dcm")
    (hospital.dicom / "linked").symlink_to(elsewhere, target_is_directory=True)
    hospital.labels("PatientID,label", "P1,1", "P2,1")
    flow = build(hospital.site(join="PatientID", pna="label")).flow
    assert (flow.files, flow.files_kept) == (2, 2)


def test_names_that_are_not_utf8_are_listed(hospital: Any) -> None:
    """Old archives have file names in any encoding."""
    name = os.fsdecode(b"M\xfcller.dcm")
    try:
        hospital.image("x.dcm", patient="P1", exam="1").rename(hospital.dicom / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    hospital.image("y.dcm", patient="P2", exam="2")
    hospital.labels("PatientID,label", "P2,1")
    assert reasons(build(hospital.site(join="PatientID", pna="label"))) == {"M\\xfcller.dcm": "no_label_row"}


def test_images_are_in_the_order_of_their_identity(hospital: Any) -> None:
    """Renaming files changes neither the order nor any number that is derived from it."""

    def order(prefix: Callable[[int], str]) -> list[tuple[int, int, tuple[float, ...]]]:
        for path in hospital.dicom.iterdir():
            path.unlink()
        for n in range(6):
            hospital.image(f"{prefix(n)}.dcm", patient=f"P{n % 3}", exam=str(n), SOPInstanceUID=f"1.9.{n}")
        hospital.labels("AccessionNumber,label", *(f"A{n},{n % 2}" for n in range(6)))
        images = build(hospital.site(join="AccessionNumber", pna="label")).images
        return [(image.patient, image.exam, image.labels) for image in images]

    assert order(str) == order(lambda n: str(9 - n))
    assert [labels for _, _, labels in order(str)] == [(n % 2,) for n in range(6)]


def test_all_frames_become_images_of_one_exam(hospital: Any) -> None:
    """`frames = "all"` gives an image a frame, counted as one file."""
    hospital.image("loop.dcm", patient="P1", exam="1", NumberOfFrames=3)
    hospital.labels("PatientID,label", "P1,1")
    site = hospital.site(join="PatientID", pna="label")
    cohort = build(site, frames="all")
    assert [(image.frame, image.exam) for image in cohort.images] == [(0, 0), (1, 0), (2, 0)]
    assert (cohort.flow.files_kept, sum(cohort.flow.images.values())) == (1, 3)
    assert [image.frame for image in build(site, frames="middle").images] == [0]


def test_a_header_that_lies_about_its_frames_fills_no_memory(hospital: Any) -> None:
    """Two thousand million frames in a small file are not believed."""
    path = hospital.image("x.dcm", patient="P1", exam="1", NumberOfFrames=11)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0011", b"IS\x0a\x002000000000"))
    hospital.image("y.dcm", patient="P1", exam="1")
    hospital.labels("PatientID,label", "P1,1")
    cohort = build(hospital.site(join="PatientID", pna="label"), frames="all")
    assert reasons(cohort) == {"x.dcm": "truncated"}


def test_a_file_of_too_many_frames_is_left_out_before_they_are_listed(hospital: Any) -> None:
    """Frames that a sparse file has room for make no object each; where one is read, the file takes part."""
    path = hospital.image("x.dcm", patient="P1", exam="1", NumberOfFrames=1_000_000)
    os.truncate(path, path.stat().st_size + 1_000_000)
    hospital.image("y.dcm", patient="P1", exam="1")
    hospital.labels("PatientID,label", "P1,1")
    site = hospital.site(join="PatientID", pna="label")
    assert reasons(every := build(site, frames="all")) == {"x.dcm": "too_large"}
    assert len(every.images) == 1
    assert len(build(site, frames="first").images) == 2


def test_an_exam_is_what_the_header_says_first(hospital: Any) -> None:
    """StudyInstanceUID, then AccessionNumber, then the object; and never of two patients at once."""
    hospital.image("1", patient="P1", exam="1")
    hospital.image("2", patient="P1", exam="1", AccessionNumber="other")
    hospital.image("3", patient="P2", exam="1")
    hospital.image("4", patient="P3", exam="", StudyInstanceUID="", AccessionNumber="A4")
    hospital.image("5", patient="P3", exam="", StudyInstanceUID="", AccessionNumber="A4")
    hospital.image("6", patient="P4", exam="", StudyInstanceUID="", AccessionNumber="")
    hospital.image("7", patient="P4", exam="", StudyInstanceUID="", AccessionNumber="")
    hospital.labels("PatientID,label", *(f"P{n},1" for n in range(1, 5)))
    cohort = build(hospital.site(join="PatientID", pna="label"))
    exam = {image.path.name: image.exam for image in cohort.images}
    assert exam["1"] == exam["2"] != exam["3"]
    assert exam["4"] == exam["5"]
    assert exam["6"] != exam["7"]


def test_an_exam_with_two_accession_numbers_may_contradict_itself(hospital: Any) -> None:
    """Two reports of one exam that differ leave it out; labels of single images may differ within an exam."""
    hospital.image("1", patient="P1", exam="1", AccessionNumber="A1")
    hospital.image("2", patient="P1", exam="1", AccessionNumber="A2")
    hospital.image("3", patient="P2", exam="2", AccessionNumber="A3")
    hospital.labels("AccessionNumber,label", "A1,1", "A2,0", "A3,0")
    cohort = build(hospital.site(join="AccessionNumber", pna="label"))
    assert reasons(cohort) == {"1": "conflicting_labels", "2": "conflicting_labels"}
    assert rows_left_out(cohort) == {"image_excluded": (2, 3)}
    hospital.labels("path,label", "1,1", "2,0")
    assert build(hospital.site(join="path", pna="label")).flow.files_kept == 2


def test_the_copy_that_has_labels_is_kept(hospital: Any) -> None:
    """By path, only one of two copies may be in the table; if both are and differ, neither is believed."""
    for name in ("a", "b"):
        hospital.image(name, patient="P1", exam="1", SOPInstanceUID="1.9")
    hospital.image("c", patient="P1", exam="1")
    hospital.labels("path,label", "b,1", "c,1")
    assert reasons(build(hospital.site(join="path", pna="label"))) == {"a": "duplicate_image"}
    hospital.labels("path,label", "b,1", "a,0", "c,1")
    assert set(reasons(build(hospital.site(join="path", pna="label"))).values()) == {"conflicting_labels"}


def test_images_without_an_identity_are_not_copies(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old files without a SOPInstanceUID are told apart by their path."""
    header = Header(identity=_identity("", "", "", "P1"), modality="DX", frames=1, photometric="", manufacturer="")
    files = [IndexedFile(relative=name, found=header) for name in ("b", "a")]
    monkeypatch.setattr(cohort_module, "index_images", lambda *_, **__: files)
    hospital.labels("PatientID,label", "P1,1")
    cohort = build(hospital.site(join="PatientID", pna="label"))
    assert [image.path.name for image in cohort.images] == ["a", "b"]
    assert cohort.exams_N.tolist() == [0, 1]


def test_patients_are_where_the_study_puts_them(hospital: Any) -> None:
    """The side is that of the study's name, its seed, the site's name and the PatientID."""
    for n in range(12):
        hospital.image(f"{n:02}.dcm", patient=f"P{n:02}", exam=str(n))
    hospital.labels("PatientID,label", *(f"P{n:02},1" for n in range(12)))
    cohort = build(hospital.site(join="PatientID", pna="label"), seed=5)
    for image in cohort.images:
        patient = f"P{image.path.stem}"
        expected = assign(study="lungs", seed=5, site="north", patient=patient, train=0.6, validation=0.2)
        assert image.split is expected


def test_a_copy_that_cannot_be_used_does_not_stand_in_the_way(hospital: Any) -> None:
    """Of a copy without its patient and one with, the second is the image."""
    hospital.image("a", patient="", exam="1", SOPInstanceUID="1.9")
    hospital.image("b", patient="P1", exam="1", SOPInstanceUID="1.9")
    hospital.labels("StudyInstanceUID,label", "1.2.1,1")
    assert reasons(build(hospital.site(join="StudyInstanceUID", pna="label"))) == {"a": "no_patient"}


def test_what_the_pixels_hold_against_a_file_moves_its_account(hospital: Any) -> None:
    """A file that turns out unreadable goes with all of its frames, and takes its label row along."""
    hospital.image("a", patient="P1", exam="1", SOPInstanceUID="1.1", NumberOfFrames=2)
    hospital.image("b", patient="P2", exam="2", SOPInstanceUID="1.2")
    hospital.labels("PatientID,label", "P1,1", "P2,1")
    cohort = build(hospital.site(join="PatientID", pna="label"), frames="all").without({1: Reason.NOT_FINITE})
    assert reasons(cohort) == {"a": "not_finite"}
    assert rows_left_out(cohort) == {"image_excluded": (2,)}
    assert [image.path.name for image in cohort.images] == ["b"]
    assert cohort.without({}) == cohort


def test_counts_by_split_and_class(hospital: Any) -> None:
    """Exams are positive if one of their images is; a patient counts in each class of which he has an exam."""
    films = [("P1", "1", "1,"), ("P1", "1", "0,"), ("P1", "2", "0,1"), ("P2", "3", "0,0"), ("P3", "4", ",1")]
    for n, (patient, exam, _) in enumerate(films):
        hospital.image(str(n), patient=patient, exam=exam)
    hospital.labels("path,x,y", *(f"{n},{values}" for n, (_, _, values) in enumerate(films)))
    cohort = build(hospital.site(join="path", a="x", b="y"), targets=("a", "b"), train=1.0, validation=0.0)
    counts = cohort.flow.splits[Split.TRAIN]
    assert (counts.patients, counts.exams, cohort.flow.images[Split.TRAIN]) == (3, 4, 5)
    assert [of_class.all for of_class in counts.classes] == [(1, 2, 1, 2), (2, 1, 2, 1)]
    assert cohort.flow.splits[Split.TEST].patients == 0
    released = cohort.flow.counts()
    assert (released.found, released.splits["train"]) == (5, counts)
    assert set(released.excluded) == {*Reason, *Exclusion}
    assert sum(released.excluded.values()) == 0


def test_a_patients_number_is_the_same_whoever_else_is_there(hospital: Any) -> None:
    """By it every draw under [privacy] is keyed: it follows from who the patient is, and no place or count is in it."""
    for n in range(6):
        hospital.image(f"{n}.dcm", patient=f"P{n}", exam=str(n))
    hospital.labels("AccessionNumber,label", *(f"A{n},{n % 2}" for n in range(6)))
    site = hospital.site(join="AccessionNumber", pna="label")

    def numbers() -> dict[str, int]:
        return {image.path.name: image.patient for image in build(site).images}

    before = numbers()
    (hospital.dicom / "0.dcm").unlink()
    assert numbers() == {name: number for name, number in before.items() if name != "0.dcm"}
    assert len(set(before.values())) == 6
    assert str(before["1.dcm"]) not in repr(build(site).images)


def test_the_cohort_as_arrays(hospital: Any) -> None:
    """What a trainer needs lines up, image by image."""
    for n in range(12):
        hospital.image(f"{n}.dcm", patient=f"P{n // 2}", exam=str(n))
    hospital.labels("AccessionNumber,label,y", *(f"A{n},{n % 2}," for n in range(12)))
    cohort = build(hospital.site(join="AccessionNumber", pna="label", b="y"), targets=("pna", "b"))
    assert cohort.labels_NK.shape == (12, 2)
    assert cohort.labels_NK.dtype == "float32"
    for place, image in enumerate(cohort.images):
        assert cohort.labels_NK[place, 0] == image.labels[0]
        assert math.isnan(cohort.labels_NK[place, 1])
        assert (cohort.patients_N[place], cohort.exams_N[place]) == (image.patient, image.exam)
        assert place in cohort.of(image.split)
    assert sorted(place for split in Split for place in cohort.of(split)) == list(range(12))
    assert len(set(cohort.patients_N.tolist())) == 6


def test_every_odd_file_is_accounted_for(hospital: Any, shared_data: Path) -> None:
    """54 real files, half of them broken, foreign or twice there: each is an image in the end or has a reason."""
    odd = shared_data / "dicom"
    names = sorted(path.name for path in odd.iterdir())
    hospital.labels("path,label", *(f"{name},1" for name in names))
    hospital.dicom.rmdir()
    hospital.dicom.symlink_to(odd, target_is_directory=True)
    cohort = build(hospital.site(join="path", pna="label"), frames="all")
    contract = Contract(size=32, window="percentile", spacing_mm=0, fit="pad", depth="uint8", channels=1)
    cached = fill(
        cohort.images,
        contract=contract,
        frames="all",
        folder=hospital.folder / "cache",
        workers=1,
        progress=lambda *_: None,
    )
    flow = cohort.without(cached.unreadable).flow
    assert flow.files == flow.rows == len(names)
    assert flow.files_kept + sum(step.files for step in flow.steps) == flow.files
    assert flow.rows_used + sum(step.rows for step in flow.row_steps) == flow.rows
    assert flow.files_kept > 20
    assert {Reason.NOT_DICOM, Reason.TRUNCATED, Reason.NO_PIXELS, Reason.NO_PATIENT} <= {s.reason for s in flow.steps}


def test_many_headers_are_read_by_workers(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is the same however many processes made it, and progress reaches the end."""
    for n in range(6):
        hospital.image(f"{n}.dcm", patient=f"P{n}", exam=str(n))
    (hospital.dicom / "notes.txt").write_text("not a film")
    seen: list[tuple[int, int]] = []
    alone = index_images(hospital.dicom, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(8)]
    monkeypatch.setattr("client.image_index.HEADERS_WORTH_A_WORKER", 1)
    assert index_images(hospital.dicom, workers=2, progress=lambda *_: None) == alone


def test_every_code_has_its_own_name_and_sentence() -> None:
    """Codes of files are counted together, so none may be in two lists; each has advice."""
    codes = [reason.value for reason in (*Reason, *Exclusion)]
    assert len(set(codes)) == len(codes)
    for reason in (*Exclusion, *RowReason):
        assert reason.sentence.endswith(".")


few = st.sampled_from(["", "1", "2", "3"])


def _identity(sop: str, study: str, accession: str, patient: str) -> Identity:
    return Identity(sop_instance_uid=sop, study_instance_uid=study, accession_number=accession, patient_id=patient)


headers = st.builds(
    lambda modality, *identity: Header(
        identity=_identity(*identity),
        modality=modality,
        frames=2,
        photometric="MONOCHROME2",
        manufacturer="",
    ),
    st.sampled_from(["DX", "DX", "CT"]), few, few, few, few,
)  # fmt: skip
tables = st.lists(
    st.tuples(st.sampled_from(["", "1", "2", "3", "4"]), st.sampled_from(["", "0", "1", "?", "-1", "0,0"])), max_size=12
)


@given(
    found=st.lists(headers | st.sampled_from(list(Reason)), max_size=12),
    table=tables,
    join=st.sampled_from(["SOPInstanceUID", "AccessionNumber", "StudyInstanceUID", "PatientID", "path"]),
    unreadable=st.sets(st.integers(0, 3)),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_account_is_exact(hospital: Any, found: Any, table: Any, join: Any, unreadable: set[int]) -> None:
    """Whatever is in the folder and the table: each file and each row is used, or counted under one reason."""
    index = [IndexedFile(relative=str(place + 1), found=header) for place, header in enumerate(found)]
    hospital.labels("key,label", *(f"{key},{value}" for key, value in table))
    site = hospital.site(join=join, key="key", pna="label")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort_module, "index_images", lambda *_, **__: index)
        try:
            cohort = build(site, modality="DX", frames="all")
            cohort = cohort.without({place: Reason.TRUNCATED for place in unreadable if place < len(cohort.images)})
        except NoImagesError as fault:
            cohort = fault.cohort
    flow = cohort.flow
    assert flow.files == len(found) == flow.files_kept + sum(step.files for step in flow.steps)
    assert flow.rows == sum(any(row) for row in table) == flow.rows_used + sum(step.rows for step in flow.row_steps)
    assert sum(flow.images.values()) == len(cohort.images) == 2 * flow.files_kept
    assert {step.rows == len(step.where) for step in flow.row_steps} <= {True}
    assert sum(flow.counts().excluded.values()) + flow.files_kept == flow.files
    sides: dict[int, set[Split]] = {}
    for image in cohort.images:
        sides.setdefault(image.patient, set()).add(image.split)
        assert not all(map(math.isnan, image.labels))
    assert all(len(of_patient) == 1 for of_patient in sides.values())


Kept = set[tuple[str, int, Split, tuple[float, ...], int]]


def _of_patient(site: SiteConfig, index: list[IndexedFile], patient: str) -> Kept:
    """Give what a study has of one patient, each exam named by its first file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort_module, "index_images", lambda *_, **__: index)
        try:
            cohort = build(site, modality="DX", frames="all")
        except NoImagesError as fault:
            cohort = fault.cohort
    whose = {cohort.folder / file.relative: file.identity.patient_id for file in index}
    own = [image for image in cohort.images if whose[image.path] == patient]
    first = {image.exam: image.path.name for image in reversed(own)}
    return {(image.path.name, image.frame, image.split, image.labels, first[image.exam]) for image in own}


@given(
    found=st.lists(headers, min_size=1, max_size=12),
    suffixes=st.lists(st.sampled_from(["", ".dcm"]), min_size=12, max_size=12),
    table=tables,
    join=st.sampled_from(["SOPInstanceUID", "AccessionNumber", "StudyInstanceUID", "path"]),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_patients_files_change_anything_of_another(
    hospital: Any, found: list[Header], suffixes: list[str], table: Any, join: Any
) -> None:
    """Whatever UIDs, accession numbers, label rows and file names two IDs share, each is as if alone."""
    index = [
        IndexedFile(relative=f"{place // 2 + 1}{suffix}", found=header)
        for place, (header, suffix) in enumerate(zip(found, suffixes, strict=False))
    ]
    index = list({file.relative: file for file in index}.values())
    hospital.labels("key,label", *(f"{key},{value}" for key, value in table))
    site = hospital.site(join=join, key="key", pna="label")
    for patient in {file.identity.patient_id for file in index} - {""}:
        alone = [file for file in index if file.identity.patient_id == patient]
        everybody, nobody_else = (_of_patient(site, of, patient) for of in (index, alone))
        if any(file.identity.study_instance_uid in _studies(alone) for file in index if file not in alone):
            # One study's IDs are one patient's: the side is then that of all of these.
            everybody, nobody_else = (
                {(one[0], one[1], one[3], one[4]) for one in of} for of in (everybody, nobody_else)
            )
        assert everybody == nobody_else


def _studies(index: list[IndexedFile]) -> set[str]:
    return {file.identity.study_instance_uid for file in index} - {""}


def test_one_patients_files_cannot_take_out_a_hundred_others(hospital: Any) -> None:
    """Copies of others' objects under a PatientID of one's own are this patient's images, and no copies."""
    for n in range(20):
        hospital.image(f"b{n:02}", patient=f"P{n:02}", exam=f"1.{n}", SOPInstanceUID=f"1.9.{n}")
        hospital.image(f"a{n:02}", patient="mallory", exam=f"2.{n}", SOPInstanceUID=f"1.9.{n}")
    own = [f"{letter}{n:02},{int(letter == 'a')}" for letter in "ab" for n in range(20)]
    hospital.labels("path,label", *own)
    cohort = build(hospital.site(join="path", pna="label"))
    assert reasons(cohort) == {}
    assert {image.labels for image in cohort.images if image.path.name.startswith("b")} == {(0,)}


def test_a_row_finds_its_image_whoever_else_is_there(hospital: Any) -> None:
    """A file called as the row is, without its suffix, takes the row from nobody."""
    hospital.image("x.dcm", patient="P1", exam="1")
    hospital.labels("path,label", "x,1")
    site = hospital.site(join="path", pna="label")
    assert reasons(build(site)) == {}
    hospital.image("x", patient="P2", exam="2")
    assert "x.dcm" not in reasons(build(site))
