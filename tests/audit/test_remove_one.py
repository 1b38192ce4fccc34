"""Take one patient out: whatever a private study asks for, a step moves by the clip, and nothing of anybody else moves.

Hypothesis draws the study from its own form, so that every setting which [privacy] admits is tried, a future key among
them, and hospitals in which patients share UIDs by mistake. Both go from DICOM files through the real cohort, cache,
inputs and training; the public size is held equal, as it is public, and the noise is off.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from client.bootstrap import PreparedSite, compose_agent, prepare, site_inputs
from client.dp_engine import PrivateSteps, Sample
from client.inputs import Inputs
from client.privacy_account import Account, CountPlan
from client.privacy_ledger import PrivacyLedger
from client.private_site import Vault
from client.site import SiteConfig
from client.workbench import Workbench
from server.bootstrap import compose
from shared.audit import AuditLog
from shared.errors import StudyError
from shared.messages import Header, Kind, TrainReply, TrainTask, decode_answer, encode_task
from shared.privacy import PrivacyPlan, sampling
from shared.private_study import LEAST_CLIP, MOST_CLIP
from shared.protocol import Privacy, StudyProtocol, parse
from shared.study_plan import count_releases
from shared.wire import from_frames, to_frames
from simulations.federation import without_noise

pytestmark = pytest.mark.usefixtures("one_thread")

MOST_STEPS = 6
"""A round of more steps is cut short: each is like the others."""

FINDINGS = ("effusion", "opacity", "mass")

FIXED = {
    "study.name",
    "study.intended_use",
    "study.version",
    "task.findings",
    "task.classes",
    "images.modality",
    "model.weights",
    "model.weights_fallback",
    "training.lr_head",
    "training.lr_backbone",
    "split.train",
    "split.validation",
    "split.test",
}
"""Keys that `base` sets: words, where weights come from, and rates so small that a round leaves the model as it is."""

AFFORDABLE: Mapping[str, st.SearchStrategy[Any]] = {
    "images.size": st.sampled_from([32, 40]),
    "images.spacing_mm": st.sampled_from([0.0, 0.5, 1.5]),
    "images.window": st.sampled_from(["percentile", "dicom", [100.0, 300.0]]),
    "model.backbone": st.sampled_from(["resnet18", "resnet18", "resnet18", "resnet34", "resnet50", "resnet50_v1"]),
    "model.unfreeze": st.lists(
        st.builds(
            lambda number, start: {"round": number, "from": start},
            st.integers(1, 3),
            st.sampled_from(["stem", "layer1", "layer2", "layer3", "layer4"]),
        ),
        max_size=2,
    ),
    "augmentation.blur": st.floats(0, 2),
    "training.batch_size": st.integers(2, 16),
    "training.local_epochs": st.integers(1, 2),
    "training.feature_views": st.integers(0, 3),
    "privacy.clip": st.one_of(st.floats(1e-3, 20), st.sampled_from([LEAST_CLIP, 1e-5, MOST_CLIP])),
    "privacy.images_per_patient": st.integers(1, 4),
    "privacy.size_rounding": st.integers(1, 16),
    "privacy.count_noise_epsilon": st.sampled_from([0.0, 1.0]),
    "privacy.centre_rounds": st.integers(0, 2),
    "federation.rounds": st.integers(1, 4),
    "evaluation.subgroups": st.lists(st.sampled_from(["sex", "view"]), unique=True),
    "evaluation.score_bins": st.integers(8, 64),
}
"""Narrower than the study's own limits, where these would take minutes or are lists; any other key is drawn whole."""


def keys() -> dict[str, FieldInfo]:
    """Find every key of every section in the study's own form."""
    sections = {name: field.annotation for name, field in StudyProtocol.model_fields.items()}
    sections["privacy"] = Privacy
    return {
        f"{section}.{key}": field
        for section, model in sections.items()
        for key, field in model.model_fields.items()  # type: ignore[union-attr]  # every section is a model
    }


