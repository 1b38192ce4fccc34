"""`polyclinic partition`: every row of a table becomes an image at a virtual hospital, or a counted reason."""

import csv

import numpy as np
import openpyxl
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.cohort import build_cohort
from client.dicom import read_image
from client.site import read_site
from shared.errors import DataError
from simulations import partition as partition_module
from simulations.image_source import Skip
from simulations.partition import kept_attributes, partition
from simulations.partition_plan import Columns, folder_name

HEADER = "image,patient_id,site,label,age,sex,view"
COLUMNS = Columns(
    image="image", patient="patient_id", site="site", findings={"pneumonia": "label"}, keep=["age", "sex", "view"]
)


class Source:
    """A folder of images and a table, and the out folder that they are turned into."""

    def __init__(self, folder):
        self.images, self.table, self.out = folder / "images", folder / "table.csv", folder / "out"
        self.images.mkdir()

    def image(self, name, pixels):
        """Add an image."""
        (self.images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.images / name)

    def grey(self, *names):
        """Add grey images, each of another shade."""
        for shade, name in enumerate(names):
            self.image(name, np.full((4, 5), shade, np.uint8))

    def rows(self, *rows, header=HEADER):
        """Write the table."""
        self.table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")

    def partition(self, columns=COLUMNS, images=None, workers=1, modality="OT"):
        """Run it."""
        return partition(
            self.table,
            images=images or self.images,
            out=self.out,
            columns=columns,
            modality=modality,
            workers=workers,
            progress=lambda *_: None,
        )

    def files(self, site):
        """Read a hospital's DICOM files."""
        return [pydicom.dcmread(path) for path in sorted((self.out / site / "dicom").rglob("*.dcm"))]


@pytest.fixture
def source(tmp_path):
    """Give an empty source."""
    return Source(tmp_path)


def cohort_of(site_file, targets=("pneumonia",), *, exclusive=False):
    """Read a hospital as a study would."""
    return build_cohort(
        site=read_site(site_file),
        targets=targets,
        exclusive=exclusive,
        modality="any",
        objects="anatomy",
        frames="first",
        private=False,
        study="Test",
        seed=0,
        train=0.6,
        validation=0.2,
        progress=lambda *_: None,
    )


def test_rows_become_hospitals_that_a_study_can_read(source):
    """Images, patients and labels arrive as the table says, by site and patient."""
    source.grey("a.png", "b.png", "sub/a.png", "d.png")
    source.rows("a.png,P1,North,1,,,", "b.png,P1,North,0,,,", "sub/a.png,P1,North,1,,,", "d.png,P2,South,1,,,")
    summary = source.partition()
    found = [(site.name, site.patients, site.images, site.positives) for site in summary.sites]
    assert found == [("north", 1, 3, {"pneumonia": 2}), ("south", 1, 1, {"pneumonia": 1})]
    assert (summary.rows, summary.skipped, summary.patients_at_several_sites) == (4, {}, 0)
    cohort = cohort_of(source.out / "north" / "site.toml")
    assert sorted(cohort.labels_NK[:, 0]) == [0, 1, 1]
    assert len(set(cohort.patients_N)) == 1
    shades = {
        read_image(image.path, frames="first").pixels_FHWC[0, 0, 0, 0]: image.labels[0] for image in cohort.images
    }
    assert shades == {0: 1.0, 1: 0.0, 2: 1.0}


def test_folders_are_named_by_a_hash_of_the_patient(source):
    """A patient's identifier stands in the DICOM file and in no path."""
    source.grey("a.png", "b.png")
    source.rows("a.png,MILLER,north,1,,,", "b.png,SMITH,north,1,,,")
    source.partition()
    paths = [path.relative_to(source.out).as_posix() for path in source.out.rglob("*")]
    assert not any("MILLER" in path.upper() for path in paths)
    assert {dataset.PatientID for dataset in source.files("north")} == {"MILLER", "SMITH"}
    assert len({path.parent for path in source.out.rglob("*.dcm")}) == 2


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(35, dtype=np.uint8).reshape(5, 7),
        (np.arange(35, dtype=np.uint16) * 1800).reshape(5, 7),
        np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8),
    ],
    ids=["grey8", "grey16", "colour"],
)
def test_pixels_keep_every_bit(source, pixels):
    """What pydicom decodes is the source's pixels, in a Secondary Capture object that claims no modality."""
    source.image("a.png", pixels)
    source.rows("a.png,P1,north,1,,,")
    source.partition()
    (dataset,) = source.files("north")
    np.testing.assert_array_equal(dataset.pixel_array, pixels)
    assert (dataset.SOPClassUID.name, dataset.Modality) == ("Secondary Capture Image Storage", "OT")
    assert "LossyImageCompression" not in dataset


