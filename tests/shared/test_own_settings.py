"""A site's own settings travel as numbers, and what is no threshold or turns scores round is refused."""

import pytest

from shared.own_settings import OwnSettings, own_from_list, own_to_list

TARGETS = ("opacity", "effusion", "nodule")
OWN = {
    "opacity": OwnSettings(threshold=0.25, calibration=(-0.5, 1.25)),
    "nodule": OwnSettings(threshold=None, calibration=(0.0, 0.5)),
}


def test_own_settings_come_back() -> None:
    """Three numbers a target, in the study's order; a target without any stays without; nothing is an empty list."""
    numbers = own_to_list(OWN, TARGETS)
    assert len(numbers) == 9
    assert own_from_list(numbers, TARGETS) == OWN
    assert own_to_list({}, TARGETS) == []
    assert own_from_list([], TARGETS) == {}


@pytest.mark.parametrize(
    "numbers",
    [
        [0.5, 0.0, 1.0],
        [1.5, 0.0, 1.0] * 3,
        [-0.1, 0.0, 1.0] * 3,
        [0.5, 0.0, 0.0] * 3,
        [0.5, 0.0, -1.0] * 3,
        [0.5, float("nan"), 1.0] * 3,
        [0.5, float("inf"), 1.0] * 3,
        ["high", 0.0, 1.0] * 3,
    ],
)
def test_other_numbers_are_refused(numbers: list[float]) -> None:
    """Too few, a threshold that is no score, and a calibration that is not finite or would turn the order round."""
    with pytest.raises(ValueError, match=r"."):
        own_from_list(numbers, TARGETS)


def test_what_is_no_list_is_refused() -> None:
    """A single number is no list of settings."""
    with pytest.raises(TypeError):
        OwnSettings.from_list(0.5)
