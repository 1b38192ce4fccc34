"""Who a patient is: IDs and issuers, a column of the table, and studies; and what a hospital is told in doubt."""

import io
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from client import site_check
from client.cohort import Cohort, NoImagesError, build_cohort
from client.dicom import Header, Identity
from client.image_index import IndexedFile
from client.labels import Match
from client.patient_flow import Exclusion
from client.people import people_of
from client.site import SiteConfig, read_site
from client.withdrawal import Withdrawals
from shared.errors import SiteError
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
        "train": 0.5,
        "validation": 0.25,
        "progress": lambda *_: None,
    }
    return build_cohort(site=site, **study | changes)


def declared(hospital: Any, *lines: str, join: str = "path") -> SiteConfig:
    """Give a hospital's file with more lines in [data]."""
    hospital.site(join=join, pna="label")
    path = hospital.folder / "site.toml"
    path.write_text(path.read_text().replace("[data]", "\n".join(["[data]", *lines])))
    return read_site(path)


def by_file(cohort: Cohort) -> dict[str, tuple[int, Split]]:
    return {image.path.name: (image.patient, image.split) for image in cohort.images}


def sides_and_people(hospital: Any, files: Iterable[tuple[str, dict[str, Any]]]) -> tuple[int, set[Split]]:
    """Write files, and count the patients and sides that a cohort makes of them."""
    names = []
    for place, (patient, attributes) in enumerate(files):
        names.append(f"{place:03}")
        hospital.image(names[-1], patient=patient, exam=str(place), **attributes)
    hospital.labels("path,label", *(f"{name},1" for name in names))
    cohort = build(hospital.site(join="path", pna="label"))
    return len({image.patient for image in cohort.images}), {image.split for image in cohort.images}


@pytest.mark.parametrize(
    "spellings",
    [
        ["pat7", "PAT7", "Pat7"],
        ["  PAT 7", "PAT 7  ", "PAT  7", "pat 7"],
        ["ｐａｔ７", "PAT7"],
        ["İstanbul 1", "i̇stanbul 1"],
    ],
)
def test_one_id_however_it_is_spelled_is_one_patient(hospital: Any, spellings: list[str]) -> None:
    """Spaces at the ends (PS3.5 6.2), runs of them, case and width make no other patient."""
    files = [(spelling, {"SpecificCharacterSet": "ISO_IR 192"}) for spelling in spellings * 3]
    people, sides = sides_and_people(hospital, files)
    assert (people, len(sides)) == (1, 1)


def test_the_same_id_of_two_issuers_is_two_patients(hospital: Any) -> None:
    """PS3.3 C.7.1.1: the issuer qualifies the ID; spelled otherwise it is the same issuer."""
    issuers = ["EAST", "east ", "WEST"]
    people, _ = sides_and_people(hospital, [("7", {"IssuerOfPatientID": issuer}) for issuer in issuers])
    assert people == 2


def test_an_id_without_an_issuer_is_the_same_patients(hospital: Any) -> None:
    """Where an archive adds the issuer to some of a patient's files, he stays one."""
    people, sides = sides_and_people(hospital, [("7", {"IssuerOfPatientID": "EAST"}), ("7", {}), ("8", {})] * 2)
    assert people == 2
    assert sides <= set(Split)


@given(
    files=st.lists(
        st.tuples(
            st.sampled_from("ABCDEF"), st.sampled_from(["", "E", "W"]), st.sampled_from(["", "1", "2", "3", "4"])
        ),
        min_size=1,
        max_size=14,
    )
)
@settings(max_examples=200)
def test_no_study_lies_on_two_sides_and_no_patient_depends_on_another(files: list[tuple[str, str, str]]) -> None:
    """Whatever studies IDs share: one study is one patient's, and the rest taken away each patient is as before."""
    index = [
        IndexedFile(
            relative=str(place),
            found=Header(
                identity=Identity(
                    sop_instance_uid="",
                    study_instance_uid=study,
                    accession_number="",
                    patient_id=patient,
                    issuer=issuer,
                ),
                modality="DX",
                frames=1,
                photometric="",
                manufacturer="",
            ),
        )
        for place, (patient, issuer, study) in enumerate(files)
    ]
    matches = [Match(labels=(1.0,), row=None, reason=None)] * len(index)
    people = people_of(index, matches, by_table=False)
    for (one, file), (other, second) in itertools.combinations(enumerate(index), 2):
        if file.identity.study_instance_uid == second.identity.study_instance_uid != "":
            assert people.person_N[one] == people.person_N[other]
    for person in set(people.person_N):
        own = [place for place, who in enumerate(people.person_N) if who == person]
        alone = people_of([index[place] for place in own], [matches[place] for place in own], by_table=False)
        assert set(alone.person_N) == {person}
        assert alone.name_N == tuple(people.name_N[place] for place in own)
        assert alone.split_keys == {person: people.split_keys[str(person)]}