def test_what_was_lossy_stays_marked(source):
    """An image from a JPEG says so, with its ratio."""
    source.grey("a.jpg")
    source.rows("a.jpg,P1,north,1,,,")
    source.partition()
    (dataset,) = source.files("north")
    assert dataset.LossyImageCompression == "01"
    assert float(dataset.LossyImageCompressionRatio) > 0


def test_every_row_is_accounted_for(source):
    """Each row is at a site or among the skipped, under its reason and by its number in a spreadsheet."""
    source.grey("a.png", "b.png", "c.png", "d.png")
    (source.images / "broken.png").write_text("not an image")
    Image.new("F", (3, 3)).save(source.images / "float.tif")
    source.rows(
        "a.png,P1,north,1,,,",  # 2
        "gone.png,P1,north,1,,,",  # 3
        "broken.png,P1,north,1,,,",  # 4
        "float.tif,P1,north,1,,,",  # 5
        "b.png,,north,1,,,",  # 6
        "b.png,P2, ,1,,,",  # 7
        ",P2,north,1,,,",  # 8
        "a.png,P1,north,1,,,",  # 9: says the same as 2
        "c.png,P3,north,1,,,",  # 10: says something else than 11
        "c.png,P3,north,0,,,",  # 11
        "d.png,P4,north",  # 12
        "d.png,P4,south,0,,,",  # 13
    )
    summary = source.partition()
    assert summary.skipped == {
        Skip.MISSING_IMAGE: (3,),
        Skip.UNREADABLE_IMAGE: (4,),
        Skip.UNSUPPORTED_PIXELS: (5,),
        Skip.NO_PATIENT: (6,),
        Skip.NO_SITE: (7,),
        Skip.NO_IMAGE_NAME: (8,),
        Skip.DUPLICATE_ROW: (9,),
        Skip.CONFLICTING_ROWS: (10, 11),
        Skip.RAGGED_ROW: (12,),
    }
    assert summary.rows == 12 == sum(site.images for site in summary.sites) + sum(map(len, summary.skipped.values()))


def test_a_patient_at_two_sites_is_counted(source):
    """The warning that the same person may be on two sides has its number."""
    source.grey("a.png", "b.png", "c.png")
    source.rows("a.png,P1,north,1,,,", "b.png,P1,south,1,,,", "c.png,P2,south,1,,,")
    assert source.partition().patients_at_several_sites == 1


def test_kept_columns_go_to_dicom_and_to_the_label_table(source):
    """Age, sex and view get their DICOM attributes where they can be said there; the table keeps all as it was."""
    source.grey("a.png", "b.png")
    source.rows("a.png,P1,north,1,46,F,pa", "b.png,P2,north,1,1-5,,left side?")
    source.partition()
    first, second = sorted(source.files("north"), key=lambda dataset: dataset.PatientID)
    assert (first.PatientAge, first.PatientSex, first.ViewPosition) == ("046Y", "F", "PA")
    assert "PatientAge" not in second
    assert second.PatientSex == ""
    assert "ViewPosition" not in second
    with (source.out / "north" / "labels.csv").open(encoding="utf-8") as table:
        assert [row["age"] for row in csv.DictReader(table)] == ["46", "1-5"]


@pytest.mark.parametrize(
    ("cell", "age"),
    [("5", "005Y"), ("058Y", "058Y"), ("58.0", "058Y"), ("6m", "006M"), ("0", "000Y"), ("1000", None), ("1-5", None)],
)
def test_ages_are_written_as_dicom_writes_them(cell, age):
    """Three digits and a unit (PS3.5 6.2, AS), or nothing."""
    assert kept_attributes({"Age": cell}).get("PatientAge") == age


def test_an_identifier_that_dicom_cannot_hold_travels_as_its_hash(source):
    """More than 64 letters, or a backslash, would become another patient: the hash is one patient still."""
    source.grey("a.png", "b.png", "c.png", "d.png")
    long = "x" * 65
    source.rows(f"a.png,{long},north,1,,,", f"b.png,{long},north,1,,,", "c.png,x\\y,north,1,,,", "d.png,ok,north,1,,,")
    source.partition()
    patients = [dataset.PatientID for dataset in source.files("north")]
    assert len(set(patients)) == 3
    assert {len(patient) for patient in patients} == {64, 2}


