"""Pretrained weights: found, checked by digest, refused where they contradict the study."""

import hashlib
import http.client
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from shared.errors import WeightsError
from shared.vision import Backbone, imagenet_address

Arrays = Mapping[str, torch.Tensor]

_ARCHITECTURE: Final = re.compile(r"resnet[-_ ]?(\d+)(?:[-_ ]?v(\d(?:\.\d)?))?", re.IGNORECASE)
_FAULTS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsProvenance:
    """Where a model's first weights came from; the sentence is for the report and the model card."""

    source: Literal["torchvision", "file", "none", "fallback"]
    sha256: str | None
    sentence: str


class MissingWeightsError(WeightsError):
    """The weights are nowhere to be found: the only fault that a study's `weights_fallback` forgives."""


def load_pretrained(
    network: nn.Module, *, backbone: Backbone, weights: str, fallback: Literal["none"] | None, file: Path | None
) -> WeightsProvenance:
    """Copy pretrained weights into a network, as the study declares them.

    The network's own head (`fc`) and its batch counters stay as they are. Half precision is widened to fp32.
    A file that was found and is wrong is always refused; only missing weights fall back to the network's own.

    Args:
        network: layers with torchvision's names; it keeps its own weights where the study declares none.
        backbone: what the weights must be made for.
        weights: "imagenet" (torchvision's, downloaded unless `file` is that very file), "file", "sha256:<64 digits>"
            (the one file with this digest) or "none".
        fallback: "none" to keep the network's own weights where the pretrained ones are missing.
        file: safetensors, or a PyTorch state dict, which is read without running any code in it.

    Raises:
        WeightsError: the weights are missing, broken, or contradict the study.
    """
    if weights == "none":
        return _keep_own(file)
    try:
        path = file or downloaded(weights, backbone)
    except MissingWeightsError:
        if fallback is None:
            raise
        return WeightsProvenance(
            source="fallback",
            sha256=None,
            sentence=f"The study's pretrained weights ('{weights}') were missing, and its weights_fallback was used: "
            "the backbone started from random weights drawn from the study's seed.",
        )
    digest = _checked_digest(path, promised=_promised_digest(weights, backbone))
    arrays, architecture = _read(path)
    _refuse_other_backbone(path, architecture, backbone)
    _copy_into(network, arrays, path)
    return WeightsProvenance(
        source="torchvision" if weights == "imagenet" else "file",
        sha256=digest,
        sentence=_sentence(weights, backbone, digest, architecture),
    )


def _keep_own(file: Path | None) -> WeightsProvenance:
    if file is not None:
        raise WeightsError(
            f"{file.name}: a weights file was given, and the study declares [model] weights = 'none'. "
            "Leave the file out, or declare weights = 'file' in the study."
        )
    sentence = "No pretrained weights: the model started from random weights drawn from the study's seed."
    return WeightsProvenance(source="none", sha256=None, sentence=sentence)


def downloaded(weights: str, backbone: Backbone) -> Path:
    """Give torchvision's own file, from torch's download folder or from the network.

    Raises:
        MissingWeightsError: it is not to be had, or the study asks for another one.
        WeightsError: torchvision has none for this backbone.
    """
    if weights != "imagenet":
        raise MissingWeightsError(
            f"The study declares [model] weights = '{weights}', and no file was given. Add --weights FILE."
        )
    url = _imagenet_url(backbone)
    path = Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])
    if not path.exists():
        _download(url, path)
    return path


def _imagenet_url(backbone: Backbone) -> str:
    url = imagenet_address(backbone)
    if url is None:
        raise WeightsError(
            f"torchvision has no ImageNet weights for {backbone}. Declare weights = 'file' in the study and add "
            "--weights FILE, or choose another backbone."
        )
    return url


