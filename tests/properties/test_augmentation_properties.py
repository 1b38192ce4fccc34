"""Properties of shared/augmentation.py: whatever a study asks for, images stay images, and replays are exact."""

import math
from dataclasses import fields
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.augmentation import Augmentation, Draws, apply, draw

SETTINGS = st.builds(
    Augmentation,
    rotation_degrees=st.floats(0, 180),
    translate=st.floats(0, 1),
    scale=st.floats(0, 0.99),
    elastic=st.floats(0, 0.5),
    brightness=st.floats(0, 1),
    contrast=st.floats(0, 1),
    gamma=st.floats(0, 1),
    noise=st.floats(0, 1),
    blur=st.floats(0, 4),
    laterality_invariant=st.booleans(),
)
SEEDS = st.integers(0, 2**63 - 1)
SIZE = 16


def drawn(setting: Augmentation, seed: int, *, batch: int = 5) -> Draws:
    """Draw from a generator of its own."""
    return draw(setting, batch=batch, size=SIZE, generator=torch.Generator().manual_seed(seed))


def stored_images(seed: int, *, batch: int = 5, channels: int = 1) -> torch.Tensor:
    """Draw images as the cache holds them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, channels, SIZE, SIZE), generator=generator).to(torch.uint8)


@given(SETTINGS, SEEDS, st.sampled_from([1, 3]))
def test_augmented_images_are_images(setting: Augmentation, seed: int, channels: int) -> None:
    """Whatever is asked for, the result is fp32 in [0, 1] and of the same shape, and the input is unchanged."""
    stored = stored_images(seed, channels=channels)
    kept = stored.clone()
    augmented = apply(stored, drawn(setting, seed))
    assert augmented.shape == stored.shape
    assert augmented.dtype == torch.float32
    assert bool((augmented >= 0).all())
    assert bool((augmented <= 1).all())
    assert torch.equal(stored, kept)


@given(SETTINGS, SEEDS)
def test_the_same_seed_replays_the_same_bits(setting: Augmentation, seed: int) -> None:
    """Draws and images repeat bit for bit, whatever torch's global generator did in between."""
    first = drawn(setting, seed)
    torch.rand(7)
    second = drawn(setting, seed)
    for field in fields(Draws):
        one, two = getattr(first, field.name), getattr(second, field.name)
        assert (one is None and two is None) or torch.equal(one, two)
    assert torch.equal(apply(stored_images(seed), first), apply(stored_images(seed), second))


@given(SETTINGS, SEEDS)
def test_fp32_input_is_left_unchanged(setting: Augmentation, seed: int) -> None:
    """Images that are fp32 already give what the stored ones give, and are not written to."""
    stored = stored_images(seed)
    floats = stored.float() / 255
    kept = floats.clone()
    draws = drawn(setting, seed)
    assert torch.equal(apply(floats, draws), apply(stored, draws))
    assert torch.equal(floats, kept)


@given(SETTINGS, SEEDS, st.integers(0, 5), st.integers(0, 5))
def test_images_do_not_depend_on_their_batch(setting: Augmentation, seed: int, start: int, stop: int) -> None:
    """Some images with their draws become what they become within the batch."""
    some = slice(start, stop)
    draws, stored = drawn(setting, seed), stored_images(seed)
    torch.testing.assert_close(apply(stored[some], draws.of(some)), apply(stored, draws)[some], rtol=0, atol=1e-5)


@given(SETTINGS, SEEDS)
def test_draws_stay_within_their_settings(setting: Augmentation, seed: int) -> None:
    """No draw goes beyond what the study allows."""
    draws = drawn(setting, seed, batch=50)
    for name in ("brightness", "contrast"):
        assert within(getattr(draws, f"{name}_N"), 1, getattr(setting, name))
    assert draws.gamma_N is None or within(draws.gamma_N.log(), 0, math.log1p(setting.gamma))
    assert within(draws.elastic_N2GG, 0, 2 * setting.elastic)
    if draws.affine_N23 is not None:
        linear = draws.affine_N23[:, :, :2]
        turned = linear[:, 1, 1] * linear.det().abs() ** -0.5
        assert bool((turned >= math.cos(math.radians(setting.rotation_degrees)) - 1e-5).all())
        assert within(linear.det().abs() ** -0.5, 1, setting.scale)
        shift = torch.linalg.solve(linear, draws.affine_N23[:, :, 2])
        assert within(shift, 0, 2 * setting.translate)
        assert setting.laterality_invariant or bool((linear.det() > 0).all())


def within(values: Any, centre: float, most: float) -> bool:
    """Tell whether values, if any were drawn, lie around a centre, up to rounding."""
    return values is None or bool(((values - centre).abs() <= most * (1 + 1e-4) + 1e-5).all())
