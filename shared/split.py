"""Patient-level train/validation/test assignment by keyed hash."""

import hashlib
import json
from enum import StrEnum

_BITS = 53
"""A float holds 53 bits exactly, so that every hash gives its own number in [0, 1)."""


class Split(StrEnum):
    """The three sides; a patient is on exactly one of them."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


CONCLUDING_LOOKS = 2
"""Looks at the validation patients after the last round: one to choose the threshold, one to count at it."""


def assign(*, study: str, seed: int, site: str, patient: str, train: float, validation: float) -> Split:
    """Put a patient on a side that depends on (study, seed, site, patient) and the fractions alone.

    Invariant: neither other patients nor this patient's other exams have any influence, so that a new exam never
    moves a patient and no patient is on two sides. A larger `train` only adds patients to it. What `train` and
    `validation` leave of 1 is test.
    """
    position = _position(study, seed, site, patient)
    if position < train:
        return Split.TRAIN
    return Split.VALIDATION if position < train + validation else Split.TEST


def _position(study: str, seed: int, site: str, patient: str) -> float:
    """Give the patient's place in [0, 1): the first 53 bits of SHA-256 over an unambiguous form of the key."""
    key = json.dumps([study, seed, site, patient]).encode()
    first_bits = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> (64 - _BITS)
    return first_bits * 2.0**-_BITS
