"""Which code a site gives for what other libraries raise, where the cause is one that a coordinator can be told."""

from collections.abc import Mapping

import numpy as np
import torch
from safetensors import SafetensorError

from shared.refusal_codes import Refusal

OTHERS: Mapping[type[Exception], Refusal] = {
    MemoryError: Refusal.OUT_OF_MEMORY,
    torch.OutOfMemoryError: Refusal.OUT_OF_MEMORY,
    torch.AcceleratorError: Refusal.DEVICE,
    ConnectionError: Refusal.INTERNAL,  # an OSError that is no disk's
    OSError: Refusal.STORAGE,
    SafetensorError: Refusal.STORAGE,
    np.linalg.LinAlgError: Refusal.DIVERGED,
    FloatingPointError: Refusal.DIVERGED,
}
"""No memory, a card that fails, a disk, a model that gives no numbers; the first that fits holds."""


def code_of(fault: Exception) -> Refusal:
    """Give the code; `internal`, where all that is known is that this program is at fault."""
    return next((code for kind, code in OTHERS.items() if isinstance(fault, kind)), Refusal.INTERNAL)
