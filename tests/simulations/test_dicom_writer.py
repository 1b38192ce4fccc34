"""The DICOM writer: files that another decoder reads back, bit for bit."""

import numpy as np
import pydicom
import pytest

from client.dicom import read_image
from shared.errors import StorageError
from simulations.dicom_writer import Encoding, made_up_uid, write_dicom

WRITABLE = [
    (encoding, bits)
    for encoding in Encoding
    for bits in (8, 10, 12, 16)
    if encoding is not Encoding.JPEG_LS or bits in (8, 16)
]


def write(path, pixels, *, bits_stored=8, photometric="MONOCHROME2", encoding=Encoding.EXPLICIT, **attributes):
    """Write a secondary capture with as little else as a file needs."""
    required = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "SOPInstanceUID": made_up_uid("test"), "PatientID": "SYN"}
    write_dicom(
        path,
        pixels,
        bits_stored=bits_stored,
        photometric=photometric,
        encoding=encoding,
        attributes=required | attributes,
    )
    return path


@pytest.mark.parametrize(("encoding", "bits"), WRITABLE)
def test_every_encoding_keeps_every_bit(tmp_path, encoding, bits):
    """What pydicom decodes is what was written, whatever the encoding and the bits stored, odd shapes included."""
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (33, 35)).astype(dtype)
    dataset = pydicom.dcmread(write(tmp_path / "a.dcm", pixels, bits_stored=bits, encoding=encoding))
    assert (dataset.BitsStored, dataset.HighBit) == (bits, bits - 1)
    np.testing.assert_array_equal(dataset.pixel_array, pixels)


@pytest.mark.parametrize("encoding", [Encoding.EXPLICIT, Encoding.RLE])
def test_colour_keeps_every_bit(tmp_path, encoding):
    """Colour comes back as it was, also where its bytes are odd in number."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    path = write(tmp_path / "a.dcm", pixels, photometric="RGB", encoding=encoding)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, pixels)
    np.testing.assert_array_equal(read_image(path, frames="first").pixels_FHWC[0], pixels)


def test_same_arguments_same_bytes(tmp_path):
    """Nothing of the machine or the moment gets into a file."""
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    first = write(tmp_path / "a.dcm", pixels, bits_stored=12).read_bytes()
    assert write(tmp_path / "b" / "c.dcm", pixels, bits_stored=12).read_bytes() == first


def test_text_beyond_ascii_survives(tmp_path):
    """A value may hold any letter."""
    path = write(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8), PatientName="SYNTHETIC^Żółć")
    assert pydicom.dcmread(path).PatientName == "SYNTHETIC^Żółć"


def test_uids_are_valid_and_follow_from_their_words():
    """Equal words give equal UIDs, others another one, also where the joined letters are the same."""
    uids = {made_up_uid("a", 1), made_up_uid("a", "1"), made_up_uid("a1"), made_up_uid("a", 1, 2), made_up_uid(1, "a")}
    assert len(uids) == 4
    assert all(pydicom.uid.UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)


def test_a_disk_that_cannot_be_written_is_named_without_the_path(tmp_path):
    """The message says what to do, and not the file's name, which may hold a patient's."""
    (tmp_path / "MILLER").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write(tmp_path / "MILLER" / "a.dcm", np.zeros((2, 2), np.uint8))
    assert "MILLER" not in str(caught.value)