def test_ids_of_one_study_are_on_one_side(hospital: Any) -> None:
    """Old and new number, or a number for each view: the study says that it is one patient."""
    study = {"StudyInstanceUID": "1.2.3"}
    people, sides = sides_and_people(hospital, [(f"P{n}", study) for n in range(12)])
    assert (people, len(sides)) == (1, 1)


def test_splits_are_what_they_were_where_nothing_is_shared(hospital: Any) -> None:
    """The side is drawn of the PatientID as it is written, in its case, with or without an issuer."""
    for n in range(24):
        issuer = {"IssuerOfPatientID": "HOSPITAL"} if n % 2 else {}
        hospital.image(f"{n:02}", patient=f"Pat {n:02} x", exam=str(n), **issuer)
    hospital.labels("path,label", *(f"{n:02},1" for n in range(24)))
    for name, (_, split) in by_file(build(hospital.site(join="path", pna="label"))).items():
        assert split is assign(study="lungs", seed=0, site="north", patient=f"Pat {name} x", train=0.5, validation=0.25)


def test_the_table_can_say_whose_an_image_is(hospital: Any) -> None:
    """Four IDs a person, one a view: the named column makes them one patient on one side, whatever the IDs."""
    rows = []
    for n in range(8):
        for view in range(4):
            hospital.image(f"{n}-{view}", patient=f"P{n}v{view}", exam=f"9{n}{view}")
            rows.append(f"{n}-{view},1,{' woman' if view else 'Woman'} {n}")
    hospital.labels("path,label,who", *rows)
    before = by_file(build(declared(hospital)))
    assert len({patient for patient, _ in before.values()}) == 32
    found = by_file(build(declared(hospital, 'patient_column = "who"')))
    people: dict[str, set[tuple[int, Split]]] = {}
    for name, where in found.items():
        people.setdefault(name[0], set()).add(where)
    assert [len(where) for where in people.values()] == [1] * 8
    assert len({patient for patient, _ in found.values()}) == 8


def test_a_row_that_names_nobody_or_two_is_not_used(hospital: Any) -> None:
    """Who it is of must be said; files need no PatientID then, and one that is the same in all joins nobody."""
    for name in ("a", "b", "c", "d"):
        hospital.image(name, patient="" if name == "a" else "ANON", exam=str(ord(name)))
    hospital.labels("path,label,who", "a,1,Ann", "b,0,", "c,1,Cy", "c,1,Carl", "d,1,Dan")
    cohort = build(declared(hospital, 'patient_column = "who"'))
    assert dict(cohort.local_listing()) == {"b": "no_patient", "c": "conflicting_labels"}
    assert len({image.patient for image in cohort.images}) == 2
    with pytest.raises(SiteError, match=r"no column 'whose'.*Did you mean"):
        build(declared(hospital, 'patient_column = "whose"'))


def test_one_patients_row_says_nothing_of_another(hospital: Any) -> None:
    """Rows of one key name two patients: each has what its own says, as without the other's files and row."""
    hospital.image("y", patient="Yan ", exam="1", AccessionNumber="A7")
    hospital.image("z", patient="Z", exam="2", AccessionNumber="A8")
    own = ["A7,yan,0", "A8,Z,1"]

    def labels() -> dict[str, tuple[float, ...]]:
        cohort = build(declared(hospital, 'patient_column = "who"', join="AccessionNumber"), private=True)
        return {image.path.name: image.labels for image in cohort.images}

    hospital.labels("AccessionNumber,who,label", *own)
    assert labels() == (alone := {"y": (0,), "z": (1,)})
    hospital.image("x", patient="X", exam="3", AccessionNumber="A7", IssuerOfPatientID="EAST")
    for row, said in {
        "A7,X,1": {"x": (1,)},
        "A7,X^^^EAST,0": {"x": (0,)},
        "A7,X,": {},
        "A7,X,1\nA7,x,0": {},
        "A7,X,maybe": {},
    }.items():
        for rows in ([row, *own], [*own, row]):
            hospital.labels("AccessionNumber,who,label", *rows)
            assert labels() == alone | said


