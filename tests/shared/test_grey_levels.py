"""Grey levels of VOI LUTs and sigmoids against the standard's formulas."""

import numpy as np

from shared.grey_levels import LookUp, Sigmoid


def test_the_sigmoid_is_the_standards_formula() -> None:
    """Within 1e-9 of 1 / (1 + exp(-4 (x - c) / w)), far out in both directions too (PS3.3 C.11.2.1.3.1)."""
    values = np.linspace(-5000, 5000, 4001).astype(np.float32)
    for centre, width in ((40, 400), (-3.5, 0.7), (0, 1e4)):
        with np.errstate(over="ignore"):
            expected = 1 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width))
        np.testing.assert_allclose(Sigmoid(centre=centre, width=width)(values), expected, atol=1e-9)


def test_a_table_gives_its_entries_between_and_beyond_them() -> None:
    """Whole values have their entries, values between two are between, and the ends go on."""
    table = LookUp(first=10, entries=np.array([0.1, 0.5, 0.3]))
    found = table(np.array([-4, 10, 10.5, 11, 11.25, 12, 99], np.float32))
    np.testing.assert_allclose(found, [0.1, 0.1, 0.3, 0.5, 0.45, 0.3, 0.3])
