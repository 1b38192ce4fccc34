"""A model's file is used as it was written, with the preprocessing that it was tested with, or not at all."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from server.bootstrap import compose
from server.checkpoint import save_tensors
from shared.errors import WeightsError
from shared.model_facts import read_facts, refuse_untested, write_facts
from shared.own_settings import OwnSettings
from shared.preprocessing import contract_of
from shared.saved_model import open_model

POINT = 0.1 + 0.2


@pytest.fixture
def saved(tiny: Any, tmp_path: Path) -> Callable[..., Path]:
    """Give `saved(sections, norm_layers=..., change=..., **facts)`: the file of an untrained model."""

    def write(sections: dict[str, Any] | None = None, *, norm_layers: Any = "trained", **changes: Any) -> Path:
        coordinator, _ = compose(tiny.protocol(**sections or {}), weights_file=None)
        facts = write_facts(
            coordinator.protocol,
            coordinator.initial,
            thresholds={"opacity": POINT},
            number=2,
            standard=(),
            norm_layers=norm_layers,
        )
        kept = {name: text for name, text in (facts | changes).items() if text is not None}
        save_tensors(tmp_path / "model.safetensors", coordinator.initial, facts=kept)
        return tmp_path / "model.safetensors"

    return write


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"norm": "folded", "features": "unit"}},
        {"model": {"norm": "group"}, "task": {"classes": ["clear", "opacity"]}},
        {
            "model": {"mirrored": True, "zoomed": True},
            "augmentation": {"laterality_invariant": True},
            "privacy": {"epsilon": 3.0, "centre_rounds": 1},
        },
        {"model": {"weights": "imagenet"}, "images": {"window": [40.0, 400.0]}},
    ],
    ids=str,
)
def test_what_was_written_is_read_without_pretrained_weights(tiny: Any, tmp_path: Path, sections: Any) -> None:
    """Protocol, thresholds and every array come back to the last bit, whatever weights the study began with."""
    trained, model = compose(
        tiny.protocol(**sections | {"model": sections["model"] | {"weights": "none"}}), weights_file=None
    )
    protocol = tiny.protocol(**sections)
    facts = write_facts(
        protocol, trained.initial, thresholds={"opacity": POINT}, number=2, standard=(), norm_layers="trained"
    )
    save_tensors(tmp_path / "m.safetensors", trained.initial, facts=facts)
    opened = open_model(tmp_path / "m.safetensors")
    assert opened.facts.protocol == protocol
    assert (opened.facts.thresholds, opened.facts.round) == ({"opacity": POINT}, 2)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(opened.classifier(images), model(images), rtol=0, atol=0)


def test_the_preprocessing_is_in_the_file_in_words_and_as_a_digest(tiny: Any) -> None:
    """Another program can read what it must do; the digest is that of the study's contract."""
    protocol = tiny.protocol(images={"spacing_mm": 0.5})
    facts = write_facts(protocol, {}, thresholds={}, number=1, standard=(), norm_layers="trained")
    assert facts["features"] == "pooled"
    assert {facts[key] for key in ("mirrored", "zoomed", "centred")} == {"false"}
    stated = json.loads(facts["preprocessing"])
    assert (stated["size"], stated["spacing_mm"], stated["algorithm"]) == (32, 0.5, 1)
    assert facts["preprocessing_sha256"] == contract_of(protocol, standard=()).digest()


def test_a_file_has_a_scale_where_its_study_harmonises_and_nowhere_else(tiny: Any, tmp_path: Path) -> None:
    """Contradicting files are refused before a score is computed, whoever wrote their digests."""
    scale = tuple(tenth / 10 for tenth in range(1, 10))
    for wish, right in (("none", ()), ("landmarks", scale)):
        coordinator, _ = compose(tiny.protocol(images={"harmonise": wish}), weights_file=None)
        for standard in ((), scale):
            facts = write_facts(
                coordinator.protocol,
                coordinator.initial,
                thresholds={},
                number=1,
                standard=standard,
                norm_layers="trained",
            )
            if standard == right:
                assert read_facts(facts, where="m").standard == right
            else:
                with pytest.raises(WeightsError, match="standard scale of intensities"):
                    read_facts(facts, where="m")


def test_own_settings_in_a_file_are_strict_json_and_those_that_its_study_lets_sites_have(tiny: Any) -> None:
    """What is not there is null, which any parser reads; a kind that the study did not switch on is refused."""
    own = {"north": {"opacity": OwnSettings(threshold=0.25, calibration=None)}}

    def facts(switched_on: list[str]) -> dict[str, str]:
        protocol = tiny.protocol(evaluation={"own_settings": switched_on})
        return write_facts(protocol, {}, thresholds={}, number=1, standard=(), norm_layers="trained", own=own)

    def strict(name: str) -> None:
        raise ValueError(name)

    found = facts(["threshold"])
    assert json.loads(found["own"], parse_constant=strict) == {"north": [0.25, None, None]}
    assert read_facts(found, where="m").own == own
    for other in ([], ["calibration"]):
        with pytest.raises(WeightsError, match="own settings"):
            read_facts(facts(other), where="m")


