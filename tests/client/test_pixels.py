"""The arithmetic from stored to physical values at its edges; test_dicom_reference has the rest."""

import numpy as np

from client.pixels import Linear, Meaning, Table, to_physical, to_physical_window


def meaning(**changes: object) -> Meaning:
    """Give what 8 unsigned bits mean without any LUT."""
    fields: dict[str, object] = {
        "modality_lut": Linear(slope=1, intercept=0),
        "lowest": 0,
        "highest": 255,
        "padding": None,
        "darkest_is_high": False,
        "floor": None,
    }
    return Meaning(**(fields | changes))


def test_a_frame_of_padding_only_stays_constant() -> None:
    """Where nothing was measured there is no background to find."""
    stored = np.full((2, 2, 1), 9, np.uint8)
    assert np.unique(to_physical(stored, meaning(padding=(9, 9)))).tolist() == [9]


def test_padding_of_monochrome1_becomes_the_darkest_after_the_inversion() -> None:
    """White padding of an inverted film does not end as white."""
    stored = np.array([[[0], [100], [200]]], np.uint8)
    physical = to_physical(stored, meaning(padding=(0, 0), darkest_is_high=True))
    assert physical.ravel().tolist() == [55, 155, 55]


def test_the_window_moves_with_the_inversion() -> None:
    """A window's interval holds the same pixels before and after the inversion."""
    inverted = meaning(darkest_is_high=True, modality_lut=Linear(slope=2, intercept=-10))
    assert to_physical_window((100, 40), inverted) == (390, 40)
    assert to_physical_window((100, 40), meaning()) == (100, 40)
    assert to_physical_window(None, inverted) is None


def test_a_table_clamps_what_it_does_not_map() -> None:
    """Values below and above a modality LUT take its first and last entry."""
    table = Table(first=10, entries=np.array([7, 8, 9], np.float32))
    assert table(np.array([0, 10, 11, 12, 255], np.uint8)).tolist() == [7, 7, 8, 9, 9]


def test_the_stored_values_are_left_alone() -> None:
    """A decoder's array is not written to."""
    stored = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
    to_physical(stored, meaning(darkest_is_high=True, padding=(1, 1)))
    assert stored.ravel().tolist() == [0, 1, 2, 3]
