"""Label tables as workbooks: what a cell holds becomes text, what cannot is told, and hostile files stay small."""

import datetime
import io
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from client import workbook
from client.label_table import read_table
from client.labels import join, read_labels
from client.patient_flow import RowReason
from client.site import read_site
from client.traits import table_words
from shared.errors import DataError, MissingPartError, SiteError

PATIENT = "Doe^Jane"
SHEET = "xl/worksheets/sheet1.xml"


def made(folder: Path, *rows: Sequence[Any], **others: Sequence[Sequence[Any]]) -> Path:
    """Write a workbook: the first sheet's rows, and further sheets by name."""
    book = openpyxl.Workbook()
    first = book.active
    assert first is not None
    first.title = "Labels"
    for row in rows:
        first.append(row)
    for name, lines in others.items():
        sheet = book.create_sheet(name)
        for row in lines:
            sheet.append(row)
    path = folder / "labels.xlsx"
    book.save(path)
    return path


def changed(path: Path, part: str, change: Callable[[str], str]) -> Path:
    """Rewrite one part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = change(parts[part].decode()).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_cells_become_the_text_that_a_table_has(tmp_path: Path) -> None:
    """Text stays, keeps its zeros; whole numbers are their digits; the rest is as a spreadsheet shows it."""
    cells = ["007", 7, 7.0, -1.0, 0.1 + 0.2, 45.5, True, False, None, 1e-7, 12345678901, -0.0, "a,b;c"]
    path = made(tmp_path, [f"c{place}" for place in range(len(cells))], cells)
    stored = {"<v>0.3</v>": "<v>0.30000000000000004</v>", "<v>7</v>": "<v>7.0</v>"}
    changed(path, SHEET, lambda text: re.sub("|".join(stored), lambda found: stored[found[0]], text))
    ((number, texts),) = read_table(path).rows
    assert number == 2
    assert texts == [
        *("007", "7", "7", "-1", "0.3", "45.5", "TRUE", "FALSE", "", "0.0000001", "12345678901", "0", "a,b;c")
    ]


def test_labels_of_a_workbook_are_those_of_the_same_table(tmp_path: Path) -> None:
    """Numbers, words and truth values; rows keep their numbers, and one with a cell too many is seen."""
    path = made(
        tmp_path,
        ["id", "a", "b", None],
        ["x", 1, 0.0],
        [None],
        ["y", True, None],
        ["z", "yes", "maybe"],
        ["v", 1, 0, "beside"],
        ["w"],
    )
    rows = read_labels(path, key="id", columns={"a": "a", "b": "b"}, targets=["a", "b"], exclusive=False)
    assert [(row.number, row.key, str(row.labels), row.reason) for row in rows] == [
        (2, "x", "(1.0, 0.0)", None),
        (4, "y", "(1.0, nan)", None),
        (5, "z", "(nan, nan)", RowReason.UNREADABLE_LABEL),
        (6, "", "(nan, nan)", RowReason.RAGGED_ROW),
        (7, "w", "(nan, nan)", None),
    ]


def test_keys_that_were_typed_as_numbers_are_told_as_in_any_table(tmp_path: Path) -> None:
    """Zeros and digits that the spreadsheet has dropped are not guessed; a key that kept all of its digits fits."""
    path = made(tmp_path, ["id", "a"], [42, 1], [4711, 0], [12345678901234567.0, 1])
    path = changed(path, SHEET, lambda text: re.sub(r"<v>1\.?234567[^<]+</v>", "<v>1.2345678901234501E+16</v>", text))
    rows = read_labels(path, key="id", columns={"a": "a"}, targets=["a"], exclusive=False)
    _, fates = join(rows, ["0042", "4711", "12345678901234567"], by_path=False)
    assert [fate.reason for fate in fates] == [RowReason.KEY_WITHOUT_ZEROS, None, RowReason.KEY_ROUNDED]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (datetime.date(1999, 12, 31), "a date"),
        (datetime.datetime(1999, 12, 31, 23, 59), "a date"),
        (datetime.time(23, 59), "a date"),
        (datetime.timedelta(hours=30), "a date"),
        ("#N/A", "an error"),
        ("#DIV/0!", "an error"),
        ('="0042"', "a formula without its result"),
        ("=SUM(B2:B2)", "a formula without its result"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named_by_row_and_column(tmp_path: Path, cell: Any, says: str) -> None:
    """Not by its value; and only where the column is asked for."""
    table = read_table(made(tmp_path, ["id", "a", "note"], ["x", 1, cell], ["y", 0, ""], ["z", 1, cell]))
    assert (table.place("id"), table.place("a")) == (0, 1)
    with pytest.raises(DataError) as fault:
        table.place("note")
    told = str(fault.value)
    assert "labels.xlsx, row 2, column 'note' (and in 1 more rows): " in told
    assert says in told
    assert not any(value in told for value in ("1999", "23:59", "#", "0042", "SUM", "30"))


def test_a_date_beyond_the_calendar_is_an_error_without_its_number(tmp_path: Path) -> None:
    """The reader's own warning would quote it."""
    path = made(tmp_path, ["id", "a"], ["x", datetime.date(1999, 12, 31)])
    path = changed(path, SHEET, lambda text: text.replace("<v>36525</v>", "<v>987654321987</v>"))
    with pytest.raises(DataError, match=r"row 2, column 'a': an error") as fault:
        read_table(path).place("a")
    assert "987654321987" not in str(fault.value)


