"""A study's model as ONNX, with the facts that its file holds, run by onnxruntime on the CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from client.evaluation import probabilities
from client.features import in_batches
from client.prediction import Scorer
from client.site_data import Pixels
from shared.errors import MissingPartError, WeightsError
from shared.model_facts import ModelFacts, read_facts


def open_onnx(path: Path) -> tuple[ModelFacts, Scorer]:
    """Open what `polyclinic export` wrote.

    Raises:
        MissingPartError: onnxruntime is not installed.
        WeightsError: the file is missing or no model of a study, or asks for another preprocessing.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise MissingPartError(
            f"{path.name}: ONNX needs onnxruntime, which is not installed. pip install 'polyclinic[onnx]'"
        ) from None
    if not path.exists():
        raise WeightsError(f"{path}: there is no such file. Name what `polyclinic export` wrote.")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as fault:  # onnxruntime has a class of its own for each fault, and no root for them
        raise WeightsError(
            f"{path.name}: not a readable ONNX file ({type(fault).__name__}). Get a whole copy."
        ) from None
    facts = read_facts(session.get_modelmeta().custom_metadata_map, where=path.name)

    def score(pixels: Pixels) -> npt.NDArray[np.float64]:
        parts = []
        for rows in in_batches(np.arange(len(pixels))):
            (logits_NK,) = session.run(["logits"], {"images": pixels.read(rows).numpy()})
            parts.append(probabilities(torch.from_numpy(logits_NK), exclusive=facts.protocol.task.exclusive).numpy())
        return np.concatenate(parts)

    return facts, score
