"""Under FedAdam and FedYogi no site's part of a step is larger than an honest one's, whatever it sends.

Whole runs of hostile sites are in test_update_bound.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adaptive_bound import held_to_the_step
from server.aggregation import ADAPTIVITY, ServerOptimiser
from server.combining import Part, mean_squares
from server.kept_updates import KeptUpdates

SETTINGS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99}
KINDS = pytest.mark.parametrize("kind", ["fedadam", "fedyogi"])

numbers = st.floats(-1e3, 1e3, width=32)
vectors = st.lists(numbers, min_size=6, max_size=6).map(lambda values: np.array(values, np.float32))


@contextmanager
def kept(*updates: Any) -> Iterator[KeptUpdates]:
    with KeptUpdates({"w": updates[0]}) as found:
        for number, update in enumerate(updates):
            found.keep(str(number), {"w": update})
        yield found


PARTS = {str(number): Part(share=1 / 3, scale=1.0) for number in range(3)}
NOTHING = np.zeros(6, np.float32)


@KINDS
@given(one=vectors, other=vectors, anything=vectors, before=vectors)
def test_no_update_moves_farther_than_an_honest_one_would_alone(
    kind: Any, one: Any, other: Any, anything: Any, before: Any
) -> None:
    """Whatever the third sends, its part of the step is at most an honest site's, as that is without the third."""
    optimiser = ServerOptimiser(kind=kind, **SETTINGS)
    state = {"v/w": np.square(before) + np.float32(ADAPTIVITY**2)}
    with kept(one, other, anything) as with_it, kept(one, other, NOTHING) as without:
        gains, alone = (optimiser.gains(mean_squares(some, PARTS, cap=1.0), state) for some in (with_it, without))
        factors = held_to_the_step(with_it, PARTS, gains, multiple=1.0)
    moved = factors["2"] * float(np.linalg.norm((gains["w"] * anything).astype(np.float64)))
    most = max(float(np.linalg.norm((alone["w"] * update).astype(np.float64))) for update in (one, other))
    if one.any() and other.any():
        assert moved <= most * (1 + 1e-3) + 1e-12


@KINDS
@given(one=vectors, other=vectors, anything=vectors)
def test_no_site_makes_a_gain_larger(kind: Any, one: Any, other: Any, anything: Any) -> None:
    """By cancelling what others send least of all: the squares are taken of each site's update."""
    optimiser = ServerOptimiser(kind=kind, **SETTINGS)
    with kept(one, other, anything) as with_it, kept(one, other, NOTHING) as without:
        first = optimiser.gains(mean_squares(with_it, PARTS, cap=1.0), {})["w"]
        second = optimiser.gains(mean_squares(without, PARTS, cap=1.0), {})["w"]
    assert (first <= second * (1 + 1e-5)).all()
