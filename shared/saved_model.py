"""A model out of its safetensors file: checked, whole, and ready to score."""

from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from shared.errors import WeightsError
from shared.model import Classifier, build, model_spec
from shared.model_facts import ModelFacts, read_facts
from shared.parameters import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A model in eval mode, on the CPU, and what its file says of it."""

    facts: ModelFacts
    classifier: Classifier


def open_model(path: Path) -> SavedModel:
    """Read a study's model, its architecture and its arrays, from one file.

    Raises:
        WeightsError: the file is missing, is no model of a study, was changed, or asks for another preprocessing.
    """
    if path.is_dir():
        inside = path / "model.safetensors"
        told = f"Name {inside}." if inside.exists() else "No model is in it: is its run finished?"
        raise WeightsError(f"{path} is a folder, and a model's file is needed. {told}")
    try:
        with safe_open(path, framework="pt") as file:
            facts = read_facts(file.metadata() or {}, where=path.name)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file. Name the model.safetensors of a run.") from None
    except (SafetensorError, OSError) as fault:
        raise WeightsError(f"{path}: not a readable safetensors file ({fault}). Get a whole copy.") from None
    # The file has every array, so that no pretrained weights are looked for.
    spec = replace(model_spec(facts.protocol), weights="none", weights_fallback=None)
    classifier, _ = build(spec, weights_file=None)
    expected = classifier.state_dict()
    if {name: tensor.shape for name, tensor in arrays.items()} != {name: t.shape for name, t in expected.items()}:
        raise WeightsError(f"{path.name}: its arrays are not those of its study's model. Get a whole copy.")
    if digest({name: arrays[name].numpy() for name in expected}) != facts.arrays_sha256:
        raise WeightsError(f"{path.name}: its arrays were changed after it was written. Get a whole copy.")
    classifier.load_state_dict(arrays)
    return SavedModel(facts=facts, classifier=classifier.eval())
