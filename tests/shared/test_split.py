"""Where a patient lands, fixed for ever."""

import hashlib

import pytest

from shared.split import Split, assign


def side(patient: str, *, study: str = "lungs", seed: int = 0, site: str = "north", train: float = 0.7) -> Split:
    return assign(study=study, seed=seed, site=site, patient=patient, train=train, validation=0.15)


def test_the_rule_is_the_documented_one() -> None:
    """A side is decided by the first 53 bits of SHA-256 over the JSON list of study, seed, site and patient."""
    for number in range(50):
        digest = hashlib.sha256(f'["lungs", 3, "north", "P{number}"]'.encode()).hexdigest()
        position = (int(digest[:16], 16) // 2**11) / 2**53
        expected = Split.TRAIN if position < 0.7 else Split.VALIDATION if position < 0.85 else Split.TEST
        assert side(f"P{number}", seed=3) == expected


@pytest.mark.parametrize(("patient", "expected"), [("P0", "train"), ("P6", "test"), ("P9", "validation")])
def test_sides_never_change_between_versions(patient: str, expected: str) -> None:
    """A release that moved a patient would put test patients of a running study into training."""
    assert side(patient) == expected


@pytest.mark.parametrize("change", [{"study": "hearts"}, {"seed": 1}, {"site": "south"}])
def test_every_part_of_the_key_matters(change: dict[str, str]) -> None:
    """Another study, seed or site splits anew."""
    patients = [f"P{number}" for number in range(200)]
    assert [side(patient, **change) for patient in patients] != [side(patient) for patient in patients]


def test_names_do_not_run_into_each_other() -> None:
    """Site 'a' with patient 'b1' and site 'ab' with patient '1' are split apart, whatever stands in the names."""
    sides = [(side(f"b{n}", site="a"), side(str(n), site="ab")) for n in range(200)]
    assert any(one != other for one, other in sides)
    assert side("M\udcfcller") in Split  # bytes that are not UTF-8 come out of Python as lone surrogates
