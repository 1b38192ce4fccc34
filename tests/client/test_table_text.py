"""Tables as the spreadsheets of all countries write them: quotes, separators, line breaks, encodings, letters."""

import codecs
import random
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from client.bootstrap import site_cohort
from client.label_table import read_table
from client.labels import read_labels
from client.site_check import show_check
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


ROWS = [f"k{number},ok,{number % 2}" for number in range(8)]
OUT_OF_PLACE: dict[str, tuple[list[int], list[bytes]]] = {
    "two marks of one patient": ([1, 5], [b'k1,"see,1', b'k5,note",0']),
    "two marks, each opens": ([1, 5], [b'k1,"see,1', b'k5,"note,0']),
    "one mark": ([2], [b'k2,"see,1']),
    "a mark behind a mark": ([2], [b'k2,"see"n,1']),
    "closes and opens": ([1, 2], [b'k1,"see","', b'a","b","c']),
    "a byte that is no letter": ([3], [b"k3\x81,ok,1"]),
    "a NUL": ([3], [b"k3\x00,ok,1"]),
    "a cell without end": ([4], [b'k4,"' + b"x" * 200_000 + b",1"]),
}


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("name", OUT_OF_PLACE)
def test_no_mark_or_byte_of_a_row_takes_another_row(tmp_path: Path, name: str, private: bool) -> None:
    """Rows with a quotation mark out of place, or a byte that is no letter, are left out, and no other row is."""
    lines = [row.encode() for row in ROWS]
    for place, line in zip(*OUT_OF_PLACE[name], strict=True):
        lines[place] = line
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\n".join([b"id,note,a", *lines, b""]))
    found = read_labels(path, key="id", columns={"a": "a"}, targets=["a"], exclusive=False, private=private)
    read_as = {row.key: row.labels for row in found if row.reason is None}
    others = [place for place in range(8) if place not in OUT_OF_PLACE[name][0]]
    assert {f"k{place}": read_as.get(f"k{place}") for place in others} == {
        f"k{place}": (float(place % 2),) for place in others
    }
    assert len(found) == 8


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_report_in_a_cell_is_text(tmp_path: Path, newline: str) -> None:
    """Lines of prose that have as many commas as the header has are no rows: a blank stands behind a comma."""
    report = newline.join(["Chest, two views,", "", "Lungs clear, heart normal, no effusion.", 'A ""nodule"", 3,5 mm.'])
    found = read(tmp_path, newline.join(["id,report,a", f'x,"{report}",1', "y,none,0", ""]))
    assert found.rows == ((2, ["x", report.replace('""', '"'), "1"]), (3, ["y", "none", "0"]))


def test_in_a_private_study_each_line_is_a_row(tmp_path: Path) -> None:
    """What a line holds changes the reading of no other, wherever marks stand and whatever separates the cells."""
    rng = random.Random(12)
    path = tmp_path / "labels.csv"
    for _ in range(60):
        lines = ["".join(rng.choices('k",;1 \t', k=rng.randrange(1, 12))) for _ in range(6)]
        apart = []
        for kept in (range(6), *([place] for place in range(6))):
            path.write_text("id;note, if any;a\n" + "".join(lines[place] + "\n" for place in kept))
            apart.append([cells for _, cells in read_table(path, private=True).rows])
        assert apart[0] == [row for one in apart[1:] for row in one]


@pytest.mark.parametrize("line", ['b","c', 'b,"c', '"b', "b", 'x,"a,b,c'])
def test_marks_out_of_place_cost_no_more_than_their_lines(tmp_path: Path, line: str) -> None:
    """Lines of which each closes a cell and opens another could be read again and again, from each to the end."""
    begin = time.perf_counter()
    read(tmp_path, "id,note,a\n" + 'x,"open\n' + f"{line}\n" * 20_000)
    assert time.perf_counter() - begin < 30


def test_a_wrong_column_of_a_subgroup_names_the_nearest(tmp_path: Path) -> None:
    """[data.subgroups] is corrected in one look too."""
    path = tmp_path / "labels.csv"
    path.write_text("id,patient_sex\nx,M\n")
    with pytest.raises(SiteError, match="Did you mean 'patient_sex'"):
        table_words(path, {"sex": "patientsex"}, private=False)


MARK = "\ufeff"
MARKED = {
    "two": f"{MARK}{MARK}id;Opacity\n7;1\n",
    "behind sep=": f"sep=;\n{MARK}id;Opacity\n7;1\n",
    "before and behind sep=": f"{MARK}sep=;\n{MARK}id;Opacity\n7;1\n",
    "before a quoted name": f'{MARK}{MARK}"id";Opacity\n7;1\n',
    "behind an empty line": f"\n{MARK}id;Opacity\n7;1\n",
    "in a row": f"id;Opacity\n{MARK}7;1\n",
    "other letters that show nothing": "i\u200bd;Opa\u00adcity\u2060\n7\u200b;\u200e1\n",
    "a selector and a filler": "id\ufe0f;Opacity\u3164\n\u31647;1\n",
}


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_shows_nothing_is_in_no_name_key_or_label(tmp_path: Path, name: str, encoding: str) -> None:
    """A byte-order mark that is not the first letter, and other invisible ones, in each encoding."""
    found = read(tmp_path, MARKED[name].encode(encoding))
    assert found.header == ("id", "Opacity")
    assert [cells for _, cells in found.rows] == [["7", "1"]]


