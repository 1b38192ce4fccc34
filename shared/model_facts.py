"""What is written into a model's file beside its arrays, and how it is checked before the model is used."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from shared.declaration import parse
from shared.errors import StudyError, WeightsError
from shared.landmarks import Standard, checked
from shared.own_settings import Own, own_from_list, own_to_list
from shared.parameters import NamedArrays, digest
from shared.preprocessing import Contract, contract_of
from shared.protocol import StudyProtocol

FORMAT = "polyclinic-model-1"

NormLayers = Literal["trained", "site", "initial"]
"""Whose normalisation layers a file holds: the study's; one site's own, which it never sent; or, where each site keeps
its own, those of before round 1, with which nobody tested the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a checked file says of its model; a target without a threshold has none that the study could choose.

    `own` has by site what it may use of its own, where the study switched that on.
    """

    protocol: StudyProtocol
    thresholds: Mapping[str, float | None]
    round: int
    arrays_sha256: str
    norm_layers: NormLayers
    standard: Standard
    own: Mapping[str, Own]

    @property
    def contract(self) -> Contract:
        """What makes a prepared image: the study's settings, and what its sites' images were averaged to."""
        return contract_of(self.protocol, standard=self.standard)


def write_facts(
    protocol: StudyProtocol,
    arrays: NamedArrays,
    *,
    thresholds: Mapping[str, float | None],
    number: int,
    standard: Standard,
    norm_layers: NormLayers,
    own: Mapping[str, Own] = MappingProxyType({}),
) -> dict[str, str]:
    """Say all that one must know to use a model; `arrays` is the whole model, in its own order.

    `features` says what stands between pooling and `fc`: nothing ("pooled"), or `shared.model.unit` ("unit"). From
    that a `centred` model takes `centre.weight` off, and scales to variance 1 again. A `mirrored` or `zoomed` model's
    pooled features are the mean over the image's views (shared/views.py).
    `preprocessing` is what makes a prepared image, and its digest is the contract's (shared/preprocessing.py); it has
    the standard scale, which `standard` repeats.
    """
    contract = contract_of(protocol, standard=standard)
    return {
        "format": FORMAT,
        "arch": protocol.model.backbone,
        "norm": protocol.model.norm,
        "norm_layers": norm_layers,
        "features": protocol.model.features,
        "mirrored": json.dumps(protocol.model.mirrored),
        "zoomed": json.dumps(protocol.model.zoomed),
        "centred": json.dumps(protocol.centre_rounds > 0),
        "targets": json.dumps(protocol.task.targets),
        "activation": "softmax" if protocol.task.exclusive else "sigmoid",
        "thresholds": json.dumps(dict(thresholds)),
        "own": json.dumps({site: _nulls(own_to_list(one, protocol.task.targets)) for site, one in own.items()}),
        "intended_use": protocol.study.intended_use,
        "standard": json.dumps(standard),
        "preprocessing": contract.canonical(),
        "preprocessing_sha256": contract.digest(),
        "protocol": protocol.canonical(),
        "protocol_sha256": protocol.digest(),
        "arrays_sha256": digest(arrays),
        "round": str(number),
    }


def read_facts(facts: Mapping[str, str], *, where: str) -> ModelFacts:
    """Check what a file says: a model is used with the preprocessing that it was tested with, or not at all.

    Raises:
        WeightsError: it is no model of a study, was changed, or was made for another preprocessing.
    """
    if facts.get("format") != FORMAT:
        raise WeightsError(
            f"{where}: this is no model of a study. Name the model.safetensors of a run, or what `polyclinic export` "
            "made of it."
        )
    try:
        text, promised = facts["protocol"], facts["protocol_sha256"]
        preprocessing, thresholds = facts["preprocessing_sha256"], _thresholds(json.loads(facts["thresholds"]))
        number, arrays, norm_layers = int(facts["round"]), facts["arrays_sha256"], facts["norm_layers"]
        averaged = json.loads(facts.get("standard", "[]"))
        standard = () if averaged == [] else checked(averaged)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as fault:
        raise WeightsError(
            f"{where}: the file does not say all that is needed to use it ({fault}). It is of another version of "
            "Polyclinic: run the study again, or use the version that made it."
        ) from None
    if hashlib.sha256(text.encode()).hexdigest() != promised:
        raise WeightsError(f"{where}: the study in the file was changed after it was written. Get a whole copy.")
    try:
        protocol = parse(json.loads(text), StudyProtocol, where=where, error=StudyError)
    except (StudyError, ValueError, RecursionError) as fault:
        raise WeightsError(f"{where}: the file's study is not one of this version of Polyclinic.\n{fault}") from None
    if bool(standard) != (protocol.images.harmonise == "landmarks"):
        raise WeightsError(
            f"{where}: the file has a standard scale of intensities that its study does not ask for, or lacks the one "
            "that it asks for. Get a whole copy."
        )
    if not thresholds.keys() <= set(protocol.task.targets):
        raise WeightsError(f"{where}: the file has a threshold for what its study does not find. Get a whole copy.")
    own = _own(facts, protocol, where=where)
    contract = contract_of(protocol, standard=standard)
    if contract.digest() != preprocessing:
        raise WeightsError(
            f"{where}: its preprocessing digest is {preprocessing[:12]}, and this version of Polyclinic prepares "
            f"images with {contract.digest()[:12]}. Its scores would not be those that the study tested: "
            "use the version that made it."
        )
    return ModelFacts(
        protocol=protocol,
        thresholds=thresholds,
        round=number,
        arrays_sha256=arrays,
        standard=standard,
        own=own,
        norm_layers="initial" if norm_layers == "initial" else "site" if norm_layers == "site" else "trained",
    )


def _nulls(numbers: Iterable[float]) -> list[float | None]:
    """Put null where there is no number: JSON has no NaN (RFC 8259, section 6)."""
    return [None if math.isnan(number) else number for number in numbers]


def _thresholds(found: object) -> dict[str, float | None]:
    """Read thresholds by target: scores, or null. Nobody would reach another number, and nobody would be told."""
    if not isinstance(found, dict):
        raise TypeError("thresholds are by target")
    if not all(type(one) in (int, float) and 0 <= one <= 1 for one in found.values() if one is not None):
        raise ValueError("a threshold is a score, or null")
    return {name: None if one is None else float(one) for name, one in found.items()}


def _own(facts: Mapping[str, str], protocol: StudyProtocol, *, where: str) -> dict[str, Own]:
    targets, switched_on = protocol.task.targets, protocol.evaluation.own_settings
    try:
        listed = json.loads(facts.get("own", "{}"))
        return {str(site): own_from_list(numbers, targets, switched_on=switched_on) for site, numbers in listed.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise WeightsError(
            f"{where}: the sites' own settings in the file are no such numbers, or not those that the study lets sites "
            "have. Get a whole copy."
        ) from None


def refuse_untested(facts: ModelFacts, *, where: str) -> None:
    """Refuse a model that no hospital has tested as it is.

    Raises:
        WeightsError: each site keeps its own normalisation layers, and the file holds those of before round 1.
    """
    if facts.norm_layers == "initial":
        raise WeightsError(
            f"{where}: in this study each site keeps its own normalisation layers ([federation] local_norm), and this "
            "file has none of them. Use the copy that was delivered to a site: `polyclinic site model`."
        )
