"""What an exam's own images are, told from localizers, screenshots, dose sheets and reformats by their headers."""

from typing import Any

import pytest

from client.anatomy import Nature, not_of_anatomy
from client.bootstrap import site_cohort
from client.cohort import NoImagesError
from client.patient_flow import Exclusion
from shared.protocol import StudyProtocol

CT, MR, PET, CR, DX, US, XA = ("1.2.840.10008.5.1.4.1.1." + end for end in ("2", "4", "128", "1", "1.1", "6.1", "12.1"))
ENHANCED_CT, SC, MULTIFRAME_SC = ("1.2.840.10008.5.1.4.1.1." + end for end in ("2.1", "7", "7.4"))


def nature(sop_class: str, image_type: str = "", *, burned_in: bool = False) -> Nature:
    """Give what an object of a class with an Image Type is."""
    values = tuple(image_type.split("\\")) if image_type else ()
    return Nature(sop_class=sop_class, image_type=values, burned_in=burned_in)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (nature(CT, "ORIGINAL\\PRIMARY\\AXIAL"), None),
        (nature(CT, "ORIGINAL\\PRIMARY\\LOCALIZER"), Exclusion.LOCALIZER),
        (nature(CT, "ORIGINAL\\PRIMARY\\LOCALIZER\\CT_SOM5 TOP"), Exclusion.LOCALIZER),
        (nature(CT, "original\\primary\\localizer"), Exclusion.LOCALIZER),
        (nature(ENHANCED_CT, "ORIGINAL\\PRIMARY\\LOCALIZER\\NONE"), Exclusion.LOCALIZER),
        (nature(MR, "ORIGINAL\\PRIMARY\\SCOUT"), Exclusion.LOCALIZER),
        (nature(MR, "ORIGINAL\\PRIMARY\\M\\ND\\NORM"), None),
        (nature(MR, "DERIVED\\PRIMARY\\DIFFUSION\\ADC"), None),
        (nature(MR, "DERIVED\\PRIMARY\\PROJECTION IMAGE\\M"), Exclusion.REFORMAT),
        (nature(CT, "DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE"), Exclusion.REFORMAT),
        (nature(CT, "DERIVED\\PRIMARY\\AXIAL\\CSA MPR"), Exclusion.REFORMAT),
        (nature(PET, "DERIVED\\SECONDARY\\MIP"), Exclusion.REFORMAT),
        (nature(CT, "ORIGINAL\\SECONDARY\\OTHER\\CT_SOM5 PROT"), Exclusion.SCREENSHOT),
        (nature(CT, "DERIVED\\SECONDARY\\SCREEN SAVE"), Exclusion.SCREENSHOT),
        (nature(CT), None),
        (nature(CR, "DERIVED\\SECONDARY"), None),
        (nature(DX, "DERIVED\\PRIMARY\\POST_PROCESSED"), None),
        (nature(US, "ORIGINAL\\PRIMARY\\CARDIAC\\0011"), None),
        (nature(XA, "ORIGINAL\\PRIMARY\\SINGLE PLANE"), None),
        (nature(SC, "DERIVED\\SECONDARY"), Exclusion.SCREENSHOT),
        (nature(SC, "DERIVED\\SECONDARY\\DOSE_INFO"), Exclusion.SCREENSHOT),
        (nature(MULTIFRAME_SC, "DERIVED\\SECONDARY"), Exclusion.SCREENSHOT),
        (nature(SC, "DERIVED\\PRIMARY"), None),
        (nature(SC, burned_in=True), Exclusion.SCREENSHOT),
        (nature(SC), None),
    ],
)
def test_an_object_is_judged_by_class_and_image_type(one: Nature, reason: Exclusion | None) -> None:
    """Each kind that devices write, alone in its exam."""
    assert not_of_anatomy([one]) == [reason]


def test_a_capture_beside_a_scanners_images_is_a_screenshot() -> None:
    """Where nothing but captures is, as in converted archives, they are the exam's images."""
    slices = [nature(CT, "ORIGINAL\\PRIMARY\\AXIAL")] * 2
    assert not_of_anatomy([*slices, nature(SC)]) == [None, None, Exclusion.SCREENSHOT]
    assert not_of_anatomy([nature(SC), nature(SC)]) == [None, None]


def test_what_is_left_out_is_counted_and_a_study_can_read_it(hospital: Any, tiny: Any) -> None:
    """Of five files of each exam three are slices; with objects = "all" all five are read, under another digest."""
    rows = ["AccessionNumber,opacity"]
    for exam in range(4):
        ids: dict[str, Any] = {"patient": f"P{exam}", "exam": str(exam), "Modality": "CT"}
        rows.append(f"A{exam},{exam % 2}")
        for place in range(3):
            hospital.image(f"{exam}/{place}.dcm", SOPClassUID=CT, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], **ids)
        hospital.image(f"{exam}/scout.dcm", SOPClassUID=CT, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **ids)
        hospital.image(f"{exam}/dose.dcm", ImageType=["DERIVED", "SECONDARY"], **ids)
    hospital.labels(*rows)
    config = hospital.site(join="AccessionNumber", opacity="opacity")
    protocol: StudyProtocol = tiny.protocol()
    flow = site_cohort(config, protocol, progress=lambda *_: None).flow
    assert flow.files_kept == 12
    assert {step.reason: step.files for step in flow.steps} == {Exclusion.LOCALIZER: 4, Exclusion.SCREENSHOT: 4}
    every = tiny.protocol(images={"size": 32, "channels": 1, "objects": "all"})
    assert site_cohort(config, every, progress=lambda *_: None).flow.files_kept == 20
    assert every.digest() != protocol.digest()
    named = tiny.protocol(images={"size": 32, "channels": 1, "objects": "anatomy"})
    assert named.digest() == protocol.digest()


def test_a_patients_images_do_not_depend_on_anothers(hospital: Any, tiny: Any) -> None:
    """Another patient's scanner images under the same study UID make nobody's capture a screenshot."""
    hospital.image("a.dcm", patient="P1", exam="1")
    hospital.image("b.dcm", patient="P2", exam="1", SOPClassUID=CT, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    hospital.labels("PatientID,opacity", "P1,1", "P2,0")
    config = hospital.site(join="PatientID", opacity="opacity")
    flow = site_cohort(config, tiny.protocol(), progress=lambda *_: None).flow
    assert not {step.reason for step in flow.steps} & {Exclusion.SCREENSHOT}


@pytest.mark.parametrize("says", [None, ["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY"]])
def test_an_archive_of_scanned_films_is_used_or_its_hospital_hears_how(hospital: Any, tiny: Any, says: Any) -> None:
    """Captures that stand alone are the exams, unless they deny it themselves: then the study can say otherwise."""
    for n in range(3):
        hospital.image(f"{n}.dcm", patient=f"P{n}", exam=str(n), SOPClassUID=SC, ImageType=says, ConversionType="DF")
    hospital.labels("id,a", *(f"A{n},{n % 2}" for n in range(3)))
    site = hospital.site(join="AccessionNumber", key="id", opacity="a")
    if says == ["DERIVED", "SECONDARY"]:
        with pytest.raises(NoImagesError, match=r"secondary captures.*\[images\] objects = 'all'"):
            site_cohort(site, tiny.protocol(), progress=lambda *_: None)
    else:
        assert len(site_cohort(site, tiny.protocol(), progress=lambda *_: None).images) == 3
    everything = tiny.protocol(images={"objects": "all"})
    assert len(site_cohort(site, everything, progress=lambda *_: None).images) == 3