def test_a_file_that_several_may_have_is_nobodys(hospital: Any) -> None:
    """Its ID is none of those that the rows of its key name, or two of them: it is left out, and takes nobody along."""
    for name, patient in {"x": "X", "y": "Y", "other": "W", "none": "", "both": "V"}.items():
        issuer = {"IssuerOfPatientID": "EAST"} if name == "both" else {}
        accession = "A9" if name == "both" else "A7"
        hospital.image(name, patient=patient, exam=str(ord(name[0])), AccessionNumber=accession, **issuer)
    hospital.labels("AccessionNumber,who,label", "A7,X,1", "A7,Y,0", "A9,V,1", "A9,V^^^EAST,1", "A7,,1")
    cohort = build(declared(hospital, 'patient_column = "who"', join="AccessionNumber"))
    assert {image.path.name: image.labels for image in cohort.images} == {"x": (1,), "y": (0,)}
    assert dict(cohort.local_listing()) == dict.fromkeys(["other", "none", "both"], "conflicting_labels")
    assert {step.reason.value: step.where for step in cohort.flow.row_steps} == {"conflicting_labels": (4, 5, 6)}


@pytest.mark.parametrize("added", ["!0", "ZZ", "P1"])
def test_a_later_file_makes_nobody_another_patient(hospital: Any, added: str) -> None:
    """One more ID, first in order or last, or another issuer's form of it: who was counted is so still, on one side."""
    issuer = {"IssuerOfPatientID": "EAST"} if added == "P1" else {}
    for n in range(12):
        hospital.image(f"{n:02}", patient="P1" if added == "P1" and n == 1 else f"PAT{n:02}", exam=str(n), **issuer)
    hospital.labels("path,label", *(f"{n:02},1" for n in range(12)))
    site = hospital.site(join="path", pna="label")
    first = by_file(build(site))
    counted = {patient for patient, _ in first.values()}.__contains__
    for n in range(12):
        hospital.image(f"new{n}", patient=added if added == "P1" else f"{added}{n}", exam="1" if issuer else str(n))
    assert by_file(build(site, counted=counted).only(counted)) == first
    hospital.image("stranger", patient="A", exam="99")
    hospital.labels("path,label", "stranger,1", *(f"{n:02},1" for n in range(12)))
    cohort = build(site, counted=counted).only(counted)
    assert by_file(cohort) == first
    assert dict(cohort.local_listing())["stranger"] == Exclusion.CAME_LATER


def test_a_row_is_never_for_two_issuers_patients(hospital: Any) -> None:
    """Joined on PatientID, a bare ID of two issuers is refused until the hospital says whose the table's are."""
    for place, issuer in enumerate(("EAST", "WEST"), start=1):
        for n in range(3):
            hospital.image(
                f"{issuer}{n}",
                patient=str(n),
                exam=f"{place}{n}",
                IssuerOfPatientID=issuer,
            )
    hospital.labels("PatientID,label", "0,1", "1,0", "2,1", "3,1")
    with pytest.raises(SiteError, match="3 PatientIDs of the label table are those of several patients") as fault:
        build(declared(hospital, join="PatientID"))
    assert "EAST" not in str(fault.value)
    cohort = build(declared(hospital, 'issuer = "east"', join="PatientID"))
    assert {image.path.name for image in cohort.images} == {"EAST0", "EAST1", "EAST2"}
    assert {reason for _, reason in cohort.local_listing()} == {"no_label_row"}


def test_ids_are_joined_as_they_are_compared(hospital: Any) -> None:
    """A table with lower case finds files with upper case, of one issuer or none."""
    hospital.image("a", patient="PAT 7", exam="1", IssuerOfPatientID="EAST")
    hospital.image("b", patient="PAT 8", exam="2")
    hospital.labels("PatientID,label", "pat 7 ,1", "Pat  8,0")
    assert [image.labels for image in build(declared(hospital, join="PatientID")).images] == [(1,), (0,)]