def test_results_of_formulas_are_read_and_none_is_computed(tmp_path: Path) -> None:
    """What the spreadsheet stored counts, an empty text too."""
    path = made(tmp_path, ["id", "a", "b"], ["x", "=1+1", '=IF(1,"","")'])
    path = changed(path, SHEET, lambda text: re.sub(r"<f>1\+1</f><v\s*/?>(</v>)?", "<f>1+1</f><v>5</v>", text))
    path = changed(path, SHEET, lambda text: text.replace('r="C2"', 'r="C2" t="str"'))
    table = read_table(path)
    assert (table.rows, table.place("a"), table.place("b")) == (((2, ["x", "5", ""]),), 1, 2)


def test_the_sheet_is_the_one_that_has_cells_or_the_one_that_is_named(tmp_path: Path) -> None:
    """Nobody guesses which of two is the table."""
    lines = [["id", "a"], ["x", 1]]
    assert read_table(made(tmp_path, *lines, Empty=[[None, " "]])).header == ("id", "a")
    assert read_table(made(tmp_path, Second=lines)).header == ("id", "a")
    two = made(tmp_path, ["Read me first"], Second=lines)
    with pytest.raises(SiteError, match=r"2 sheets that are not empty.*\[data\] sheet"):
        read_table(two)
    assert read_table(two, sheet="second ").header == ("id", "a")
    with pytest.raises(SiteError, match=r"\[data\] sheet: labels.xlsx has no sheet 'Third' among its 2"):
        read_table(two, sheet="Third")
    with pytest.raises(DataError, match="is empty"):
        read_table(made(tmp_path))
    with pytest.raises(DataError, match="sheet is empty"):
        read_table(made(tmp_path, *lines, Second=[]), sheet="Second")


def test_site_toml_names_the_sheet_for_all_that_read_the_table(tmp_path: Path) -> None:
    """A table of text has none."""
    made(tmp_path, ["Read me first"], Second=[["id", "a", "sex"], ["x", 1, "F"]])
    site = tmp_path / "site.toml"
    site.write_text(
        '[site]\nname = "north"\n[data]\ndicom = "dicom"\nlabels = "labels.xlsx"\nsheet = "Second"\n'
        'join = "PatientID"\nkey = "id"\n[data.findings]\na = "a"\n'
    )
    data = read_site(site).data
    assert data.sheet == "Second"
    assert table_words(data.labels, {"sex": "sex"}, private=False, sheet=data.sheet) == [{"sex": "F"}]
    csv = tmp_path / "labels.csv"
    csv.write_text("id,a\nx,1\n")
    with pytest.raises(SiteError, match="is no workbook"):
        read_table(csv, sheet="Second")


