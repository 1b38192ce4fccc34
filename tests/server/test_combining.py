"""What a round's updates become: the mean to the bit as in memory, medians and trimmed means as numpy and scipy say."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from server.aggregation import StreamingMean
from server.combining import Part, median, trimmed_mean, trimmed_sites, weighted_mean
from server.kept_updates import KeptUpdates
from shared.errors import StorageError

SHAPES = {"stem": (3, 5, 7), "layer": (300, 401), "scale": (), "long": (1_100_000,)}
"""Arrays that share a block, one that is longer than a piece, one without a dimension, and one of its own block."""


def updates(sites: str, dtype: Any = np.float32) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(7)
    return {site: {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()} for site in sites}


def kept_of(found: dict[str, dict[str, Any]]) -> KeptUpdates:
    like = next(iter(found.values()))
    kept = KeptUpdates({name: array.astype(np.float32) for name, array in like.items()})
    for site, update in found.items():
        kept.keep(site, update)
    return kept


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_mean_of_what_was_kept_has_the_bits_of_one_in_memory(dtype: Any) -> None:
    """The disk in between changes nothing, in the order of the sites' names, whatever the order in which they came."""
    found = updates("cab", dtype)
    parts = {"a": Part(share=0.3, scale=1.0), "b": Part(share=0.2, scale=0.7), "c": Part(share=0.5, scale=1.0)}
    with kept_of(found) as kept:
        got = weighted_mean(kept, parts, cap=0.8)
    mean = StreamingMean({name: array.astype(np.float32) for name, array in found["a"].items()})
    for site, part in parts.items():
        mean.add(found[site], share=part.share, scale=part.scale)
    expected = mean.finish(cap=0.8)
    assert list(got) == list(SHAPES)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, strict=True)


@pytest.mark.parametrize("sites", ["a", "ab", "abc", "abcd", "abcde"])
def test_the_median_is_numpys(sites: str) -> None:
    """Element by element, over odd and even numbers of sites, each shrunk first."""
    found = updates(sites)
    parts = {site: Part(share=0.1, scale=1 / (place + 1)) for place, site in enumerate(sites)}
    with kept_of(found) as kept:
        got = median(kept, parts)
    for name in SHAPES:
        stacked = [found[site][name] * np.float32(part.scale) for site, part in parts.items()]
        np.testing.assert_allclose(got[name], np.median(stacked, axis=0), rtol=1e-6, atol=1e-7)
        assert got[name].dtype == np.float32


@pytest.mark.parametrize(("sites", "trim"), [("abcdefghij", 0.2), ("abcdefghij", 0.45), ("abcde", 0.2)])
def test_the_trimmed_mean_is_scipys(sites: str, trim: float) -> None:
    """Element by element, where the fraction comes to one site or more."""
    found = updates(sites)
    with kept_of(found) as kept:
        got = trimmed_mean(kept, dict.fromkeys(sites, Part(share=0.1, scale=1.0)), trim=trim)
    for name in SHAPES:
        expected = stats.trim_mean([found[site][name].astype(np.float64) for site in sites], trim, axis=0)
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-6)


@given(sites=st.integers(1, 200), trim=st.floats(0.001, 0.499))
def test_some_site_always_stays_and_of_three_none_has_the_last_word(sites: int, trim: float) -> None:
    """From three sites up the largest and the smallest value never count; whatever the fraction, a value is left."""
    out = trimmed_sites(sites, trim=trim)
    assert sites - 2 * out >= 1
    assert out >= (1 if sites >= 3 else 0)


@pytest.mark.parametrize("combine", [median, lambda kept, parts: weighted_mean(kept, parts, cap=1.0)])
def test_memory_does_not_grow_with_the_number_of_sites(combine: Any) -> None:
    """Twelve sites take no more than three: the updates wait on disk, and are read some elements at a time."""

    def peak(sites: int) -> int:
        like = {"w": np.zeros(4_000_000, np.float32)}
        parts = {str(place): Part(share=1 / sites, scale=1.0) for place in range(sites)}
        with KeptUpdates(like) as kept:
            for site in parts:
                kept.keep(site, {"w": np.ones(4_000_000, np.float32)})
            tracemalloc.start()
            combine(kept, parts)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    assert peak(12) <= peak(3) + 12 * 16 * (1 << 16)  # one piece of each site, in some forms


def test_a_full_disk_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends as an error of storage that names the folder, and not as a bare OSError."""

    def full(**_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with (
        KeptUpdates({"w": np.zeros(3, np.float32)}) as kept,
        pytest.raises(StorageError, match=r"No space left.*TMPDIR"),
    ):
        kept.keep("a", {"w": np.zeros(3, np.float32)})