def _download(url: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_digest_in_name(url), progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as fault:
        raise MissingWeightsError(
            f"{url} could not be downloaded ({fault}). Fetch that file on a machine with a network and add "
            "--weights FILE, or declare weights_fallback = 'none' in the study to start from random weights."
        ) from fault


def _digest_in_name(url: str) -> str:
    """Read 'f37072fd' in '.../resnet18-f37072fd.pth': torchvision's promise about the file's SHA-256."""
    return url.rsplit("-", 1)[-1].removesuffix(".pth")


def _promised_digest(weights: str, backbone: Backbone) -> str:
    """Give the first digits, or all, of the SHA-256 that the study's declaration promises; "" for any file."""
    if weights == "imagenet":
        return _digest_in_name(_imagenet_url(backbone))
    return weights.removeprefix("sha256:") if weights.startswith("sha256:") else ""


def _checked_digest(path: Path, *, promised: str) -> str:
    """Compute a file's SHA-256 and hold it against what the study promises."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise WeightsError(f"{path}: cannot be read ({fault.strerror}). Check the path of --weights.") from fault
    if not digest.startswith(promised):
        raise WeightsError(
            f"{path}: this file's SHA-256 is {digest}, and that of the weights which the study declares begins with "
            f"{promised}. Give the declared file, or declare weights = 'sha256:{digest}' in the study; "
            "a download that was damaged later is fetched again once it is deleted."
        )
    return digest


def _read(path: Path) -> tuple[Arrays, str | None]:
    """Read a file's arrays, and the architecture that it says it was made for.

    The formats tell themselves apart by content, not by suffix: a state dict starts as a zip archive or a pickle.
    """
    try:
        with path.open("rb") as file:
            is_pickle = file.read(2) in (b"PK", b"\x80\x02")
        return (_read_state_dict(path), None) if is_pickle else _read_safetensors(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as fault:
        raise WeightsError(
            f"{path.name} is no safetensors file and no PyTorch state dict of plain arrays, or it is cut short "
            f"({type(fault).__name__}). Give a whole file; one that holds code is never run."
        ) from fault


def _read_safetensors(path: Path) -> tuple[Arrays, str | None]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, metadata.get("arch")  # noqa: SIM118  # no dict


def _read_state_dict(path: Path) -> Arrays:
    arrays = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(arrays, dict) or not all(isinstance(array, torch.Tensor) for array in arrays.values()):
        raise ValueError("not a dictionary of tensors")
    return arrays


def _refuse_other_backbone(path: Path, architecture: str | None, backbone: Backbone) -> None:
    if architecture is not None and (named := _backbone_named(architecture)) != backbone:
        raise WeightsError(
            f"{path.name} says that it was made for {named} ('{architecture}'); the study's backbone is {backbone}. "
            "Give the weights of that backbone, or declare the other backbone in the study."
        )


def _backbone_named(architecture: str) -> str:
    """Read 'ResNet-50 v1 (stride in ...)' as resnet50_v1, and without a version, or v1.5, as torchvision's layout."""
    found = _ARCHITECTURE.search(architecture)
    if found is None:
        return "another architecture"
    depth, version = found.groups()
    # 18 and 34 layers have no bottleneck, and so no 1x1 convolution whose stride could tell v1 from v1.5.
    torchvision_layout = version in (None, "1.5") or (version == "1" and depth in ("18", "34"))
    return f"resnet{depth}" if torchvision_layout else f"resnet{depth}_v{version}"


def _copy_into(network: nn.Module, arrays: Arrays, path: Path) -> None:
    wanted = {name: array for name, array in network.state_dict().items() if _is_carried(name)}
    given = {name: array for name, array in arrays.items() if _is_carried(name)}
    faults = [
        *(f"{name} is missing" for name in wanted if name not in given),
        *(f"{name} is not part of the backbone" for name in given if name not in wanted),
        *(fault for name in wanted if name in given and (fault := _fault(name, given[name], wanted[name]))),
    ]
    if faults:
        rest = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise WeightsError(
            f"{path.name} does not fit the study's backbone: {'; '.join(faults[:_FAULTS_SHOWN])}{rest}. "
            "Give a file with torchvision's names and shapes for this backbone."
        )
    network.load_state_dict(given, strict=False)


def _is_carried(name: str) -> bool:
    """Tell what a pretrained file brings: not its own head or centre, and not the count of batches it saw."""
    return not name.startswith(("fc.", "centre.")) and not name.endswith("num_batches_tracked")


def _fault(name: str, given: torch.Tensor, wanted: torch.Tensor) -> str | None:
    if given.shape != wanted.shape:
        return f"{name} has shape {tuple(given.shape)} and not {tuple(wanted.shape)}"
    if not given.is_floating_point() or not bool(given.isfinite().all()):
        return f"{name} holds values that are no finite numbers"
    if name.endswith("running_var") and bool((given < 0).any()):
        return f"{name} holds a negative variance"
    return None


def _sentence(weights: str, backbone: Backbone, digest: str, architecture: str | None) -> str:
    if weights == "imagenet":
        return f"The backbone started from torchvision's ImageNet weights for {backbone} (SHA-256 {digest})."
    says = f"which says '{architecture}'" if architecture else "which does not say its architecture"
    return f"The backbone started from a weights file (SHA-256 {digest}), {says}."
