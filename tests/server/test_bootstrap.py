"""One coordinator put together: where the model starts, what travels when, and how updates move it."""

from typing import Any

import numpy as np
import pytest
import torch

from server.bootstrap import compose, server_optimiser


def test_the_initial_arrays_are_the_coordinators_own(tiny: Any) -> None:
    """Training the model that was composed with it does not move where the study starts."""
    coordinator, model = compose(tiny.protocol(), weights_file=None)
    before = coordinator.initial["fc.bias"].copy()
    with torch.no_grad():
        model.fc.bias.add_(1)
    np.testing.assert_array_equal(coordinator.initial["fc.bias"], before)


def test_what_travels_grows_with_the_stages_that_train(tiny: Any) -> None:
    """Round 1 sends the head, round 2 layer4 as well, and the run's state holds all that ever trains."""
    protocol = tiny.protocol(model={"unfreeze": [{"round": 2, "from": "layer4"}]})
    coordinator, _ = compose(protocol, weights_file=None)
    assert coordinator.trained_names(1) == ["fc.weight", "fc.bias"]
    assert coordinator.trained_names(2)[0] == "layer4.0.conv1.weight"
    assert list(coordinator.start().model) == coordinator.trained_names(2)
    kept = tiny.protocol(federation={"local_norm": True}, model={"unfreeze": [{"round": 1, "from": "layer4"}]})
    assert not any(".bn" in name for name in compose(kept, weights_file=None)[0].trained_names(1))


@pytest.mark.parametrize(
    ("federation", "expected"),
    [
        ({"strategy": "fedavg"}, ("fedavg", 1.0, 0.0, 0.0, 0.0)),
        ({"strategy": "fedprox", "proximal_mu": 0.5}, ("fedavg", 1.0, 0.0, 0.0, 0.0)),
        ({"strategy": "fedavgm", "server_lr": 0.5, "server_momentum": 0.0}, ("fedavgm", 0.5, 0.0, 0.0, 0.0)),
        ({"strategy": "fedadam"}, ("fedadam", 0.01, 0.0, 0.9, 0.99)),
        ({"strategy": "fedyogi", "beta1": 0.5}, ("fedyogi", 0.01, 0.0, 0.5, 0.99)),
    ],
)
def test_the_servers_optimiser_is_the_studys(tiny: Any, federation: Any, expected: Any) -> None:
    """FedProx is FedAvg on the server; all settings come from the study."""
    made = server_optimiser(tiny.protocol(federation=federation))
    assert (made.kind, made.lr, made.momentum, made.beta1, made.beta2) == expected


def test_the_model_is_seeded_by_the_study(tiny: Any) -> None:
    """Another study seed starts elsewhere; the same one, at the same place."""
    starts = [
        compose(tiny.protocol(study={"seed": seed}), weights_file=None)[0].initial["conv1.weight"] for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])