@pytest.mark.parametrize(
    "text",
    [
        *("null", "[]", '"x"', '{"a": [1]}', '{"opacity": [1]}', '{"opacity": "x"}', '{"opacity": true}', "9" * 5000),
        *(
            '{"opacity": NaN}',
            '{"opacity": 1e999}',
            '{"opacity": -0.1}',
            '{"other": 0.5}',
            "[" * 100_000 + "]" * 100_000,
        ),
    ],
    ids=lambda text: text[:20],
)
def test_thresholds_that_are_no_scores_of_the_studys_targets_are_refused(tiny: Any, text: str) -> None:
    """They ended in tracebacks; and a threshold that is no number was taken, so that nobody reached it."""
    protocol = tiny.protocol()
    facts = write_facts(protocol, {}, thresholds={}, number=1, standard=(), norm_layers="trained")
    assert read_facts(facts | {"thresholds": '{"opacity": null}'}, where="m").thresholds == {"opacity": None}
    with pytest.raises(WeightsError):
        read_facts(facts | {"thresholds": text}, where="m")


@pytest.mark.parametrize("name", ["own", "standard", "protocol", "round"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, "9" * 5000, "null", "1e999", "NaN"], ids=lambda one: one[:5]
)
def test_a_fact_of_another_form_is_told_in_words(tiny: Any, name: str, text: str) -> None:
    """Deep nesting, a number of thousands of digits, nothing: a file from outside ends in a refusal."""
    facts = write_facts(tiny.protocol(), {}, thresholds={}, number=1, standard=(), norm_layers="trained")
    changed = {name: text} | (
        {"protocol_sha256": hashlib.sha256(text.encode()).hexdigest()} if name == "protocol" else {}
    )
    with pytest.raises(WeightsError):
        read_facts(facts | changed, where="m")


def test_another_preprocessing_is_refused(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another algorithm version, or whose digest was changed, is not used; the message names both digests."""
    path = saved()
    assert open_model(path)
    with pytest.raises(WeightsError, match=r"preprocessing digest is abcdef"):
        open_model(saved(preprocessing_sha256="abcdef"))
    path = saved()
    monkeypatch.setattr("shared.preprocessing.ALGORITHM_VERSION", 2)
    with pytest.raises(WeightsError, match=r"preprocessing digest .* use the version that made it"):
        open_model(path)


def test_a_changed_array_is_refused(saved: Any) -> None:
    """One bit of one weight is enough."""
    path = saved()
    arrays = load_file(path)
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    arrays["fc.bias"] = torch.from_numpy(np.nextafter(arrays["fc.bias"].numpy(), np.float32(9)))
    save_file(arrays, path, facts)
    with pytest.raises(WeightsError, match="changed after it was written"):
        open_model(path)
    del arrays["fc.bias"]
    save_file(arrays, path, facts)
    with pytest.raises(WeightsError, match="not those of its study's model"):
        open_model(path)


def test_a_changed_study_is_refused(saved: Any, tiny: Any) -> None:
    """The study in the file belongs to its digest; one that this version cannot read says what is wrong."""
    other = tiny.protocol(study={"name": "Other"}).canonical()
    with pytest.raises(WeightsError, match="the study in the file was changed"):
        open_model(saved(protocol=other))
    unknown = '{"study": {"name": "x", "purpose": "y"}}'
    with pytest.raises(WeightsError, match=r"(?s)not one of this version.*purpose: there is no such key"):
        open_model(saved(protocol=unknown, protocol_sha256=hashlib.sha256(unknown.encode()).hexdigest()))


@pytest.mark.parametrize("missing", ["preprocessing_sha256", "arrays_sha256", "thresholds", "round", "norm_layers"])
def test_a_file_that_does_not_say_enough_is_refused(saved: Any, missing: str) -> None:
    """Each fact is needed; the message names the one that is missing."""
    with pytest.raises(WeightsError, match=missing):
        open_model(saved(**{missing: None}))


def test_what_is_no_model_is_refused(saved: Any, tmp_path: Path) -> None:
    """Absent, of another format, cut short, or a folder: each has its own message."""
    with pytest.raises(WeightsError, match="no such file"):
        open_model(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="no model of a study"):
        open_model(saved(format="pt"))
    path = saved()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        open_model(path)
    with pytest.raises(WeightsError, match="is a folder, and a model's file is needed"):
        open_model(tmp_path)


def test_a_model_without_its_sites_norm_layers_is_not_used(saved: Any) -> None:
    """Where each site keeps its own, the coordinator's file was tested nowhere; a site's own copy was."""
    refuse_untested(open_model(saved(norm_layers="site")).facts, where="m")
    with pytest.raises(WeightsError, match="polyclinic site model"):
        refuse_untested(open_model(saved(norm_layers="initial")).facts, where="m")
    with pytest.raises(WeightsError, match="no model of a study"):
        read_facts({}, where="m")