def test_the_same_table_gives_the_same_files_and_may_be_run_again(source, tmp_path):
    """A second run over its own folder changes nothing; into another folder it writes the same bytes."""
    source.grey("a.png", "b.png")
    source.rows("a.png,P1,north,1,,,", "b.png,P2,south,1,,,")

    def content():
        return {path.relative_to(source.out): path.read_bytes() for path in source.out.rglob("*") if path.is_file()}

    first = source.partition()
    before = content()
    assert source.partition() == first
    assert content() == before
    source.out = tmp_path / "elsewhere"
    source.partition()
    assert content() == before


def test_a_folder_with_something_else_in_it_is_refused(source):
    """A folder of someone else's, or of another table, is left as it is; the message says what to do."""
    source.grey("a.png")
    source.rows("a.png,P1,north,1,,,")
    source.out.mkdir()
    (source.out / "thesis.docx").touch()
    with pytest.raises(DataError, match="Choose another folder"):
        source.partition()
    (source.out / "thesis.docx").unlink()
    source.partition()
    source.rows("a.png,P1,north,0,,,")
    with pytest.raises(DataError, match="not made from this table"):
        source.partition()


def test_site_names_become_folder_names_or_are_refused(source):
    """Two names that become one folder, and one that becomes none, are refused by row, without the name."""
    source.grey("a.png", "b.png")
    source.rows("a.png,P1,St. Mary,1,,,", "b.png,P2,st-mary,1,,,")
    with pytest.raises(DataError, match=r"rows 2 and 3 .*same folder 'st-mary'"):
        source.partition()
    source.rows("a.png,P1,北京,1,,,")
    with pytest.raises(DataError, match="row 2 has no letter") as caught:
        source.partition()
    assert "北京" not in str(caught.value)


@given(st.text(max_size=100))
def test_folder_names_are_safe(name):
    """Whatever a site is called, its folder has only a-z, 0-9, _ and -, and no name leads anywhere else."""
    folder = folder_name(name)
    assert len(folder) <= 64
    assert set(folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert folder == folder_name(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": "file"}, "--image-column: table.csv has no column 'file'"),
        ({"patient": "PatientID"}, "--patient-column: table.csv has no"),
        ({"site": "hospital"}, "--site-column: table.csv has no"),
        ({"findings": {"pneumonia": "pneumonia"}}, "--finding: table.csv has no"),
        ({"keep": ["height"]}, "--keep: table.csv has no"),
        ({"findings": {}}, "No finding is named"),
        ({"keep": ["SOPInstanceUID"]}, "is the key of the label tables"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_its_option(source, change, says):
    """The message names the option to correct; nothing is written."""
    source.rows("a.png,P1,north,1,,,")
    columns = {name: getattr(COLUMNS, name) for name in ("image", "patient", "site", "findings", "keep")}
    with pytest.raises(DataError, match=says):
        source.partition(Columns(**(columns | change)))
    assert not source.out.exists()


def test_a_table_without_a_usable_row_is_an_error(source):
    """The reasons are counted in the message."""
    source.rows("gone.png,P1,north,1,,,", "a.png,,north,1,,,")
    with pytest.raises(
        DataError, match=r"missing_image: 1, no_patient: 1.*looked for under .*partition\.json is all that was written"
    ):
        source.partition()


def test_a_modality_is_a_dicom_word(source):
    """What a study could not ask for is refused before anything is written; what it can is written."""
    source.grey("a.png")
    source.rows("a.png,P1,north,1,,,")
    with pytest.raises(DataError, match="2 to 16 capital letters"):
        source.partition(modality="x-ray")
    assert not source.out.exists()
    source.partition(modality="DX")
    assert [dataset.Modality for dataset in source.files("north")] == ["DX"]


def test_every_reason_says_what_to_do():
    """No reason is without its sentence."""
    assert all(reason.sentence.endswith(".") for reason in Skip)


def test_a_missing_table_is_named(source):
    """The path to correct is in the message."""
    with pytest.raises(DataError, match="there is no such table"):
        source.partition()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "not a table at all"),
        (b"\xd0\xcf\x11\xe0", "a workbook of an old form"),
        (b"", "is empty"),
        (b'"a"b,c\n', "a quotation mark"),
        (b"PK\x03\x04 no workbook", "a workbook that cannot be read"),
    ],
)
def test_a_table_that_is_none_is_told_without_a_site(source, content, says):
    """Whoever partitions has no site.toml yet, and hears of none."""
    source.table.write_bytes(content)
    with pytest.raises(DataError, match=says) as told:
        source.partition()
    assert source.table.name in str(told.value)
    assert "site.toml" not in str(told.value)
    assert "[data]" not in str(told.value)


