"""The model and the report that a finished study gave this hospital, as files that it can use."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save_file

from shared.parameters import Array
from shared.protocol import StudyProtocol
from shared.storage import atomic_file

MODEL = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """Puts what a study delivers into a folder; a later delivery takes the place of an earlier one, file by file."""

    folder: Path
    protocol: StudyProtocol

    def store(
        self, arrays: Mapping[str, Array], *, number: int, thresholds: tuple[float, ...], documents: Mapping[str, bytes]
    ) -> None:
        """Write the whole model (torchvision's names, fp32) with what one must know to use it, and the documents.

        A threshold that is not a number stands for a target for which none could be chosen; it is left out.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        protocol = self.protocol
        points = zip(protocol.task.targets, thresholds, strict=False)
        facts = {
            "format": "polyclinic-model-1",
            "arch": protocol.model.backbone,
            "norm": protocol.model.norm,
            "targets": json.dumps(protocol.task.targets),
            "activation": "softmax" if protocol.task.exclusive else "sigmoid",
            "thresholds": json.dumps({target: point for target, point in points if point == point}),
            "intended_use": protocol.study.intended_use,
            "protocol": protocol.canonical(),
            "protocol_sha256": protocol.digest(),
            "round": str(number),
        }
        for name, text in documents.items():
            with atomic_file(self.folder / name) as part:
                part.write_bytes(text)
        with atomic_file(self.folder / MODEL) as part:
            save_file(dict(arrays), part, facts)
