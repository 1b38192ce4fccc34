"""An image's groups come from its header, or from the table where the hospital says so; devices are numbered."""

from typing import Any

import numpy as np

from client.bootstrap import site_cohort
from client.cohort import build_cohort
from client.traits import group_codes
from shared.subgroups import AXES, DEVICES


def named(axis: str, codes: list[int]) -> list[str]:
    return [AXES[axis][code] for code in codes]


def test_devices_are_numbered_by_how_much_they_made() -> None:
    """The name itself is nowhere; ties are settled by the name; beyond the ninth they are together."""
    words = [{"device": name} for name in ("b", "a", "b", "c", "a", "b", "")]
    words += [{"device": f"z{number}"} for number in range(DEVICES)]
    found = named("device", group_codes(words)["device"])
    assert found[:7] == ["device 1", "device 2", "device 1", "device 3", "device 2", "device 1", "unknown"]
    assert found[7:] == [f"device {number}" for number in range(4, 10)] + ["other"] * 3


def test_headers_and_the_table_are_read(hospital: Any) -> None:
    """The table goes before the header, where the hospital names its column; what neither has is unknown."""
    for number, (sex, age) in enumerate((("F", "045Y"), ("M", "081Y"), (None, None))):
        hospital.image(
            f"{number}.dcm",
            patient=f"P{number}",
            exam=str(number),
            PatientSex=sex,
            PatientAge=age,
            ViewPosition="PA",
            Manufacturer="SIEMENS",
        )
    hospital.labels("AccessionNumber,opacity,years", "A0,1,30", "A1,0,30", "A2,0,")
    site = hospital.site(join="AccessionNumber", opacity="opacity")
    for columns, ages in (
        ({}, ["40 to 59", "80 and over", "unknown"]),
        ({"age": "years"}, ["18 to 39", "18 to 39", "unknown"]),
    ):
        own = site.model_copy(update={"data": site.data.model_copy(update={"subgroups": columns})})
        cohort = build_cohort(
            site=own,
            targets=["opacity"],
            exclusive=False,
            modality="any",
            objects="anatomy",
            frames="first",
            private=False,
            study="s",
            seed=0,
            train=0.5,
            validation=0.2,
            progress=lambda *_: None,
        )
        order = np.argsort([image.path.name for image in cohort.images])
        found = {axis: named(axis, codes[order].tolist()) for axis, codes in cohort.groups.items()}
        assert found["sex"] == ["female", "male", "unknown"]
        assert found["age"] == ages
        assert set(found["view"]) == {"PA"}
        assert set(found["manufacturer"]) == {"Siemens"}
        assert set(found["device"]) == {"unknown"}
        assert "P0" not in repr(cohort)


def test_the_site_reads_a_private_studys_words_row_by_row(hospital: Any, tiny: Any) -> None:
    """Another patient's word of sex changes nobody's group; a bare M leaves it to the header."""
    for number, sex in enumerate(("M", None, None, None)):
        hospital.image(f"{number}.dcm", patient=f"P{number}", exam=str(number), PatientSex=sex)
    site = hospital.site(join="AccessionNumber", opacity="opacity")
    own = site.model_copy(update={"data": site.data.model_copy(update={"subgroups": {"sex": "sexo"}})})
    for last in ("F", "H"):
        hospital.labels("AccessionNumber,opacity,sexo", "A0,1,M", "A1,0,M", "A2,0,male", f"A3,1,{last}")
        cohort = site_cohort(own, tiny.private_protocol(epsilon=1.0), progress=lambda *_: None)
        order = np.argsort([image.path.name for image in cohort.images])
        assert named("sex", cohort.groups["sex"][order].tolist())[:3] == ["male", "unknown", "male"]
