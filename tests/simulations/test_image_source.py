"""Pictures from a folder or an npz file: every bit, or a reason."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.pictures import read_picture
from client.refusals import Reason, Unreadable
from shared.errors import DataError
from simulations.image_source import ImageFolder, Skip, Unusable, open_images

GREY8 = np.arange(35, dtype=np.uint8).reshape(5, 7)
GREY16 = (np.arange(35, dtype=np.uint16) * 1800).reshape(5, 7)
COLOUR = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def saved(folder, name, pixels, **options):
    """Save an image and read it back through the source."""
    Image.fromarray(pixels).save(folder / name, **options)
    return open_images(folder).read(name)


def refusal(source, name):
    """Give the reason why a picture is not used."""
    with pytest.raises(Unusable) as caught:
        source.read(name)
    return caught.value.reason


@pytest.mark.parametrize("pixels", [GREY8, GREY16, COLOUR], ids=["grey8", "grey16", "colour"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_lossless_files_keep_every_bit(tmp_path, pixels, suffix):
    """Grey of 8 and 16 bits and colour of 8 come back as they are."""
    picture = saved(tmp_path, f"a.{suffix}", pixels)
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.dtype == pixels.dtype
    assert picture.lossy_ratio is None


def test_big_endian_files_are_read_by_value(tmp_path):
    """16-bit grey of the other byte order has the same values, in this machine's order."""
    Image.frombytes("I;16B", (7, 5), GREY16.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    pixels = open_images(tmp_path).read("a.tif").pixels
    np.testing.assert_array_equal(pixels, GREY16)
    assert pixels.dtype == np.uint16


def test_grey_in_colour_becomes_grey(tmp_path):
    """Three equal channels, a grey palette and transparency add nothing; true colour stays."""
    grey = np.repeat(GREY8[..., None], 3, axis=2)
    assert saved(tmp_path, "a.png", grey).pixels.shape == (5, 7)
    Image.fromarray(GREY8).convert("P").save(tmp_path / "p.png")
    np.testing.assert_array_equal(open_images(tmp_path).read("p.png").pixels, GREY8)
    Image.fromarray(GREY8).convert("LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(open_images(tmp_path).read("la.png").pixels, GREY8)


def test_bilevel_is_black_and_white(tmp_path):
    """One bit a pixel becomes 0 and 255."""
    pixels = saved(tmp_path, "a.png", GREY8 > 10).pixels
    np.testing.assert_array_equal(pixels, np.where(GREY8 > 10, 255, 0))


def test_jpeg_says_how_much_was_lost(tmp_path):
    """A JPEG is what Pillow decodes, and carries its compression ratio."""
    picture = saved(tmp_path, "a.jpg", GREY8, quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        np.testing.assert_array_equal(picture.pixels, np.asarray(image))
    assert picture.lossy_ratio == pytest.approx(35 / (tmp_path / "a.jpg").stat().st_size)


def test_orientation_is_as_displayed(tmp_path):
    """A photograph that says 'turn me' is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = saved(tmp_path, "a.png", GREY8, exif=exif)
    np.testing.assert_array_equal(picture.pixels, np.rot90(GREY8, -1))


@pytest.mark.parametrize(("mode", "name"), [("F", "a.tif"), ("I", "b.tif")], ids=["floating point", "32 bits"])
def test_what_dicom_cannot_hold_is_refused(tmp_path, mode, name):
    """Pixels that would have to be squeezed are not used."""
    Image.new(mode, (4, 3)).save(tmp_path / name)
    assert refusal(open_images(tmp_path), name) is Skip.UNSUPPORTED_PIXELS


def test_colour_of_16_bits_is_refused(tmp_path):
    """Pillow would drop half of its bits in silence."""
    imagecodecs = pytest.importorskip("imagecodecs")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(COLOUR.astype(np.uint16) * 257))
    assert refusal(open_images(tmp_path), "a.png") is Skip.UNSUPPORTED_PIXELS


def test_several_frames_are_refused(tmp_path):
    """Which frame is meant is not for us to guess."""
    first, second = Image.fromarray(GREY8), Image.fromarray(GREY8 + 1)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    assert refusal(open_images(tmp_path), "a.tif") is Skip.UNSUPPORTED_PIXELS


def test_broken_files_are_refused(tmp_path):
    """Text, an empty file and a cut-off image are unreadable, and nothing else happens."""
    Image.fromarray(COLOUR.repeat(20, 0).repeat(20, 1)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    source = open_images(tmp_path)
    for name in ("cut.png", "text.png", "empty.png", "x" * 300):
        assert refusal(source, name) is Skip.UNREADABLE_IMAGE


def test_no_name_leads_out_of_the_folder(tmp_path):
    """What is not there, is a folder or lies elsewhere is missing."""
    (tmp_path / "images" / "inner").mkdir(parents=True)
    Image.fromarray(GREY8).save(tmp_path / "secret.png")
    source = open_images(tmp_path / "images")
    for name in ("a.png", "inner", "../secret.png", str(tmp_path / "secret.png")):
        assert refusal(source, name) is Skip.MISSING_IMAGE


def test_an_npz_is_read_by_number(tmp_path):
    """`images` holds the pictures from 0 on, grey with or without a channel, or colour."""
    np.savez(tmp_path / "a.npz", images=np.stack([GREY16, GREY16 + 1]), labels=[0, 1])
    source = open_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(source.read("1").pixels, GREY16 + 1)
    for name in ("2", "-1", "one", "train/0", "1.0", ""):
        assert refusal(source, name) is Skip.MISSING_IMAGE
    np.savez(tmp_path / "b.npz", images=GREY8[None, ..., None])
    np.testing.assert_array_equal(open_images(tmp_path / "b.npz").read("0").pixels, GREY8)
    np.savez(tmp_path / "c.npz", images=COLOUR[None])
    np.testing.assert_array_equal(open_images(tmp_path / "c.npz").read("0").pixels, COLOUR)


def test_a_medmnist_file_counts_through_its_parts(tmp_path):
    """Numbers run through train, val and test; `val/0` names one within a part."""
    parts = {name: np.full((count, 4, 4), value, np.uint8) for value, name, count in
             ((1, "train_images", 2), (2, "val_images", 1), (3, "test_images", 3))}  # fmt: skip
    np.savez(tmp_path / "a.npz", **parts)
    source = open_images(tmp_path / "a.npz")
    assert [int(source.read(str(number)).pixels[0, 0]) for number in range(6)] == [1, 1, 2, 3, 3, 3]
    assert [int(source.read(name).pixels[0, 0]) for name in ("train/1", "val/0", "test/2")] == [1, 2, 3]
    for name in ("6", "val/1", "other/0"):
        assert refusal(source, name) is Skip.MISSING_IMAGE


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 3), np.uint16), np.zeros((2, 4, 4, 2), np.uint8), np.zeros(2)]
)
def test_arrays_that_dicom_cannot_hold_are_refused(tmp_path, images):
    """Floating point, colour of 16 bits, two channels and single numbers are no pictures."""
    np.savez(tmp_path / "a.npz", images=images)
    assert refusal(open_images(tmp_path / "a.npz"), "0") is Skip.UNSUPPORTED_PIXELS


def test_a_source_that_is_none_is_named(tmp_path):
    """A wrong path, a broken npz file and one without pictures are told apart."""
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not really")
    np.savez(tmp_path / "other.npz", pixels=GREY8)
    with (tmp_path / "array.npz").open("wb") as stream:
        np.save(stream, GREY8)
    (tmp_path / "a.txt").touch()
    for name, says in (
        ("nowhere", "neither a folder nor"),
        ("a.txt", "neither a folder nor"),
        ("broken.npz", "not a readable npz"),
        ("array.npz", "not a readable npz"),
        ("other.npz", "neither an array 'images' nor"),
    ):
        with pytest.raises(DataError, match=says):
            open_images(tmp_path / name)


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_a_fourth_band_is_not_dropped_in_silence(tmp_path: Path, extra: int) -> None:
    """A TIFF of four bands is refused, whatever it says of the fourth, unless that is all opaque."""
    bands = np.random.default_rng(0).integers(0, 255, (8, 8, 4), dtype=np.uint8)
    for name, pixels in (("four", bands), ("opaque", np.dstack([bands[..., :3], np.full((8, 8), 255, np.uint8)]))):
        Image.fromarray(pixels, "RGBA").save(tmp_path / f"{name}.tif", tiffinfo={338: extra})
    with pytest.raises(Unusable) as fault:
        ImageFolder(folder=tmp_path).read("four.tif")
    assert fault.value.reason is Skip.UNSUPPORTED_PIXELS
    Image.fromarray(bands, "RGBA").save(tmp_path / "four.png")
    with pytest.raises(Unusable):
        ImageFolder(folder=tmp_path).read("four.png")
    Image.fromarray(bands[..., 3], "L").convert("LA").save(tmp_path / "grey.png")
    assert ImageFolder(folder=tmp_path).read("grey.png").pixels.shape == (8, 8)
    if extra == 2:
        np.testing.assert_array_equal(ImageFolder(folder=tmp_path).read("opaque.tif").pixels, bands[..., :3])


def tiff(pixels, orientation):
    """Write an uncompressed TIFF by hand (TIFF 6.0, section 2), so that no other program's reading is in it."""
    height, width = pixels.shape
    data = pixels.tobytes()
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 274: orientation, 277: 1, 278: height}
    fields[279] = len(data)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(fields)) + entries + bytes(4)


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_an_uncompressed_tiff_is_turned_as_its_tag_says(tmp_path, orientation):
    """Each of the eight orientations, by which first row and first column are told; no pixel changes its neighbours."""
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    (tmp_path / "a.tif").write_bytes(tiff(pixels, orientation))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, TURNED[orientation](pixels))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16"])
def test_a_transparent_colour_is_refused_as_a_transparent_band_is(tmp_path, mode):
    """What lies under it is not what is displayed; a colour that no pixel has hides nothing."""
    pixels = np.arange(16, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(4, 4)
    picture = Image.fromarray(pixels) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / "a.png", transparency=(5, 5, 5) if mode == "RGB" else 5)
    with pytest.raises(Unreadable) as told:
        read_picture(tmp_path / "a.png")
    assert told.value.reason is Reason.UNSUPPORTED_OBJECT
    if mode in ("L", "RGB"):
        picture.save(tmp_path / "b.png", transparency=(99, 99, 99) if mode == "RGB" else 99)
        np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels, pixels)