@pytest.mark.parametrize(
    ("typed", "gone"),
    [
        ("7", {"east", "west", "bare"}),
        ("7^^^EAST", {"east", "bare", "study"}),
        (" pAt  8 ", {"lower"}),
        ("Ann", {"table"}),
        ("9", set()),
    ],
)
def test_a_withdrawn_patient_is_found_under_every_id(hospital: Any, tmp_path: Path, typed: str, gone: set[str]) -> None:
    """Bare, with an issuer, in another case, by the table's name; and all IDs that count as one patient go together."""
    listed = Withdrawals(tmp_path / "withdrawn.txt", key=bytes(32))
    listed.add(typed)
    listed.changed()
    by_table = typed == "Ann"
    files: dict[str, tuple[str, dict[str, Any]]] = {
        "east": ("7", {"IssuerOfPatientID": "EAST", "StudyInstanceUID": "1.2.50"}),
        "lower": ("PAT 8", {}),
        "other": ("70", {}),
    }
    if typed == "7":
        files |= {"west": ("7", {"IssuerOfPatientID": "WEST"}), "bare": ("7", {})}
    if typed == "7^^^EAST":
        files |= {"bare": ("7", {}), "study": ("old number", {"StudyInstanceUID": "1.2.50"})}
    if by_table:
        files["table"] = ("any", {})
    for place, (name, (patient, attributes)) in enumerate(files.items()):
        hospital.image(name, patient=patient, exam=str(place), **attributes)
    hospital.labels("path,label,who", *(f"{name},1,{'Ann' if name == 'table' else name}" for name in files))
    cohort = build(declared(hospital, *(['patient_column = "who"'] if by_table else [])), withdrawn=listed)
    assert {name for name, reason in cohort.local_listing() if reason == Exclusion.WITHDRAWN} == gone


def test_an_old_list_still_holds(hospital: Any, tmp_path: Path) -> None:
    """Lines of earlier versions are of the PatientID as it was typed, in its case."""
    listed = Withdrawals(tmp_path / "withdrawn.txt", key=bytes(32))
    (tmp_path / "withdrawn.txt").write_text(listed._pseudonym("Pat-7") + "\n")
    listed.changed()
    hospital.image("a", patient="Pat-7", exam="1")
    hospital.labels("path,label", "a,1")
    with pytest.raises(NoImagesError) as fault:
        build(hospital.site(join="path", pna="label"), withdrawn=listed)
    assert fault.value.cohort.files[0].reason is Exclusion.WITHDRAWN
    listed.add("Pat-7")
    assert len(listed) == 1


def doubts_of(hospital: Any, *files: tuple[str, dict[str, Any]]) -> list[str]:
    """Write files, and give what `site check` says of them."""
    for place, (patient, attributes) in enumerate(files):
        hospital.image(f"{place:03}", patient=patient, exam=str(place), **attributes)
    hospital.labels("path,label", *(f"{place:03},{place % 2}" for place in range(len(files))))
    site = hospital.site(join="path", pna="label")
    path = hospital.folder / "site.toml"
    with pytest.MonkeyPatch.context() as patch:
        console = Console(record=True, width=400, file=io.StringIO())
        patch.setattr(site_check, "Console", lambda **_: console)
        site_check.show_check(path, None)
    assert site.data.dicom.exists()
    return [line[2:] for line in console.export_text().splitlines() if line.startswith("! ")]


def test_a_person_with_several_ids_is_told_in_counts(hospital: Any) -> None:
    """Same name, birth date and sex under two IDs: the hospital hears how many, and nobody's name."""
    ann = {"PatientName": "Doe^Ann", "PatientBirthDate": "19500101", "PatientSex": "F"}
    again = ann | {"PatientName": "DOE^ANN^^"}
    lines = doubts_of(hospital, ("P1", ann), ("P1", ann), ("P2", again), ("P3", {"PatientBirthDate": "19500101"}))
    told = [line for line in lines if "seem to have several PatientIDs" in line]
    assert len(told) == 1
    assert told[0].startswith("1 patients seem to have several PatientIDs, 2 in all")
    assert not any(secret in " ".join(lines) for secret in ("Doe", "DOE", "1950", "P1", "P2"))


def test_what_a_de_identifier_wrote_into_every_file_is_no_person(hospital: Any) -> None:
    """Twenty-one IDs under one name are told as nothing."""
    same = {"PatientName": "Anonymous", "PatientBirthDate": "19000101", "PatientSex": "O"}
    lines = doubts_of(hospital, *[(f"P{n // 2}", same) for n in range(42)])
    assert not [line for line in lines if "seem to have several" in line]


def test_an_id_for_each_file_is_told(hospital: Any) -> None:
    """As in a public collection where each view is a patient: the way out is named."""
    lines = doubts_of(hospital, *[(f"P{n}", {}) for n in range(4)])
    assert any(line.startswith("each of the 4 files has a PatientID of its own") for line in lines)
    assert any("patient_column" in line for line in lines)


def test_a_study_of_several_ids_is_told(hospital: Any) -> None:
    """They count as one patient, and the hospital hears of it."""
    shared = {"StudyInstanceUID": "1.2.99"}
    lines = doubts_of(hospital, ("P1", shared), ("P2", shared), ("P3", {}), ("P3", {}))
    assert any(
        line.startswith("1 studies (StudyInstanceUID) have files of several PatientIDs, 2 in all") for line in lines
    )