def test_what_a_file_says_of_its_size_is_not_believed(tmp_path: Path) -> None:
    """A wrong dimension would hide rows."""
    path = made(tmp_path, ["id", "a"], ["x", 1], ["y", 0])
    path = changed(path, SHEET, lambda text: re.sub(r'<dimension ref="[^"]+"', '<dimension ref="A1:A2"', text))
    assert read_table(path).rows == ((2, ["x", "1"]), (3, ["y", "0"]))


def entities(text: str) -> str:
    """Put a document type with multiplying entities before a sheet."""
    start = text.index("<worksheet")
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return f'{text[:start]}<!DOCTYPE worksheet [<!ENTITY e0 "lol">{levels}]>{text[start:]}'.replace("x</t>", "&e9;</t>")


def outside(text: str) -> str:
    """Let an entity stand for a file of this machine."""
    start = text.index("<worksheet")
    return f'{text[:start]}<!DOCTYPE worksheet [<!ENTITY e SYSTEM "file:///etc/hostname">]>{text[start:]}'


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (entities, "a document type"),
        (outside, "a document type"),
        (
            lambda text: text.replace('r="2"', 'r="99999999999"').replace("A2", "A99999999999"),
            "more cells than",
        ),
        (lambda text: text.replace("</sheetData>", ""), "cannot be read"),
        (lambda text: text.replace('"B2"', f'"{PATIENT}"'), "cannot be read"),
    ],
)
def test_a_hostile_or_damaged_workbook_is_refused(
    tmp_path: Path, change: Callable[[str], str], says: str, recwarn: pytest.WarningsRecorder
) -> None:
    """In words, and without a word of its cells."""
    path = changed(made(tmp_path, ["id", "a"], [PATIENT, 1]), SHEET, change)
    with pytest.raises(DataError, match=says) as fault:
        read_table(path)
    assert PATIENT not in str(fault.value)
    assert not recwarn.list


def test_a_document_type_is_found_wherever_it_stands(tmp_path: Path) -> None:
    """Behind a comment, across the borders of what is read at a time, and in another part than the sheet."""
    for length in (workbook._CHUNK - 12, workbook._CHUNK, 3 * workbook._CHUNK):
        path = made(tmp_path, ["id", "a"], ["x", 1])
        before = f"<!--{'-x' * (length // 2)}--><!DOCTYPE styleSheet []>"
        changed(path, "xl/styles.xml", before.__add__)
        with pytest.raises(DataError, match="a document type"):
            read_table(path)


def test_a_workbook_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    """A megabyte of zip is a gigabyte of zeros."""
    path = made(tmp_path, ["id", "a"], ["x", 1])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/media/x", "w") as part:
        for _ in range(1 + workbook.MOST_BYTES // (16 << 20)):
            part.write(bytes(16 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match="unpacks to more than 512 MiB"):
        read_table(path)


def test_few_cells_far_apart_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is as wide as its last cell: what lies between counts too."""
    monkeypatch.setattr(workbook, "MOST_CELLS", 50_000)
    path = made(tmp_path, ["id", "a"])
    far = "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(2, 9))
    with pytest.raises(DataError, match="row 5: more cells than a label table has"):
        read_table(changed(path, SHEET, lambda text: text.replace("</sheetData>", f"{far}</sheetData>")))


@pytest.mark.parametrize("content", [b"PK\x03\x04rest", b"ods", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_what_is_no_workbook_of_this_form_is_told(tmp_path: Path, content: bytes) -> None:
    """A zip of another kind, a damaged one, and the old form."""
    path = tmp_path / "labels.xlsx"
    if content == b"ods":
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        content = memory.getvalue()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"workbook.*Save it as"):
        read_table(path)


def test_without_the_extra_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a table of text needs nothing."""
    path = made(tmp_path, ["id", "a"], ["x", 1])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingPartError, match=r"pip install 'polyclinic\[xlsx\]'"):
        read_table(path)
    csv = tmp_path / "labels.csv"
    csv.write_text("id,a\nx,1\n")
    assert read_table(csv).header == ("id", "a")
