"""The update that a site sends: its numbers, its norm, and the memory that it lies in."""

import numpy as np
import pytest

from shared.parameters import CHUNK, l2_norm
from shared.update import difference
from shared.wire import record_of

RNG = np.random.default_rng(20261125)


def model(shift: float) -> dict[str, np.ndarray]:
    shapes = {"long": (CHUNK + 17,), "kernel": (3, 2, 4, 4), "scalar": (), "none": (0, 3)}
    return {name: (RNG.standard_normal(shape) + shift).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("wire", "dtype"), [("fp32", np.float32), ("fp16", np.float16)])
def test_the_update_is_new_minus_old_bit_for_bit(wire: str, dtype: type) -> None:
    """Over block borders, for scalars and empty arrays: subtracted in fp32, and only then cast to what travels."""
    new = model(1.0)
    old = {name: array.astype(dtype) for name, array in model(1.0).items()}
    update, norm = difference(new, old, wire=wire)  # type: ignore[arg-type]
    assert list(update) == list(new)
    for name, array in update.items():
        expected = (new[name] - old[name].astype(np.float32)).astype(dtype)
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, expected, strict=True)
    assert norm == l2_norm(update)


def test_a_small_change_is_not_lost_in_half_precision() -> None:
    """A change of 1e-4 of a weight of 1 is below fp16's steps there, and arrives: subtracting comes before casting."""
    update, _ = difference({"a": np.array([1.0001], np.float32)}, {"a": np.array([1.0], np.float16)}, wire="fp16")
    assert update["a"][0] == pytest.approx(1e-4, rel=1e-3)


def test_the_norm_tells_what_is_not_finite() -> None:
    """One NaN in the model makes the norm NaN."""
    new = {"a": np.ones(CHUNK + 1, np.float32)}
    new["a"][CHUNK] = np.nan
    assert not np.isfinite(difference(new, {"a": np.zeros(CHUNK + 1, np.float32)}, wire="fp32")[1])


def test_the_update_travels_from_where_it_was_written() -> None:
    """Encoding copies no element, and nobody can change what was encoded."""
    update, _ = difference(model(1.0), model(0.0), wire="fp32")
    (block,) = record_of(update).values()
    for name in ("long", "kernel", "scalar"):
        assert not update[name].flags.writeable
        assert np.shares_memory(update[name], np.frombuffer(block.data, np.uint8))
