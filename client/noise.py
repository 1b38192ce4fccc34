"""Cryptographic random draws for privacy: each stream is keyed by the site's secret and bound to what it is used for.

The bits are ChaCha20's (RFC 8439), under a key that HKDF-SHA256 (RFC 5869) derives from the secret, the task's id, the
digest of the task's arrays, the step and the purpose; noise is bound to the data that it is added to as well, so that
a task over other patients is another sum with other noise. Coins are not: whether a patient takes part follows from
the patient and the task, whoever else is there. Small steps have one stream for some of them together, of
which each takes bits that no other step takes. The same request draws the same again, so that a resumed round ends with
the same bytes; any other request draws afresh. Who lacks the secret can tell no draw from a coin's.

Gaussians are not read off as they are. A float has few bits, and an exact transform of few bits can be inverted
(Mironov 2012; Holohan and Braghin 2021): each Gaussian here is a sum of four of fp64 divided by two (Holohan and
Braghin's remedy with n = 2, which Opacus' secure mode has too), and what is released is rounded to a grid that
depends on the noise's scale alone. The grid is post-processing of the noised sum, and each of its points stands for
very many sums.
"""

import hashlib
import hmac
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from shared.errors import SiteError

KEY_BYTES: Final = 32
"""Length of a site's noise key: what ChaCha20 and HMAC-SHA256 take whole."""

LARGEST: Final = 2 * math.sqrt(2 * 54 * math.log(2))
"""No standard Gaussian drawn here is larger, 17.3; a true one is with a probability below 1e-66."""

