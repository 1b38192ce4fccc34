"""A site's own settings travel as numbers, and what is no threshold or turns scores round is refused."""

import pytest

from shared.own_settings import OwnSettings, own_from_list, own_to_list

BOTH = ("threshold", "calibration")
TARGETS = ("opacity", "effusion", "nodule")
OWN = {
    "opacity": OwnSettings(threshold=0.25, calibration=(-0.5, 1.25)),
    "nodule": OwnSettings(threshold=None, calibration=(0.0, 0.5)),
}


def test_own_settings_come_back() -> None:
    """Three numbers a target, in the study's order; a target without any stays without; nothing is an empty list."""
    numbers = own_to_list(OWN, TARGETS)
    assert len(numbers) == 9
    assert own_from_list(numbers, TARGETS, switched_on=BOTH) == OWN
    nulls = [None if number != number else number for number in numbers]
    assert own_from_list(nulls, TARGETS, switched_on=BOTH) == OWN
    assert own_to_list({}, TARGETS) == []
    assert own_from_list([], TARGETS, switched_on=()) == {}


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
        [0.5, 1e308, 1.0] * 3,
        [0.5, -101.0, 1.0] * 3,
        [0.5, 0.0, 1e-300] * 3,
        [0.5, 0.0, 0.009] * 3,
        [0.5, 0.0, 101.0] * 3,
        [None, None, 1.0] * 3,
    ],
)
def test_other_numbers_are_refused(numbers: list[float]) -> None:
    """Too few, a threshold that is no score, and a calibration that moves scores together, away or round."""
    with pytest.raises(ValueError, match=r"."):
        own_from_list(numbers, TARGETS, switched_on=BOTH)


def test_the_ends_of_a_calibration_are_taken() -> None:
    """What the fit can just still give is no fault."""
    for ends in ([0.5, 100.0, 100.0], [0.5, -100.0, 0.01]):
        assert own_from_list(ends, ("opacity",), switched_on=BOTH)["opacity"].calibration == tuple(ends[1:])


@pytest.mark.parametrize("kind", BOTH)
def test_a_kind_that_the_study_did_not_switch_on_is_refused(kind: str) -> None:
    """A study of own thresholds lets no site have a calibration, and the other way round."""
    only = {"threshold": [0.5, None, None], "calibration": [None, 0.0, 1.0]}
    assert own_from_list(only[kind], ("opacity",), switched_on=[kind])
    for other in ([], [one for one in BOTH if one != kind]):
        with pytest.raises(ValueError, match="does not let"):
            own_from_list(only[kind], ("opacity",), switched_on=other)


def test_what_is_no_list_is_refused() -> None:
    """A single number is no list of settings, and words and booleans are no numbers."""
    for other in (0.5, ["high", 0.0, 1.0], ["0.5", 0.0, 1.0], [True, 0.0, 1.0]):
        with pytest.raises(TypeError):
            OwnSettings.from_list(other)