def values(place: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    """Draw what a key may be, by its type and limits as the study's form has them."""
    if place in AFFORDABLE:
        return AFFORDABLE[place]
    kind: Any = field.annotation
    drawn = st.from_type(Annotated[kind, *field.metadata] if field.metadata else kind)
    # Numbers at the ends of what a float holds are nobody's setting.
    return drawn.filter(lambda value: not isinstance(value, float) or value == 0 or 1e-6 <= abs(value) <= 100)


def base(draw: Any) -> dict[str, dict[str, Any]]:
    """Give the smallest private study, of findings or of classes."""
    targets = list(FINDINGS[: draw(st.integers(1, 3))])
    task = {"classes": ["normal", *targets]} if draw(st.booleans()) else {"findings": targets}
    train, rest = draw(st.sampled_from([(0.6, 0.2), (0.9, 0.05)]))
    return {
        "study": {"name": "Drawn", "intended_use": "Tests."},
        "task": task,
        "split": {"train": train, "validation": rest, "test": round(1 - train - rest, 2)},
        "images": {"size": 32},
        "model": {"weights": "none"},
        "training": {"lr_head": 1e-30, "lr_backbone": 1e-30, "batch_size": 4},
        "privacy": {"epsilon": 3.0, "size_rounding": 4},
        "federation": {"rounds": 2},
    }


@st.composite
def private_studies(draw: st.DrawFn) -> StudyProtocol:
    """Draw a study: each key in turn takes a value of its own, and keeps it if the study that this makes is allowed."""
    data = base(draw)
    study = _parse(data)
    assert study is not None
    for place, field in draw(st.permutations(sorted((keys().items()), key=lambda item: item[0]))):
        if place in FIXED or not draw(st.booleans()):
            continue
        section, key = place.split(".")
        tried = {**data, section: {**data.get(section, {}), key: draw(values(place, field))}}
        if (allowed := _parse(tried)) is not None:
            data, study = tried, allowed
    return study


def _parse(data: Mapping[str, Any]) -> StudyProtocol | None:
    try:
        return parse(data, StudyProtocol, where="study", error=StudyError)  # type: ignore[arg-type]  # a dict, copied
    except StudyError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """One file of a hospital: what its header says, and the label that the table has for it."""

    patient: str
    exam: str
    uid: str
    frames: int
    sex: str
    label: str


@st.composite
def hospitals(draw: st.DrawFn) -> list[Film]:
    """Draw patients with one to three films each, of whom some share UIDs and accession numbers by mistake."""
    films = []
    for patient in range(draw(st.integers(6, 11))):
        for film in range(draw(st.sampled_from([1, 1, 2, 3]))):
            shared = draw(st.booleans())
            films.append(
                Film(
                    patient=f"P{patient}",
                    exam="shared" if shared and draw(st.booleans()) else f"{patient}.{film % 2}",
                    uid=f"1.2.9.{film}" if shared else f"1.2.3.{patient}.{film}",
                    frames=draw(st.sampled_from([1, 1, 1, 2])),
                    sex=draw(st.sampled_from(["F", "M", ""])),
                    # Some are labelled whoever is taken out: a site without any image has no agent.
                    label=draw(st.sampled_from(["0", "1", "1", ""] if patient > 2 else ["0", "1"])),
                )
            )
    return films


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one private round of a site came to, each step's clipped sum, and what went into it by patient and film.

    `cohort` has by patient what the study has of them: file, frame, side and labels of each image.
    """

    cohort: Mapping[str, frozenset[tuple[str, int, str, str]]]
    sums: tuple[torch.Tensor, ...]
    took: tuple[Mapping[str, Mapping[tuple[str, int, int], float]], ...]
    inputs: tuple[Mapping[tuple[str, int, int], torch.Tensor], ...]


class Watched:
    """Inputs that note what each film was turned into, step by step."""

    def __init__(self, inputs: Inputs, watch: "Watch") -> None:
        self._inputs, self._watch = inputs, watch

    def training(self, rows: Any, *, start: str, generator: Any) -> torch.Tensor:
        hidden = self._inputs.training(rows, start=start, generator=generator)
        self._watch.note(rows, hidden)
        return hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inputs, name)


class Watch:
    """Stands in a round's way between sampling and release, and writes all down."""

    def __init__(self, site: PreparedSite, whose: Mapping[str, str]) -> None:
        self._films = [(image.path.name, image.frame) for image in site.cohort.images]
        self._whose = whose
        self.cohort: dict[str, frozenset[tuple[str, int, str, str]]] = {}
        for image in site.cohort.images:
            one = (image.path.name, image.frame, str(image.split), str(image.labels))
            patient = whose[image.path.name]
            self.cohort[patient] = self.cohort.get(patient, frozenset()) | {one}
        self.sums: list[torch.Tensor] = []
        self.took: list[dict[str, dict[tuple[str, int, int], float]]] = []
        self.inputs: list[dict[tuple[str, int, int], torch.Tensor]] = []

    def sample(self, steps: PrivateSteps, number: int) -> Sample:
        sample = SAMPLE(steps, number)
        took: dict[str, dict[tuple[str, int, int], float]] = {}
        for rows, weights in zip(sample.rows_PK.tolist(), sample.weights_PK.tolist(), strict=True):
            for place, (row, weight) in enumerate(zip(rows, weights, strict=True)):
                name, frame = self._films[row]
                took.setdefault(self._whose[name], {})[name, frame, place] = weight
        self.took.append(took)
        self.inputs.append({})
        return sample

    def note(self, rows: Any, hidden: torch.Tensor) -> None:
        times: dict[tuple[str, int], int] = {}
        for row, one in zip(rows.tolist(), hidden, strict=True):
            film = self._films[row]
            times[film] = times.get(film, -1) + 1
            self.inputs[-1][*film, times[film]] = one.clone()

    def release(self, steps: PrivateSteps, total: torch.Tensor, number: int) -> None:
        self.sums.append(total.double().clone())
        RELEASE(steps, total, number)


SAMPLE, RELEASE = PrivateSteps.sample, PrivateSteps.release


def write_hospital(folder: Path, films: Sequence[Film], targets: Sequence[str]) -> dict[str, str]:
    """Write the films and their label table; give the patient of each file."""
    (folder / "dicom").mkdir(parents=True)
    whose = {}
    for place, film in enumerate(films):
        name = f"{place:03}.dcm"
        whose[name] = film.patient
        write_film(folder / "dicom" / name, film, seed=place)
    return whose


def write_film(path: Path, film: Film, *, seed: int) -> None:
    """Write 40 x 36 noise with a square where the label says 1."""
    pixels = np.random.default_rng(seed).integers(0, 160, (film.frames, 40, 36), dtype=np.uint8)
    pixels[:, 8:20, 8:20] += np.uint8(90 if film.label == "1" else 0)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    own = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": film.uid,
        "StudyInstanceUID": f"1.2.7.{zlib.crc32(f'{film.patient} {film.exam}'.encode())}",
        "AccessionNumber": film.exam,
        "PatientID": film.patient,
        "PatientSex": film.sex,
        "Modality": "DX",
        "Rows": 40,
        "Columns": 36,
        "NumberOfFrames": film.frames,
        "PixelSpacing": [0.5, 0.5],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelRepresentation": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": pixels.tobytes(),
    }
    for keyword, value in own.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


