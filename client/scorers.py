"""What turns prepared images into probabilities: a study's model in torch, as its evaluation runs it, or as ONNX."""

from pathlib import Path

import numpy as np

from client.device import Device
from client.evaluation import score
from client.inputs import LiveInputs
from client.onnx_scorer import open_onnx
from client.prediction import Scorer
from client.site_data import Pixels
from client.workbench import Workbench, pick_device
from shared.augmentation import Augmentation
from shared.model_facts import ModelFacts, refuse_untested
from shared.saved_model import SavedModel, open_model


def open_scorer(path: Path, *, device: Device) -> tuple[ModelFacts, Scorer]:
    """Open a run's model.safetensors, or the .onnx that was exported from it.

    Raises:
        WeightsError: the file is no model that a study tested, or it asks for another preprocessing.
        DeviceError: CUDA was asked for and is not there.
        MissingPartError: an .onnx file, and onnxruntime is not installed.
    """
    if path.suffix == ".onnx":
        facts, scorer = open_onnx(path)
    else:
        saved = open_model(path)
        facts, scorer = saved.facts, torch_scorer(saved, device=device)
    refuse_untested(facts, where=path.name)
    return facts, scorer


def torch_scorer(saved: SavedModel, *, device: Device) -> Scorer:
    """Score as a study's agent does: the same model, precision and size of batches."""
    protocol = saved.facts.protocol
    bench = Workbench(saved.classifier, device=pick_device(device), precision=protocol.training.precision)

    def scorer(pixels: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return score(
            bench,
            LiveInputs(bench, pixels, Augmentation(**protocol.augmentation.model_dump())),
            np.arange(len(pixels)),
            start="stem",
            exclusive=protocol.task.exclusive,
            targets=len(protocol.task.targets),
        )

    return scorer
