"""Rows are picked by side, in order, and pixels follow them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from client.site_data import Pixels, Records
from shared.preprocessing import normalise
from shared.split import Split

NAN = np.nan
RECORDS = Records(
    labels_NK=np.array([[1, NAN], [NAN, NAN], [0, 1], [NAN, 0], [1, 1]], np.float32),
    patients_N=np.array([7, 7, 8, 9, 9]),
    exams_N=np.array([0, 1, 2, 3, 4]),
    split_N=np.array(["train", "train", "test", "train", "train"]),
)


def test_a_sides_rows_come_in_order() -> None:
    """Rows of a side ascend; a side without an image has none."""
    assert RECORDS.rows(Split.TRAIN).tolist() == [0, 1, 3, 4]
    assert RECORDS.rows(Split.TEST).tolist() == [2]
    assert RECORDS.rows(Split.VALIDATION).tolist() == []
    assert len(RECORDS) == 5


def test_an_image_without_any_label_does_not_train() -> None:
    """An image trains as soon as one target was assessed."""
    assert RECORDS.training_rows().tolist() == [0, 3, 4]


def test_what_too_few_training_patients_were_assessed_for_is_not_learnt() -> None:
    """Patients count, not images, and only those who train; what enough were assessed for stays as it is."""
    assert RECORDS.assessed_patients(Split.TRAIN) == (2, 1)
    left = RECORDS.learnable(least=2)
    assert np.isnan(left.labels_NK[:, 1]).all()
    assert np.array_equal(left.labels_NK[:, 0], RECORDS.labels_NK[:, 0], equal_nan=True)
    assert left.training_rows().tolist() == [0, 4]
    assert RECORDS.learnable(least=1) is RECORDS


def test_patients_are_counted_once() -> None:
    """Several images of a patient are one patient."""
    assert [RECORDS.patients(split) for split in Split] == [2, 0, 1]


def test_pixels_are_read_in_the_order_asked_for() -> None:
    """Rows may come in any order and more than once; the cache's own order does not show."""
    cached = np.arange(5, dtype=np.uint16)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint16)
    pixels = Pixels(cached=cached, cached_row_N=np.array([4, 0, 2]), digest="d")
    read = pixels.read(np.array([2, 0, 0]))
    assert read.dtype == torch.uint16
    assert read[:, 0, 0, 0].tolist() == [2, 4, 4]
    assert len(pixels) == 3


def test_what_is_read_is_not_the_cache() -> None:
    """Changing a batch never changes the cached images."""
    cached = np.zeros((2, 1, 2, 2), np.uint8)
    Pixels(cached=cached, cached_row_N=np.arange(2), digest="d").read(np.arange(2)).add_(1)
    assert not cached.any()


@pytest.mark.parametrize("standard", [(), tuple(tenth / 10 for tenth in range(1, 10))])
def test_normalised_images_are_those_that_are_read(tmp_path: Path, standard: tuple[float, ...]) -> None:
    """Straight from a file that nobody may write to, images are what reading and normalising makes of them."""
    cached = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), dtype=np.uint8)
    np.save(tmp_path / "cached.npy", cached)
    mapped = np.load(tmp_path / "cached.npy", mmap_mode="r")
    pixels = Pixels(cached=mapped, cached_row_N=np.array([3, 0, 1]), digest="d").harmonised(standard)
    rows = np.array([2, 0, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels.normalised(rows)
    assert torch.equal(found, normalise(pixels.read(rows), dtype=torch.float32))
    assert pixels.normalised(rows[:0]).shape == (0, 3, 32, 32)
