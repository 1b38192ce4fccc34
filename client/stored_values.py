"""From the numbers that a decoder gives to the stored values: their bits, sign and place (PS3.5 8.1.1, 8.2).

Pure arithmetic on arrays: the codestream says how many bits its numbers have and whether they are signed, the header
which of them are stored, and whether these are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a header says of its stored values: how many bits, the place of the highest, and whether it is a sign."""

    bits: int
    high_bit: int
    signed: bool

    @property
    def lowest(self) -> int:
        """The smallest value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest value."""
        return (1 << (self.bits - self.signed)) - 1


def from_lossless(decoded: NDArray[Any], stored: Stored, *, precision: int) -> NDArray[Any]:
    """Give the stored values of a lossless codestream of `precision` bits.

    Bits beyond the stored ones, such as old overlays, are cut off. Values that stand at the left of their container
    are moved, if the codestream is that of the container; where a codestream has fewer bits than are stored, its
    highest is the sign. A decoder may give differences from 2^precision on (T.81 H.2.1): these wrap around.
    """
    values = _wide(decoded, precision, stored) & (2**precision - 1)
    values >>= _shift(stored, precision)
    return _of_bits(values, min(precision, stored.bits), signed=stored.signed)


def from_lossy(decoded: NDArray[Any], stored: Stored, *, precision: int, signed: bool) -> NDArray[Any]:
    """Give the stored values of a lossy codestream: what it overshoots is clipped, never wrapped around.

    A codestream that is unsigned holds signed values as their two's complement, of its own bits or of the stored ones;
    one that is `signed` without need holds unsigned values as they are, if they have room there.
    """
    values = _wide(decoded, precision, stored)
    values >>= _shift(stored, precision)
    precision -= _shift(stored, precision)
    if signed and not stored.signed and precision <= stored.bits:
        values = _of_bits(values, precision, signed=False)
    if stored.signed and not signed:
        extended = precision <= stored.bits or bool((values >= 2 ** (precision - 1)).any())
        bits = precision if extended else stored.bits
        values = _of_bits(values.clip(0, 2**bits - 1), bits, signed=True)
    return values.clip(stored.lowest, stored.highest, out=values)


def _wide(decoded: NDArray[Any], precision: int, stored: Stored) -> NDArray[Any]:
    """Copy the numbers into a type that holds all that follows."""
    return decoded.astype(np.int32 if max(precision, stored.bits) < 31 else np.int64)


def _shift(stored: Stored, precision: int) -> int:
    """Give how far to the left values stand: the highest bit is not where it should be, and the codestream has it."""
    return stored.high_bit + 1 - stored.bits if precision > stored.high_bit >= stored.bits else 0


def _of_bits(values: NDArray[Any], bits: int, *, signed: bool) -> NDArray[Any]:
    """Read the lowest bits, as two's complement if they are signed."""
    values &= 2**bits - 1
    if signed:
        sign = 2 ** (bits - 1)
        values ^= sign
        values -= sign
    return values
