"""A finding under another name is told, with the name that it may have."""

from typing import Any

import numpy as np
import pytest

from client.assessed import assessed, not_assessed
from client.site_check import show_check
from shared.errors import SiteError
from shared.protocol import Task

NAN = float("nan")


def test_a_misspelt_finding_is_told_with_the_nearest() -> None:
    """Both ways round; a finding that is merely not assessed is told without a guess."""
    (line,) = not_assessed(["efusion"], {"effusion": "x"})
    assert "'efusion' is not in [data.findings]" in line
    assert "Did you mean 'effusion'" in line
    (line,) = not_assessed(["Effusion", "mass"], {"mass": "x"})
    assert "Did you mean" not in line
    assert not [*not_assessed(["mass"], {"mass": "x", "masses": "y"})]


def test_another_target_is_no_misspelling() -> None:
    """Of two findings of the study that are called alike, one may not be assessed here."""
    (line,) = not_assessed(["left effusion", "right effusion"], {"left effusion": "x"})
    assert "Did you mean" not in line


@pytest.mark.parametrize(
    ("task", "labels", "known"),
    [
        ({"findings": ("mass", "effusion")}, [[1, NAN], [0, NAN]], [True, False]),
        ({"findings": ("mass", "effusion")}, [[NAN, NAN], [NAN, NAN]], [True, False]),  # a column that says nothing
        ({"findings": ("mass", "effusion")}, [[1, NAN], [0, 1]], [True, True]),  # another hospital's, beside these
        ({"classes": ("mass", "effusion")}, [[1, 0], [1, 0]], [True, True]),
    ],
)
def test_what_the_settings_name_is_assessed(task: Any, labels: Any, known: list[bool]) -> None:
    """A finding without a column is not assessed; one whose cells say nothing is, and its evidence withheld."""
    assert [*assessed(Task(**task), {"mass": "x"}, np.array(labels, dtype=np.float32), min_cell=10)] == known


def test_site_check_says_it(hospital: Any, tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a finding that fits, as a warning; alone, as an error that names the nearest."""
    for number in range(4):
        hospital.image(f"{number}.dcm", patient=f"P{number}", exam=str(number), seed=number)
    hospital.labels("AccessionNumber,x,y", *(f"A{number},{number % 2},1" for number in range(4)))
    hospital.site(join="AccessionNumber", effusion="x", mass="y")
    study = hospital.folder / "study.toml"
    study.write_text(tiny.protocol(task={"findings": ["efusion", "mass"]}).to_toml(), encoding="utf-8")
    show_check(hospital.folder / "site.toml", study)
    assert "Did you mean 'effusion'" in " ".join(capsys.readouterr().out.split())
    study.write_text(tiny.protocol(task={"findings": ["efusion"]}).to_toml(), encoding="utf-8")
    with pytest.raises(SiteError, match="Did you mean 'effusion'"):
        show_check(hospital.folder / "site.toml", study)


def test_site_check_warns_of_a_table_in_windows_1252(
    hospital: Any, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data manager is asked to look at the letters."""
    for number in range(4):
        hospital.image(f"{number}.dcm", patient=f"P{number}", exam=str(number), seed=number)
    rows = (f"A{number},{number % 2},Größe" for number in range(4))
    hospital.labels("AccessionNumber,x,note", *rows, encoding="cp1252")
    hospital.site(join="AccessionNumber", effusion="x")
    show_check(hospital.folder / "site.toml", None)
    assert "was read as Windows-1252" in " ".join(capsys.readouterr().out.split())


def test_an_empty_column_is_not_assessed_where_every_count_may_leave() -> None:
    """With min_cell = 1 nothing is given away by it; elsewhere one labelled patient more would be told."""
    task, labels_NK = Task(findings=("mass", "nodule")), np.array([[1, np.nan], [0, np.nan]], dtype=np.float32)
    columns = {"mass": "x", "nodule": "y"}
    assert [*assessed(task, columns, labels_NK, min_cell=1)] == [True, False]
    assert [*assessed(task, columns, labels_NK, min_cell=2)] == [True, True]
