"""A study's model as one ONNX file, from prepared image to score, checked against the model that it was made of."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from shared.errors import MissingPartError, WeightsError
from shared.model import Classifier
from shared.model_facts import refuse_untested
from shared.preprocessing import normalisation
from shared.saved_model import open_model
from shared.storage import atomic_file

TOLERANCE = 1e-5
"""Scores of two implementations of the same fp32 sums may differ by rounding, and by no more than this."""

CHECKED = 8
"""Images of noise on which they are compared."""


class Scoring(nn.Module):
    """The whole way from prepared images (N, C, H, W), whole numbers as stored, to logits and scores (N, K)."""

    gain: torch.Tensor
    offset: torch.Tensor

    def __init__(self, classifier: Classifier, *, white: int, exclusive: bool) -> None:
        super().__init__()
        gain, offset = normalisation(white, device=torch.device("cpu"))
        self.register_buffer("gain", gain)
        self.register_buffer("offset", offset)
        self.classifier = classifier
        self.exclusive = exclusive

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalise as `shared.preprocessing.normalise` does, and score."""
        logits = self.classifier(images.to(torch.float32) * self.gain + self.offset)
        return logits, logits.softmax(dim=1) if self.exclusive else logits.sigmoid()


def export_onnx(model: Path, out: Path) -> float:
    """Write the ONNX file of a run's model.safetensors, and say by how much its scores differ at most.

    Input `images`: prepared images (N, channels, size, size) of the contract's type. Outputs `logits` and `scores`
    (N, K). The file's metadata are those of the model: preprocessing, thresholds, study and digests.

    Raises:
        WeightsError: the file is no model that a study tested, or the two do not give the same scores.
        MissingPartError: onnx, onnxscript or onnxruntime is not installed.
        StorageError: the file cannot be written.
    """
    saved = open_model(model)
    refuse_untested(saved.facts, where=model.name)
    with safe_open(model, framework="numpy") as file:
        facts = dict(sorted((file.metadata() or {}).items()))
    contract = saved.facts.contract
    white = int(np.iinfo(contract.dtype).max)
    scoring = Scoring(saved.classifier, white=white, exclusive=saved.facts.protocol.task.exclusive).eval()
    noise = np.random.default_rng(0).integers(0, white, (CHECKED, *contract.shape), dtype=contract.dtype, endpoint=True)
    images = torch.from_numpy(noise)
    with atomic_file(out) as part:
        _write(scoring, images[:2], part, facts)
        difference = _difference(scoring, images, part)
        if not difference <= TOLERANCE:
            raise WeightsError(
                f"{model.name}: its ONNX form gives scores that differ by {difference:.2g}, more than {TOLERANCE:g}. "
                "Nothing was written. Use the model as it is, with `polyclinic predict`."
            )
    return difference


def _write(scoring: Scoring, example: torch.Tensor, path: Path, facts: dict[str, str]) -> None:
    with _told_of_a_missing_part(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own future
        program: Any = torch.onnx.export(
            scoring,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "scores"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
        # The exporter notes, node by node, where on this machine the code lies. Nobody who gets the file needs it.
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
        program.model.metadata_props.clear()
        program.model.metadata_props.update(facts)
        program.save(path, external_data=False)


def _difference(scoring: Scoring, images: torch.Tensor, path: Path) -> float:
    with _told_of_a_missing_part():
        import onnxruntime
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["scores"], {"images": images.numpy()})
    with torch.no_grad():
        _, scores = scoring(images)
    return float(np.abs(found - scores.numpy()).max())


@contextmanager
def _told_of_a_missing_part() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        raise MissingPartError(
            f"export as ONNX needs {missing.name}, which is not installed. pip install 'polyclinic[onnx]'"
        ) from None