def site_of(folder: Path, films: Sequence[Film], targets: Sequence[str], *, exclusive: bool, cache: Path) -> SiteConfig:
    """Write the label table, a row a file, and the hospital's own settings."""
    rows = [",".join(["path", *targets])]
    for place, film in enumerate(films):
        marks = [film.label if target == targets[-1] else "0" for target in targets]
        if exclusive and film.label:
            marks[0] = "0" if film.label == "1" else "1"
        rows.append(",".join([f"{place:03}.dcm", *(marks if film.label else [""] * len(targets))]))
    (folder / "labels.csv").write_text("\n".join([*rows, ""]))
    return SiteConfig.model_validate(
        {
            "site": {"name": "north"},
            "data": {
                "dicom": folder / "dicom",
                "labels": folder / "labels.csv",
                "join": "path",
                "key": "path",
                "findings": {target: target for target in targets},
            },
            "policy": {"min_cell": 1},
            "compute": {"cache": cache, "workers": 1},
        }
    )


def plan_of(study: StudyProtocol, *, public_size: int) -> PrivacyPlan:
    """Give the plan that the study makes of a public size, but for its noise, which takes seconds to find."""
    assert study.privacy is not None
    rate, steps = sampling(
        batch_size=study.training.batch_size,
        local_epochs=study.training.local_epochs,
        expected_patients=public_size,
    )
    return PrivacyPlan(
        sample_rate=rate,
        noise_multiplier=1.0,
        steps_per_round=min(steps, MOST_STEPS),
        rounds=study.federation.rounds,
        delta=study.privacy.delta,
        clip=study.privacy.clip,
        images_per_patient=study.privacy.images_per_patient,
        expected_patients=public_size,
    )


