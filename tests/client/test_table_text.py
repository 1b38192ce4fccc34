"""Tables as the spreadsheets of all countries write them: quotes, separators, line breaks, encodings, letters."""

import codecs
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from client.bootstrap import site_cohort
from client.label_table import read_table
from client.traits import table_words
from shared.errors import DataError, SiteError
from shared.subgroups import UNKNOWN, sex_group

LONG = "pneumonia (1=yes, 0=no, empty=not read)"


def read(folder: Path, content: str | bytes) -> Any:
    """Write and read a table."""
    path = folder / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoted", [True, False])
def test_separators_inside_a_name_do_not_separate(tmp_path: Path, separator: str, quoted: bool) -> None:
    """RFC 4180, section 2 rule 6; without quotes, the other rows tell."""
    name = LONG.replace(",", ";") if separator == "," else LONG
    header = f'"{name}"' if quoted else name
    table = read(tmp_path, f"id{separator}{header}\nx{separator}1\ny{separator}0\n")
    assert table.header == ("id", name)
    assert table.rows == ((2, ["x", "1"]), (3, ["y", "0"]))


def test_decimal_commas_do_not_separate(tmp_path: Path) -> None:
    """A semicolon's table may have more commas than semicolons."""
    table = read(tmp_path, "id;a, b, c, d;e\nx;1,5;2,5\ny;1,5;2,5\n")
    assert table.header == ("id", "a, b, c, d", "e")


@pytest.mark.parametrize("line", ["sep=;\n", "sep=;\r\n", '"sep=;"\r\n', "SEP=;\n", "\ufeffsep=;\n"])
def test_excels_own_line_is_read_and_not_counted(tmp_path: Path, line: str) -> None:
    """Excel does not show it: the header is row 1."""
    table = read(tmp_path, line + "id;a,b\nx;1\n")
    assert (table.header, table.rows) == (("id", "a,b"), ((2, ["x", "1"]),))


def test_a_separator_that_is_none_is_named(tmp_path: Path) -> None:
    """A line sep= with something else ends in words that say it."""
    with pytest.raises(DataError, match="line sep="):
        read(tmp_path, "sep=x\nidxa\n")
    assert read(tmp_path, "sep=|\nid|a\nx|1\n").header == ("id", "a")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_line_break_in_a_cell_is_text(tmp_path: Path, newline: str) -> None:
    """A name on two lines is the name on one; rows keep their numbers in the spreadsheet."""
    rows = ['id;"pneumonia\n(0 or 1)";note', 'x;1;"two\nlines"', "y;0;"]
    table = read(tmp_path, newline.join(rows) + newline)
    assert table.place("pneumonia (0 or 1)") == table.place("pneumonia\n(0 or 1)") == 1
    assert [number for number, _ in table.rows] == [2, 3]


def test_names_in_two_unicode_forms_are_one(tmp_path: Path) -> None:
    """A column's name may be composed in site.toml and decomposed in the table."""
    name = "Röntgenbefund"
    for written, asked in (("NFD", "NFC"), ("NFC", "NFD")):
        table = read(tmp_path, f"id,{unicodedata.normalize(written, name)}\nx,1\n")
        assert table.place(unicodedata.normalize(asked, name)) == 1


@pytest.mark.parametrize(("encoding", "warns"), [("cp1252", True), ("latin-1", True), ("utf-8", False)])
def test_windows_1252_is_read_with_a_warning(tmp_path: Path, encoding: str, warns: bool) -> None:
    """Letters come right, and somebody is asked to look."""
    table = read(tmp_path, "id,Größe\nMüller é,1\n".encode(encoding))
    assert (table.header, table.rows[0][1]) == (("id", "Größe"), ["Müller é", "1"])
    assert ("Windows-1252" in table.warning) == warns


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_no_rows_letter_changes_how_another_row_is_read(tmp_path: Path, newline: bytes) -> None:
    """One row in Windows-1252, pasted into a table in UTF-8: each row is read for itself, and that one named."""
    lines = [
        codecs.BOM_UTF8 + "id,Größe".encode(),
        "Müller,1".encode(),
        "André,1".encode("cp1252"),
        "Jürgen,0".encode(),
    ]
    table = read(tmp_path, newline.join([*lines, b""]))
    assert table.header == ("id", "Größe")
    assert [cells for _, cells in table.rows] == [["Müller", "1"], ["André", "1"], ["Jürgen", "0"]]
    assert "labels.csv, line 3, is not UTF-8" in table.warning


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_excels_unicode_text_is_read(tmp_path: Path, encoding: str) -> None:
    """UTF-16 with its mark, cells between tabs."""
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    table = read(tmp_path, mark + "id\tGröße\r\nx\t1\r\n".encode(encoding))
    assert (table.header, table.rows, table.warning) == (("id", "Größe"), ((2, ["x", "1"]),), "")


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_paths_in_two_unicode_forms_are_one(hospital: Any, tiny: Any, written: str, on_disk: str) -> None:
    """MacOS decomposes the names of files; tables have them composed (UAX #15)."""
    name = "Röntgen Müller {}/Thorax é.dcm"
    rows = ["path,opacity"]
    for number in range(4):
        relative = unicodedata.normalize(on_disk, name.format(number))
        hospital.image(relative, patient=f"P{number}", exam=str(number), SOPInstanceUID=f"1.2.3.{number}")
        rows.append(unicodedata.normalize(written, name.format(number)) + f",{number % 2}")
    hospital.labels(*rows)
    config = hospital.site(join="path", opacity="opacity")
    assert site_cohort(config, tiny.protocol(), progress=lambda *_: None).flow.files_kept == 4


@pytest.mark.parametrize(
    ("words", "read_as"),
    [
        (["H", "M", "M"], ["", "", ""]),
        (["h", "m", "U"], ["", "", ""]),
        (["K", "M", ""], ["", "", ""]),
        (["F", "M", "U"], ["F", "M", "U"]),
        (["M", "M", "U"], ["M", "M", "U"]),
        (["male", "female", ""], ["male", "female", ""]),
    ],
)
def test_letters_of_another_language_leave_sex_unknown(tmp_path: Path, words: list[str], read_as: list[str]) -> None:
    """Beside H, an M is mujer: it is never read as male."""
    path = tmp_path / "labels.csv"
    path.write_text("id,sexo\n" + "".join(f"{number},{word}\n" for number, word in enumerate(words)))
    assert [row["sex"] for row in table_words(path, {"sex": "sexo"}, private=False)] == read_as


@pytest.mark.parametrize("others", [[], ["F"], ["H"], ["D"], ["K", "Mulher"]])
def test_in_a_private_study_no_rows_sex_is_read_by_another(tmp_path: Path, others: list[str]) -> None:
    """Whoever else is there, a word means the same; a bare M, which only others could settle, is unknown."""
    path = tmp_path / "labels.csv"
    words = ["male", "F", "M", " m ", "Mujer", "O", *others]
    path.write_text("id,sexo\n" + "".join(f"{number},{word}\n" for number, word in enumerate(words)))
    read = [sex_group(row.get("sex", "")) for row in table_words(path, {"sex": "sexo"}, private=True)]
    assert read[:6] == ["male", "female", UNKNOWN, UNKNOWN, UNKNOWN, "other"]


def test_a_wrong_column_of_a_subgroup_names_the_nearest(tmp_path: Path) -> None:
    """[data.subgroups] is corrected in one look too."""
    path = tmp_path / "labels.csv"
    path.write_text("id,patient_sex\nx,M\n")
    with pytest.raises(SiteError, match="Did you mean 'patient_sex'"):
        table_words(path, {"sex": "patientsex"}, private=False)
