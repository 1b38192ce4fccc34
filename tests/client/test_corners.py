"""Corners are painted over without a trace elsewhere; what stands out in one does not depend on its background."""

import numpy as np
import pytest
import torch

from client.corners import blank, standing_out
from shared.description import CORNERS


@pytest.mark.parametrize("corner", CORNERS)
def test_a_corner_is_painted_with_its_own_median(corner: str) -> None:
    """A letter goes, the background stays, and not a pixel elsewhere changes; the image itself is not touched."""
    images = torch.full((2, 1, 32, 32), 60, dtype=torch.uint8)
    down = slice(1, 4) if corner.startswith("upper") else slice(-4, -1)
    right = slice(1, 4) if corner.endswith("left") else slice(-4, -1)
    images[1, :, down, right] = 255
    images[:, :, 12:20, 12:20] = 200
    painted = blank(images, corner)
    assert torch.equal(painted[0], images[0])
    assert torch.equal(painted[1], images[0])
    assert images[1].max() == 255


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_stands_out_is_seen_in_its_corner_alone(corner: str, channels: int) -> None:
    """A letter 100 above the background gives 100 there and 0 elsewhere, however bright the background is."""
    images = torch.full((2, channels, 64, 64), 20, dtype=torch.uint8)
    images[1] = 120
    down = slice(1, 7) if corner.startswith("upper") else slice(-7, -1)
    right = slice(2, 5) if corner.endswith("left") else slice(-5, -2)
    images[:, :, down, right] += 100
    images[:, :, 20:40, 20:40] = 255
    found = standing_out(images)
    expected = np.where(np.array(CORNERS) == corner, 100.0, 0.0)
    np.testing.assert_array_equal(found, [expected, expected])


def test_one_bright_pixel_is_not_a_letter() -> None:
    """Noise does not stand out; 16-bit images are measured as they are."""
    images = torch.full((1, 1, 64, 64), 5000, dtype=torch.uint16)
    images[0, 0, 3, 3] = 65535
    assert not standing_out(images).any()
