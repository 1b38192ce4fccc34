"""What a label table may look like, and how its rows and the images find each other."""

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.labels import LabelRow, join, path_key, read_labels
from client.patient_flow import Exclusion, RowReason
from shared.errors import DataError, SiteError

NAN = math.nan
PATIENT = "Doe^Jane"


def read(path: Path, *, targets: Sequence[str] = ("a", "b"), exclusive: bool = False, **columns: str) -> list[LabelRow]:
    return read_labels(path, key="id", columns=columns or {"a": "a", "b": "b"}, targets=targets, exclusive=exclusive)


def table(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def rows_of(rows: Sequence[LabelRow]) -> list[tuple[float, ...] | str]:
    """Give each row's labels (NaN as -9, so that they compare), or its reason."""
    return [row.reason or tuple(-9 if math.isnan(label) else label for label in row.labels) for row in rows]


@pytest.mark.parametrize(
    ("word", "label"),
    [
        *((word, 1) for word in ("1", "1.0", "true", "TRUE", "Yes", "y", "Positive", " 1 ")),
        *((word, 0) for word in ("0", "0.0", "False", "no", "N", "negative")),
        *((word, -9) for word in ("", " ", "NaN", "NA", "n/a", "null", "-1", "-1.0", "Uncertain")),
    ],
)
def test_words_for_present_absent_and_not_assessed(tmp_path: Path, word: str, label: float) -> None:
    """Hospitals write 0/1, true/false, yes/no, y/n or positive/negative, in any case."""
    assert rows_of(read(table(tmp_path, "id,a,b", f"x,{word},0"))) == [(label, 0)]


def test_uncertain_is_not_assessed_and_known(tmp_path: Path) -> None:
    """-1 (CheXpert's uncertain) trains nothing, and its rows are counted."""
    rows = read(table(tmp_path, "id,a,b", "x,-1,1", "y,uncertain,", "z,,0"))
    assert [row.uncertain for row in rows] == [True, True, False]


def test_rows_that_cannot_be_used_keep_their_spreadsheet_number(tmp_path: Path) -> None:
    """Row 1 is the header, empty rows count as rows of the sheet but are none of the table."""
    path = table(tmp_path, "id,a,b", "x,1,maybe", "", ",,", "y,1", "z,1,0,0", " ,1,0", '"v\nw",1,0')
    rows = read(path)
    assert [(row.number, row.reason) for row in rows] == [
        (2, RowReason.UNREADABLE_LABEL),
        (5, RowReason.RAGGED_ROW),
        (6, RowReason.RAGGED_ROW),
        (7, RowReason.NO_KEY),
        (8, None),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_of_any_country(tmp_path: Path, encoding: str, delimiter: str) -> None:
    """Comma, semicolon and tab, with or without a byte-order mark; keys keep their zeros."""
    lines = [delimiter.join(cells) for cells in (["id", "a ", "b", "Größe"], ["007", "1", "0", "1.80"])]
    (row,) = read(table(tmp_path, *lines, encoding=encoding))
    assert (row.key, row.labels) == ("007", (1, 0))


def test_a_finding_without_a_column_was_not_assessed(tmp_path: Path) -> None:
    """A site that did not label a finding still takes part with the others."""
    assert rows_of(read(table(tmp_path, "id,pna", "x,1"), a="pna")) == [(1, -9)]


def test_classes_in_one_column(tmp_path: Path) -> None:
    """The class's name stands in the cell, in any case."""
    path = table(tmp_path, "id,dx", "x,a", "y,B", "z,", "v,uncertain", "w,other")
    rows = read(path, exclusive=True, a="dx", b="dx")
    assert rows_of(rows) == [(1, 0), (0, 1), (-9, -9), (-9, -9), "unreadable_label"]
    assert [row.uncertain for row in rows] == [False, False, False, True, False]


def test_a_site_may_have_one_of_the_classes(tmp_path: Path) -> None:
    """Its mark settles the class; without it, the class is one that the site did not assess."""
    assert rows_of(read(table(tmp_path, "id,dx", "x,1", "y,0"), exclusive=True, a="dx")) == [(1, 0), (-9, -9)]


def test_classes_that_differ_in_case_only_are_told_apart(tmp_path: Path) -> None:
    """The exact name wins; where only the case could decide, the row is not guessed."""
    path = table(tmp_path, "id,dx", "x,T1", "y,t1", "z,Tt", "w,TT")
    rows = read(path, targets=["T1", "t1", "tt"], exclusive=True, T1="dx", t1="dx", tt="dx")
    assert rows_of(rows) == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1)]
    path = table(tmp_path, "id,dx", "x,aB")
    twins = read(path, targets=["ab", "AB"], exclusive=True, ab="dx", AB="dx")
    assert rows_of(twins) == ["unreadable_label"]


