"""The chosen model as one safetensors file, with what one must know to use it."""

import json
from pathlib import Path

from server.bootstrap import Coordinator
from server.checkpoint import save_tensors
from server.study_run import Conclusion


def write_model(path: Path, coordinator: Coordinator, conclusion: Conclusion) -> None:
    """Write the whole model; names are torchvision's, arrays fp32, and the metadata holds the protocol.

    `features` says what stands between pooling and `fc`: nothing ("pooled"), or `shared.model.unit` ("unit").

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    protocol = coordinator.protocol
    points = {target: point.threshold for target, point in conclusion.operating_point.items()}
    facts = {
        "format": "polyclinic-model-1",
        "arch": protocol.model.backbone,
        "norm": protocol.model.norm,
        "features": protocol.model.features,
        "targets": json.dumps(protocol.task.targets),
        "activation": "softmax" if protocol.task.exclusive else "sigmoid",
        "thresholds": json.dumps(points),
        "intended_use": protocol.study.intended_use,
        "protocol": protocol.canonical(),
        "protocol_sha256": protocol.digest(),
        "round": str(conclusion.chosen),
        "weights": coordinator.provenance.sentence,
    }
    save_tensors(path, coordinator.whole_model(conclusion.model), facts=facts)
