"""The ONNX file gives the model's scores in onnxruntime, and holds what one must know to use it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from client.onnx_scorer import open_onnx
from client.prediction import predict
from client.scorers import open_scorer
from server import onnx_export
from server.bootstrap import compose
from server.checkpoint import save_tensors
from shared.cli import application
from shared.errors import MissingPartError, WeightsError
from shared.model_facts import write_facts
from shared.preprocessing import normalise

SECTIONS: list[dict[str, Any]] = [
    {"model": {"norm": "folded"}},
    {
        "images": {"channels": 3, "depth": "uint16"},
        "model": {"norm": "group", "features": "unit"},
        "task": {"classes": ["clear", "opacity"], "unit": "image"},
    },
    {
        "model": {"mirrored": True, "zoomed": True},
        "augmentation": {"laterality_invariant": True},
        "privacy": {"epsilon": 6.0, "centre_rounds": 1},
    },
]


def saved(tiny: Any, folder: Path, sections: dict[str, Any], *, norm_layers: Any = "trained") -> Path:
    """Write an untrained model, whose head is made plain enough for its scores to differ from image to image."""
    protocol = tiny.protocol(**sections)
    coordinator, _ = compose(protocol, weights_file=None)
    arrays = dict(coordinator.initial) | {"fc.weight": coordinator.initial["fc.weight"] * np.float32(4)}
    if "centre.weight" in arrays:  # as after its rounds: a model without it would score otherwise
        width = arrays["centre.weight"].size
        arrays["centre.weight"] = np.random.default_rng(3).normal(size=(1, width)).astype(np.float32)
    thresholds = dict.fromkeys(protocol.task.targets, 0.4)
    facts = write_facts(protocol, arrays, thresholds=thresholds, number=1, standard=(), norm_layers=norm_layers)
    save_tensors(folder / "model.safetensors", arrays, facts=facts)
    return folder / "model.safetensors"


@pytest.mark.parametrize("sections", SECTIONS, ids=str)
def test_onnxruntime_gives_the_models_scores(
    tiny: Any, hospitals_on_disk: Path, tmp_path: Path, sections: dict[str, Any]
) -> None:
    """From the stored whole numbers, in any batch; and `predict` gives the same table with either file."""
    model = saved(tiny, tmp_path, sections)
    run = CliRunner().invoke(application(), ["export", str(model), "--onnx", str(tmp_path / "m.onnx")])
    assert run.exit_code == 0, run.output
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    facts, score = open_scorer(model, device="cpu")
    images = facts.protocol.images
    kind = np.dtype(images.depth)
    prepared = np.random.default_rng(5).integers(
        0, np.iinfo(kind).max, (5, images.channels, 32, 32), dtype=kind, endpoint=True
    )
    _, scores = session.run(["logits", "scores"], {"images": prepared})
    model_itself = onnx_export.open_model(model).classifier
    with torch.no_grad():
        logits = model_itself(normalise(torch.from_numpy(prepared), dtype=torch.float32))
    expected = logits.softmax(dim=1) if facts.protocol.task.exclusive else logits.sigmoid()
    assert np.ptp(expected.numpy()[:, 0]) > 0.01
    np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=1e-5)

    same, by_onnx = open_scorer(tmp_path / "m.onnx", device="cpu")
    assert same == facts
    tables = [
        predict(
            hospitals_on_disk / "north" / "dicom",
            facts,
            scorer,
            cache=tmp_path / name,
            workers=1,
            progress=lambda *_: None,
        )
        for name, scorer in (("torch", score), ("onnx", by_onnx))
    ]
    pairs = list(zip(tables[0].images, tables[1].images, strict=True))
    assert len(pairs) > 20
    assert all(one.file == other.file and one.above == other.above for one, other in pairs)
    np.testing.assert_allclose([a.scores for a, _ in pairs], [b.scores for _, b in pairs], rtol=0, atol=1e-5)

    stated = session.get_modelmeta().custom_metadata_map
    assert json.loads(stated["preprocessing"])["size"] == 32
    assert stated["intended_use"] == "Tests."
    content = (tmp_path / "m.onnx").read_bytes()
    for place in (str(Path(onnx_export.__file__).parents[1]), "shared/model.py"):
        assert place.encode() not in content, "the exporter's notes on where the code lies are in the file"
    onnx_export.export_onnx(model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == content


def test_a_file_that_gives_other_scores_is_not_written(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is on the file itself: with another normalisation in it, nothing is left behind."""
    model = saved(tiny, tmp_path, SECTIONS[0])
    write = onnx_export._write

    def wrong(scoring: Any, example: Any, path: Path, facts: Any) -> None:
        scoring.gain *= 2
        write(scoring, example, path, facts)
        scoring.gain /= 2

    monkeypatch.setattr(onnx_export, "_write", wrong)
    with pytest.raises(WeightsError, match="differ by"):
        onnx_export.export_onnx(model, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_cannot_be_exported_or_opened_is_told(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that no site tested, a file that is no ONNX, and a machine without the extra parts."""
    with pytest.raises(WeightsError, match="local_norm"):
        onnx_export.export_onnx(saved(tiny, tmp_path, SECTIONS[0], norm_layers="initial"), tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match="not a readable ONNX file"):
        open_onnx(tmp_path / "m.onnx")
    with pytest.raises(WeightsError, match="no such file"):
        open_onnx(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPartError, match=r"polyclinic\[onnx\]"):
        open_onnx(tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_export, "_write", lambda *_: None)
    with pytest.raises(MissingPartError, match=r"polyclinic\[onnx\]"):
        onnx_export.export_onnx(saved(tiny, tmp_path, SECTIONS[0]), tmp_path / "m.onnx")
