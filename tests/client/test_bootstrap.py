"""One site put together: records and pixels of the same images, and an agent as the hospital and the study say."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.bootstrap import PreparedSite, compose_agent, prepare, site_inputs
from client.dicom import read_image
from client.inputs import StudyInputs
from client.local_norm import LocalNorm
from shared.audit import AuditLog
from shared.errors import StorageError
from shared.preprocessing import contract_of
from shared.preprocessing import prepare as prepare_image
from shared.split import Split

NOTHING = lambda *_: None  # noqa: E731


SPACED = {"images": {"size": 32, "channels": 1, "spacing_mm": 1.0}}
"""A study for which an image without a pixel spacing is of no use, which shows only when its pixels are prepared."""


@pytest.fixture
def site(hospital: Any, tiny: Any) -> Callable[[], PreparedSite]:
    """Give a way to prepare a hospital of eight patients with two films each, one of which says no spacing."""
    rows = ["PatientID,opacity"]
    for patient in range(8):
        for film in range(2):
            spacing = None if (patient, film) == (3, 0) else [1.0, 1.0]
            name = f"{patient}/{film}.dcm"
            hospital.image(
                name, patient=f"P{patient}", exam=f"{patient}", seed=2 * patient + film, PixelSpacing=spacing
            )
        rows.append(f"P{patient},{patient % 2}")
    hospital.labels(*rows)
    config = hospital.site(join="PatientID", opacity="opacity")
    return lambda: prepare(config, tiny.protocol(**SPACED), progress=NOTHING)


def test_the_guard_knows_what_the_settings_name(site: Callable[[], PreparedSite], tiny: Any, tmp_path: Path) -> None:
    """A study of two findings, at a hospital that looks for one."""
    study = tiny.protocol(task={"findings": ["opacity", "mass"]})
    prepared = site()
    both = np.column_stack([prepared.records.labels_NK, np.full(len(prepared.records), np.nan, dtype=np.float32)])
    prepared = replace(prepared, records=replace(prepared.records, labels_NK=both))
    agent = compose_agent(prepared, study, tiny.bench(study), Nothing(), folder=tmp_path)  # type: ignore[arg-type]
    assert agent.guard.assessed == (True, False)


class Nothing:
    """Inputs that nobody reads."""


def test_records_and_pixels_are_of_the_same_images(site: Callable[[], PreparedSite], tiny: Any) -> None:
    """Image i of the pixels is image i of the cohort, also after one that could not be prepared was dropped."""
    prepared = site()
    images, study = prepared.cohort.images, contract_of(tiny.protocol(**SPACED), standard=())
    assert (prepared.name, len(images), len(prepared.pixels), len(prepared.records)) == ("north", 15, 15, 15)
    pixels = prepared.pixels.read(np.arange(15)).numpy()
    for place, image in enumerate(images):
        film = read_image(image.path, frames="first")
        expected = prepare_image(film.pixels_FHWC[0], spacing_mm=film.spacing_mm, window=film.window, contract=study)
        np.testing.assert_array_equal(pixels[place], expected)
        number = int(image.path.parent.name)
        assert prepared.records.labels_NK[place] == number % 2
        assert prepared.records.split_N[place] == image.split
        assert (prepared.records.patients_N[place], prepared.records.exams_N[place]) == (image.patient, image.exam)
    assert len({pixels[place].tobytes() for place in range(15)}) == 15


def test_what_the_pixels_hold_against_an_image_is_counted(site: Callable[[], PreparedSite]) -> None:
    """The film without spacing stands in the patient flow with its reason."""
    flow = site().cohort.flow
    assert [(step.reason.value, step.files) for step in flow.steps] == [("no_spacing", 1)]
    assert (flow.files, flow.files_kept) == (16, 15)


def test_preparing_again_gives_the_same(site: Callable[[], PreparedSite]) -> None:
    """The cache changes neither pixels nor their digest."""
    first, again = site(), site()
    assert first.pixels.digest == again.pixels.digest
    every = np.arange(15)
    np.testing.assert_array_equal(first.pixels.read(every), again.pixels.read(every))


def test_the_contract_is_the_studys(tiny: Any) -> None:
    """Every key of [images] that changes pixels is in the preprocessing contract."""
    settings = {
        "size": 64,
        "window": [40.0, 400.0],
        "spacing_mm": 0.5,
        "fit": "crop",
        "depth": "uint16",
        "channels": 3,
    }
    made = contract_of(tiny.protocol(images=settings), standard=())
    assert {key: getattr(made, key) for key in settings} == settings | {"window": (40.0, 400.0)}


def test_inputs_are_those_of_the_study(tiny: Any, tmp_path: Path) -> None:
    """Views, augmentation and its absence are the study's; the features lie in the hospital's own cache folder."""
    told: list[str] = []
    for sections, views, off in (
        ({}, 0, True),
        ({"augmentation": {"noise": 0.1}, "training": {"feature_views": 3}}, 3, False),
        ({"augmentation": {"laterality_invariant": True}}, 0, False),
        ({"augmentation": {"laterality_invariant": True}, "model": {"mirrored": True}}, 0, True),
    ):
        protocol = tiny.protocol(**sections)
        prepared = tiny.hospital(protocol, tmp_path)
        inputs = site_inputs(prepared, protocol, tiny.bench(protocol), progress=lambda what, *_: told.append(what))
        assert isinstance(inputs, StudyInputs)
        assert (inputs.views, inputs.augmentation_is_off) == (views, off)
        inputs.evaluation(prepared.records.rows(Split.TEST), start="head")
    assert set(told) == {"north: frozen features"}
    assert list((tmp_path / "cache" / "north" / "features").glob("*.npy"))


def test_the_agent_is_the_hospitals_and_the_studys(tiny: Any, tmp_path: Path) -> None:
    """Its limits come from site.toml, its forms from the study, its flow is exact, and its log is in its folder."""
    protocol = tiny.protocol(task={"classes": ["a", "b"]}, federation={"wire": "fp16", "local_norm": True})
    prepared, bench = tiny.hospital(protocol, tmp_path, min_cell=7), tiny.bench(protocol)
    agent = compose_agent(prepared, protocol, bench, object(), folder=tmp_path / "agent")  # type: ignore[arg-type]
    assert (agent.site, agent.min_patients, agent.guard.min_cell) == ("north", 7, 7)
    assert (agent.guard.exclusive, agent.guard.wire) == (True, "fp16")
    assert agent.flow == prepared.cohort.flow.counts()
    assert isinstance(agent.local_norm, LocalNorm)
    agent.guard.refuse(ValueError(), task_id="")
    assert (tmp_path / "agent" / "audit.jsonl").exists()


def test_layers_are_kept_only_where_the_study_says_so(tiny: Any, tmp_path: Path) -> None:
    """Without local_norm the agent has no store of layers."""
    assert tiny.agent(tiny.protocol(), tmp_path).local_norm is None


def test_a_broken_audit_log_stops_the_site(tiny: Any, tmp_path: Path) -> None:
    """An agent does not go on with a log that somebody changed."""
    log = tmp_path / "sites" / "north" / "audit.jsonl"
    AuditLog(log).append("departure", kind="train")
    log.write_text(log.read_text().replace("train", "query"))
    with pytest.raises(StorageError, match="chain"):
        tiny.agent(tiny.protocol(), tmp_path)
