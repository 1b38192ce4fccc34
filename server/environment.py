"""What a run ran on: versions, device, threads; so that its figures can be reproduced."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from server.results import Environment

LIBRARIES = ("polyclinic", "flwr", "torch", "torchvision", "pydicom", "numpy", "scipy")


def environment(device: torch.device, *, seed: int) -> Environment:
    """Describe this process; `device` is where the model runs."""
    found = {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}
    return Environment(
        versions={name: text for name, text in found.items() if text},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        threads=torch.get_num_threads(),
        seed=seed,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
