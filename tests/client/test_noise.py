"""Noise of a secret key: the right law, the same for the same request, and never the same for any other."""

import itertools

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from scipy import stats

from client.noise import LARGEST, SecretStreams, grid_of, simulated_key
from shared.errors import SiteError

KEY = bytes(range(32))

REQUEST = {"key": KEY, "task_id": "task", "arrays_digest": "digest"}


def streams(**other) -> SecretStreams:
    """Give the streams of a fixed request, with some of it changed."""
    return SecretStreams(**(REQUEST | other))


def test_gaussians_follow_the_normal_law() -> None:
    """A million draws of a fixed key are standard normal: mean, variance, kurtosis, tails and the whole law."""
    drawn = streams().gaussian(1_000_001, step=0, purpose="noise").numpy()
    assert abs(drawn.mean()) < 4e-3
    assert drawn.var() == pytest.approx(1, abs=6e-3)
    assert stats.kurtosis(drawn) == pytest.approx(0, abs=0.02)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    beyond_four = np.mean(np.abs(drawn) > 4)
    assert beyond_four == pytest.approx(2 * stats.norm.sf(4), rel=0.5)
    assert LARGEST > np.abs(drawn).max() > 4.4


def test_neighbours_are_independent() -> None:
    """The two numbers that share their angles are uncorrelated, and so are their squares."""
    half = 1 << 14
    first, second = streams().gaussian(2 * half, step=1, purpose="noise").view(2, half).numpy()
    for a, b in ((first, second), (first**2, second**2), (first[1:], first[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / half**0.5


def test_each_coordinates_noise_has_the_scale() -> None:
    """Over 2,000 steps the variance in each of 40 coordinates is the scale's square (chi-square, 1e-3 for all)."""
    steps, scale = 2000, 3.0
    sums = torch.zeros(steps, 40)
    for step in range(steps):
        streams().perturb(sums[step], scale=scale, step=step, purpose="noise")
    statistic = (sums.double() / scale).square().sum(0).numpy()
    low, high = stats.chi2.ppf([0.5e-3 / 40, 1 - 0.5e-3 / 40], steps)
    assert ((statistic > low) & (statistic < high)).all()
    assert abs(np.corrcoef(sums.numpy().T) - np.eye(40)).max() < 5 / steps**0.5


def test_uniform_draws_are_uniform() -> None:
    """Uniform draws are of [0, 1) and of the uniform law."""
    drawn = streams().uniform(200_000, step=0, purpose="inclusion")
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_the_same_request_draws_the_same() -> None:
    """After a restart, from the same secret, the same request has the same noise, bit for bit."""
    once, again = (streams().gaussian(100, step=3, purpose="noise") for _ in range(2))
    assert torch.equal(once, again)


def test_nothing_is_ever_drawn_twice() -> None:
    """Another key, task, model, step or purpose draws other noise; no number is in two of the streams."""
    others = [
        streams(),
        streams(key=bytes(32)),
        streams(task_id="task2"),
        streams(arrays_digest="digest2"),
        streams(task_id="tas", arrays_digest="kdigest"),  # the fields' border counts
    ]
    uses = [(0, "noise"), (1, "noise"), (10, "noise"), (16, "noise"), (17, "noise"), (0, "images"), (0, "1noise")]
    for count in (200, 10_000):  # of some steps at once, and of each step by itself
        drawn = [
            set(each.gaussian(count, step=step, purpose=purpose).tolist())
            for each, (step, purpose) in itertools.product(others, uses)
        ]
        assert len(set.union(*drawn)) == count * len(drawn)
    one, two = (streams().gaussian(count, step=0, purpose="noise") for count in (1, 2))
    assert one[0] != two[0]


def test_what_is_drawn_ahead_belongs_to_its_step() -> None:
    """A step's noise is the same in whatever order steps are asked for, and using it changes nothing of it."""
    asked, alone = streams(), streams().gaussian(513, step=18, purpose="noise")
    for step in (18, 3, 17, 18, 18):
        asked.perturb(torch.zeros(513), scale=0.5, step=step, purpose="noise")
    assert torch.equal(asked.gaussian(513, step=18, purpose="noise"), alone)


def test_the_stream_is_the_standards() -> None:
    """The bits are ChaCha20's (RFC 8439) under HKDF-SHA256's key (RFC 5869), as `cryptography` computes both."""
    fields = (b"task", b"digest", b"7", b"inclusion")
    info = b"".join(len(part).to_bytes(8, "big") + part for part in fields)
    key = HKDF(hashes.SHA256(), 32, b"polyclinic privacy noise, version 1", info).derive(KEY)
    bits = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(80))
    expected = [int.from_bytes(bits[at : at + 8], "little") / 2**64 for at in range(0, 80, 8)]
    assert streams().uniform(10, step=7, purpose="inclusion") == pytest.approx(expected, abs=2**-52)


def test_what_is_released_lies_on_the_scales_grid() -> None:
    """Sum and noise are rounded to a grid that depends on the scale alone, so that no low bit of the sum is left."""
    sums = torch.rand(50_000) * 1e-3
    streams().perturb(sums, scale=0.7, step=0, purpose="noise")
    steps = sums.double() / grid_of(0.7)
    assert torch.equal(steps, steps.round())
    assert 0.7 * 2**-21 < grid_of(0.7) <= 0.7 * 2**-20
    assert sums.double().var() == pytest.approx(0.49, rel=0.03)


def test_no_draw_is_no_draw() -> None:
    """Nothing asked for, nothing given, also of an odd number."""
    assert len(streams().gaussian(0, step=0, purpose="noise")) == 0
    assert len(streams().gaussian(1, step=0, purpose="noise")) == 1
    assert len(streams().uniform(0, step=0, purpose="noise")) == 0


def test_a_key_of_another_length_is_refused_and_never_shown() -> None:
    """Half a key is no key, and a key is in no printed form."""
    with pytest.raises(SiteError, match="16 bytes"):
        streams(key=bytes(16))
    assert str(KEY) not in repr(streams())
    assert KEY.hex() not in repr(streams())


def test_simulated_keys_differ_by_seed() -> None:
    """In simulation the study's seed makes the key: 32 bytes, another for each seed."""
    assert simulated_key(1) == simulated_key(1) != simulated_key(2)
    assert len(simulated_key(1)) == 32