def test_a_bar_separates_cells_and_stands_in_labels(tmp_path: Path) -> None:
    """Where the header has bars; where it has none, they are text."""
    assert read(tmp_path, "id|Opacity\n7|1\n").header == ("id", "Opacity")
    assert [*read(tmp_path, "id,Opacity\n7,Mass|Nodule\n8,Mass\n").rows] == [
        (2, ["7", "Mass|Nodule"]),
        (3, ["8", "Mass"]),
    ]


def test_utf_32_is_refused(tmp_path: Path) -> None:
    """Its mark begins like that of UTF-16, which would leave a NUL in every cell."""
    with pytest.raises(DataError, match="UTF-32"):
        read(tmp_path, "id,Opacity\n7,1\n".encode("utf-32"))


def cohort_of(site: Any, tiny: Any) -> Any:
    """Join a site's images and labels."""
    return site_cohort(site, tiny.protocol(), progress=lambda *_: None)


TWINS = {
    "suffix": ("a.dcm", "a", "a"),
    "suffix, in the table": ("a.dcm", "a", "a.dcm"),
    "case of the suffix": ("a.dcm", "a.DCM", "a"),
    "Unicode": (unicodedata.normalize("NFC", "é.dcm"), unicodedata.normalize("NFD", "é.dcm"), "é.dcm"),
    "space": ("a.dcm", "a.dcm ", "a.dcm"),
    "joiner": ("a.dcm", "a\u200d.dcm", "a.dcm"),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_row_that_fits_two_files_is_told(hospital: Any, capsys: Any, name: str) -> None:
    """Two patients' files whose paths are one as they are compared: `site check` says so, and shows no name."""
    first, second, row = TWINS[name]
    hospital.image(first, patient="P1", exam="1")
    hospital.image(second, patient="P2", exam="2", SOPInstanceUID="1.3.9")
    hospital.labels("file,Opacity", f"{row},1")
    hospital.site(join="path", key="file", opacity="Opacity")
    show_check(hospital.folder / "site.toml", None)
    said = " ".join(capsys.readouterr().out.split())
    assert "1 row of the label table may be about several images each" in said
    (hospital.dicom / second).unlink()
    show_check(hospital.folder / "site.toml", None)
    assert "several images" not in capsys.readouterr().out


def test_files_with_a_row_each_are_told_apart_by_their_suffix(hospital: Any, tiny: Any) -> None:
    """A row with the path as it is comes first; a text file of the name is no image."""
    hospital.image("a.dcm", patient="P1", exam="1")
    hospital.image("a", patient="P2", exam="2", SOPInstanceUID="1.3.9")
    hospital.image("b.dcm", patient="P3", exam="3")
    (hospital.dicom / "b").write_text("notes")
    hospital.labels("file,Opacity", "a.dcm,1", "a,0", "b,1")
    cohort = cohort_of(hospital.site(join="path", key="file", opacity="Opacity"), tiny)
    labels = {image.path.name: image.labels for image in cohort.images}
    assert labels == {"a.dcm": (1.0,), "a": (0.0,), "b.dcm": (1.0,)}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("join", ["AccessionNumber", "StudyInstanceUID", "SOPInstanceUID", "PatientID"])
@pytest.mark.parametrize("written", ["7", "007", "7.0", "ab", "AB"])
def test_a_key_labels_its_own_image_alone(hospital: Any, tiny: Any, join: str, written: str) -> None:
    """Of images 7 and 007, ab and AB, a row is about the one whose key it is, letter by letter; else about none.

    PatientIDs in two cases are one patient's (docs/privacy.md).
    """
    keys = ["7", "007", "0007", "ab", "AB", "a b"]
    for place, key in enumerate(keys):
        own = {"StudyInstanceUID": f"1.2.{place}", "SOPInstanceUID": f"1.3.{place}", "PatientID": f"P{place}"} | {
            join: key
        }
        hospital.image(f"{place}.dcm", patient="", exam=str(place), **own)
    hospital.labels("key,Opacity", f"{written},1")
    site = hospital.site(join=join, key="key", opacity="Opacity")
    same = {written, written.swapcase()} if join == "PatientID" else {written}
    if written == "7.0":
        with pytest.raises(DataError):
            cohort_of(site, tiny)
        return
    found = cohort_of(site, tiny).images
    assert {image.path.name for image in found} == {f"{place}.dcm" for place, key in enumerate(keys) if key in same}