def one_round(
    study: StudyProtocol,
    site: SiteConfig,
    whose: Mapping[str, str],
    folder: Path,
    *,
    number: int,
    public_size: int,
    cached: bool,
) -> Seen:
    """Run one round from the files to the release of each step, through the agent, with its noise taken off."""
    _, model = compose(study, weights_file=None)
    bench = Workbench(model, device=torch.device("cpu"), precision="fp32")
    prepared = prepare(site, study, progress=lambda *_: None)
    inputs: Any = site_inputs(prepared, study, bench, progress=lambda *_: None)
    ledger = PrivacyLedger(folder=folder, limit=None)
    asked = study.privacy
    assert asked is not None
    ledger.reserve(
        Account(
            study=study.digest(),
            name=study.study.name,
            plan=plan_of(study, public_size=public_size),
            accountant=asked.accountant,
            counts=CountPlan(epsilon=asked.count_noise_epsilon, releases=count_releases(study)),
        )
    )
    watch = Watch(prepared, whose)
    agent = without_noise(
        compose_agent(
            prepared,
            study,
            bench,
            Watched(inputs if cached else inputs.live, watch),
            folder=folder,
            vault=Vault(key=bytes(range(32)), ledger=ledger, audit=AuditLog(folder / "audit.jsonl"), reserves=False),
        )
    )
    start = study.model.trains_from(number)
    arrays = {name: array.copy() for name, array in bench.arrays(bench.exchanged(start, local_norm=False)).items()}
    header = Header(protocol_digest=study.digest(), run_id="run", round=number, site="north", kind=Kind.TRAIN)
    task = TrainTask(header=header, arrays=arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateSteps, "sample", lambda steps, step: watch.sample(steps, step))
        patch.setattr(PrivateSteps, "release", lambda steps, total, step: watch.release(steps, total, step))
        reply = decode_answer(from_frames(agent.handle(to_frames(encode_task(task))))).reply
    assert isinstance(reply, TrainReply), reply
    return Seen(cohort=watch.cohort, sums=tuple(watch.sums), took=tuple(watch.took), inputs=tuple(watch.inputs))


def compare(with_all: Seen, without: Seen, *, patient: str, whose: Mapping[str, str], clip: float) -> None:
    """Hold two neighbours side by side: the sums within the clip, and all of the others the same."""
    others = {name: images for name, images in with_all.cohort.items() if name != patient}
    assert others == without.cohort, "another patient's images, side or labels are others"
    assert len(with_all.sums) == len(without.sums) > 0
    for step, (one, other) in enumerate(zip(with_all.sums, without.sums, strict=True)):
        took = with_all.took[step]
        beside = {name: films for name, films in took.items() if name != patient}
        assert beside == without.took[step], "another patient's coin, or the choice of images, is another"
        for film, hidden in without.inputs[step].items():
            same = with_all.inputs[step][film]
            scale = float(same.abs().max())
            assert float((hidden - same).abs().max()) <= 1e-6 * scale, "another patient's image is changed otherwise"
        allowed = clip if patient in took else 0.0
        # What rounding may add to a sum in fp32, of patients who each add the clip at most.
        rounding = 1e-4 * clip * max(1, len(took))
        assert float((one - other).norm()) <= allowed + rounding, "the sum moved by more than one clip"


def check(study: StudyProtocol, films: Sequence[Film], folder: Path, *, data: st.DataObject) -> None:
    """Train one round with everybody, and again without one patient."""
    exclusive, targets = study.task.exclusive, study.task.targets
    whose = write_hospital(folder / "site", films, targets)
    patient = data.draw(st.sampled_from(sorted(set(whose.values()))), label="who is taken out")
    number = data.draw(st.integers(1, study.federation.rounds), label="round")
    cached = data.draw(st.booleans(), label="with caches")
    shared = data.draw(st.booleans(), label="one cache folder")
    seen, size = [], max(4, len(set(whose.values())))
    for name in ("all", "others"):
        cache = folder / ("cache" if shared else f"cache-{name}")
        site = site_of(folder / "site", films, targets, exclusive=exclusive, cache=cache)
        seen.append(one_round(study, site, whose, folder / name, number=number, public_size=size, cached=cached))
        for file in [file for file, owner in whose.items() if owner == patient and name == "all"]:
            (folder / "site" / "dicom" / file).unlink()
    assert study.privacy is not None
    compare(*seen, patient=patient, whose=whose, clip=study.privacy.clip)
    event(f"trains {study.model.trains_from(number)}, cached {cached}, views {study.training.feature_views > 0}")


@pytest.mark.parametrize("part", ["first", *(pytest.param(one, marks=pytest.mark.nightly) for one in range(1, 11))])
def test_one_patient_moves_a_step_by_the_clip_and_nobody_else_at_all(part: object, tmp_path_factory: Any) -> None:
    """Whatever a private study asks for: sums, coins, images and inputs of a site with and without one patient.

    Each part draws 20 studies of its own, so that the nightly 200 can run in two processes.
    """

    @settings(
        max_examples=20,
        phases=[Phase.reuse, Phase.generate],  # a study is read as it is: to make it smaller would take many minutes
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(study=private_studies(), films=hospitals(), data=st.data())
    def drawn(study: StudyProtocol, films: list[Film], data: st.DataObject) -> None:
        check(study, films, tmp_path_factory.mktemp("neighbours"), data=data)

    drawn()