_SALT: Final = b"polyclinic privacy noise, version 1"
_CHUNK: Final = 1 << 15
"""Gaussians drawn at a time, so that a large model's noise stays in the processor's cache and takes no memory."""
_TOGETHER: Final = 16
"""Steps of which each needs few Gaussians are drawn at once: starting a stream takes as long as some thousand."""
_AHEAD: Final = 1 << 16
"""Gaussians, at most, that are drawn at once for several steps: those of 16 steps of a head on 2048 features."""
_SUMMED: Final = 4
_GRID_BITS: Final = 20
"""The grid's step is at most 2^-20 of the noise's scale: 16 scales fill the 24 bits of an fp32 exactly."""
_UNIT: Final = 2.0**-53


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretStreams:
    """All random draws of one private task; the same for the same secret, task and arrays, for no others.

    `arrays_digest` is that of the arrays which the task brought, so that no noise is ever drawn twice for two models.
    """

    key: bytes = field(repr=False)
    task_id: str
    arrays_digest: str
    _extracted: bytes = field(init=False, repr=False)
    _ahead: dict[tuple[str, int, int], Sequence[torch.Tensor]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise SiteError(
                f"the noise key has {len(self.key)} bytes, not {KEY_BYTES}. Make one with `polyclinic site init`; "
                "a site's key must come whole from its own file."
            )
        object.__setattr__(self, "_extracted", hmac.digest(_SALT, self.key, "sha256"))  # HKDF-Extract

    def over(self, data: str) -> Self:
        """Give the streams of the same task over certain data, named by a digest: equal only where all of it is."""
        bound = hashlib.sha256(f"{len(self.arrays_digest)}\x1f{self.arrays_digest}{data}".encode()).hexdigest()
        return replace(self, arrays_digest=bound)

    def uniform(self, count: int, *, step: int, purpose: str) -> npt.NDArray[np.float64]:
        """Draw `count` numbers of [0, 1), multiples of 2^-53; a comparison `< q` is true with q's chance to 2^-53."""
        return in_unit_interval(np.frombuffer(self.bits(count, step=step, purpose=purpose), dtype="<u8"))

    def bits(self, count: int, *, step: int, purpose: str) -> bytearray:
        """Draw `count` words of 64 bits."""
        return self._keystream(step, purpose).update(8 * count)

    def gaussian(self, count: int, *, step: int, purpose: str) -> torch.Tensor:
        """Draw `count` independent standard Gaussians in fp64, on the CPU."""
        return torch.cat(list(self._chunks(count, step, purpose)))

    def perturb(self, sums_D: torch.Tensor, *, scale: float, step: int, purpose: str) -> None:
        """Add Gaussian noise of standard deviation `scale` to each number, in place, and round to the scale's grid.

        Drawn and added in fp64, a chunk at a time.
        """
        grid = grid_of(scale)
        parts = (sums_D,) if len(sums_D) <= _CHUNK else torch.split(sums_D, _CHUNK)
        for part, noise in zip(parts, self._chunks(len(sums_D), step, purpose), strict=True):
            # In units of the grid, a power of two, which rounds nothing of its own.
            part.copy_(noise.to(part.device).mul(scale / grid).add_(part, alpha=1 / grid).round_().mul_(grid))

    def _chunks(self, count: int, step: int, purpose: str) -> Iterator[torch.Tensor]:
        """Give a step's Gaussians, a chunk at a time; those of small steps are drawn ahead, each from its own bits."""
        if count * _TOGETHER > _AHEAD:
            stream = self._keystream(step, purpose)
            for first in range(0, count, _CHUNK):
                yield _gaussians(stream, min(_CHUNK, count - first))[0]
            return
        group, place = divmod(step, _TOGETHER)
        if (key := (purpose, count, group)) not in self._ahead:
            stream = self._keystream(group, f"{purpose}, {_TOGETHER} steps of {count}")
            self._ahead.clear()
            self._ahead[key] = _gaussians(stream, count, steps=_TOGETHER).unbind()
        yield self._ahead[key][place]

    def _keystream(self, step: int, purpose: str) -> "_Keystream":
        """Start the stream of one use: HKDF-Expand over the fields, each with its length before it, to one block."""
        fields = [self.task_id.encode(), self.arrays_digest.encode(), str(step).encode(), purpose.encode()]
        info = b"".join(len(part).to_bytes(8, "big") + part for part in fields)
        return _Keystream(hmac.digest(self._extracted, info + b"\x01", "sha256"))


def in_unit_interval(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Turn words of 64 bits into numbers of [0, 1), by the upper 53."""
    numbers: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * _UNIT
    return numbers


def simulated_key(seed: int) -> bytes:
    """Make a noise key from a study's seed, for `simulate` alone: whoever has the study can take the noise off again.

    A result that was made with such a key is no guarantee to anybody, and is stamped so.
    """
    return hashlib.sha256(b"polyclinic simulated noise key\x1f" + str(seed).encode()).digest()


def grid_of(scale: float) -> float:
    """Give the step of the grid that a sum with noise of this scale is rounded to: a power of two."""
    return 2.0 ** (math.floor(math.log2(scale)) - _GRID_BITS) if scale > 0 else 2.0**-_GRID_BITS


class _Keystream:
    """ChaCha20's keystream under a key of its own; the nonce may then be zero, as no key has a second stream."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def update(self, count: int) -> bytearray:
        """Give the next `count` bytes."""
        stream = bytearray(count)
        self._encryptor.update_into(stream, stream)  # zeros, encrypted where they are
        return stream

    def words(self, count: int) -> torch.Tensor:
        """Give `count` whole numbers of [0, 2^53) as fp64, which holds them exactly."""
        bits = torch.frombuffer(self.update(8 * count), dtype=torch.int64)
        return bits.bitwise_and_((1 << 53) - 1).double()


def _gaussians(stream: _Keystream, count: int, *, steps: int = 1) -> torch.Tensor:
    """Make standard Gaussians (steps, count) by Box and Muller (1958), four to a number; no two steps share a bit.

    A number sums the cosines of four pairs and its neighbour their sines: cosine and sine of one pair are
    independent, and no pair comes twice in one sum.
    """
    if not count:
        return torch.empty(steps, 0, dtype=torch.float64)
    half = (count + 1) // 2
    words = stream.words(steps * 2 * _SUMMED * half).view(steps, 2, _SUMMED, half)
    radius = words[:, 0].add_(0.5).mul_(_UNIT).log_().mul_(-2).sqrt_()  # of (0, 1): the logarithm is finite
    angle = words[:, 1].mul_(2 * math.pi * _UNIT)
    sums = torch.cat([(angle.cos() * radius).sum(dim=1), (angle.sin_() * radius).sum(dim=1)], dim=1)
    return sums.mul_(1 / math.sqrt(_SUMMED))[:, :count]