def test_classes_in_columns_of_their_own(tmp_path: Path) -> None:
    """Exactly one is marked; a mark settles the others, and no mark among unknowns is not assessed."""
    path = table(tmp_path, "id,a,b", "v,1,0", "w,,1", "x,1,1", "y,0,0", "z,0,")
    assert rows_of(read(path, exclusive=True)) == [(1, 0), (0, 1), "not_one_class", "not_one_class", (-9, -9)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no file labels.csv"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n,,\r\n", "is empty"),
        ("id,a,b".encode("utf-16-le"), "UTF-16"),
        ("id,a,b".encode("utf-16-be"), "UTF-16"),
        (b"PK\x03\x04rest", "is a workbook"),
        (b'id,"a"b,c\nx,1,0\n', "a quotation mark in the header"),
        (f'id,a,"b\n{PATIENT},1,0\n'.encode(), "a quotation mark in the header"),
        (b"id,a,b,a\nx,1,0,0\n", "has 2 columns 'a'"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes | None, says: str) -> None:
    """What is wrong and in which row, without a word from the row."""
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as fault:
        read(path)
    assert says in str(fault.value)
    assert PATIENT not in str(fault.value)


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    """Any other refusal of the disk is passed on in words."""
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt column is corrected in one look."""
    with pytest.raises(SiteError, match=r"no column 'a' among its 3.*Did you mean 'A'"):
        read(table(tmp_path, "id,A,b", "x,1,0"))
    with pytest.raises(SiteError, match=r"no column 'id'.*Did you mean 'ID'"):
        read(table(tmp_path, "ID,a,b", "x,1,0"))


def test_a_table_without_header_gives_nobody_away(tmp_path: Path) -> None:
    """Then the first row is a patient, and the nearest 'column' may be a name."""
    with pytest.raises(SiteError) as fault:
        read(table(tmp_path, "pneumonie,1,Abel", "x,1,0"), targets=["a"], a="pneumonia")
    assert "pneumonie" not in str(fault.value)
    assert "first row has to hold the names" in str(fault.value)


def test_a_site_without_any_of_the_findings_is_refused(tmp_path: Path) -> None:
    """A site that could not add one label is told which findings the study has."""
    with pytest.raises(SiteError, match="none of the study's a, b"):
        read(table(tmp_path, "id,c", "x,1"), c="c")


def row(number: int, key: str, *labels: float, reason: RowReason | None = None) -> LabelRow:
    return LabelRow(number=number, key=key, labels=labels, reason=reason)


def test_every_row_and_every_image_has_an_answer() -> None:
    """Unmatched on either side is said; the rest carries its labels."""
    rows = [row(2, "x", 1, 0), row(3, "nobody", 1, 1), row(4, "y", NAN, NAN)]
    matches, fates = join(rows, ["x", "y", "z", None, "", "x"], by_path=False)
    assert [match.reason for match in matches] == [
        None,
        Exclusion.NOT_LABELLED,
        *[Exclusion.NO_LABEL_ROW] * 3,
        None,
    ]
    assert (matches[0].labels, matches[0].row) == ((1, 0), 0)
    assert [fate.reason for fate in fates] == [None, RowReason.NO_IMAGE, RowReason.NOT_LABELLED]


def test_rows_that_agree_are_read_as_one() -> None:
    """One is kept, the others are counted; what one leaves open another may say."""
    (match,), fates = join([row(2, "x", 1, NAN), row(3, "x", 1, 0), row(4, "x", NAN, 0)], ["x"], by_path=False)
    assert (match.labels, match.row) == ((1, 0), 0)
    assert [fate.reason for fate in fates] == [None, *[RowReason.DUPLICATE_ROW] * 2]


def test_rows_that_contradict_each_other_exclude_the_image() -> None:
    """Nobody guesses which of two contradicting rows is right."""
    (match,), fates = join([row(2, "x", 1, NAN), row(3, "x", 0, NAN)], ["x"], by_path=False)
    assert match.reason == Exclusion.CONFLICTING_LABELS
    assert [fate.reason for fate in fates] == [RowReason.CONFLICTING_LABELS] * 2


def test_an_unreadable_row_leaves_its_image_to_another_row() -> None:
    """Only if no row of an image can be read is the image left out for it."""
    bad = row(2, "x", NAN, reason=RowReason.UNREADABLE_LABEL)
    (match,), _ = join([bad, row(3, "x", 1)], ["x"], by_path=False)
    assert match.labels == (1,)
    (match,), fates = join([bad], ["x"], by_path=False)
    assert (match.reason, fates[0].reason) == (Exclusion.UNREADABLE_LABEL, RowReason.UNREADABLE_LABEL)


@pytest.mark.parametrize("written", ["p1/x.dcm", "p1\\x.dcm", "./p1/x", "p1/x.DCM", "p1\\x"])
@pytest.mark.parametrize("on_disk", ["p1/x.dcm", "p1/x"])
def test_paths_are_written_in_many_ways(written: str, on_disk: str) -> None:
    """With or without the suffix, with slashes of either kind."""
    (match,), _ = join([row(2, written, 1)], [path_key(on_disk)], by_path=True)
    assert match.labels == (1,)


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_file_name_in_another_unicode_form_is_the_same_file(written: str, on_disk: str) -> None:
    """MacOS writes names decomposed, and tables have them composed, or the other way round."""
    name = "Zürich/größe é.dcm"
    asked, there = unicodedata.normalize(written, name), unicodedata.normalize(on_disk, name)
    (match,), _ = join([row(2, asked, 1)], [path_key(there)], by_path=True)
    assert match.labels == (1,)


def test_the_exact_path_comes_first() -> None:
    """Where a file exists with and without suffix, each row finds its own."""
    matches, _ = join([row(2, "x", 1), row(3, "x.dcm", 0)], ["x.dcm", "x"], by_path=True)
    assert [match.labels for match in matches] == [(0,), (1,)]


FILES = st.tuples(st.sampled_from("KL"), st.sampled_from(["", "x", "y", "z", "w"]))
ROWS = st.tuples(st.sampled_from("KL"), st.sampled_from(["", "X", "y ", "z"]), st.sampled_from([0.0, 1.0, NAN, None]))


@given(files=st.lists(FILES, max_size=6), rows=st.lists(ROWS, max_size=6))
def test_a_patients_files_and_rows_taken_out_change_nobodys_labels(
    files: list[tuple[str, str]], rows: list[tuple[str, str, float | None]]
) -> None:
    """Where the table says whose a row is; a file of which it cannot be told whose is each one's whom its key names."""

    def owners(file: tuple[str, str]) -> set[str]:
        named = {patient.strip().lower() for key, patient, _ in rows if key == file[0]}
        return {file[1]} if file[1] and file[1] in named else named

    def said(files: list[tuple[str, str]], rows: list[tuple[str, str, float | None]]) -> list[tuple[object, ...]]:
        table = [
            LabelRow(
                number=place,
                key=key,
                labels=(NAN if label is None else label,),
                patient=patient,
                reason=RowReason.UNREADABLE_LABEL if label is None else None,
            )
            for place, (key, patient, label) in enumerate(rows, start=2)
        ]
        matches, _ = join(table, [key for key, _ in files], by_path=False, ids=[{own} for _, own in files])
        return [(match.labels, match.patient, match.reason) for match in matches]

    everybody = dict(zip(files, said(files, rows), strict=True))
    for gone in ("x", "y", "z"):
        left = [file for file in files if gone not in owners(file)]
        without = said(left, [row for row in rows if row[1].strip().lower() != gone])
        assert without == [everybody[file] for file in left]
