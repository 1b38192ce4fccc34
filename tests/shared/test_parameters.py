"""Norms, forms and digests of named arrays."""

import numpy as np
import pytest

from shared.packing import same_form
from shared.parameters import CHUNK, cast, digest, l2_norm

RNG = np.random.default_rng(7)


def test_norm_equals_numpy_over_all_arrays_together() -> None:
    """The norm is that of all elements in one vector, across block borders."""
    arrays = {
        "a": RNG.standard_normal((CHUNK + 17,)).astype(np.float32),
        "b": RNG.standard_normal((3, 4)).astype(np.float32),
    }
    whole = np.concatenate([array.reshape(-1) for array in arrays.values()]).astype(np.float64)
    assert l2_norm(arrays) == pytest.approx(np.linalg.norm(whole), rel=1e-5)


def test_norm_of_half_precision_does_not_overflow() -> None:
    """fp16 holds 300 and not 300²: the norm is finite all the same."""
    assert l2_norm({"a": np.full(4, 300, np.float16)}) == pytest.approx(600)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norm_is_not_finite_when_one_element_is_not(bad: float) -> None:
    """One NaN or infinity among a million elements is seen."""
    array = np.zeros(1_000_000, np.float32)
    array[654_321] = bad
    assert not np.isfinite(l2_norm({"a": array}))


def test_cast_passes_on_what_fits() -> None:
    """An array that has the wire's dtype is not copied."""
    array = np.zeros(3, np.float32)
    assert cast({"a": array}, "fp32")["a"] is array


def test_same_form_names_each_kind_of_difference() -> None:
    """Another name, order, shape or dtype is told; equal forms are None."""
    expected = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    assert same_form(expected, expected, wire="fp32") is None
    assert "names" in str(same_form(dict(reversed(expected.items())), expected, wire="fp32"))
    assert "shape" in str(same_form(expected | {"b": np.zeros(5, np.float32)}, expected, wire="fp32"))
    assert "fp16" in str(same_form(expected, expected, wire="fp16"))


def test_digest_depends_on_names_order_shape_dtype_and_bytes() -> None:
    """Each change of what an array is gives another digest, and a copy gives the same."""
    base = {"a": np.arange(6, dtype=np.float32), "b": np.ones(2, np.float32)}
    variants = [
        dict(reversed(base.items())),
        {"c": base["a"], "b": base["b"]},
        base | {"a": base["a"].reshape(2, 3)},
        base | {"a": base["a"].astype(np.float16)},
        base | {"a": base["a"] + np.float32(1e-6)},
    ]
    assert digest(base) == digest({name: array.copy() for name, array in base.items()})
    assert len({digest(base), *map(digest, variants)}) == 1 + len(variants)
