"""Keys that a spreadsheet has changed: their rows are refused in words that say it, and no image gets their labels."""

from typing import Any

import pytest

from client.bootstrap import site_cohort
from client.changed_keys import ChangedKeys
from client.cohort import NoImagesError
from client.labels import LabelRow, join
from client.patient_flow import Exclusion, RowReason

KNOWN = ["00012", "2023010000000", "20230100000000017", "A-7", "000"]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("2.02301E+12", RowReason.KEY_IN_SCIENTIFIC_NOTATION),
        ("1,2e+15", RowReason.KEY_IN_SCIENTIFIC_NOTATION),
        ("2E10", RowReason.KEY_IN_SCIENTIFIC_NOTATION),
        ("12", RowReason.KEY_WITHOUT_ZEROS),
        ("0000012", RowReason.KEY_WITHOUT_ZEROS),
        ("0", RowReason.KEY_WITHOUT_ZEROS),
        ("2023010000000.0", RowReason.KEY_WITH_DECIMALS),
        ("12,00", RowReason.KEY_WITH_DECIMALS),
        ("2,023,010,000,000", RowReason.KEY_WITH_DECIMALS),
        ("2.023.010.000.000", RowReason.KEY_WITH_DECIMALS),
        ('="00012"', RowReason.KEY_AS_FORMULA),
        ('="12"', RowReason.KEY_AS_FORMULA),
        ("=2023010000000", RowReason.KEY_AS_FORMULA),
        ("'00012", RowReason.KEY_AS_FORMULA),
        ("20230100000000000", RowReason.KEY_ROUNDED),
        ("B-7", None),
        ("13", None),
        ("13.0", None),
        ("99230100000000000", None),
        ('="13"', None),
    ],
)
def test_a_changed_key_is_named_after_what_was_done_to_it(key: str, reason: RowReason | None) -> None:
    """Each kind is recognised beside the images' own keys; a key that is merely another is not blamed."""
    assert ChangedKeys(KNOWN).reason(key) is reason
    matches, (fate,) = join([LabelRow(number=2, key=key, labels=(1.0,))], KNOWN, by_path=False)
    assert fate.reason is (reason or RowReason.NO_IMAGE)
    assert {match.reason for match in matches} == {Exclusion.NO_LABEL_ROW}


def test_an_images_own_key_may_look_as_if_it_were_changed() -> None:
    """What fits exactly, fits."""
    for key in ("1E5", "12.0", '="7"', "0012"):
        (match,), (fate,) = join([LabelRow(number=2, key=key, labels=(1.0,))], [key], by_path=False)
        assert (match.labels, fate.reason) == ((1.0,), None)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["2.02E+12"] * 2, "scientific notation"),
        (["1.0", "2.0"], "decimals"),
        (['"=""0001"""', '"=""0002"""'], "formula"),
        (["1", "2"], "leading zeros"),
    ],
)
def test_a_table_of_changed_keys_says_so(hospital: Any, tiny: Any, keys: list[str], says: str) -> None:
    """Nothing is joined by guessing, and the message has the reason without a key."""
    for number in (1, 2):
        hospital.image(f"{number}.dcm", patient=f"P{number}", exam=str(number), AccessionNumber=f"{number:04d}")
    hospital.labels("AccessionNumber,opacity", *(f"{key},1" for key in keys))
    with pytest.raises(NoImagesError) as fault:
        site_cohort(hospital.site(join="AccessionNumber", opacity="opacity"), tiny.protocol(), progress=lambda *_: None)
    assert says in str(fault.value)
    assert "E+12" not in str(fault.value).replace("1.2E+15", "")
