"""What a run ran on is told, so that its figures can be reproduced."""

import pytest
import torch

from server.environment import environment


def test_the_environment_can_be_reproduced() -> None:
    """Versions of what computes, the device, threads, seed and whether torch was deterministic; nothing unknown."""
    found = environment(torch.device("cpu"), seed=7)
    assert {"python", "flwr", "torch", "numpy", "scipy", "pydicom"} <= set(found.versions)
    assert found.versions["torch"] == torch.__version__
    assert all(found.versions.values())
    assert (found.device[:5], found.threads, found.seed) == ("cpu (", torch.get_num_threads(), 7)
    assert found.deterministic == torch.are_deterministic_algorithms_enabled()


def test_a_library_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pydicom is not installed, as at a coordinator, it is left out; a GPU is named by its model."""
    monkeypatch.setattr("server.environment.LIBRARIES", ("numpy", "no-such-library"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a card at {device}")
    found = environment(torch.device("cuda"), seed=0)
    assert set(found.versions) == {"python", "numpy"}
    assert found.device == "a card at cuda"
