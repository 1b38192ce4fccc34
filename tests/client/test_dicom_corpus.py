"""The 54 odd files beside the checkout: each is read rightly or refused with its reason, and damage stays quiet."""

import csv
import logging
import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from client.dicom import Image, read_header, read_image
from client.refusals import Reason, Unreadable

REFUSED = {
    "020": Reason.UNSUPPORTED_OBJECT,
    "022": Reason.UNSUPPORTED_OBJECT,
    "024": Reason.UNSUPPORTED_OBJECT,
    "037": Reason.UNSUPPORTED_OBJECT,
    "045": Reason.UNSUPPORTED_OBJECT,
    "046": Reason.UNSUPPORTED_OBJECT,
    "049": Reason.TRUNCATED,
    "051": Reason.NO_PIXELS,
    "052": Reason.NO_PIXELS,
    "053": Reason.NO_PIXELS,
}
PATIENT_TAGS = ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID", "AccessionNumber")


@pytest.fixture(scope="module")
def corpus(shared_data: Path) -> dict[str, Path]:
    """Give the files by their number."""
    with (shared_data / "dicom" / "index.csv").open(encoding="utf-8") as table:
        names = [row["file"] for row in csv.DictReader(table)]
    assert len(names) == 54
    return {name[:3]: shared_data / "dicom" / name for name in names}


def pixels(corpus: dict[str, Path], number: str) -> NDArray[np.float32]:
    """Give the first frame of a file."""
    return read_image(corpus[number], frames="first").pixels_FHWC[0]


def test_each_file_is_read_in_its_size_or_refused_with_its_reason(corpus: dict[str, Path]) -> None:
    """No file raises anything else; what the index says of size, frames and modality is what comes back."""
    with (next(iter(corpus.values())).parent / "index.csv").open(encoding="utf-8") as table:
        index = {row["file"][:3]: row for row in csv.DictReader(table)}
    found: dict[str, Image | Reason] = {}
    for number, path in corpus.items():
        try:
            found[number] = read_image(path, frames="all")
        except Unreadable as refusal:
            found[number] = refusal.reason
    assert {number: reason for number, reason in found.items() if isinstance(reason, Reason)} == REFUSED
    for number, image in found.items():
        if isinstance(image, Image):
            row = index[number]
            colour = row["photometric"][:4] not in ("MONO", "")
            size = int(row["frames"] or 1), int(row["rows"]), int(row["cols"]), 3 if colour else 1
            assert image.pixels_FHWC.shape == size
            assert image.modality == row["modality"]
            assert np.isfinite(image.pixels_FHWC).all()


def test_headers_are_refused_only_where_their_images_are(corpus: dict[str, Path]) -> None:
    """A file that is refused for its pixels may have a header; none that is read lacks one."""
    refused = {}
    for number, path in corpus.items():
        try:
            assert read_header(path).frames >= 1
        except Unreadable as refusal:
            refused[number] = refusal.reason
    assert refused == REFUSED


@pytest.mark.parametrize("same", [["008", "009", "010", "013"], ["011", "012", "014"], ["042", "043"]])
def test_one_film_in_several_lossless_compressions_is_one_image(corpus: dict[str, Path], same: list[str]) -> None:
    """JPEG 2000, JPEG-LS, JPEG lossless and RLE of the same film agree in every bit."""
    for number in same[1:]:
        np.testing.assert_array_equal(pixels(corpus, number), pixels(corpus, same[0]))


@pytest.mark.parametrize(
    ("lossy", "lossless", "mean_error"),
    [("001", "008", 4), ("002", "008", 4), ("004", "008", 4), ("003", "011", 4), ("006", "011", 4), ("007", "011", 4)],
)
def test_a_lossy_film_is_near_its_lossless_twin(
    corpus: dict[str, Path], lossy: str, lossless: str, mean_error: float
) -> None:
    """12-bit JPEG, which pydicom's plugins fail on, JPEG 2000 and near-lossless JPEG-LS show the same film."""
    assert np.abs(pixels(corpus, lossy) - pixels(corpus, lossless)).mean() < mean_error


@pytest.mark.parametrize(("number", "tolerance"), [("019", 0), ("023", 6)])
def test_a_tiny_colour_image_is_the_same_in_each_encoding(
    corpus: dict[str, Path], number: str, tolerance: float
) -> None:
    """Three by three pixels: big endian equals little endian, JPEG in YBR is near."""
    np.testing.assert_allclose(pixels(corpus, number), pixels(corpus, "018"), atol=tolerance)


@pytest.mark.parametrize(
    ("number", "tolerance"), [("017", 3), ("021", 0), ("028", 0), ("030", 6), ("033", 4), ("040", 0)]
)
def test_the_colour_bars_are_the_colours_that_they_are(corpus: dict[str, Path], number: str, tolerance: float) -> None:
    """The test card of these files has ten bars from red to white, whatever its compression."""
    bars = [
        *[(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255)],
        *[(0, 0, 0), (64, 64, 64), (192, 192, 192), (255, 255, 255)],
    ]
    np.testing.assert_allclose(pixels(corpus, number)[5::10, 50], bars, atol=tolerance)


def test_computed_tomography_is_in_hounsfield_units(corpus: dict[str, Path]) -> None:
    """Air is near -1000, nothing lies below -1024, and the head holds tissue and bone."""
    head = pixels(corpus, "032")
    assert head.min() == -1024
    assert -30 < np.median(head[200:312, 200:312]) < 120
    assert head.max() > 700


def test_a_damaged_file_is_read_or_refused_and_nothing_else(corpus: dict[str, Path], tmp_path: Path) -> None:
    """Flipped, cut, inserted and zeroed bytes never raise anything but a refusal."""
    chance = random.Random(20)
    small = [path for path in corpus.values() if path.stat().st_size < 10_000]
    damaged = tmp_path / "damaged.dcm"
    refused = 0
    for _ in range(400):
        content = bytearray(chance.choice(small).read_bytes())
        at = chance.randrange(len(content))
        match chance.choice(["flip", "flip", "cut", "insert", "zero"]):
            case "flip":
                for place in chance.choices(range(len(content)), k=chance.choice([1, 10, 100])):
                    content[place] = chance.randrange(256)
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = chance.randbytes(chance.randint(1, 9))
            case "zero":
                content[at:] = bytes(len(content) - at)
        damaged.write_bytes(content)
        try:
            read_image(damaged, frames="all")
        except Unreadable:
            refused += 1
    assert 100 < refused < 400


def test_no_identifier_is_logged_printed_or_told(
    corpus: dict[str, Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Over the whole corpus no log, stream or message holds a word; so none holds an identifier."""
    caplog.set_level(logging.DEBUG)
    for number, path in corpus.items():
        told = ""
        try:
            told += repr(read_header(path).identity)
            read_image(path, frames="first")
        except Unreadable as refusal:
            told += str(refusal) + repr(refusal)
        values = pydicom.dcmread(path, force=True, specific_tags=list(PATIENT_TAGS))
        for value in (str(values.get(tag) or "") for tag in PATIENT_TAGS):
            assert not value or value not in told, f"file {number}"
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