def test_a_workbook_of_several_sheets_is_told_without_a_site(source):
    """There is no setting for it here: the sheet is to be saved alone."""
    book = openpyxl.Workbook()
    for sheet in (book.active, book.create_sheet()):
        sheet.append(["image"])
    book.save(source.table.with_suffix(".xlsx"))
    source.table = source.table.with_suffix(".xlsx")
    with pytest.raises(DataError, match=r"2 sheets that are not empty, hidden ones included. Save that one alone"):
        source.partition()


def test_an_npz_becomes_hospitals_as_well(source, tmp_path):
    """With an npz file, the image column holds the number of the picture."""
    np.savez(tmp_path / "a.npz", images=np.arange(3, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2))
    source.rows("0,P1,north,1,,,", "2,P2,north,0,,,", "3,P3,north,0,,,")
    summary = source.partition(images=tmp_path / "a.npz")
    assert {int(dataset.pixel_array[0, 0]) for dataset in source.files("north")} == {0, 2}
    assert summary.skipped == {Skip.MISSING_IMAGE: (4,)}


def test_classes_may_share_a_column_of_names(source):
    """Each class counts its images, and a study of classes reads the hospital."""
    source.grey("a.png", "b.png", "c.png")
    source.rows("a.png,P1,north,Normal,,,", "b.png,P2,north,viral,,,", "c.png,P3,north,viral,,,")
    classes = ("normal", "viral")
    columns = Columns(
        image="image", patient="patient_id", site="site", findings=dict.fromkeys(classes, "label"), keep=[]
    )
    assert source.partition(columns).sites[0].positives == {"normal": 1, "viral": 2}
    cohort = cohort_of(source.out / "north" / "site.toml", classes, exclusive=True)
    assert cohort.labels_NK.sum(axis=0).tolist() == [1, 2]


def test_two_processes_write_what_one_does(source, tmp_path, monkeypatch):
    """The number of workers changes no byte."""
    monkeypatch.setattr(partition_module, "IMAGES_WORTH_A_WORKER", 4)
    names = [f"{number}.png" for number in range(8)]
    source.grey(*names)
    source.rows(*(f"{name},P{name},north,1,,," for name in names))
    contents = []
    for workers in (1, 2):
        source.out = tmp_path / str(workers)
        source.partition(workers=workers)
        contents.append({path.relative_to(source.out): path.read_bytes() for path in source.out.rglob("*.dcm")})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 8


def test_the_real_films_arrive(source, shared_data):
    """Of the real table, each hospital's first films come with patients, labels and views as it says."""
    films = shared_data / "cxr"
    with (films / "labels.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    chosen = [row for site in ("guangzhou", "nih_ap", "nih_pa") for row in [r for r in rows if r["site"] == site][:12]]
    source.rows(*(",".join(row[name] for name in HEADER.split(",")) for row in chosen))
    summary = source.partition(images=films)
    assert [site.name for site in summary.sites] == ["guangzhou", "nih_ap", "nih_pa"]
    assert summary.skipped == {}
    for site in summary.sites:
        own = [row for row in chosen if row["site"] == site.name]
        assert (site.images, site.positives["pneumonia"]) == (12, sum(row["label"] == "1" for row in own))
        assert site.patients == len({row["patient_id"] for row in own})
        files = {dataset.PatientID: dataset for dataset in source.files(site.name)}
        assert set(files) == {row["patient_id"] for row in own}
        assert {dataset.ViewPosition for dataset in files.values()} == {row["view"] for row in own}
    with Image.open(films / chosen[0]["image"]) as image:
        expected = np.asarray(image.convert("L"))
    assert any(np.array_equal(dataset.pixel_array, expected) for dataset in source.files("guangzhou"))


def test_a_workbook_gives_the_hospitals_that_the_same_table_gives(source):
    """Numbers are digits, and a cell that is no text or number is named, with its row, before anything is written."""
    source.grey("a.png", "b.png")
    book = openpyxl.Workbook()
    for row in (HEADER.split(","), ["a.png", 1, "north", 1, 61, "F", "PA"], ["b.png", 2, "north", 0.0, 7, "M", "AP"]):
        book.active.append(row)
    source.table = source.table.with_suffix(".xlsx")
    book.save(source.table)
    (site,) = source.partition().sites
    assert (site.patients, site.positives, site.unread) == (2, {"pneumonia": 1}, {"pneumonia": 0})
    assert sorted((file.PatientID, file.PatientAge) for file in source.files("north")) == [("1", "061Y"), ("2", "007Y")]
    book.active["D3"] = "#N/A"
    book.save(source.table)
    source.out = source.out.with_name("again")
    with pytest.raises(DataError, match=r"^table.xlsx, row 3, column 'label': an error"):
        source.partition()
    assert not source.out.exists()
