"""A cause that can be known has a code of its own: `internal` is left for faults of this program."""

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from client.egress import _code_of
from shared.errors import DataError, TaskError
from shared.refusal_codes import Refusal


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (MemoryError(), Refusal.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Refusal.OUT_OF_MEMORY),
        (torch.AcceleratorError("an illegal memory access"), Refusal.DEVICE),
        (OSError(28, "No space left on device"), Refusal.STORAGE),
        (FileNotFoundError(2, "/patients/DOE"), Refusal.STORAGE),
        (SafetensorError("header too short"), Refusal.STORAGE),
        (np.linalg.LinAlgError("Matrix is not positive definite"), Refusal.DIVERGED),
        (DataError("none"), Refusal.DATA),
        (TaskError(Refusal.TOO_FEW_IMAGES, "one"), Refusal.TOO_FEW_IMAGES),
        (TaskError("a word that is no code", "one"), Refusal.INTERNAL),
        (ValueError("anything else"), Refusal.INTERNAL),
        (KeyError("anything else"), Refusal.INTERNAL),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_a_library_raises_has_the_code_of_its_cause(fault: Exception, code: Refusal) -> None:
    """No memory, a card, a disk and a model without numbers are told apart."""
    assert _code_of(fault) is code
