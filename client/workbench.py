"""The one model and device of an agent, which its tasks borrow in turn."""

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch

from client.device import Device
from shared.errors import DeviceError, TaskError
from shared.messages import Refusal
from shared.model import Classifier, exchanged
from shared.parameters import Array, NamedArrays


class Workbench:
    """Holds the model on its device; what a task loads stays until the next task begins.

    Several agents of one process may share a bench (simulation). Every task begins with the model as the study starts
    with it (`restart`), so that nothing remains of another task, nor of another site.
    """

    def __init__(self, classifier: Classifier, *, device: torch.device, precision: Literal["fp32", "bf16"]) -> None:
        self.device = device
        # Without the hardware, bf16 is 25 times slower than fp32 (docs/benchmarks.md): it is then left off.
        self._bf16 = precision == "bf16" and device.type == "cuda" and torch.cuda.is_bf16_supported()
        # Channels last is what a GPU's convolutions want; on a CPU it gains nothing (docs/benchmarks.md).
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.classifier = classifier.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs
        self._tensors: dict[str, torch.Tensor] = dict(self.classifier.state_dict(keep_vars=True))
        # On a CPU numpy shows each tensor's memory, which stays where it is: training changes it in place.
        on_cpu = device.type == "cpu"
        self._views = {name: tensor.detach().numpy() for name, tensor in self._tensors.items()} if on_cpu else {}
        self._start = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._frozen_digests: dict[str, str] = {}
        self._exchanged: dict[tuple[str, bool], list[str]] = {}

    @torch.no_grad()
    def load(self, arrays: NamedArrays) -> None:
        """Copy arrays into the model.

        Raises:
            TaskError: a name is not the model's, or has another shape; nothing was copied then.
        """
        for name, array in arrays.items():
            if name not in self._tensors or tuple(self._tensors[name].shape) != array.shape:
                raise TaskError(
                    Refusal.WRONG_FORM, "the task's arrays do not fit the study's model; is it this study's?"
                )
        for name, array in arrays.items():
            if self._views:
                np.copyto(self._views[name], array)
            else:
                self._tensors[name].copy_(torch.tensor(array))

    @torch.no_grad()
    def restart(self, arrays: NamedArrays) -> None:
        """Load arrays, and let every other one be as it was when the bench was made.

        Raises:
            TaskError: a name is not the model's, or has another shape; nothing was copied then.
        """
        self.load(arrays)
        for name, tensor in self._tensors.items():
            if name not in arrays:
                tensor.copy_(self._start[name])

    def start(self, names: Iterable[str]) -> dict[str, Array]:
        """Give arrays as they were when the bench was made; a name that is not the model's is passed over."""
        return {name: self._start[name].cpu().contiguous().numpy() for name in names if name in self._start}

    @property
    def names(self) -> list[str]:
        """Names of all of the model's arrays, in its own order."""
        return list(self._tensors)

    def arrays(self, names: Iterable[str]) -> dict[str, Array]:
        """Show the model's arrays by name; on a CPU these are views that the next training step changes."""
        if self._views:
            return {name: self._views[name] for name in names}
        return {name: self._tensors[name].detach().cpu().contiguous().numpy() for name in names}

    def exchanged(self, start: str, *, local_norm: bool) -> list[str]:
        """Name the arrays that travel while training starts at `start`; walks over the model once."""
        key = (start, local_norm)
        if key not in self._exchanged:
            self._exchanged[key] = exchanged(self.classifier, start, local_norm=local_norm)
        return self._exchanged[key]

    def precision(self) -> torch.autocast:
        """Give the context in which the model is to run: bf16 where study and device have it, else as it is."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def frozen_digest(self, start: str) -> str:
        """SHA-256 of all that makes the outputs before `start`, the first stage that trains: layers, arrays, precision.

        Computed once for each `start`: these arrays do not change as long as it holds.
        """
        if start not in self._frozen_digests:
            # A ResNet-50 and its v1 have arrays of the same names and shapes; as text, their layers differ.
            total = hashlib.sha256(f"{start}\x1f{self.classifier}\x1f{self._bf16}".encode())
            moving = set(exchanged(self.classifier, start, local_norm=False))
            for name in self._tensors:
                if name not in moving and not name.endswith("num_batches_tracked"):
                    total.update(name.encode())
                    total.update(self.arrays([name])[name].data)
            self._frozen_digests[start] = total.hexdigest()
        return self._frozen_digests[start]


def pick_device(wish: Device) -> torch.device:
    """Choose where to compute; 'auto' takes a CUDA device where there is one.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device 'cuda' was asked for, and torch sees none. Use auto or cpu, or see what nvidia-smi says."
        )
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")
